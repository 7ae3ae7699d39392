//! Inodes of the pass-through: one `O_PATH` descriptor each, as the mirror has them.

use fuser::{FileAttr, FileType, INodeNo};
use parking_lot::RwLock;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const ROOT: u64 = 1;

/// One entry of a directory: number, kind, name.
pub(super) type Listed = (u64, FileType, OsString);
/// All entries of a directory.
pub(super) type Listing = Vec<Listed>;

struct Inode {
    handle: Arc<File>,
    lookups: u64,
}

/// All inodes the kernel knows, by their number on the disk (the root is 1).
pub(super) struct Inodes {
    known: RwLock<HashMap<u64, Inode>>,
    root_number: u64,
}

impl Inodes {
    pub(super) fn new(root: &Path) -> io::Result<Inodes> {
        let handle = File::from(rustix::fs::open(
            root,
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        )?);
        let root_number = handle.metadata()?.ino();
        let root = Inode {
            handle: Arc::new(handle),
            lookups: 1,
        };
        Ok(Inodes {
            known: RwLock::new(HashMap::from([(ROOT, root)])),
            root_number,
        })
    }

    fn handle(&self, number: u64) -> io::Result<Arc<File>> {
        let known = self.known.read();
        let found = known.get(&number).map(|inode| Arc::clone(&inode.handle));
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn number(&self, metadata: &Metadata) -> u64 {
        if metadata.ino() == self.root_number {
            ROOT
        } else {
            metadata.ino()
        }
    }

    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> io::Result<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let handle = File::from(rustix::fs::openat(
            &self.handle(parent)?,
            name,
            flags,
            Mode::empty(),
        )?);
        let metadata = handle.metadata()?;
        let number = self.number(&metadata);
        let mut known = self.known.write();
        known
            .entry(number)
            .or_insert_with(|| Inode {
                handle: Arc::new(handle),
                lookups: 0,
            })
            .lookups += 1;
        Ok(attributes(&metadata, INodeNo(number)))
    }

    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut known = self.known.write();
        if let Some(inode) = known.get_mut(&number) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
            if inode.lookups == 0 && number != ROOT {
                known.remove(&number);
            }
        }
    }

    pub(super) fn attributes(&self, number: u64) -> io::Result<FileAttr> {
        let metadata = self.handle(number)?.metadata()?;
        Ok(attributes(&metadata, INodeNo(number)))
    }

    pub(super) fn open(&self, number: u64, flags: i32) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.handle(number)?.as_raw_fd());
        let flags = OFlags::from_bits_retain(flags.cast_unsigned()) | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
    }

    pub(super) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> io::Result<(File, FileAttr)> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(
            &self.handle(parent)?,
            name,
            flags,
            Mode::from_raw_mode(mode),
        )?;
        Ok((File::from(file), self.lookup(parent, name)?))
    }

    pub(super) fn mkdir(&self, parent: u64, name: &OsStr, mode: u32) -> io::Result<FileAttr> {
        rustix::fs::mkdirat(&self.handle(parent)?, name, Mode::from_raw_mode(mode))?;
        self.lookup(parent, name)
    }

    pub(super) fn remove(&self, parent: u64, name: &OsStr, is_directory: bool) -> io::Result<()> {
        let flags = if is_directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        Ok(rustix::fs::unlinkat(&self.handle(parent)?, name, flags)?)
    }

    pub(super) fn list(&self, number: u64) -> io::Result<Listing> {
        let path = format!("/proc/self/fd/{}", self.handle(number)?.as_raw_fd());
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let kind = if entry.file_type()?.is_dir() {
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            entries.push((
                std::os::unix::fs::DirEntryExt::ino(&entry),
                kind,
                entry.file_name(),
            ));
        }
        Ok(entries)
    }
}

/// Attributes as the kernel wants them.
pub(super) fn attributes(metadata: &Metadata, number: INodeNo) -> FileAttr {
    let time = |seconds: i64, nanoseconds: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
    };
    let kind = metadata.file_type();
    FileAttr {
        ino: number,
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: if kind.is_dir() {
            FileType::Directory
        } else if kind.is_symlink() {
            FileType::Symlink
        } else if kind.is_fifo() {
            FileType::NamedPipe
        } else {
            FileType::RegularFile
        },
        perm: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0),
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

//! Objects of the tree that the primary can name, and what can be done to one of them.
//!
//! An object is held by an `O_PATH` descriptor: no rename can redirect it and no symbolic link is followed. Content is
//! opened through that descriptor, when first needed, and at most [`OPEN_FILES_MAX`] files stay open.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps,
    UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::error::{ApplyError, during};
use crate::Copy;
use crate::aside::Keeper;
use crate::content;
use crate::replication::change::{AttributeChange, Attributes, FileId, Time};

/// Files that stay open for reading and writing.
pub(crate) const OPEN_FILES_MAX: usize = 1024;

/// The extended attribute with what a program may do, `capabilities(7)`; it has 24 bytes at the most so far.
const CAPABILITY: &[u8] = b"security.capability";
const CAPABILITY_BYTES_MAX: usize = 256;

/// What identifies an inode below one directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    pub(crate) fn of(stat: &Stat) -> Inode {
        Inode {
            device: stat.st_dev,
            number: stat.st_ino,
        }
    }

    /// Device and number.
    pub(crate) fn key(self) -> (u64, u64) {
        (self.device, self.number)
    }

    /// Its number in its file system.
    pub(crate) fn number(self) -> u64 {
        self.number
    }
}

/// One object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) id: FileId,
    pub(crate) inode: Inode,
    pub(crate) file_type: FileType,
    /// `O_PATH`.
    pub(crate) fd: OwnedFd,
    content: Mutex<Option<Arc<OwnedFd>>>,
    was_used: AtomicBool,
    risk: Option<Risk>,
    doubted: Option<Doubted>,
}

/// The content may be this copy's own: it is set aside before its first change.
#[derive(Debug)]
struct Risk {
    keeper: Arc<Keeper>,
    is_kept: Mutex<bool>,
}

/// The content may not be on the disk: it is given up before it is compared.
#[derive(Debug)]
struct Doubted {
    copy: Arc<Copy>,
    is_given_up: Mutex<bool>,
}

/// Files that are open now. When there are too many, one that was not used lately is closed.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles(Mutex<VecDeque<Weak<Object>>>);

impl Object {
    pub(crate) fn new(id: FileId, fd: OwnedFd, stat: &Stat) -> Object {
        Object {
            id,
            inode: Inode::of(stat),
            file_type: FileType::from_raw_mode(stat.st_mode),
            fd,
            content: Mutex::new(None),
            was_used: AtomicBool::new(true),
            risk: None,
            doubted: None,
        }
    }

    /// The same, found here and not made by this session: what only this copy has goes to `keeper`, if there is one; what may not be
    /// on the disk of `doubted` is written anew.
    pub(crate) fn found(self, keeper: Option<&Arc<Keeper>>, doubted: Option<&Arc<Copy>>) -> Object {
        let is_file = self.file_type == FileType::RegularFile;
        let risk = keeper.filter(|_| is_file).map(|keeper| Risk {
            keeper: keeper.clone(),
            is_kept: Mutex::new(false),
        });
        let doubted = doubted.filter(|copy| is_file && copy.must_be_rewritten(self.inode));
        let doubted = doubted.map(|copy| Doubted {
            copy: copy.clone(),
            is_given_up: Mutex::new(false),
        });
        Object {
            risk,
            doubted,
            ..self
        }
    }

    /// To be called before anything of the content is changed or its last name goes.
    pub(crate) fn keep_own_content(&self) -> Result<(), ApplyError> {
        let Some(risk) = self.risk.as_ref().filter(|risk| !risk.keeper.is_over()) else {
            return Ok(());
        };
        let mut is_kept = risk.is_kept.lock();
        if !*is_kept {
            risk.keeper.keep_content(&self.fd, self.inode)?;
            *is_kept = true;
        }
        Ok(())
    }

    /// To be called before anything of the content is compared or changed. After a failed writeback it is not enough to write it again
    /// in place: ext4 may count a block as never written although a later write of it, and a sync, succeeded.
    pub(crate) fn give_up_doubted(
        self: &Arc<Self>,
        open_files: &OpenFiles,
    ) -> Result<(), ApplyError> {
        let Some(doubted) = &self.doubted else {
            return Ok(());
        };
        let mut is_given_up = doubted.is_given_up.lock();
        if *is_given_up {
            return Ok(());
        }
        self.keep_own_content()?;
        let before = self.stat()?;
        let capability = self.capability()?;
        let content = self.content(open_files)?;
        for size in [0, before.st_size as u64] {
            rustix::fs::ftruncate(&content, size).map_err(during("truncate"))?;
        }
        // Tells what failed before: nothing of that content is left.
        let _ = rustix::fs::fdatasync(&content);
        if let Some(capability) = capability {
            self.set_xattr(CAPABILITY, &capability)?;
        }
        let mtime = Time {
            seconds: before.st_mtime,
            nanoseconds: before.st_mtime_nsec as u32,
        };
        self.set_times(None, Some(mtime))?;
        doubted.copy.set_rewritten(self.inode);
        *is_given_up = true;
        Ok(())
    }

    /// What the kernel takes away when the content changes.
    fn capability(&self) -> Result<Option<Vec<u8>>, ApplyError> {
        let mut value = vec![0; CAPABILITY_BYTES_MAX];
        match rustix::fs::getxattr(self.proc_path().as_c_str(), CAPABILITY, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(during("read extended attribute")(errno)),
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    pub(crate) fn stat(&self) -> Result<Stat, ApplyError> {
        rustix::fs::fstat(&self.fd).map_err(during("stat"))
    }

    /// Opens the object itself again, with rights; magic links are ours alone to follow.
    pub(crate) fn reopen(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(
            CWD,
            self.proc_path().as_c_str(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }

    /// The content of a regular file, for reading and writing.
    pub(crate) fn content(
        self: &Arc<Self>,
        open_files: &OpenFiles,
    ) -> Result<Arc<OwnedFd>, ApplyError> {
        if self.file_type != FileType::RegularFile {
            return Err(ApplyError::WrongKind(self.id));
        }
        let mut content = self.content.lock();
        self.was_used.store(true, Ordering::Relaxed);
        if let Some(open) = &*content {
            return Ok(open.clone());
        }
        let open = Arc::new(
            self.reopen(OFlags::RDWR | OFlags::NOATIME)
                .map_err(during("open file"))?,
        );
        *content = Some(open.clone());
        drop(content);
        open_files.on_opened(self);
        Ok(open)
    }

    pub(crate) fn write(
        self: &Arc<Self>,
        open_files: &OpenFiles,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ApplyError> {
        self.give_up_doubted(open_files)?;
        self.keep_own_content()?;
        let content = self.content(open_files)?;
        match content::write(&content, offset, data).failure {
            None => Ok(()),
            Some(errno) => Err(during("write to file")(errno)),
        }
    }

    /// Fills `buffer` from `offset`; gives how much there was.
    pub(crate) fn read(
        self: &Arc<Self>,
        open_files: &OpenFiles,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ApplyError> {
        let content = self.content(open_files)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(&content, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(during("read file")(errno)),
            }
        }
        Ok(filled)
    }

    pub(crate) fn allocate(
        self: &Arc<Self>,
        open_files: &OpenFiles,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> Result<(), ApplyError> {
        self.give_up_doubted(open_files)?;
        self.keep_own_content()?;
        let content = self.content(open_files)?;
        let flags = FallocateFlags::from_bits_retain(mode);
        rustix::fs::fallocate(&content, flags, offset, length).map_err(during("allocate space"))
    }

    pub(crate) fn sync(
        self: &Arc<Self>,
        open_files: &OpenFiles,
        data_only: bool,
    ) -> Result<(), ApplyError> {
        let synced = match self.file_type {
            FileType::RegularFile => {
                let content = self.content(open_files)?;
                if data_only {
                    rustix::fs::fdatasync(&content)
                } else {
                    rustix::fs::fsync(&content)
                }
            }
            FileType::Directory => self
                .reopen(OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(rustix::fs::fsync),
            // Nothing of these is cached but the inode, which the next sync of the directory writes.
            _ => Ok(()),
        };
        synced.map_err(ApplyError::NotSynced)
    }

    /// Makes every attribute what the primary has, touching only what differs from `now`.
    pub(crate) fn set_all(
        self: &Arc<Self>,
        open_files: &OpenFiles,
        now: &Stat,
        wanted: &Attributes,
    ) -> Result<(), ApplyError> {
        let size_differs =
            self.file_type == FileType::RegularFile && now.st_size as u64 != wanted.size;
        let owner_differs = now.st_uid != wanted.uid || now.st_gid != wanted.gid;
        let mode_differs = now.st_mode & 0o7777 != wanted.mode;
        let mtime = Time {
            seconds: now.st_mtime,
            nanoseconds: now.st_mtime_nsec as u32,
        };
        self.set(
            open_files,
            &AttributeChange {
                size: size_differs.then_some(wanted.size),
                uid: owner_differs.then_some(wanted.uid),
                gid: owner_differs.then_some(wanted.gid),
                // A change of owner takes setuid and setgid away.
                mode: (mode_differs || owner_differs).then_some(wanted.mode),
                atime: None,
                mtime: (size_differs || mtime != wanted.mtime).then_some(wanted.mtime),
            },
        )
    }

    /// The size first, since it changes times; the owner before the mode, since it takes setuid and setgid away.
    pub(crate) fn set(
        self: &Arc<Self>,
        open_files: &OpenFiles,
        change: &AttributeChange,
    ) -> Result<(), ApplyError> {
        if let Some(size) = change.size {
            self.give_up_doubted(open_files)?;
            self.keep_own_content()?;
            let content = self.content(open_files)?;
            rustix::fs::ftruncate(&content, size).map_err(during("truncate"))?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            rustix::fs::chownat(&self.fd, c"", uid, gid, AtFlags::EMPTY_PATH)
                .map_err(during("change owner"))?;
        }
        if let Some(mode) = change.mode.filter(|_| self.file_type != FileType::Symlink) {
            let path = self.proc_path();
            rustix::fs::chmodat(
                CWD,
                path.as_c_str(),
                Mode::from_raw_mode(mode),
                AtFlags::empty(),
            )
            .map_err(during("change mode"))?;
        }
        self.set_times(change.atime, change.mtime)
    }

    fn set_times(&self, atime: Option<Time>, mtime: Option<Time>) -> Result<(), ApplyError> {
        if atime.is_none() && mtime.is_none() {
            return Ok(());
        }
        let times = Timestamps {
            last_access: timespec(atime),
            last_modification: timespec(mtime),
        };
        rustix::fs::utimensat(&self.fd, c"", &times, AtFlags::EMPTY_PATH)
            .map_err(during("change times"))
    }

    pub(crate) fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), ApplyError> {
        rustix::fs::setxattr(
            self.proc_path().as_c_str(),
            name,
            value,
            XattrFlags::empty(),
        )
        .map_err(during("set extended attribute"))
    }

    pub(crate) fn remove_xattr(&self, name: &[u8]) -> Result<(), ApplyError> {
        match rustix::fs::removexattr(self.proc_path().as_c_str(), name) {
            // Replaying a removal must give the same result twice.
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(errno) => Err(during("remove extended attribute")(errno)),
        }
    }

    /// Removes every extended attribute whose name is not in `kept` (names, each followed by NUL).
    pub(crate) fn prune_xattrs(&self, kept: &[u8]) -> Result<(), ApplyError> {
        let path = self.proc_path();
        let mut list = [0u8; 4096];
        let list = match rustix::fs::listxattr(path.as_c_str(), &mut list[..]) {
            Ok(length) => list[..length].to_vec(),
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(Errno::RANGE) => {
                let mut whole = vec![0u8; 64 << 10];
                let length = rustix::fs::listxattr(path.as_c_str(), &mut whole[..])
                    .map_err(during("list extended attributes"))?;
                whole.truncate(length);
                whole
            }
            Err(errno) => return Err(during("list extended attributes")(errno)),
        };
        let kept: Vec<&[u8]> = kept.split(|byte| *byte == 0).collect();
        for name in list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty() && !kept.contains(name))
        {
            match self.remove_xattr(name) {
                // Labels that a security module of this server adds by itself are its own business.
                Err(_) if name.starts_with(b"security.") => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// A path that leads to the object itself, whatever happens to its names.
    pub(crate) fn proc_path(&self) -> ProcPath {
        ProcPath::new(&self.fd)
    }
}

impl OpenFiles {
    fn on_opened(&self, object: &Arc<Object>) {
        let mut open = self.0.lock();
        open.push_back(Arc::downgrade(object));
        // Each turn either shortens the queue or takes a mark away, so two rounds suffice.
        for _ in 0..2 * OPEN_FILES_MAX {
            if open.len() <= OPEN_FILES_MAX {
                return;
            }
            let Some(oldest) = open.pop_front() else {
                return;
            };
            let Some(oldest) = oldest.upgrade() else {
                continue;
            };
            if oldest.was_used.swap(false, Ordering::Relaxed) {
                open.push_back(Arc::downgrade(&oldest));
            } else {
                // Whoever is using it holds his own reference.
                *oldest.content.lock() = None;
            }
        }
    }
}

/// `/proc/self/fd/N`.
pub(crate) struct ProcPath(CString);

impl ProcPath {
    pub(crate) fn new(fd: &OwnedFd) -> ProcPath {
        let mut path = String::with_capacity(24);
        let _ = write!(path, "/proc/self/fd/{}", fd.as_raw_fd());
        ProcPath(CString::new(path).expect("digits have no NUL"))
    }

    pub(crate) fn as_c_str(&self) -> &std::ffi::CStr {
        &self.0
    }
}

fn timespec(time: Option<Time>) -> Timespec {
    match time {
        Some(time) => Timespec {
            tv_sec: time.seconds,
            tv_nsec: i64::from(time.nanoseconds),
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    }
}

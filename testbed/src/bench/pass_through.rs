//! `testbed __pass-through`: a FUSE file system that does nothing but hand each request to the directory below, with the
//! threads and flags of the mirror's. What it costs is FUSE itself, the floor under the mirror. It has only what the
//! workload generator uses.

mod inodes;

use anyhow::Context as _;
use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request,
    SessionACL, WriteFlags,
};
use inodes::{Inodes, Listed, Listing};
use parking_lot::RwLock;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The same as the mirror's.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// The same as the mirror's.
const BACKGROUND_REQUESTS_MAX: u16 = 128;
/// The same as the mirror's.
const KEPT: Duration = Duration::from_secs(3600);
const GENERATION: Generation = Generation(0);
/// The same as the mirror's.
const FLAGS: [InitFlags; 8] = [
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Options of `testbed __pass-through`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Directory below
    #[arg(long)]
    source: PathBuf,
    /// Where to mount
    #[arg(long)]
    mount: PathBuf,
    /// Threads
    #[arg(long, default_value_t = 4)]
    threads: usize,
}

/// Serves until it is unmounted or killed.
///
/// # Errors
/// No FUSE, or not root.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let file_system = PassThrough {
        inodes: Inodes::new(&options.source).context("open the directory below")?,
        handles: RwLock::default(),
        listings: RwLock::default(),
        next_handle: AtomicU64::new(1),
    };
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName("pass-through".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(options.threads);
    config.clone_fd = true;
    fuser::mount(file_system, &options.mount, &config).context("mount")?;
    Ok(ExitCode::SUCCESS)
}

struct PassThrough {
    inodes: Inodes,
    handles: RwLock<HashMap<u64, Arc<File>>>,
    /// What open directories held when they were opened: removals must not shift what is read next.
    listings: RwLock<HashMap<u64, Arc<Listing>>>,
    next_handle: AtomicU64,
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}

fn open_flags(flags: i32) -> FopenFlags {
    let mut answer = FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE;
    if flags & libc::O_DIRECT != 0 {
        answer |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    }
    answer
}

impl PassThrough {
    fn keep(&self, file: File) -> FileHandle {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.write().insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn handle(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let handles = self.handles.read();
        let file = handles.get(&handle.0).cloned();
        file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// What an open directory has from `offset` on, each with the offset that follows it.
    fn rest(&self, handle: FileHandle, offset: u64) -> Vec<(u64, Listed)> {
        let listing = self
            .listings
            .read()
            .get(&handle.0)
            .cloned()
            .unwrap_or_default();
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = listing.iter().cloned().enumerate().skip(skipped);
        rest.map(|(index, listed)| (index as u64 + 1, listed))
            .collect()
    }
}

impl Filesystem for PassThrough {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in FLAGS {
            // The mirror does without what the kernel does not have, and so do we.
            let _unknown = config.add_capabilities(flag);
        }
        let _nearest = config.set_max_write(WRITE_BYTES_MAX);
        let _nearest = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.inodes.lookup(parent.0, name) {
            Ok(attr) => reply.entry(&KEPT, &attr, GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.inodes.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.inodes.attributes(ino.0) {
            Ok(attr) => reply.attr(&KEPT, &attr),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = size
            .map_or(Ok(()), |size| {
                self.inodes.open(ino.0, libc::O_WRONLY)?.set_len(size)
            })
            .and_then(|()| self.inodes.attributes(ino.0));
        match done {
            Ok(attr) => reply.attr(&KEPT, &attr),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.inodes.mkdir(parent.0, name, mode) {
            Ok(attr) => reply.entry(&KEPT, &attr, GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.inodes.remove(parent.0, name, false) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.inodes.remove(parent.0, name, true) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // The page cache above us is the application's; the file below is used as the mirror uses it.
        let below = flags.0 & !(libc::O_DIRECT | libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY);
        match self.inodes.open(ino.0, below) {
            Ok(file) => reply.opened(self.keep(file), open_flags(flags.0)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.inodes.create(parent.0, name, mode) {
            Ok((file, attr)) => {
                reply.created(&KEPT, &attr, GENERATION, self.keep(file), open_flags(flags));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = self
                .handle(fh)
                .and_then(|file| file.read_at(&mut buffer[..size], offset));
            match read {
                Ok(count) => reply.data(&buffer[..count]),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self
            .handle(fh)
            .and_then(|file| file.write_all_at(data, offset));
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.write().remove(&fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        is_data_only: bool,
        reply: ReplyEmpty,
    ) {
        let synced = self.handle(fh).and_then(|file| {
            if is_data_only {
                file.sync_data()
            } else {
                file.sync_all()
            }
        });
        match synced {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        // The workload sets none; the kernel looks for capabilities of files that are written.
        reply.error(Errno::ENODATA);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.inodes.list(ino.0) {
            Ok(listing) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.listings.write().insert(handle, Arc::new(listing));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.write().remove(&fh.0);
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for (next, (_, _, name)) in self.rest(fh, offset) {
            // Removed since it was listed: as if it had never been there.
            let Ok(attr) = self.inodes.lookup(ino.0, &name) else {
                continue;
            };
            if reply.add(attr.ino, next, &name, &KEPT, &attr, GENERATION) {
                self.inodes.forget(attr.ino.0, 1);
                break;
            }
        }
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (next, (number, kind, name)) in self.rest(fh, offset) {
            if reply.add(INodeNo(number), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::inodes::attributes;
    use super::*;

    #[test]
    fn direct_files_may_be_written_in_parallel() {
        assert!(open_flags(libc::O_DIRECT).contains(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES));
        assert!(!open_flags(0).contains(FopenFlags::FOPEN_DIRECT_IO));
    }

    #[test]
    fn attributes_of_a_directory() {
        let metadata = std::fs::metadata("/").expect("there is a root");
        assert_eq!(
            attributes(&metadata, INodeNo(1)).kind,
            fuser::FileType::Directory
        );
    }
}

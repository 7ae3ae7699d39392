//! FUSE requests in, answers out, nothing else: what they mean is decided in `fs`.

mod answer;
mod convert;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use crate::fs::{
    self, Access, Caller, Changed, Fs, HandleId, NewObject, NodeId, Renaming, Seek, SetAttributes,
    Writing,
};
pub use answer::Answer;
use convert::{NO_ATTRIBUTES, errno, file_attr, file_type, time_change};

/// Largest write the kernel sends in one request: larger ones bring nothing, and a frame on the wire holds one.
const WRITE_BYTES_MAX: u32 = 1024 * 1024;

/// Requests the kernel may have queued in the background (read-ahead, asynchronous direct I/O) before it slows down.
const BACKGROUND_REQUESTS_MAX: u16 = 128;

/// On the primary nothing changes behind the kernel's back, so it may keep what it knows.
const KEPT: Duration = Duration::from_secs(3600);

/// Inode numbers are not reused while the kernel knows them, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// What the kernel must support, or the mount would not be a faithful file system.
const NEEDED: [InitFlags; 3] = [
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
];

/// What makes it faster.
const WELCOME: [InitFlags; 5] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

thread_local! {
    /// What a thread reads into; grows to the largest read it has met.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The file system as the kernel sees it.
#[derive(Debug)]
pub struct Frontend {
    fs: Arc<Fs<Answer>>,
    timeout: Duration,
}

impl Frontend {
    /// Serves `fs`.
    pub fn new(fs: Arc<Fs<Answer>>) -> Frontend {
        let timeout = match fs.access() {
            Access::ReadWrite => KEPT,
            Access::ReadOnly => Duration::ZERO,
        };
        Frontend { fs, timeout }
    }

    fn is_primary(&self) -> bool {
        self.fs.access() == Access::ReadWrite
    }

    fn open_flags(&self, flags: u32) -> FopenFlags {
        // Nothing of ours waits for a close, so the kernel need not ask.
        let mut answer = FopenFlags::FOPEN_NOFLUSH;
        if self.is_primary() {
            answer |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        if fs::is_direct(flags) {
            // Otherwise the kernel holds the inode's lock across each write: one at a time per file.
            answer |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        answer
    }

    fn reply_entry(&self, changed: Result<Changed<fs::Attributes>, fs::Errno>, reply: ReplyEntry) {
        match changed {
            Ok(Changed { ticket, value }) => {
                let (timeout, attr) = (self.timeout, file_attr(&value));
                self.fs.complete(
                    ticket,
                    Answer::Entry {
                        reply,
                        timeout,
                        attr,
                    },
                );
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn reply_done(&self, changed: Result<Changed<()>, fs::Errno>, reply: ReplyEmpty) {
        match changed {
            Ok(Changed { ticket, value: () }) => self.fs.complete(ticket, Answer::Done(reply)),
            Err(e) => reply.error(errno(e)),
        }
    }
}

impl Filesystem for Frontend {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in NEEDED {
            if config.add_capabilities(flag).is_err() {
                tracing::warn!(
                    ?flag,
                    "the kernel is too old for this: permissions may not be kept faithfully"
                );
            }
        }
        for flag in WELCOME {
            // Without it the same work takes more requests.
            let _ = config.add_capabilities(flag);
        }
        // Both are within what fuser allows; the nearest value is in force otherwise.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.fs.lookup(NodeId(parent.0), name.as_bytes()) {
            Ok(attributes) => reply.entry(&self.timeout, &file_attr(&attributes), GENERATION),
            // An entry without an inode: the kernel may remember that there is none.
            Err(fs::Errno::NOENT) if self.is_primary() => {
                reply.entry(&self.timeout, &NO_ATTRIBUTES, GENERATION)
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(NodeId(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attributes(NodeId(ino.0)) {
            Ok(attributes) => reply.attr(&self.timeout, &file_attr(&attributes)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(time_change), mtime.map(time_change));
        let set = SetAttributes {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        match self
            .fs
            .set_attributes(NodeId(ino.0), fh.map(|fh| HandleId(fh.0)), set, caller(req))
        {
            Ok(Changed { ticket, value }) => {
                let (timeout, attr) = (self.timeout, file_attr(&value));
                self.fs.complete(
                    ticket,
                    Answer::Attributes {
                        reply,
                        timeout,
                        attr,
                    },
                );
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.read_link(NodeId(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.reply_entry(
            self.fs
                .make_node(new_object(req, parent, name, mode, umask), u64::from(rdev)),
            reply,
        );
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.reply_entry(
            self.fs
                .make_directory(new_object(req, parent, name, mode, umask)),
            reply,
        );
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.reply_done(self.fs.unlink(NodeId(parent.0), name.as_bytes()), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.reply_done(
            self.fs.remove_directory(NodeId(parent.0), name.as_bytes()),
            reply,
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let new = new_object(req, parent, link_name, 0, 0);
        self.reply_entry(self.fs.make_link(new, target.as_os_str().as_bytes()), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renaming = Renaming {
            parent: NodeId(parent.0),
            name: name.as_bytes(),
            new_parent: NodeId(newparent.0),
            new_name: newname.as_bytes(),
            flags: flags.bits(),
        };
        self.reply_done(self.fs.rename(renaming), reply);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.reply_entry(
            self.fs
                .link(NodeId(ino.0), NodeId(newparent.0), newname.as_bytes()),
            reply,
        );
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let flags = flags.0 as u32;
        match self.fs.open(NodeId(ino.0), flags) {
            Ok(handle) => reply.opened(FileHandle(handle.0), self.open_flags(flags)),
            Err(e) => reply.error(errno(e)),
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
            match self.fs.read(HandleId(fh.0), offset, &mut buffer[..size]) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(e) => reply.error(errno(e)),
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
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let clears_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.fs.write(
            HandleId(fh.0),
            Writing {
                offset,
                data,
                clears_privileges,
            },
        ) {
            Ok(Changed { ticket, value }) => self.fs.complete(
                ticket,
                Answer::Written {
                    reply,
                    bytes: value,
                },
            ),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
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
        self.fs.release(HandleId(fh.0));
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.reply_done(self.fs.sync(HandleId(fh.0), datasync), reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open_directory(NodeId(ino.0)) {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let read = self
            .fs
            .read_directory(HandleId(fh.0), offset, |node, listed| {
                let kind = file_type(listed.kind);
                !reply.add(
                    INodeNo(node.0),
                    listed.next_position,
                    kind,
                    OsStr::from_bytes(listed.name),
                )
            });
        match read {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let read = self
            .fs
            .read_directory_plus(HandleId(fh.0), offset, |_, listed, attributes| {
                // Without attributes the kernel gets the name alone, and looks it up when it needs to.
                let attr = attributes.map_or(NO_ATTRIBUTES, |attributes| file_attr(&attributes));
                let name = OsStr::from_bytes(listed.name);
                !reply.add(
                    attr.ino,
                    listed.next_position,
                    name,
                    &self.timeout,
                    &attr,
                    GENERATION,
                )
            });
        match read {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
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
        self.fs.release_directory(HandleId(fh.0));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.reply_done(self.fs.sync_directory(HandleId(fh.0), datasync), reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statistics() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.reply_done(
            self.fs
                .set_xattr(NodeId(ino.0), name.as_bytes(), value, flags as u32),
            reply,
        );
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(self.fs.xattr(NodeId(ino.0), name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(self.fs.xattr_names(NodeId(ino.0)), size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.reply_done(self.fs.remove_xattr(NodeId(ino.0), name.as_bytes()), reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself (default_permissions).
        reply.ok();
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = flags as u32;
        match self
            .fs
            .create(new_object(req, parent, name, mode, umask), flags)
        {
            Ok(Changed {
                ticket,
                value: (attributes, handle),
            }) => {
                let (timeout, attr, flags) =
                    (self.timeout, file_attr(&attributes), self.open_flags(flags));
                self.fs.complete(
                    ticket,
                    Answer::Created {
                        reply,
                        timeout,
                        attr,
                        handle,
                        flags,
                    },
                );
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = offset..offset.saturating_add(length);
        self.reply_done(
            self.fs
                .allocate(HandleId(fh.0), mode as u32, range, caller(req)),
            reply,
        );
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let to = match (u64::try_from(offset), whence) {
            (Ok(offset), libc::SEEK_DATA) => Seek::Data(offset),
            (Ok(offset), libc::SEEK_HOLE) => Seek::Hole(offset),
            _ => return reply.error(Errno::EINVAL),
        };
        match self.fs.seek(HandleId(fh.0), to) {
            Ok(found) => reply.offset(found as i64),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel copies by reading and writing then, and does not ask again.
        reply.error(Errno::ENOSYS);
    }
}

fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
    }
}

fn new_object<'a>(
    req: &Request,
    parent: INodeNo,
    name: &'a OsStr,
    mode: u32,
    umask: u32,
) -> NewObject<'a> {
    NewObject {
        parent: NodeId(parent.0),
        name: name.as_bytes(),
        mode,
        umask,
        caller: caller(req),
    }
}

fn reply_xattr(value: Result<Vec<u8>, fs::Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

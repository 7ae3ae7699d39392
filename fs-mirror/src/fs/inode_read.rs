//! Requests that read one object.

use rustix::fs::{Mode, OFlags, SeekFrom, Stat, StatVfs, fstatvfs, openat, readlinkat, seek};
use rustix::io::pread;

use super::errno::Errno;
use super::handles::{FileHandle, HandleId};
use super::inodes::{Inode, NodeId};
use super::{Access, Attributes, Fs};
use crate::replication::shipping::Completion;

/// Where `lseek` looks next for data or a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// `SEEK_DATA`
    Data(u64),
    /// `SEEK_HOLE`
    Hole(u64),
}

/// Flags of `open(2)` that mean something to the descriptor below. Appending and direct I/O are the kernel's business
/// above us: it says where each write goes, and its buffers need not be aligned. What a synchronous write must wait for
/// is decided here, not below.
const FLAGS_BELOW: OFlags = OFlags::NOATIME;

impl<C: Completion> Fs<C> {
    /// `stat(2)`.
    ///
    /// # Errors
    /// ESTALE for a node that is not in use.
    pub fn attributes(&self, node: NodeId) -> Result<Attributes, Errno> {
        self.admit()?;
        let stat = self.checked("stat", self.inode(node)?.stat())?;
        self.confirm(self.attributes_of(stat))
    }

    /// `readlink(2)`.
    ///
    /// # Errors
    /// As the system call.
    pub fn read_link(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        self.admit()?;
        let target = target(&*self.inode(node)?)?;
        self.confirm(target)
    }

    /// `open(2)` of a regular file with its flags.
    ///
    /// # Errors
    /// As the system call; EROFS for writing on a secondary.
    pub fn open(&self, node: NodeId, flags: u32) -> Result<HandleId, Errno> {
        self.admit()?;
        let inode = self.inode(node)?;
        let writes = OFlags::from_bits_retain(flags) & OFlags::ACCMODE != OFlags::RDONLY;
        if writes && self.access == Access::ReadOnly {
            return Err(Errno::ROFS);
        }
        let file = self.checked("open", self.reopen(&inode, flags))?;
        self.confirm(self.files.insert(FileHandle::new(inode, file, flags)))
    }

    /// A real descriptor for an object in use.
    pub(super) fn reopen(&self, inode: &Inode, flags: u32) -> Result<std::os::fd::OwnedFd, Errno> {
        let flags = OFlags::from_bits_retain(flags);
        let access = flags & OFlags::ACCMODE;
        let below =
            access | (flags & FLAGS_BELOW) | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat(
            rustix::fs::CWD,
            inode.path().as_c_str(),
            below,
            Mode::empty(),
        )
    }

    /// `pread(2)`: fills `buffer` unless the file ends before, and says how far.
    ///
    /// # Errors
    /// As the system call.
    pub fn read(&self, handle: HandleId, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.admit()?;
        let handle = self.files.get(handle)?;
        let length = self.checked("read", read_full(&handle.file, offset, buffer))?;
        self.confirm(length)
    }

    /// `lseek(2)` for data and holes.
    ///
    /// # Errors
    /// As the system call.
    pub fn seek(&self, handle: HandleId, to: Seek) -> Result<u64, Errno> {
        self.admit()?;
        let handle = self.files.get(handle)?;
        let to = match to {
            Seek::Data(offset) => SeekFrom::Data(offset),
            Seek::Hole(offset) => SeekFrom::Hole(offset),
        };
        let found = seek(&handle.file, to)?;
        self.confirm(found)
    }

    /// `statvfs(2)` of the file system below. Says nothing of the files, so it is answered even while the gate is closed:
    /// whoever asks whether the mount is alive is not kept waiting.
    ///
    /// # Errors
    /// As the system call.
    pub fn statistics(&self) -> Result<StatVfs, Errno> {
        fstatvfs(self.inodes.root().fd())
    }
}

/// Whether the application opened the file with `O_DIRECT`.
pub fn is_direct(flags: u32) -> bool {
    OFlags::from_bits_retain(flags).contains(OFlags::DIRECT)
}

/// What a symbolic link holds.
pub(super) fn target(inode: &Inode) -> Result<Vec<u8>, Errno> {
    readlinkat(inode.fd(), c"", Vec::new()).map(std::ffi::CString::into_bytes)
}

/// What a symbolic link holds; nothing for everything else.
pub(super) fn target_if_link(inode: &Inode, stat: &Stat) -> Result<Vec<u8>, Errno> {
    use rustix::fs::FileType;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        target(inode)
    } else {
        Ok(Vec::new())
    }
}

/// Reads until `buffer` is full or the file ends.
pub(super) fn read_full(
    file: impl std::os::fd::AsFd,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, Errno> {
    let mut length = 0;
    while length < buffer.len() {
        match pread(&file, &mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

impl FileHandle {
    pub(super) fn new(
        inode: std::sync::Arc<Inode>,
        file: std::os::fd::OwnedFd,
        flags: u32,
    ) -> FileHandle {
        let flags = OFlags::from_bits_retain(flags);
        FileHandle {
            inode,
            file,
            is_writable: flags & OFlags::ACCMODE != OFlags::RDONLY,
            syncs_writes: flags.contains(OFlags::DIRECT) && flags.intersects(OFlags::DSYNC),
        }
    }
}

//! Requests that look names up.

use rustix::fs::{Mode, OFlags, fsync, openat};

use super::dir_stream::{DirStream, Listed};
use super::errno::Errno;
use super::handles::{DirectoryHandle, HandleId};
use super::inodes::{Inode, NodeId};
use super::{Attributes, Changed, Fs, SMALL_CHANGE_BYTES, names};
use crate::replication::shipping::Completion;

impl<C: Completion> Fs<C> {
    /// What `name` in `parent` leads to. The reference given counts until it is forgotten.
    ///
    /// # Errors
    /// ENOENT; EXDEV when another file system is mounted there, which is not part of the tree.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Attributes, Errno> {
        names::check(name)?;
        self.admit()?;
        let parent = self.inode(parent)?;
        let (fd, stat) = self.checked("lookup", self.open_child(&parent, name))?;
        let inode = self.inodes.acquire(fd, &stat);
        let attributes = self.attributes_of(stat);
        self.confirm(attributes)
            .inspect_err(|_| self.release_node(inode.node, 1))
    }

    /// Gives back `count` references to `node`.
    pub fn forget(&self, node: NodeId, count: u64) {
        self.release_node(node, count);
    }

    /// `opendir(3)`.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_directory(&self, node: NodeId) -> Result<HandleId, Errno> {
        self.admit()?;
        let inode = self.inode(node)?;
        let stream = self.checked("opendir", open_stream(&inode))?;
        self.confirm(self.directories.insert(DirectoryHandle {
            inode,
            stream: stream.into(),
        }))
    }

    /// `readdir(3)` from `position` on: gives names to `take` until it says `false` or none is left.
    ///
    /// # Errors
    /// As the system call.
    pub fn read_directory(
        &self,
        handle: HandleId,
        position: u64,
        mut take: impl FnMut(NodeId, Listed<'_>) -> bool,
    ) -> Result<(), Errno> {
        self.admit()?;
        let handle = self.directories.get(handle)?;
        let read = handle.stream.lock().read(position, |listed| {
            Ok(take(self.inodes.node_of(listed.ino), listed))
        });
        self.checked("readdir", read)?;
        self.confirm(())
    }

    /// `readdir(3)` with the attributes of each object; `None` where there are none to give (`.`, `..`, another file
    /// system, a name that went away). Every object taken with attributes counts as looked up.
    ///
    /// # Errors
    /// As the system call.
    pub fn read_directory_plus(
        &self,
        handle: HandleId,
        position: u64,
        mut take: impl FnMut(NodeId, Listed<'_>, Option<Attributes>) -> bool,
    ) -> Result<(), Errno> {
        self.admit()?;
        let handle = self.directories.get(handle)?;
        let read = handle.stream.lock().read(position, |listed| {
            let looked_up = self.look_up_listed(&handle.inode, listed);
            let node = self.inodes.node_of(listed.ino);
            let is_taken = take(node, listed, looked_up);
            if let Some(attributes) = looked_up.filter(|_| !is_taken) {
                self.release_node(attributes.node, 1);
            }
            Ok(is_taken)
        });
        self.checked("readdir", read)?;
        self.confirm(())
    }

    fn look_up_listed(&self, directory: &Inode, listed: Listed<'_>) -> Option<Attributes> {
        names::check(listed.name).ok()?;
        let (fd, stat) = self.open_child(directory, listed.name).ok()?;
        self.inodes.acquire(fd, &stat);
        Some(self.attributes_of(stat))
    }

    /// `fsync(2)` of a directory: both copies have its names on disk before the request is answered.
    ///
    /// # Errors
    /// As the system call; the copy is given up then (R11).
    pub fn sync_directory(
        &self,
        handle: HandleId,
        is_data_only: bool,
    ) -> Result<Changed<()>, Errno> {
        self.admit_change(SMALL_CHANGE_BYTES)?;
        let handle = self.directories.get(handle)?;
        let ticket = self.ship_sync(&handle.inode, is_data_only);
        let stream = handle.stream.lock();
        self.synced("fsync", fsync(stream.directory()))?;
        Ok(Changed { ticket, value: () })
    }

    /// `closedir(3)`.
    pub fn release_directory(&self, handle: HandleId) {
        self.directories.remove(handle);
    }
}

/// A directory open for reading, at its start.
pub(super) fn open_stream(directory: &Inode) -> Result<DirStream, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(directory.fd(), c".", flags, Mode::empty()).map(DirStream::new)
}

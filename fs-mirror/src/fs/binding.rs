//! Naming objects to the secondary when they are first used, in a session that began with identical copies.
//!
//! The kernel keeps the name of every open descriptor up to date for us, renames included: the path below
//! `/proc/self/fd` is walked from the root, and every directory on the way is bound as well.

use std::sync::Arc;

use rustix::fs::{CWD, readlinkat};

use super::Fs;
use super::errno::Errno;
use super::inodes::Inode;
use crate::replication::change::{Change, FileId};
use crate::replication::shipping::Completion;

impl<C: Completion> Fs<C> {
    /// Sees to it that a change of `inode` can be shipped, where the session binds on use. With no lock held.
    pub(super) fn bind_on_use(&self, inode: &Inode) {
        let session = self.shipping.session();
        if session == 0 || inode.binding.file_in(session).is_some() || !self.shipping.binds_on_use()
        {
            return;
        }
        let _namespace = self.lock_namespace();
        self.bind_locked(inode, session);
    }

    /// The same with the namespace lock held.
    pub(super) fn bind_locked(&self, inode: &Inode, session: u64) {
        if inode.binding.file_in(session).is_some() {
            return;
        }
        match self.bind_by_path(inode, session) {
            Ok(()) => {}
            // No name leads to it: the secondary does not have it, and nobody can ask for it there.
            Err(_) if inode.is_gone() => {}
            Err(errno) => {
                self.note_fault("find the name", errno);
                tracing::warn!(%errno, "an object cannot be named to the secondary, which must synchronise again");
                self.shipping.abandon(session, "an object cannot be named");
            }
        }
    }

    fn bind_by_path(&self, inode: &Inode, session: u64) -> Result<(), Errno> {
        let root = self.inodes.root();
        let root_file = self.bind_root(session);
        if Arc::as_ptr(root) == std::ptr::from_ref(inode) {
            return Ok(());
        }
        let path = self.path_below_root(inode)?;
        let mut parent = (Arc::clone(root), root_file);
        for name in path.split(|byte| *byte == b'/') {
            parent = self.bind_child(&parent.0, parent.1, name, session)?;
        }
        if inode.binding.file_in(session).is_some() {
            Ok(())
        } else {
            Err(Errno::NOENT)
        }
    }

    /// A path from the root to an object below it.
    pub(super) fn path_below_root(&self, inode: &Inode) -> Result<Vec<u8>, Errno> {
        let (root, path) = (path_of(self.inodes.root())?, path_of(inode)?);
        let below = path
            .strip_prefix(root.as_slice())
            .and_then(|below| below.strip_prefix(b"/"));
        below.map(<[u8]>::to_vec).ok_or(Errno::NOENT)
    }

    fn bind_root(&self, session: u64) -> FileId {
        let root = self.inodes.root();
        let _order = root.order.lock();
        if root.binding.file_in(session).is_none() {
            root.binding.bind(session, FileId::ROOT, 1);
        }
        root.binding.set_listed(session);
        FileId::ROOT
    }

    fn bind_child(
        &self,
        parent: &Inode,
        parent_file: FileId,
        name: &[u8],
        session: u64,
    ) -> Result<(Arc<Inode>, FileId), Errno> {
        let (fd, stat) = self.open_child(parent, name)?;
        let child = self.inodes.acquire(fd, &stat);
        let file = {
            let _order = child.order.lock();
            child.binding.file_in(session).unwrap_or_else(|| {
                let file = self.next_file_id();
                self.shipping.ship(
                    session,
                    &Change::Bind {
                        parent: parent_file,
                        name,
                        file,
                    },
                );
                // Both copies are the same: the secondary has every name there is.
                child.binding.bind(session, file, stat.st_nlink as u32);
                if child.is_directory() {
                    child.binding.set_listed(session);
                }
                file
            })
        };
        self.release_node(child.node, 1);
        Ok((child, file))
    }
}

fn path_of(inode: &Inode) -> Result<Vec<u8>, Errno> {
    readlinkat(CWD, inode.path().as_c_str(), Vec::new()).map(std::ffi::CString::into_bytes)
}

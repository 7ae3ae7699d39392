//! The file system over the real directory. Knows nothing of FUSE: it runs in tests without a mount.
//!
//! Every change is made here first, then shipped with the lock held that orders it, then the locks are released and the
//! caller completes the request ([`Changed`]), which is answered when every copy that must have the change has it.
//!
//! * The namespace lock orders changes of names; it is held across the local operation and its shipping.
//! * The order lock of an object orders changes of its data and attributes. Taken after the namespace lock, never before.
//! * What the secondary does not know (yet) is not shipped: resync or `binding` will tell it.

mod attributes;
mod binding;
pub(crate) mod blocks;
mod creator;
mod dir_read;
mod dir_stream;
mod dir_write;
mod entries;
pub(crate) mod errno;
mod handles;
mod inode_read;
mod inode_write;
pub(crate) mod inodes;
pub(crate) mod listing;
mod names;
mod proc_path;
mod rename;
mod times;
mod xattr;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, openat2};

use crate::copy::Copy;
use crate::gate::Gate;
use crate::replication::change::{Change, FileId};
use crate::replication::shipping::{Completion, Shipping, Ticket};

pub use attributes::{Attributes, SetAttributes, TimeChange};
pub use creator::Caller;
pub use dir_stream::Listed;
pub use dir_write::NewObject;
pub use errno::{Errno, Fault};
pub use handles::HandleId;
pub use inode_read::{Seek, is_direct};
pub use inode_write::Writing;
pub use inodes::NodeId;
pub use rename::Renaming;

use handles::{DirectoryHandle, FileHandle, Handles};
use inodes::{Inode, InodeTable};
use listing::Found;
use times::PendingTimes;

/// Room asked for the frame of a change without data: two names and change.
const SMALL_CHANGE_BYTES: usize = 1024;

/// Whether the tree may be changed through this file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The primary's: the only way into the tree.
    ReadWrite,
    /// The secondary's: everything that changes is refused with EROFS, the replication changes the tree behind it.
    ReadOnly,
}

/// A change that was made here; the request is answered through [`Fs::complete`].
#[derive(Debug)]
#[must_use = "a change is not acknowledged before it is completed"]
pub struct Changed<T> {
    /// What to wait for.
    pub ticket: Ticket,
    /// What to answer then.
    pub value: T,
}

/// Called when attributes have changed that the kernel still believes to know.
pub type OnStale = Box<dyn Fn(NodeId) + Send + Sync>;

/// Called when this server's own disk fails (R11).
pub type OnFault = Box<dyn Fn(Fault) + Send + Sync>;

/// The file system over one copy.
pub struct Fs<C: Completion> {
    access: Access,
    gate: Arc<Gate>,
    shipping: Arc<dyn Shipping<C>>,
    on_fault: OnFault,
    on_stale: OnceLock<OnStale>,
    inodes: InodeTable,
    files: Handles<FileHandle>,
    directories: Handles<DirectoryHandle>,
    namespace: Mutex<()>,
    pending_times: PendingTimes,
    /// The next name on the wire.
    file_id_next: AtomicU64,
    /// Objects that listings have bound and the resync has not taken over yet.
    found: Mutex<Vec<Found>>,
    /// Names that listings have described in the running resync.
    listed_count: AtomicU64,
}

impl<C: Completion> std::fmt::Debug for Fs<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs")
            .field("access", &self.access)
            .field("open", &self.open_count())
            .finish_non_exhaustive()
    }
}

impl<C: Completion> Fs<C> {
    /// The file system over `copy`. `on_fault` is called from the thread of the request that met the fault.
    ///
    /// # Errors
    /// The real directory cannot be looked at.
    pub fn new(
        copy: &Copy,
        access: Access,
        gate: Arc<Gate>,
        shipping: Arc<dyn Shipping<C>>,
        on_fault: OnFault,
    ) -> Result<Fs<C>, Errno> {
        let root = copy
            .root()
            .try_clone_to_owned()
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok(Fs {
            access,
            gate,
            shipping,
            on_fault,
            on_stale: OnceLock::new(),
            inodes: InodeTable::new(root)?,
            files: Handles::default(),
            directories: Handles::default(),
            namespace: Mutex::new(()),
            pending_times: PendingTimes::default(),
            file_id_next: AtomicU64::new(FileId::ROOT.0 + 1),
            found: Mutex::default(),
            listed_count: AtomicU64::new(0),
        })
    }

    /// Whether the tree may be changed here.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Says whom to tell when the kernel must ask for the attributes of an object again. Only the first call counts.
    pub fn tell_stale(&self, on_stale: OnStale) {
        // A file system is mounted once in its life.
        let _ = self.on_stale.set(on_stale);
    }

    /// Answers a request whose change was made; see [`Shipping::complete`]. With no lock held.
    pub fn complete(&self, ticket: Ticket, completion: C) {
        self.shipping.complete(ticket, completion);
    }

    /// How many files and directories are open.
    pub fn open_count(&self) -> usize {
        self.files.count() + self.directories.count()
    }

    /// How many objects the kernel and the resync refer to.
    pub fn inode_count(&self) -> usize {
        self.inodes.live_count()
    }

    /// Lets in a request that only reads.
    fn admit(&self) -> Result<(), Errno> {
        self.gate.wait_open().map_err(|_| Errno::IO)
    }

    /// Lets out what a request has read: it counts only if this server could still serve after the reading.
    fn confirm<T>(&self, value: T) -> Result<T, Errno> {
        self.gate.wait_open().map_err(|_| Errno::IO)?;
        Ok(value)
    }

    /// Lets in a request that changes something and needs `bytes` on the wire.
    fn admit_change(&self, bytes: usize) -> Result<(), Errno> {
        if self.access == Access::ReadOnly {
            return Err(Errno::ROFS);
        }
        self.admit()?;
        self.shipping.reserve(bytes);
        Ok(())
    }

    /// Reports an error of our own disk, and passes it on to the application either way.
    fn checked<T>(&self, operation: &'static str, result: Result<T, Errno>) -> Result<T, Errno> {
        if let Err(errno) = result {
            self.note_fault(operation, errno);
        }
        result
    }

    fn note_fault(&self, operation: &'static str, errno: Errno) {
        if errno::is_disk_failure(errno) {
            (self.on_fault)(Fault { operation, errno });
        }
    }

    /// The same for a sync.
    fn synced(&self, operation: &'static str, result: Result<(), Errno>) -> Result<(), Errno> {
        result.inspect_err(|&errno| {
            if errno::is_failed_sync(errno) {
                (self.on_fault)(Fault { operation, errno });
            }
        })
    }

    fn inode(&self, node: NodeId) -> Result<Arc<Inode>, Errno> {
        self.inodes.get(node).ok_or(Errno::STALE)
    }

    fn lock_namespace(&self) -> MutexGuard<'_, ()> {
        self.namespace.lock()
    }

    fn next_file_id(&self) -> FileId {
        FileId(self.file_id_next.fetch_add(1, Ordering::Relaxed))
    }

    /// Ships a change of one object, if the secondary knows it. With the object's order lock held.
    fn ship_for<'a>(&self, inode: &Inode, change: impl FnOnce(FileId) -> Change<'a>) -> Ticket {
        let session = self.shipping.session();
        match inode.binding.file_in(session) {
            Some(file) => self.shipping.ship(session, &change(file)),
            None => Ticket::NotShipped,
        }
    }

    /// Opens what `name` leads to, without following it and without leaving the tree.
    fn open_child(&self, parent: &Inode, name: &[u8]) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let fd = openat2(parent.fd(), name, flags, Mode::empty(), resolve)?;
        let stat = fstat(&fd)?;
        // Subvolumes have a device of their own without being mounted.
        if self.inodes.is_on_device(&stat) {
            Ok((fd, stat))
        } else {
            Err(Errno::XDEV)
        }
    }

    fn attributes_of(&self, stat: Stat) -> Attributes {
        Attributes {
            node: self.inodes.node_of(stat.st_ino),
            stat,
        }
    }

    /// Gives back references to an object; the secondary is told when it is gone for good.
    fn release_node(&self, node: NodeId, count: u64) {
        if let inodes::Released::Gone(inode) = self.inodes.release(node, count) {
            let _order = inode.order.lock();
            self.ship_for(&inode, |file| Change::Forget { file });
        }
    }
}

#[cfg(test)]
mod tests;

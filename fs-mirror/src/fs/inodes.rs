//! The objects the kernel knows: one `O_PATH` descriptor each, found by inode number.
//!
//! An object stays here while the kernel (or the resync) refers to it. One that is bound in a session keeps its name on
//! the wire beyond that, without a descriptor: *parked*. The number of an object cannot be given to another one while
//! our descriptor is open, and a parked entry goes when its last name does, since the kernel always looks an object up
//! (and so makes it live) before it removes a name of it.

mod binding;
mod table;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FileType, Stat, fstat};

use super::errno::Errno;
use super::proc_path::ProcPath;
pub(crate) use binding::Binding;
pub(crate) use table::{InodeTable, Released};

/// How the kernel names an object: its inode number below, save for the root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The replicated directory itself.
    pub const ROOT: NodeId = NodeId(1);
}

/// One object of the tree.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) node: NodeId,
    pub(crate) kind: FileType,
    fd: OwnedFd,
    /// Held across a local change of data or attributes and its shipping: the order on the wire is the order here.
    pub(crate) order: Mutex<Order>,
    pub(crate) binding: Binding,
    /// The modification time has moved since it was last shipped.
    pub(crate) has_times_pending: AtomicBool,
    /// A directory whose only name was removed.
    is_removed: AtomicBool,
}

/// What the order lock of an object guards besides the order itself.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Grows with every change of data: content read at one version is current while the version is.
    pub(crate) version: u64,
    /// Known to have neither setuid nor setgid: writes by others than root need not look.
    pub(crate) lacks_privileges: bool,
}

impl Inode {
    fn new(node: NodeId, fd: OwnedFd, kind: FileType, binding: Binding) -> Inode {
        Inode {
            node,
            kind,
            fd,
            order: Mutex::default(),
            binding,
            has_times_pending: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
        }
    }

    /// The `O_PATH` descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A path that leads to this very object, whatever its names are.
    pub(crate) fn path(&self) -> ProcPath {
        ProcPath::of(&self.fd)
    }

    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        fstat(&self.fd)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(crate) fn mark_removed(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }

    /// No name leads here any more. Some file systems count a removed directory's links wrongly, so those are noted.
    pub(crate) fn is_gone(&self) -> bool {
        if self.is_directory() {
            self.is_removed.load(Ordering::Relaxed)
        } else {
            self.stat().is_ok_and(|stat| stat.st_nlink == 0)
        }
    }
}

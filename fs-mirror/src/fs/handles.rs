//! Open files and directories, by the number the kernel gives back with every request.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::dir_stream::DirStream;
use super::errno::Errno;
use super::inodes::Inode;

/// Number of an open file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandleId(pub u64);

/// An open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub(crate) inode: Arc<Inode>,
    pub(crate) file: OwnedFd,
    pub(crate) is_writable: bool,
    /// Opened with `O_DIRECT` and `O_SYNC` or `O_DSYNC`: every write must reach the disks before it is answered. (For
    /// other files the kernel sends an fsync after the write.)
    pub(crate) syncs_writes: bool,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirectoryHandle {
    pub(crate) inode: Arc<Inode>,
    pub(crate) stream: Mutex<DirStream>,
}

/// A table of open things of one kind. Numbers are reused, lowest free first.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    slots: RwLock<Slots<T>>,
}

#[derive(Debug)]
struct Slots<T> {
    open: Vec<Option<Arc<T>>>,
    free: Vec<usize>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Handles {
            slots: RwLock::new(Slots {
                open: Vec::new(),
                free: Vec::new(),
            }),
        }
    }
}

impl<T> Handles<T> {
    pub(crate) fn insert(&self, handle: T) -> HandleId {
        let handle = Some(Arc::new(handle));
        let mut slots = self.slots.write();
        let index = match slots.free.pop() {
            Some(index) => {
                slots.open[index] = handle;
                index
            }
            None => {
                slots.open.push(handle);
                slots.open.len() - 1
            }
        };
        HandleId(index as u64)
    }

    pub(crate) fn get(&self, id: HandleId) -> Result<Arc<T>, Errno> {
        let slots = self.slots.read();
        let handle = slots.open.get(id.0 as usize).and_then(Option::as_ref);
        handle.map(Arc::clone).ok_or(Errno::BADF)
    }

    pub(crate) fn remove(&self, id: HandleId) -> Option<Arc<T>> {
        let mut slots = self.slots.write();
        let handle = slots.open.get_mut(id.0 as usize)?.take()?;
        slots.free.push(id.0 as usize);
        Some(handle)
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.read();
        slots.open.len() - slots.free.len()
    }
}

//! Inode number to object, in shards so that threads seldom meet.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FileType, Stat, fstat};

use super::{Binding, Inode, NodeId};
use crate::fs::errno::Errno;

const SHARDS: usize = 64;

#[derive(Debug)]
enum Slot {
    /// In use: `references` of the kernel and of ourselves.
    Live { inode: Arc<Inode>, references: u64 },
    /// Not in use, but the secondary knows it.
    Parked(Binding),
}

/// What became of an object whose last reference was given back.
#[derive(Debug)]
pub(crate) enum Released {
    /// Others still refer to it, or it keeps its names.
    Kept,
    /// No name leads to it any more; its number may be reused once this is dropped.
    Gone(Arc<Inode>),
}

/// All objects in use, and what is known of those that are not.
#[derive(Debug)]
pub(crate) struct InodeTable {
    root: Arc<Inode>,
    /// Device and number of the root below.
    device: u64,
    root_ino: u64,
    shards: Vec<Mutex<HashMap<u64, Slot>>>,
}

impl InodeTable {
    /// A table that knows the root alone. `root` is an `O_PATH` descriptor of the real directory.
    pub(crate) fn new(root: OwnedFd) -> Result<InodeTable, Errno> {
        let stat = fstat(&root)?;
        let root = Arc::new(Inode::new(
            NodeId::ROOT,
            root,
            FileType::Directory,
            Binding::default(),
        ));
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Ok(InodeTable {
            root,
            device: stat.st_dev,
            root_ino: stat.st_ino,
            shards,
        })
    }

    pub(crate) fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// The tree ends where another file system begins.
    pub(crate) fn is_on_device(&self, stat: &Stat) -> bool {
        stat.st_dev == self.device
    }

    /// The kernel insists on 1 for the root; should some object below have that number, it takes the root's.
    pub(crate) fn node_of(&self, ino: u64) -> NodeId {
        match ino {
            ino if ino == self.root_ino => NodeId::ROOT,
            1 => NodeId(self.root_ino),
            ino => NodeId(ino),
        }
    }

    fn shard(&self, node: NodeId) -> &Mutex<HashMap<u64, Slot>> {
        &self.shards[node.0 as usize % SHARDS]
    }

    /// The object in use under this name.
    pub(crate) fn get(&self, node: NodeId) -> Option<Arc<Inode>> {
        if node == NodeId::ROOT {
            return Some(Arc::clone(&self.root));
        }
        match self.shard(node).lock().get(&node.0) {
            Some(Slot::Live { inode, .. }) => Some(Arc::clone(inode)),
            Some(Slot::Parked(_)) | None => None,
        }
    }

    /// One reference more to the object behind `fd`, which was found to be `stat`. The root counts none.
    pub(crate) fn acquire(&self, fd: OwnedFd, stat: &Stat) -> Arc<Inode> {
        let node = self.node_of(stat.st_ino);
        if node == NodeId::ROOT {
            return Arc::clone(&self.root);
        }
        let mut shard = self.shard(node).lock();
        let binding = match shard.get_mut(&node.0) {
            Some(Slot::Live { inode, references }) => {
                *references += 1;
                return Arc::clone(inode);
            }
            Some(Slot::Parked(binding)) => binding.take(),
            None => Binding::default(),
        };
        let inode = Arc::new(Inode::new(
            node,
            fd,
            FileType::from_raw_mode(stat.st_mode),
            binding,
        ));
        shard.insert(
            node.0,
            Slot::Live {
                inode: Arc::clone(&inode),
                references: 1,
            },
        );
        inode
    }

    /// One reference more to an object that is in use; false when it is not any more.
    pub(crate) fn pin(&self, inode: &Arc<Inode>) -> bool {
        if inode.node == NodeId::ROOT {
            return true;
        }
        match self.shard(inode.node).lock().get_mut(&inode.node.0) {
            Some(Slot::Live {
                inode: known,
                references,
            }) if Arc::ptr_eq(known, inode) => {
                *references += 1;
                true
            }
            Some(Slot::Live { .. } | Slot::Parked(_)) | None => false,
        }
    }

    /// Gives back `count` references.
    pub(crate) fn release(&self, node: NodeId, count: u64) -> Released {
        if node == NodeId::ROOT {
            return Released::Kept;
        }
        let mut shard = self.shard(node).lock();
        let Some(Slot::Live { inode, references }) = shard.get_mut(&node.0) else {
            return Released::Kept;
        };
        *references = references.saturating_sub(count);
        if *references > 0 {
            return Released::Kept;
        }
        let inode = Arc::clone(inode);
        if !inode.binding.is_bound() {
            shard.remove(&node.0);
            return Released::Kept;
        }
        if inode.is_gone() {
            shard.remove(&node.0);
            return Released::Gone(inode);
        }
        let binding = inode.binding.take();
        shard.insert(node.0, Slot::Parked(binding));
        Released::Kept
    }

    /// Forgets what the secondary of another session knew of objects that are not in use.
    pub(crate) fn begin_session(&self, session: u64) {
        for shard in &self.shards {
            shard.lock().retain(|_, slot| match slot {
                Slot::Live { .. } => true,
                Slot::Parked(binding) => binding.session() == session,
            });
        }
    }

    /// How many objects are in use.
    pub(crate) fn live_count(&self) -> usize {
        let live = |slot: &&Slot| matches!(slot, Slot::Live { .. });
        self.shards
            .iter()
            .map(|shard| shard.lock().values().filter(live).count())
            .sum()
    }
}

//! Modification times that have moved here and are not shipped yet.
//!
//! Applying a write or a new name moves the time on the secondary as well, but to the secondary's own clock. Shipping
//! the exact time with every write would double the frames, so it is shipped when a file is closed or synced, and for
//! all others when the node asks (`sweep_times`: drain, idle, end of a resync).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::inodes::{Inode, NodeId};
use super::{Fs, attributes};
use crate::replication::change::{AttributeChange, Change};
use crate::replication::shipping::Completion;

/// The objects concerned; each is held in use while it is here.
#[derive(Debug, Default)]
pub(super) struct PendingTimes {
    inodes: Mutex<HashMap<NodeId, Arc<Inode>>>,
}

impl<C: Completion> Fs<C> {
    /// The object's time has moved. With its order lock held, or the namespace lock for a directory's names.
    pub(super) fn mark_times(&self, inode: &Arc<Inode>) {
        if inode.has_times_pending.load(Ordering::Relaxed)
            || !self.is_bound(inode)
            || !self.inodes.pin(inode)
        {
            return;
        }
        inode.has_times_pending.store(true, Ordering::Relaxed);
        self.pending_times
            .inodes
            .lock()
            .insert(inode.node, Arc::clone(inode));
    }

    /// Ships the object's modification time if it has moved. With no lock held.
    pub(super) fn ship_times(&self, inode: &Arc<Inode>) {
        if !inode.has_times_pending.load(Ordering::Relaxed) {
            return;
        }
        // The time of a directory must follow the changes of its names on the wire.
        let namespace = inode.is_directory().then(|| self.lock_namespace());
        let order = inode.order.lock();
        let was_marked = self.ship_times_locked(inode);
        drop((order, namespace));
        if was_marked {
            self.release_node(inode.node, 1);
        }
    }

    /// The same with the locks held; when true, the caller gives back one reference once they are released.
    #[must_use]
    pub(super) fn ship_times_locked(&self, inode: &Inode) -> bool {
        // Unmarked before the time is read: whatever moves it later marks it again.
        let was_marked = self
            .pending_times
            .inodes
            .lock()
            .remove(&inode.node)
            .is_some();
        inode.has_times_pending.store(false, Ordering::Relaxed);
        if let Ok(stat) = inode.stat() {
            let change = AttributeChange {
                mtime: Some(attributes::mtime(&stat)),
                ..AttributeChange::default()
            };
            self.ship_for(inode, |file| Change::SetAttributes { file, change });
        }
        was_marked
    }

    /// Ships every modification time that has moved since it was last shipped.
    pub fn sweep_times(&self) {
        let pending: Vec<_> = self.pending_times.inodes.lock().values().cloned().collect();
        for inode in &pending {
            self.ship_times(inode);
        }
        if !pending.is_empty() {
            self.shipping.flush();
        }
    }

    pub(super) fn is_bound(&self, inode: &Inode) -> bool {
        inode.binding.file_in(self.shipping.session()).is_some()
    }
}

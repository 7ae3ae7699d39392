//! What the secondary knows of an object.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::replication::change::FileId;

/// The object's name on the wire, and in which session the secondary knows what of it.
///
/// Changed only with the namespace lock *and* the object's order lock held (`listed` and `names`: the namespace lock),
/// so either lock suffices to read; the atomics only make sharing possible.
#[derive(Debug, Default)]
pub(crate) struct Binding {
    file: AtomicU64,
    /// Session in which the secondary knows `file`; 0: none.
    bound: AtomicU64,
    /// Session in which the secondary knows every name in this directory; 0: none.
    listed: AtomicU64,
    /// How many names of this object the secondary has.
    names: AtomicU32,
}

impl Binding {
    /// The object's name on the wire, if the secondary knows it in `session`.
    pub(crate) fn file_in(&self, session: u64) -> Option<FileId> {
        let is_bound = session != 0 && self.bound.load(Ordering::Acquire) == session;
        is_bound.then(|| FileId(self.file.load(Ordering::Relaxed)))
    }

    /// The directory's name on the wire, if changes of its names are shipped in `session`.
    pub(crate) fn listed_in(&self, session: u64) -> Option<FileId> {
        let is_listed = self.listed.load(Ordering::Relaxed) == session;
        self.file_in(session).filter(|_| is_listed)
    }

    /// The secondary knows the object as `file` from here on, by `names` names.
    pub(crate) fn bind(&self, session: u64, file: FileId, names: u32) {
        self.file.store(file.0, Ordering::Relaxed);
        self.names.store(names, Ordering::Relaxed);
        self.bound.store(session, Ordering::Release);
    }

    /// The secondary is told to forget the object.
    pub(crate) fn unbind(&self) {
        self.bound.store(0, Ordering::Release);
    }

    pub(crate) fn set_listed(&self, session: u64) {
        self.listed.store(session, Ordering::Relaxed);
    }

    pub(crate) fn add_name(&self) {
        self.names.fetch_add(1, Ordering::Relaxed);
    }

    /// One name less; true when none is left.
    pub(crate) fn remove_name(&self) -> bool {
        let less = |names: u32| Some(names.saturating_sub(1));
        self.names
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok_and(|before| before <= 1)
    }

    /// Is worth keeping when the object is not in use.
    pub(super) fn is_bound(&self) -> bool {
        self.bound.load(Ordering::Relaxed) != 0
    }

    pub(super) fn session(&self) -> u64 {
        self.bound.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> Binding {
        let number = |value: &AtomicU64| AtomicU64::new(value.load(Ordering::Relaxed));
        Binding {
            file: number(&self.file),
            bound: number(&self.bound),
            listed: number(&self.listed),
            names: AtomicU32::new(self.names.load(Ordering::Relaxed)),
        }
    }
}

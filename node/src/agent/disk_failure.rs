//! What the disk of this copy said, kept apart from the tenure in which it did: it may say so after that has ended.

use std::sync::Arc;

use parking_lot::Mutex;

/// Shared between the agent, its tenures and the threads of the mounted copy.
#[derive(Clone, Default)]
pub(super) struct DiskFailure(Arc<Mutex<Option<String>>>);

impl DiskFailure {
    /// The first one counts (R11).
    pub(super) fn note(&self, failure: String) {
        self.0.lock().get_or_insert(failure);
    }

    /// A write or a sync of this copy failed, and it was not compared with a whole one since.
    pub(super) fn is_noted(&self) -> bool {
        self.0.lock().is_some()
    }

    pub(super) fn text(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// This copy is compared before it counts again.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }
}

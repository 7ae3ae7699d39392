//! What the disk of this copy said, kept apart from the tenure in which it did: it may say so after that has ended.

use tokio::sync::watch;

/// Shared between the agent, its tenures and the threads of the mounted copy.
#[derive(Clone, Default)]
pub(super) struct DiskFailure(watch::Sender<Option<String>>);

impl DiskFailure {
    /// Wakes the agent. The first one counts (R11): false for the others.
    pub(super) fn note(&self, failure: String) -> bool {
        self.0.send_if_modified(|noted| {
            let is_first = noted.is_none();
            noted.get_or_insert(failure);
            is_first
        })
    }

    /// A write or a sync of this copy failed, and it was not compared with a whole one since.
    pub(super) fn is_noted(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(super) fn text(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// The comparison of this copy begins: what fails from now on counts.
    pub(super) fn forget(&self) {
        self.0.send_replace(None);
    }

    /// Changes when something is noted.
    pub(super) fn changed(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }
}

//! Why a copy cannot be brought up to date, as told by its sessions.

use std::sync::Arc;
use std::time::Duration;

use fs_mirror::replication::secondary::{ApplyError, EndCause};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A session that ended for want of room would end so again: the primary is kept waiting for a while.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// Shared between the agent and the threads of its sessions.
#[derive(Clone, Default)]
pub(super) struct CopyTrouble(Arc<Mutex<Option<Told>>>);

struct Told {
    text: String,
    /// Until then no session is taken.
    not_before: Instant,
}

impl CopyTrouble {
    /// A session ended.
    pub(super) fn note(&self, cause: &EndCause) {
        let wait = match cause {
            EndCause::NotApplied {
                error: ApplyError::NoRoom { .. },
                ..
            } => ROOM_PATIENCE,
            EndCause::NotApplied { .. } | EndCause::NotDurable(_) => Duration::ZERO,
            EndCause::Finished | EndCause::Link(_) | EndCause::Silent { .. } => return,
        };
        let text = match cause {
            EndCause::NotApplied { error, .. } => error.to_string(),
            other => other.to_string(),
        };
        self.set(text, wait);
    }

    /// A session did not begin, for a reason of this server.
    pub(super) fn note_refused(&self, text: &str) {
        self.set(text.to_owned(), Duration::ZERO);
    }

    fn set(&self, text: String, wait: Duration) {
        let not_before = Instant::now() + wait;
        *self.0.lock() = Some(Told { text, not_before });
    }

    /// The copy is whole.
    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// It is too early for another session.
    pub(super) fn is_fresh(&self) -> bool {
        let told = self.0.lock();
        told.as_ref()
            .is_some_and(|told| Instant::now() < told.not_before)
    }

    /// For people.
    pub(super) fn text(&self) -> Option<String> {
        self.0.lock().as_ref().map(|told| told.text.clone())
    }
}

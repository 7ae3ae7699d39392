//! Why a copy cannot be brought up to date, or must not lead, as told by its sessions.

use std::sync::Arc;
use std::time::Duration;

use fs_mirror::replication::secondary::{ApplyError, EndCause};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A session that ended for want of room would end so again: the primary is kept waiting for a while.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// Shared between the agent and the threads of its sessions.
#[derive(Clone, Default)]
pub(super) struct CopyTrouble(Arc<Mutex<Troubles>>);

#[derive(Default)]
struct Troubles {
    told: Option<Told>,
    /// A change that was received was not applied.
    failure: Option<String>,
}

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
            EndCause::NotApplied { seq, error } => {
                let failure = format!("change {seq} of the primary could not be applied: {error}");
                self.0.lock().failure = Some(failure);
                error.to_string()
            }
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
        self.0.lock().told = Some(Told { text, not_before });
    }

    /// The copy is whole.
    pub(super) fn clear(&self) {
        self.0.lock().told = None;
    }

    /// It is too early for another session.
    pub(super) fn is_fresh(&self) -> bool {
        let troubles = self.0.lock();
        troubles
            .told
            .as_ref()
            .is_some_and(|told| Instant::now() < told.not_before)
    }

    /// For people.
    pub(super) fn text(&self) -> Option<String> {
        self.0.lock().told.as_ref().map(|told| told.text.clone())
    }

    /// Why this copy may lack what was acknowledged, so that it must not lead while another one counts. As long as this daemon runs: a
    /// start ends what its former run may have acknowledged by itself (R16).
    pub(super) fn failure(&self) -> Option<String> {
        self.0.lock().failure.clone()
    }

    /// What this copy lacks does not matter: it is compared before it counts again, or no other one does.
    pub(super) fn forget_failure(&self) {
        self.0.lock().failure = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_applied() -> EndCause {
        let errno = rustix::io::Errno::IO;
        let operation = "write to file";
        EndCause::NotApplied {
            seq: 7,
            error: ApplyError::System { operation, errno },
        }
    }

    /// Goal: what people are told ends with the next look at a record that names this copy; that it must not lead does not.
    #[test]
    fn a_copy_that_failed_to_apply_stays_unfit_until_it_does_not_count() {
        let trouble = CopyTrouble::default();
        trouble.note(&EndCause::Finished);
        assert_eq!((trouble.text(), trouble.failure()), (None, None));
        trouble.note(&not_applied());
        trouble.clear();
        assert_eq!(trouble.text(), None);
        let failure = trouble.failure().unwrap();
        assert!(failure.starts_with("change 7 of the primary could not be applied: write to file"));
        trouble.note(&EndCause::Finished);
        assert_eq!(trouble.failure(), Some(failure));
        trouble.forget_failure();
        assert_eq!(trouble.failure(), None);
    }
}

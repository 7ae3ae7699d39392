//! Whether this member takes part. One that may have forgotten what it acknowledged answers for nothing, and asks for nothing,
//! before it has heard what the others remember of it (R12).

use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

/// Closed at the start, opened once.
#[derive(Debug)]
pub(crate) struct Admission(AtomicBool);

/// Said to others, and to Raft, until then.
#[derive(Debug, Error)]
#[error("this member has not heard yet what the others remember of it")]
pub(crate) struct NotAdmitted;

impl Admission {
    pub(crate) fn new(is_admitted: bool) -> Admission {
        Admission(AtomicBool::new(is_admitted))
    }

    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// # Errors
    /// `NotAdmitted`.
    pub(crate) fn check(&self) -> Result<(), NotAdmitted> {
        if self.is_open() {
            Ok(())
        } else {
            Err(NotAdmitted)
        }
    }
}

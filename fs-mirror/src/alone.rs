//! Replication with nobody.

use crate::replication::change::Change;
use crate::replication::shipping::{Completion, Shipping, Ticket, Verdict};

/// Ships nothing and answers at once: the read-only mount of a secondary, and tests.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl<C: Completion> Shipping<C> for Alone {
    fn session(&self) -> u64 {
        0
    }

    fn binds_on_use(&self) -> bool {
        false
    }

    fn reserve(&self, _bytes: usize) {}

    fn ship(&self, _session: u64, _change: &Change<'_>) -> Ticket {
        Ticket::NotShipped
    }

    fn abandon(&self, _session: u64, _reason: &'static str) {}

    fn complete(&self, _ticket: Ticket, completion: C) {
        completion.finish(Verdict::Acknowledged);
    }

    fn flush(&self) {}
}

//! Limits on how much of something is there at once, in all and for one source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// What there is at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) total: usize,
    pub(super) per_source: usize,
}

/// Counts what is there.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Arc<Budget> {
        Arc::new(Budget {
            limits,
            counts: Mutex::new(HashMap::new()),
        })
    }

    /// One place for `source`, until the ticket is dropped; `None` when there is none left.
    pub(super) fn take(self: &Arc<Budget>, source: IpAddr) -> Option<Ticket> {
        let mut counts = self.counts.lock();
        let total: usize = counts.values().sum();
        let own = counts.get(&source).copied().unwrap_or(0);
        if total >= self.limits.total || own >= self.limits.per_source {
            return None;
        }
        counts.insert(source, own + 1);
        Some(Ticket {
            budget: Arc::clone(self),
            source,
        })
    }

    fn give_back(&self, source: IpAddr) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&source);
            }
        }
    }
}

/// A place in a budget.
#[derive(Debug)]
pub(super) struct Ticket {
    budget: Arc<Budget>,
    source: IpAddr,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.budget.give_back(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let [a, b, c]: [IpAddr; 3] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]].map(Into::into);
        let budget = Budget::new(Limits {
            total: 3,
            per_source: 2,
        });
        let first = budget.take(a).unwrap();
        let _second = budget.take(a).unwrap();
        assert!(budget.take(a).is_none(), "per source");
        let _third = budget.take(b).unwrap();
        assert!(budget.take(c).is_none(), "in all");
        drop(first);
        assert!(budget.take(c).is_some());
        assert!(budget.take(a).is_some());
        assert_eq!(budget.counts.lock().len(), 2, "no trace of who left");
    }
}

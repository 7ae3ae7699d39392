//! When replaced voters need no say any more (`docs/design/2026-11-26-voters.md`).

use std::collections::BTreeSet;

use crate::state::{FormerVoters, ServerId};

use super::time::{BootTime, Timing};
use super::watcher::{Action, REPROPOSE_NS};

/// Waits until no lease can rest on replaced voters: a majority of each replaced set has applied the newest replacement, so it
/// grants nothing to whoever has not; and what it granted before has run out.
#[derive(Debug, Clone, Default)]
pub(super) struct Settling {
    former: Vec<BTreeSet<ServerId>>,
    replaced_at: u64,
    /// Since when the majorities are known to have applied it.
    applied_since: Option<BootTime>,
    proposed: Option<BootTime>,
}

impl Settling {
    pub(super) fn on_applied(&mut self, former: &[FormerVoters]) {
        let replaced_at = former.last().map_or(0, |newest| newest.replaced_at);
        if replaced_at != self.replaced_at {
            self.replaced_at = replaced_at;
            self.applied_since = None;
            self.proposed = None;
        }
        self.former = former.iter().map(|former| former.voters.clone()).collect();
    }

    /// `has_applied`: whether a voter, in a run it is still in, has applied the entry at an index.
    pub(super) fn look(
        &mut self,
        timing: Timing,
        has_applied: impl Fn(ServerId, u64) -> bool,
        now: BootTime,
    ) -> Option<Action> {
        let by_majority = |voters: &BTreeSet<ServerId>| {
            let count = voters
                .iter()
                .filter(|voter| has_applied(**voter, self.replaced_at))
                .count();
            count > voters.len() / 2
        };
        if self.former.is_empty() || !self.former.iter().all(by_majority) {
            return None;
        }
        let since = *self.applied_since.get_or_insert(now);
        let is_early = now.ns_since(since) <= timing.declare_after_ns();
        let is_repeated = self
            .proposed
            .is_some_and(|proposed| now.ns_since(proposed) < REPROPOSE_NS);
        if is_early || is_repeated {
            return None;
        }
        self.proposed = Some(now);
        let replaced_at = self.replaced_at;
        let evidence = format!(
            "a majority of the former voters has applied entry {replaced_at} for {:.1} s: no lease rests on the others any more",
            now.ns_since(since) as f64 / 1e9
        );
        Some(Action::ProposeSettle {
            replaced_at,
            evidence,
        })
    }
}

//! A server's right to serve, as the voters granted it.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::{ClusterState, Incarnation, ServerId};

use super::time::{BootTime, Timing};

/// The lease of one run of one server.
///
/// The lease ends `L` after the *sending* of the heartbeat that a majority of the voters answered: a voter waits for
/// `L` and a margin after its *receipt*, which is later, before it may declare this server. So on whatever clocks, the
/// lease is over before a majority can conclude that the server is down.
#[derive(Debug, Clone)]
pub struct LeaseHolder {
    timing: Timing,
    me: ServerId,
    incarnation: Incarnation,
    /// For each voter, when the newest heartbeat it granted was sent.
    granted: BTreeMap<ServerId, BootTime>,
}

impl LeaseHolder {
    /// No voter has granted anything yet.
    #[must_use]
    pub fn new(timing: Timing, me: ServerId, incarnation: Incarnation) -> Self {
        Self {
            timing,
            me,
            incarnation,
            granted: BTreeMap::new(),
        }
    }

    /// `voter` answered the heartbeat that was sent at `sent`. An answer without a grant takes nothing back: what the
    /// voter granted before, it has to wait for.
    pub fn on_answer(&mut self, voter: ServerId, sent: BootTime, is_granted: bool, now: BootTime) {
        // A time that has not come cannot be the echo of anything we sent.
        if !is_granted || sent > now || voter == self.me {
            return;
        }
        let newest = self.granted.entry(voter).or_insert(sent);
        *newest = sent.max(*newest);
    }

    /// Until when this server may serve, as far as leases decide. `None`: no majority has granted, or the cluster
    /// does not know this run yet, so the record may be older than what a former run gave away.
    ///
    /// A voter grants itself; a sole voter therefore always holds its lease.
    #[must_use]
    pub fn valid_until(&self, state: &ClusterState, now: BootTime) -> Option<BootTime> {
        if !state.knows_run(self.me, self.incarnation) {
            return None;
        }
        let by_electorate: Option<Vec<BootTime>> = state
            .electorates()
            .map(|voters| self.granted_by_majority_of(&voters, now))
            .collect();
        let oldest_needed = by_electorate?.into_iter().min()?;
        Some(oldest_needed.plus_ns(self.timing.lease_ns))
    }

    /// When the newest heartbeat was sent that a majority of `voters` has granted.
    fn granted_by_majority_of(
        &self,
        voters: &BTreeSet<ServerId>,
        now: BootTime,
    ) -> Option<BootTime> {
        let sent = |voter: &ServerId| {
            if *voter == self.me {
                Some(now)
            } else {
                self.granted.get(voter).copied()
            }
        };
        let mut sent: Vec<BootTime> = voters.iter().filter_map(sent).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        let majority = voters.len() / 2 + 1;
        sent.get(majority - 1).copied()
    }
}

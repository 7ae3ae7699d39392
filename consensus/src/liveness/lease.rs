//! A server's right to serve, as the voters granted it.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::{ClusterState, Incarnation, ServerId};

use super::time::{BootTime, Timing};

/// The lease of one run of one server.
///
/// Each voter that answers a heartbeat grants a length, counted from the *sending* of that heartbeat; the lease runs as long
/// as a majority of the voters has granted it. A voter waits for what it granted and a margin after its *receipt*, which is
/// later, before it may declare this server. So on whatever clocks, the lease is over before a majority can conclude that
/// the server is down. That voters grant different lengths, or each of them now more and now less, changes nothing: every
/// voter keeps its own promises ([`super::Watcher`]).
#[derive(Debug, Clone)]
pub struct LeaseHolder {
    /// The lengths of the cluster's profile: no lease is longer.
    profile: Timing,
    me: ServerId,
    incarnation: Incarnation,
    granted: BTreeMap<ServerId, Granted>,
}

/// What one voter has granted.
#[derive(Debug, Clone, Copy)]
struct Granted {
    /// When the newest heartbeat it granted was sent.
    sent: BootTime,
    /// The latest end of all it granted.
    until: BootTime,
}

impl LeaseHolder {
    /// No voter has granted anything yet.
    #[must_use]
    pub fn new(profile: Timing, me: ServerId, incarnation: Incarnation) -> Self {
        Self {
            profile,
            me,
            incarnation,
            granted: BTreeMap::new(),
        }
    }

    /// `voter` answered the heartbeat that was sent at `sent`, and granted `lease_ns` or nothing. An answer without a grant,
    /// or with a shorter one, takes nothing back: what the voter granted before, it has to wait for.
    pub fn on_answer(
        &mut self,
        voter: ServerId,
        sent: BootTime,
        lease_ns: Option<u64>,
        now: BootTime,
    ) {
        // A time that has not come cannot be the echo of anything we sent.
        let Some(lease_ns) = lease_ns.filter(|_| sent <= now && voter != self.me) else {
            return;
        };
        let until = sent.plus_ns(lease_ns.min(self.profile.lease_ns));
        let newest = self.granted.entry(voter).or_insert(Granted { sent, until });
        newest.sent = sent.max(newest.sent);
        newest.until = until.max(newest.until);
    }

    /// Until when this server may serve, as far as leases decide. `None`: no majority has granted, or the cluster
    /// does not know this run yet, so the record may be older than what a former run gave away.
    ///
    /// A voter grants itself; a sole voter therefore always holds its lease.
    #[must_use]
    pub fn valid_until(&self, state: &ClusterState, now: BootTime) -> Option<BootTime> {
        let own = now.plus_ns(self.length_ns(state));
        self.of_majorities(state, own, |granted| granted.until)
    }

    /// How long a lease this server expects to be granted.
    #[must_use]
    pub fn length_ns(&self, state: &ClusterState) -> u64 {
        self.profile.of_server(state, self.me).lease_ns
    }

    /// When the newest heartbeat was sent that a majority of the voters granted; `None` as for
    /// [`LeaseHolder::valid_until`].
    #[must_use]
    pub fn heard_at(&self, state: &ClusterState, now: BootTime) -> Option<BootTime> {
        self.of_majorities(state, now, |granted| granted.sent)
    }

    /// The latest time that a majority of each electorate allows; `own`: what this server's own vote allows.
    fn of_majorities(
        &self,
        state: &ClusterState,
        own: BootTime,
        time_of: impl Fn(&Granted) -> BootTime,
    ) -> Option<BootTime> {
        if !state.knows_run(self.me, self.incarnation) {
            return None;
        }
        let allowed = |voter: &ServerId| {
            if *voter == self.me {
                Some(own)
            } else {
                self.granted.get(voter).map(&time_of)
            }
        };
        let by_electorate: Option<Vec<BootTime>> = state
            .electorates()
            .map(|voters| majority_of(&voters, allowed))
            .collect();
        by_electorate?.into_iter().min()
    }
}

/// The latest time that a majority of `voters` allows.
fn majority_of(
    voters: &BTreeSet<ServerId>,
    allowed: impl Fn(&ServerId) -> Option<BootTime>,
) -> Option<BootTime> {
    let mut times: Vec<BootTime> = voters.iter().filter_map(allowed).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    let majority = voters.len() / 2 + 1;
    times.get(majority - 1).copied()
}

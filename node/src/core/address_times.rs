//! How long a virtual address may outlive what is known of the right to it (R7, R8).
//!
//! The kernel forgets an address up to 1.2 s after its last renewal, whatever became of the daemon that made it. A server may
//! be declared dead 0.3 s after the end of its lease. So no renewal is made when too little of the lease is left; and where
//! the lease is so short that this alone would never allow one, the server that takes over waits before it adds the address.
//!
//! What one of them leaves undone the other waits for, so they must not differ in the length. The former primary goes by the
//! length it has applied, which may be an old one; whoever takes over reckons with the shortest that the former primary
//! can have known in its whole run ([`Timing::shortest_of_server`]).

use std::time::Duration;

use consensus::liveness::Timing;
use consensus::state::{ClusterState, EventKind, MirrorRecord, ServerId, VACANT};

/// An address is gone at the latest this long after its last renewal (measured: 1.01-1.14 s).
pub const EXPIRY_MAX: Duration = Duration::from_millis(1200);
/// A voter may declare a server dead this long after the end of its lease.
const DECLARED_AFTER_LEASE: Duration = Duration::from_millis(300);

/// The answer to "may this server go on holding the address?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Yes, for another lifetime (up to [`EXPIRY_MAX`] from now).
    Renew,
    /// Not for another lifetime, but for what is left of this one: the right may be about to end.
    Skip,
    /// No: away with it at once.
    Drop,
}

impl From<bool> for Renewal {
    fn from(may_renew: bool) -> Renewal {
        if may_renew {
            Renewal::Renew
        } else {
            Renewal::Drop
        }
    }
}

/// The times that follow from the length of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressTimes {
    /// A renewal needs at least so much of the right.
    renew_left_min: Duration,
    /// A failover is this far back before the address may be added here.
    after_failover: Duration,
}

impl AddressTimes {
    /// For a server whose leases last `lease`.
    pub fn of_lease(lease: Duration) -> AddressTimes {
        let needed = EXPIRY_MAX - DECLARED_AFTER_LEASE;
        // Less than that of each lease must be enough, or the address would run out between two heartbeats.
        let renew_left_min = needed.min(lease * 3 / 5);
        AddressTimes {
            renew_left_min,
            after_failover: needed - renew_left_min,
        }
    }

    /// Whether an address may live for another second. A renewal outlives the daemon that made it, so none is made when
    /// the rest of the right is too short for that; and none is kept when there is no right.
    pub fn renewal(self, right_left: Option<Duration>) -> Renewal {
        match right_left {
            None => Renewal::Drop,
            Some(left) if left < self.renew_left_min => Renewal::Skip,
            Some(_) => Renewal::Renew,
        }
    }
}

/// How long `me`, which leads now, waits before it adds the addresses of the module.
pub fn wait_before_adding(
    profile: Timing,
    state: &ClusterState,
    record: &MirrorRecord,
    me: ServerId,
) -> Duration {
    let Some(former) = lost_primary(state, record, me) else {
        return Duration::ZERO;
    };
    let shortest = profile.shortest_of_server(state, former).lease_ns;
    AddressTimes::of_lease(Duration::from_nanos(shortest)).after_failover
}

/// Who led before, when the last role change took the module from a server that counts as down: nobody knows what it still
/// does.
fn lost_primary(state: &ClusterState, record: &MirrorRecord, me: ServerId) -> Option<ServerId> {
    let cause = state
        .events
        .iter()
        .rfind(|event| event.id == record.last_cause);
    match cause.map(|event| &event.kind) {
        Some(
            EventKind::FailedOver { from, .. }
            | EventKind::PrimaryForced {
                from: Some(from), ..
            },
        ) => Some(from.id),
        // When the history is too short to tell, caution costs a moment only.
        Some(EventKind::PrimaryForced { from: None, .. }) | None => {
            Some(record.peer_of(me).unwrap_or(VACANT))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use consensus::state::{Event, EventId, Incarnation, Member, MemberKind, Who};

    use super::*;
    use crate::core::goal::tests::record;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn no_renewal_outlives_the_right_by_more_than_the_voters_wait() {
        let times = AddressTimes::of_lease(ms(1500));
        assert_eq!(times.after_failover, Duration::ZERO);
        assert_eq!(times.renewal(None), Renewal::Drop);
        assert_eq!(times.renewal(Some(ms(0))), Renewal::Skip);
        assert_eq!(times.renewal(Some(ms(899))), Renewal::Skip);
        assert_eq!(times.renewal(Some(ms(900))), Renewal::Renew);
        assert_eq!(times.renewal(Some(Duration::MAX / 2)), Renewal::Renew);
    }

    /// The last renewal, its expiry, the declaration and the wait: never two owners, whatever the profile, and whatever
    /// length between the shortest of its run and the longest the former owner went by.
    #[test]
    fn the_former_address_is_gone_before_the_new_one_is_added() {
        let leases = [200, 500, 700, 1000, 1500, 10_000, 60_000].map(ms);
        for (position, lease) in leases.into_iter().enumerate() {
            let times = AddressTimes::of_lease(lease);
            assert!(
                times.renew_left_min < lease,
                "lease {lease:?} allows no renewal"
            );
            // Counted from the sending of the heartbeat that the lease rests on.
            let renewed_last = lease - times.renew_left_min;
            let gone = renewed_last + EXPIRY_MAX;
            for shortest in &leases[..=position] {
                let wait = AddressTimes::of_lease(*shortest).after_failover;
                let added = lease + DECLARED_AFTER_LEASE + wait;
                assert!(
                    gone <= added,
                    "lease {lease:?}, shortest {shortest:?}: {gone:?} against {added:?}"
                );
            }
        }
    }

    const ME: ServerId = ServerId(1);
    const FORMER: ServerId = ServerId(2);

    fn member(id: ServerId) -> Member {
        Member {
            id,
            name: format!("s{}", id.0).parse().unwrap(),
            kind: MemberKind::Server,
            addresses: Vec::new(),
            certificate: [0; 32],
            incarnation: Incarnation(1),
            is_down: false,
        }
    }

    fn after(kind: EventKind) -> ClusterState {
        let mut state = ClusterState::default();
        for id in [ME, FORMER] {
            state.members.insert(id, member(id));
        }
        state.events.push_back(Event {
            id: EventId(0),
            entry: 1,
            at_unix_ms: 0,
            module: None,
            epoch: None,
            kind,
            author: String::new(),
            evidence: String::new(),
            cause: None,
        });
        state
    }

    /// Goal: the wait is that of the shortest lease the former primary can have gone by, also when it is a member no more.
    #[test]
    fn whoever_takes_over_reckons_with_the_shortest_lease_of_the_former_run() {
        let wait = |state: &ClusterState, servers: [ServerId; 2]| {
            let mut record = record(7, Some(ME), &[ME]);
            record.servers = servers;
            wait_before_adding(Timing::default(), state, &record, ME)
        };
        let (from, to): (Who, Who) = (member(FORMER).who(), member(ME).who());
        let pair = [ME, FORMER];
        let mut failover = after(EventKind::FailedOver {
            from: from.clone(),
            to: to.clone(),
        });
        assert_eq!(wait(&failover, pair), ms(0));
        failover.shortest_hearts.insert(ME, 500);
        assert_eq!(wait(&failover, pair), ms(0), "its own length is no matter");
        failover.shortest_hearts.insert(FORMER, 1000);
        assert_eq!(wait(&failover, pair), ms(300));
        failover.shortest_hearts.insert(FORMER, 500);
        assert_eq!(wait(&failover, pair), ms(600));
        let planned = ClusterState {
            shortest_hearts: failover.shortest_hearts.clone(),
            ..after(EventKind::SwitchedOver { from, to })
        };
        assert_eq!(wait(&planned, pair), ms(0));
        failover.members.remove(&FORMER);
        failover.shortest_hearts.remove(&FORMER);
        assert_eq!(wait(&failover, [ME, VACANT]), ms(600));
        assert_eq!(wait(&failover, [ME, ServerId(4)]), ms(600));
    }
}

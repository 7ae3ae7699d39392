//! How long a virtual address may outlive what is known of the right to it (R7, R8).
//!
//! The kernel forgets an address up to 1.2 s after its last renewal, whatever became of the daemon that made it. A server may
//! be declared dead 0.3 s after the end of its lease. So no renewal is made when too little of the lease is left; and where
//! the lease is so short that this alone would never allow one, the server that takes over waits before it adds the address.

use std::time::Duration;

use crate::shell::addresses::{EXPIRY_MAX, Renewal};

/// A voter may declare a server dead this long after the end of its lease.
const DECLARED_AFTER_LEASE: Duration = Duration::from_millis(300);

/// The times that follow from the length of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressTimes {
    /// A renewal needs at least so much of the right.
    renew_left_min: Duration,
    /// A failover is this far back before the address may be added here.
    pub(super) after_failover: Duration,
}

impl AddressTimes {
    /// For a cluster whose leases last `lease`.
    pub(super) fn of_lease(lease: Duration) -> AddressTimes {
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
    pub(super) fn renewal(self, right_left: Option<Duration>) -> Renewal {
        match right_left {
            None => Renewal::Drop,
            Some(left) if left < self.renew_left_min => Renewal::Skip,
            Some(_) => Renewal::Renew,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// The last renewal, its expiry, the declaration and the wait: never two owners, whatever the profile.
    #[test]
    fn the_former_address_is_gone_before_the_new_one_is_added() {
        for lease in [200, 500, 1000, 1500, 10_000, 60_000].map(ms) {
            let times = AddressTimes::of_lease(lease);
            // Counted from the sending of the heartbeat that the lease rests on.
            let renewed_last = lease - times.renew_left_min;
            let gone = renewed_last + EXPIRY_MAX;
            let added = lease + DECLARED_AFTER_LEASE + times.after_failover;
            assert!(gone <= added, "lease {lease:?}: {gone:?} against {added:?}");
            assert!(
                times.renew_left_min < lease,
                "lease {lease:?} allows no renewal"
            );
        }
    }
}

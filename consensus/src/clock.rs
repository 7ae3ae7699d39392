//! The one clock of leases: boot time, which goes on while the machine sleeps and which nobody can set. Wall time is for
//! display only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::liveness::BootTime;

/// Boot time now.
pub fn now() -> BootTime {
    let now = clock_gettime(ClockId::Boottime);
    // Boot time is never negative, and 64 bits of nanoseconds last 584 years.
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    BootTime(
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds),
    )
}

/// Time since `then`; zero when it lies in the future.
pub(crate) fn since(then: BootTime) -> Duration {
    Duration::from_nanos(now().0.saturating_sub(then.0))
}

/// Wall clock in milliseconds, for display; zero when it is set before 1970.
pub(crate) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

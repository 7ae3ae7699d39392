//! Virtual time, and each member's own clock, which drifts and starts anew at each boot of the machine.

use consensus::liveness::BootTime;

/// One millisecond of virtual time.
pub(super) const MS: u64 = 1_000_000;
/// One second.
pub(super) const SECOND: u64 = 1000 * MS;

/// Fastest and slowest clock, in parts of a million: any two differ by less than the 1 % that R7 allows.
pub(super) const DRIFT_PPM_MAX: u64 = 4500;

/// The clock of one machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    booted_at: u64,
    /// Nanoseconds of this clock in a million nanoseconds of virtual time.
    rate: u64,
    /// Its wall clock, ahead of the true one; it may jump.
    pub(super) wall_offset_ms: u64,
}

impl Clock {
    pub(super) fn new(drift_ppm: i64) -> Self {
        Self {
            booted_at: 0,
            rate: 1_000_000_u64.saturating_add_signed(drift_ppm),
            wall_offset_ms: 0,
        }
    }

    pub(super) fn reboot(&mut self, now: u64) {
        self.booted_at = now;
    }

    /// `CLOCK_BOOTTIME` at `now`. A machine counts as up for an hour when the run begins.
    pub(super) fn boot_time(&self, now: u64) -> BootTime {
        let since = u128::from(now - self.booted_at) * u128::from(self.rate) / 1_000_000;
        BootTime(3600 * SECOND + since as u64)
    }

    /// How long `local_ns` of this clock last in virtual time.
    pub(super) fn lasts(&self, local_ns: u64) -> u64 {
        (u128::from(local_ns) * 1_000_000 / u128::from(self.rate)) as u64 + 1
    }

    pub(super) fn unix_ms(&self, now: u64) -> u64 {
        1_700_000_000_000 + now / MS + self.wall_offset_ms
    }
}

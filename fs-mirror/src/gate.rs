//! The right to serve, as a point in boot time until which it holds.
//!
//! The node renews it from its lease (or leaves it open for ever when the committed record names no other copy). The
//! file system asks before and after every request: asking costs one atomic load and one reading of the clock. While the
//! gate is closed requests wait in their FUSE thread, so nothing is answered on a lease that has passed; when the node
//! has lost its role it fences the gate, and everything that waits ends with an error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};

/// `until` of a gate that was fenced; no boot time is that small.
const FENCED: u64 = 0;
/// `until` of a gate that is closed for now.
const CLOSED: u64 = 1;
/// `until` of a gate that stays open without a lease.
const FOREVER: u64 = u64::MAX;

/// A waiter looks again at least this often, should the node have extended a gate that had just expired.
const RECHECK_AFTER: Duration = Duration::from_millis(200);

/// The gate was fenced: this server is not the primary any more, answer EIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this server may not serve the directory any more")]
pub struct Fenced;

/// Whether requests may be served now. Shared between the node and the file system.
#[derive(Debug)]
pub struct Gate {
    /// Nanoseconds of `CLOCK_BOOTTIME`, or one of the marks above.
    until: AtomicU64,
    waiters: Mutex<()>,
    changed: Condvar,
}

impl Gate {
    /// A gate that is closed until the node opens it.
    pub fn closed() -> Gate {
        Gate::with(CLOSED)
    }

    /// A gate that is open without a lease.
    pub fn open_forever() -> Gate {
        Gate::with(FOREVER)
    }

    fn with(until: u64) -> Gate {
        Gate {
            until: AtomicU64::new(until),
            waiters: Mutex::new(()),
            changed: Condvar::new(),
        }
    }

    /// Serving is allowed until `boot_ns` (nanoseconds of `CLOCK_BOOTTIME`). Without effect on a fenced gate.
    pub fn set_until(&self, boot_ns: u64) {
        self.change(boot_ns.clamp(CLOSED, FOREVER - 1));
    }

    /// Serving needs no lease: no other server may become primary.
    pub fn set_forever(&self) {
        self.change(FOREVER);
    }

    /// Requests wait from now on.
    pub fn close(&self) {
        self.change(CLOSED);
    }

    /// Everything that waits, and every later request, ends with [`Fenced`]. Final.
    pub fn fence(&self) {
        self.until.store(FENCED, Ordering::SeqCst);
        self.wake();
    }

    fn change(&self, until: u64) {
        let update = |current| (current != FENCED).then_some(until);
        let changed = self
            .until
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, update);
        // Renewals are frequent and mostly find nobody waiting; waking is cheap then.
        if changed.is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        // Taking the lock orders the store before the check of a waiter that is about to sleep.
        drop(self.waiters.lock());
        self.changed.notify_all();
    }

    /// Whether a request may be answered right now.
    pub fn is_open(&self) -> bool {
        match self.until.load(Ordering::SeqCst) {
            FOREVER => true,
            FENCED | CLOSED => false,
            until => boot_ns() < until,
        }
    }

    /// For how long requests may be served from now on; `None` when they may not. A gate that needs no lease stays open
    /// for longer than any lease.
    pub fn remaining(&self) -> Option<Duration> {
        match self.until.load(Ordering::SeqCst) {
            FOREVER => Some(Duration::MAX / 2),
            FENCED | CLOSED => None,
            until => until
                .checked_sub(boot_ns())
                .filter(|left| *left > 0)
                .map(Duration::from_nanos),
        }
    }

    /// Whether the gate was fenced.
    pub fn is_fenced(&self) -> bool {
        self.until.load(Ordering::SeqCst) == FENCED
    }

    /// Returns at once while the gate is open, else waits until it opens.
    ///
    /// # Errors
    /// [`Fenced`] when the gate is fenced, before or while waiting.
    pub fn wait_open(&self) -> Result<(), Fenced> {
        if self.is_open() {
            return Ok(());
        }
        let mut waiters = self.waiters.lock();
        loop {
            if self.is_fenced() {
                return Err(Fenced);
            }
            if self.is_open() {
                return Ok(());
            }
            self.changed.wait_for(&mut waiters, RECHECK_AFTER);
        }
    }
}

/// Now, in nanoseconds of `CLOCK_BOOTTIME`.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_lease_that_passed_closes_the_gate() {
        let gate = Gate::closed();
        assert!(!gate.is_open());
        gate.set_until(boot_ns() + 60_000_000_000);
        assert!(gate.is_open());
        gate.set_until(boot_ns() - 1);
        assert!(!gate.is_open());
        gate.set_forever();
        assert_eq!(gate.wait_open(), Ok(()));
    }

    #[test]
    fn a_waiter_goes_on_when_the_lease_is_renewed() {
        let gate = Arc::new(Gate::closed());
        let waiter = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.wait_open()
        });
        gate.set_until(boot_ns() + 60_000_000_000);
        assert_eq!(waiter.join().unwrap(), Ok(()));
    }

    #[test]
    fn fencing_is_final_and_ends_every_waiter() {
        let gate = Arc::new(Gate::closed());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || gate.wait_open())
            })
            .collect();
        gate.fence();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Err(Fenced));
        }
        gate.set_forever();
        assert!(!gate.is_open());
        assert_eq!(gate.wait_open(), Err(Fenced));
    }
}

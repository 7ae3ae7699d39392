//! How long the machine kept a thread that wanted to run from running: a machine that stops for longer than a lease makes
//! living servers look dead, and then a role may move without a fault of ours.

use crate::wait::boot_ns;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(20);

/// A running meter.
#[derive(Debug)]
pub(super) struct Starvation {
    worst_ns: Arc<Mutex<u64>>,
    must_stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Starvation {
    pub(super) fn start() -> Starvation {
        let worst_ns = Arc::new(Mutex::new(0));
        let must_stop = Arc::new(AtomicBool::new(false));
        let (worst, stop) = (Arc::clone(&worst_ns), Arc::clone(&must_stop));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let before = boot_ns();
                std::thread::sleep(INTERVAL);
                let late = (boot_ns() - before).saturating_sub(nanoseconds(INTERVAL));
                let mut worst = worst.lock();
                *worst = late.max(*worst);
            }
        });
        Starvation {
            worst_ns,
            must_stop,
            thread: Some(thread),
        }
    }

    /// The longest wait since the last question.
    pub(super) fn take(&self) -> Duration {
        Duration::from_nanos(std::mem::take(&mut *self.worst_ns.lock()))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Starvation {
    fn drop(&mut self) {
        self.must_stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the meter panicked");
        }
    }
}

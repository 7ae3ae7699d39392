//! How long the machine kept a thread that wanted to run from running, or a small write from reaching its disk: a machine that
//! stops for longer than a lease makes living servers look dead, and then a role may move, or a client wait, without a fault of
//! ours.

use crate::wait::boot_ns;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(20);
/// Between two synced writes: seldom enough to cost nobody anything.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);

/// A machine that stood still for so long may have kept the daemons waiting for a lease.
pub const STOOD_STILL: Duration = Duration::from_millis(700);

/// A running meter.
#[derive(Debug)]
pub struct Starvation {
    worst_ns: Arc<Mutex<u64>>,
    must_stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Starvation {
    /// `directory`: on the disk that the servers use.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn start(directory: &Path) -> io::Result<Starvation> {
        let file = File::create(directory.join("starvation"))?;
        let mut starvation = Starvation {
            worst_ns: Arc::default(),
            must_stop: Arc::default(),
            threads: Vec::new(),
        };
        starvation.measure(INTERVAL, || {});
        starvation.measure(SYNC_INTERVAL, move || {
            // A disk that refuses says so to the servers too.
            let _refused = file
                .write_all_at(&[0; 4096], 0)
                .and_then(|()| file.sync_data());
        });
        Ok(starvation)
    }

    /// Measures how much longer than its interval each round takes.
    fn measure(&mut self, interval: Duration, mut round: impl FnMut() + Send + 'static) {
        let (worst, stop) = (Arc::clone(&self.worst_ns), Arc::clone(&self.must_stop));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let before = boot_ns();
                std::thread::sleep(interval);
                round();
                let late = (boot_ns() - before).saturating_sub(nanoseconds(interval));
                let mut worst = worst.lock();
                *worst = late.max(*worst);
            }
        }));
    }

    /// The longest wait since the last question.
    pub fn take(&self) -> Duration {
        Duration::from_nanos(std::mem::take(&mut *self.worst_ns.lock()))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Starvation {
    fn drop(&mut self) {
        self.must_stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("the meter panicked");
            }
        }
    }
}

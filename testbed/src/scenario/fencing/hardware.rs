//! A watchdog for the lab: a fifo in the place of the device, and a thread that reads it as the hardware would.

use crate::wait;
use anyhow::Context as _;
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Armed and without a sign of life for so long, it resets the machine. A sign comes every second; a real device waits 30.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks into the fifo.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the hardware has seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// It would reset the machine if it heard nothing any more.
    pub(super) is_armed: bool,
    /// How often it was armed.
    pub(super) armings: u32,
    /// Boot time of the last sign of life.
    pub(super) last_life_ns: u64,
    /// How often it has reset the machine.
    pub(super) resets: u32,
}

impl Seen {
    fn hear(&mut self, text: &[u8], now_ns: u64) {
        for byte in text {
            match byte {
                b'V' => self.is_armed = false,
                _any => {
                    self.armings += u32::from(!self.is_armed);
                    self.is_armed = true;
                    self.last_life_ns = now_ns;
                }
            }
        }
    }

    /// A machine that is reset starts anew with its watchdog off.
    fn look(&mut self, now_ns: u64) {
        let silent = Duration::from_nanos(now_ns.saturating_sub(self.last_life_ns));
        if self.is_armed && silent > PATIENCE {
            self.is_armed = false;
            self.resets += 1;
        }
    }
}

/// The device of one server. It goes with this value, and its daemon finds none at its next role.
pub(super) struct Hardware {
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
    must_stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hardware {
    /// Makes the device; a daemon that starts after this uses it.
    pub(super) fn at(path: &Path) -> anyhow::Result<Hardware> {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )?;
        let fifo = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let must_stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (seen, must_stop) = (Arc::clone(&seen), Arc::clone(&must_stop));
            std::thread::spawn(move || tick(fifo, &seen, &must_stop))
        };
        Ok(Hardware {
            path: path.to_owned(),
            seen,
            must_stop,
            thread: Some(thread),
        })
    }

    pub(super) fn seen(&self) -> Seen {
        *self.seen.lock()
    }

    /// Waits until something has been seen.
    pub(super) fn wait(
        &self,
        what: &str,
        deadline: Duration,
        is_so: impl Fn(Seen) -> bool,
    ) -> anyhow::Result<Seen> {
        Ok(wait::until(what, deadline, || {
            let seen = self.seen();
            if is_so(seen) {
                Ok(seen)
            } else {
                Err(format!("{seen:?}"))
            }
        })?)
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        self.must_stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the hardware panicked");
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "the device stays");
        }
    }
}

fn tick(mut fifo: File, seen: &Mutex<Seen>, must_stop: &AtomicBool) {
    let mut text = [0_u8; 64];
    while !must_stop.load(Ordering::Relaxed) {
        // Nothing to read, and nobody who writes, are silence alike.
        let length = fifo.read(&mut text).unwrap_or(0);
        let now_ns = wait::boot_ns();
        let mut seen = seen.lock();
        seen.hear(&text[..length], now_ns);
        seen.look(now_ns);
        drop(seen);
        if length == 0 {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_armed_device_that_hears_nothing_resets_and_once() {
        let second = |n: u64| n * 1_000_000_000;
        let mut seen = Seen::default();
        seen.look(second(100));
        assert_eq!((seen.is_armed, seen.resets), (false, 0));
        seen.hear(b"11", second(100));
        seen.look(second(104));
        assert_eq!((seen.is_armed, seen.armings, seen.resets), (true, 1, 0));
        seen.hear(b"1V", second(104));
        seen.look(second(200));
        assert_eq!((seen.is_armed, seen.resets), (false, 0));
        seen.hear(b"1", second(200));
        seen.look(second(206));
        seen.look(second(300));
        assert_eq!((seen.is_armed, seen.armings, seen.resets), (false, 2, 1));
    }
}

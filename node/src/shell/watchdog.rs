//! The hardware watchdog: the last rung of fencing (R8). It resets the machine when this daemon stops saying that it lives,
//! or when every softer step has failed.
//!
//! ```text
//!          hold (first)              bite
//!   Idle <-------------> Armed ----------------> Biting: no sign of life any more, until the machine resets
//!          release (last)
//! ```
//!
//! While armed a thread writes to the device, as long as the daemon's own tasks beat: a daemon that is frozen, killed or stuck
//! falls silent. A note on the disk says why a reset may come, and is told at the next start. Without a device all of this does
//! nothing, and says so.

mod device;
mod note;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fs_mirror::gate::boot_ns;
use parking_lot::{Condvar, Mutex};

use device::Device;
use note::Note;

/// How long the machine lives without a sign of life. Every softer step is over long before.
const TIMEOUT_S: i32 = 30;
/// A sign of life so often.
const PET_EVERY: Duration = Duration::from_secs(1);
/// The daemon's tasks must have beaten within this time for a sign of life to be given.
const BEAT_MAX: Duration = Duration::from_secs(10);

/// Why the watchdog could not be armed.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The device is there, but cannot be opened: most often somebody else uses it.
    #[error("open the watchdog {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The note cannot be written: a reset would go unexplained.
    #[error("note that the watchdog is armed")]
    Note(#[source] io::Error),
}

/// What is left of the run before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// Nothing: it was not armed.
    Quiet,
    /// The daemon ended without disarming it, and the machine has not been reset: it was disarmed now.
    Disarmed,
    /// The machine started anew while it was armed; why, for people.
    Reset(String),
}

/// The watchdog of this machine, as far as this daemon uses it.
#[derive(Debug, Clone)]
pub struct Watchdog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    note: Note,
    state: Mutex<State>,
    changed: Condvar,
    beat_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    holders: BTreeSet<String>,
    armed: Option<Armed>,
    /// Counts how often it was armed: each time has a thread of its own.
    times_armed: u64,
    is_biting: bool,
}

#[derive(Debug)]
struct Armed {
    device: Device,
    time: u64,
}

impl Watchdog {
    /// Of the device at `path`, if there is to be one; the note goes below `state_dir`.
    pub fn new(path: Option<PathBuf>, state_dir: &Path) -> Watchdog {
        Watchdog(Arc::new(Inner {
            path,
            note: Note::new(state_dir),
            state: Mutex::default(),
            changed: Condvar::new(),
            beat_ns: AtomicU64::new(boot_ns()),
        }))
    }

    /// Reads what an earlier run left behind, once nothing of that run lives any more. Call before the first `hold`.
    ///
    /// # Errors
    /// The note cannot be read or removed, or the device that ticks cannot be stopped.
    pub fn settle(&self) -> io::Result<Before> {
        let Some(left) = self.0.note.read()? else {
            return Ok(Before::Quiet);
        };
        let before = if left.is_of_this_boot {
            if let Some(path) = &self.0.path {
                Device::open(path, TIMEOUT_S)?.disarm()?;
            }
            Before::Disarmed
        } else {
            Before::Reset(left.cause)
        };
        self.0.note.remove()?;
        Ok(before)
    }

    /// `holder` is about to act as primary: arms the device, unless it is armed. False when there is no device.
    ///
    /// # Errors
    /// See [`WatchdogError`]; it is not armed then.
    pub fn hold(&self, holder: &str) -> Result<bool, WatchdogError> {
        let Some(path) = self.0.path.as_ref().filter(|path| path.exists()) else {
            return Ok(false);
        };
        let mut state = self.0.state.lock();
        state.holders.insert(holder.to_owned());
        let armed = self.arm(path, &mut state);
        if armed.is_err() && state.armed.is_none() {
            state.holders.remove(holder);
        }
        armed.map(|()| true)
    }

    fn arm(&self, path: &Path, state: &mut State) -> Result<(), WatchdogError> {
        let holders: Vec<&str> = state.holders.iter().map(String::as_str).collect();
        let cause = format!(
            "this server was primary of {} and its daemon gave no sign of life any more, or its power failed",
            holders.join(", ")
        );
        if !state.is_biting {
            self.0.note.write(&cause).map_err(WatchdogError::Note)?;
        }
        if state.armed.is_some() {
            return Ok(());
        }
        let opened = Device::open(path, TIMEOUT_S).map_err(|source| WatchdogError::Open {
            path: path.to_owned(),
            source,
        });
        let device = match opened {
            Ok(device) => device,
            Err(error) => {
                self.forget_note();
                return Err(error);
            }
        };
        state.times_armed += 1;
        let (inner, time) = (Arc::clone(&self.0), state.times_armed);
        let petting = std::thread::Builder::new()
            .name("sk-watchdog".to_owned())
            .spawn(move || inner.pet_while_armed(time));
        match petting {
            Ok(_) => {
                tracing::info!(device = %path.display(), "watchdog armed");
                state.armed = Some(Armed { device, time });
                Ok(())
            }
            Err(source) => {
                let stopped = device.disarm();
                self.forget_note();
                Err(WatchdogError::Open {
                    path: path.to_owned(),
                    source: stopped.err().unwrap_or(source),
                })
            }
        }
    }

    /// `holder` does not act as primary any more, and that is sure: disarms the device after the last. Not when it bites.
    pub fn release(&self, holder: &str) {
        let mut state = self.0.state.lock();
        state.holders.remove(holder);
        if !state.holders.is_empty() || state.is_biting {
            return;
        }
        let Some(armed) = state.armed.take() else {
            return;
        };
        self.0.changed.notify_all();
        // Still locked: whoever arms it next must find it disarmed.
        match armed.device.disarm() {
            Ok(()) => {
                tracing::info!("watchdog disarmed");
                self.forget_note();
            }
            Err(error) => {
                tracing::error!(%error, "the watchdog cannot be disarmed: this machine will be reset")
            }
        }
    }

    fn forget_note(&self) {
        if let Err(error) = self.0.note.remove() {
            tracing::warn!(%error, "the note of the watchdog stays");
        }
    }

    /// Nothing softer has helped: lets the machine be reset. False when there is no armed device to do it.
    pub fn bite(&self, cause: &str) -> bool {
        let mut state = self.0.state.lock();
        if state.armed.is_none() {
            return false;
        }
        state.is_biting = true;
        if let Err(error) = self.0.note.write(cause) {
            tracing::error!(%error, "the cause of the reset is not noted");
        }
        true
    }

    /// The daemon's tasks run.
    pub fn beat(&self) {
        self.0.beat_ns.store(boot_ns(), Ordering::Release);
    }

    /// Beats for ever; to be run as a task among the others.
    pub async fn keep_beating(self) {
        let mut every = tokio::time::interval(PET_EVERY);
        loop {
            every.tick().await;
            self.beat();
        }
    }
}

impl Inner {
    fn pet_while_armed(&self, time: u64) {
        let mut state = self.state.lock();
        // Armed by whoever started this thread, as soon as it lets go of the lock.
        while state.armed.as_ref().is_some_and(|armed| armed.time == time) {
            let silent_ns = boot_ns().saturating_sub(self.beat_ns.load(Ordering::Acquire));
            let is_alive = Duration::from_nanos(silent_ns) < BEAT_MAX;
            if is_alive
                && !state.is_biting
                && let Some(armed) = &mut state.armed
                && let Err(error) = armed.device.pet()
            {
                tracing::error!(%error, "no sign of life reached the watchdog");
            }
            self.changed.wait_for(&mut state, PET_EVERY);
        }
    }
}

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
mod way_out;

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
    /// Its driver lets nobody disarm it: leaving the role in order would reset the machine.
    #[error(
        "the watchdog {path} cannot be disarmed ({attribute} is 1): load its driver with nowayout=0, or start sknode with --watchdog none"
    )]
    NoWayOut {
        /// Which.
        path: PathBuf,
        /// Where the driver says so.
        attribute: PathBuf,
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
    /// The same, and it cannot be disarmed now: it still ticks, or somebody else has it.
    Ticking,
    /// The machine started anew while it was armed; why, for people.
    Reset(String),
}

/// The watchdog of this machine, as far as this daemon uses it.
#[derive(Debug, Clone)]
pub struct Watchdog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    /// Locked by whoever arms or disarms, and before `state`: the thread that gives signs of life must not wait for a disk.
    note: Mutex<Note>,
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
            note: Mutex::new(Note::new(state_dir)),
            state: Mutex::default(),
            changed: Condvar::new(),
            beat_ns: AtomicU64::new(boot_ns()),
        }))
    }

    /// Reads what an earlier run left behind, once nothing of that run lives any more. Call before the first `hold`.
    ///
    /// # Errors
    /// The note cannot be read or removed.
    pub fn settle(&self) -> io::Result<Before> {
        let note = self.0.note.lock();
        let Some(left) = note.read()? else {
            return Ok(Before::Quiet);
        };
        let before = if left.is_of_this_boot {
            // The one that ticks, whatever this daemon was told to use.
            if let Err(error) = Device::open(&left.device, TIMEOUT_S).and_then(Device::disarm) {
                tracing::error!(device = %left.device.display(), %error, "the watchdog cannot be disarmed: it still ticks, or somebody else has it");
                return Ok(Before::Ticking);
            }
            Before::Disarmed
        } else {
            Before::Reset(left.cause)
        };
        note.remove()?;
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
        let note = self.0.note.lock();
        let cause = {
            let mut state = self.0.state.lock();
            state.holders.insert(holder.to_owned());
            (!state.is_biting).then(|| state.cause())
        };
        let armed = self.arm(path, &note, cause.as_deref());
        let mut state = self.0.state.lock();
        if armed.is_err() && state.armed.is_none() {
            state.holders.remove(holder);
        }
        armed.map(|()| true)
    }

    fn arm(&self, path: &Path, note: &Note, cause: Option<&str>) -> Result<(), WatchdogError> {
        if let Some(cause) = cause {
            note.write(path, cause).map_err(WatchdogError::Note)?;
        }
        if self.0.state.lock().armed.is_some() {
            return Ok(());
        }
        let armed = way_out::verify(path).and_then(|()| {
            self.open(path).map_err(|source| WatchdogError::Open {
                path: path.to_owned(),
                source,
            })
        });
        match armed {
            Ok(()) => tracing::info!(device = %path.display(), "watchdog armed"),
            Err(_) => forget(note),
        }
        armed
    }

    /// Opens, and thereby arms, the device, and starts the thread that gives signs of life.
    fn open(&self, path: &Path) -> io::Result<()> {
        let device = Device::open(path, TIMEOUT_S)?;
        let mut state = self.0.state.lock();
        state.times_armed += 1;
        let (inner, time) = (Arc::clone(&self.0), state.times_armed);
        let petting = std::thread::Builder::new()
            .name("sk-watchdog".to_owned())
            .spawn(move || inner.pet_while_armed(time));
        match petting {
            Ok(_) => {
                state.armed = Some(Armed { device, time });
                Ok(())
            }
            Err(source) => {
                device.disarm()?;
                Err(source)
            }
        }
    }

    /// `holder` does not act as primary any more, and that is sure: disarms the device after the last. Not when it bites.
    pub fn release(&self, holder: &str) {
        let note = self.0.note.lock();
        let mut state = self.0.state.lock();
        state.holders.remove(holder);
        if !state.holders.is_empty() || state.is_biting {
            return;
        }
        let Some(armed) = state.armed.take() else {
            return;
        };
        drop(state);
        self.0.changed.notify_all();
        // The note is still locked: whoever arms it next must find it disarmed.
        match armed.device.disarm() {
            Ok(()) => {
                tracing::info!("watchdog disarmed");
                forget(&note);
            }
            Err(error) => {
                tracing::error!(%error, "the watchdog cannot be disarmed: this machine will be reset")
            }
        }
    }

    /// Nothing softer has helped: lets the machine be reset. False when there is no armed device to do it. Waits for no disk: one
    /// that hangs must not put off the reset.
    pub fn bite(&self) -> bool {
        let mut state = self.0.state.lock();
        state.is_biting = state.armed.is_some();
        state.is_biting
    }

    /// Notes why the machine is about to be reset; the disk may take its time.
    pub fn note_cause(&self, cause: &str) {
        let Some(path) = &self.0.path else { return };
        if let Err(error) = self.0.note.lock().write(path, cause) {
            tracing::error!(%error, "the cause of the reset is not noted");
        }
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

impl State {
    fn cause(&self) -> String {
        let holders: Vec<&str> = self.holders.iter().map(String::as_str).collect();
        format!(
            "this server was primary of {} and its daemon gave no sign of life any more, or its power failed",
            holders.join(", ")
        )
    }
}

fn forget(note: &Note) {
    if let Err(error) = note.remove() {
        tracing::warn!(%error, "the note of the watchdog stays");
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

//! Opening sled: its panics on damaged files are caught, and the files set aside.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::error::OpenError;

/// Page cache in bytes. The cluster state and the log's tail fit; a witness must stay below 30 MiB resident.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// How long a lock held by somebody else is waited for: sled gives it back a moment after the last handle is dropped,
/// when its own threads have ended, and a daemon that restarts at once may find its dying predecessor.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often the lock is tried. sled offers no way to wait for it.
const LOCK_RETRY: Duration = Duration::from_millis(10);

thread_local! {
    /// The store this thread is opening, and what became of it when that panicked.
    static OPENING: RefCell<Option<Opening>> = const { RefCell::new(None) };
}

struct Opening {
    directory: PathBuf,
    quarantined: Option<io::Result<PathBuf>>,
}

/// Opens the database in `directory`; waits `LOCK_PATIENCE` for one that is just being closed.
pub(crate) fn open_database(directory: &Path) -> Result<sled::Db, OpenError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match try_open_database(directory) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            outcome => return outcome,
        }
    }
}

/// Release builds abort on panic, so the panic hook does the quarantine: the next start finds no store and refuses to vote
/// with an empty one (rule R12). Where panics unwind, the panic becomes [`OpenError::Damaged`].
fn try_open_database(directory: &Path) -> Result<sled::Db, OpenError> {
    let io_error = |source| OpenError::Io {
        directory: directory.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(io_error)?;
    quarantine_on_panic();
    OPENING.set(Some(Opening {
        directory: directory.to_owned(),
        quarantined: None,
    }));
    let config = sled::Config::new()
        .path(directory)
        .cache_capacity(CACHE_BYTES);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| config.open()));
    let quarantined = OPENING.take().and_then(|opening| opening.quarantined);
    match outcome {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(sled::Error::Io(error))) if is_lock_conflict(&error) => {
            Err(OpenError::InUse(directory.to_owned()))
        }
        Ok(Err(sled::Error::Io(source))) => Err(io_error(source)),
        Ok(Err(
            sled::Error::Corruption { .. }
            | sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_),
        )) => Err(damaged(directory, quarantine(directory))),
        Err(_panic) => Err(damaged(
            directory,
            quarantined.unwrap_or_else(|| quarantine(directory)),
        )),
    }
}

/// sled reports a held lock as an error of its own making, with the system's words inside.
fn is_lock_conflict(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

fn damaged(directory: &Path, quarantined: io::Result<PathBuf>) -> OpenError {
    let directory = directory.to_owned();
    match quarantined {
        Ok(quarantined) => OpenError::Damaged {
            directory,
            quarantined,
        },
        Err(source) => OpenError::DamagedInPlace { directory, source },
    }
}

fn quarantine_on_panic() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            OPENING.with_borrow_mut(|opening| {
                if let Some(opening) = opening {
                    opening
                        .quarantined
                        .get_or_insert_with(|| quarantine(&opening.directory));
                }
            });
            previous(information);
        }));
    });
}

/// Renames `directory` to the first free `<directory>.damaged-<n>`.
fn quarantine(directory: &Path) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    loop {
        let mut name = directory.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        let target = PathBuf::from(name);
        if !target.try_exists()? {
            fs::rename(directory, &target)?;
            if let Some(parent) = target.parent() {
                fs::File::open(parent)?.sync_all()?;
            }
            return Ok(target);
        }
        number += 1;
    }
}

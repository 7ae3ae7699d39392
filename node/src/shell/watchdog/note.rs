//! The note "the watchdog is armed, and why", with the boot it was armed in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::agent::open_addition::replace_durably;

/// A number that the kernel draws at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
}

/// What a note says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// The machine has not started anew since.
    pub(super) is_of_this_boot: bool,
    /// Why a reset was to be expected.
    pub(super) cause: String,
}

impl Note {
    pub(super) fn new(state_dir: &Path) -> Note {
        Note {
            path: state_dir.join("watchdog-armed"),
        }
    }

    /// Durable on return.
    pub(super) fn write(&self, cause: &str) -> io::Result<()> {
        let boot = fs::read_to_string(BOOT_ID)?;
        replace_durably(&self.path, format!("{}\n{cause}\n", boot.trim()).as_bytes())
    }

    pub(super) fn read(&self) -> io::Result<Option<Left>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (boot, cause) = text.split_once('\n').unwrap_or((&text, ""));
        let now = fs::read_to_string(BOOT_ID)?;
        Ok(Some(Left {
            is_of_this_boot: boot.trim() == now.trim(),
            cause: cause.trim().to_owned(),
        }))
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

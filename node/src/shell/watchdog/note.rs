//! The note "the watchdog is armed, and why": the boot it was armed in, the device, the cause, a line each.

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
    /// What was armed.
    pub(super) device: PathBuf,
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
    pub(super) fn write(&self, device: &Path, cause: &str) -> io::Result<()> {
        let (boot, device) = (fs::read_to_string(BOOT_ID)?, device.display());
        let text = format!("{}\n{device}\n{cause}\n", boot.trim());
        replace_durably(&self.path, text.as_bytes())
    }

    pub(super) fn read(&self) -> io::Result<Option<Left>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (boot, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let (device, cause) = rest.split_once('\n').unwrap_or((rest, ""));
        let now = fs::read_to_string(BOOT_ID)?;
        Ok(Some(Left {
            is_of_this_boot: boot.trim() == now.trim(),
            device: PathBuf::from(device),
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

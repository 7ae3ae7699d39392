//! The durable note "this primary may have proposed to add its peer" (R6).
//!
//! Written before the proposal leaves: the entry may commit unseen, and a primary that forgot it would go on alone
//! while its peer may be promoted. The note ends by itself: it speaks of one epoch, and any outcome makes a newer one.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use consensus::state::Epoch;
use parking_lot::Mutex;

/// The note of one module on one server.
#[derive(Debug)]
pub struct OpenAddition {
    path: PathBuf,
    epoch: Mutex<Option<Epoch>>,
}

impl OpenAddition {
    /// Reads the note left by an earlier daemon.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else: then nobody can say what was proposed.
    pub fn load(module_dir: &Path) -> io::Result<Self> {
        let path = module_dir.join("open-addition");
        let epoch = match fs::read_to_string(&path) {
            Ok(text) => Some(Epoch(text.trim().parse().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is damaged", path.display()),
                )
            })?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path,
            epoch: Mutex::new(epoch),
        })
    }

    /// The epoch at which an addition may be in the air.
    pub fn epoch(&self) -> Option<Epoch> {
        *self.epoch.lock()
    }

    /// Notes that an addition is about to be proposed at `epoch`; durable on return.
    ///
    /// # Errors
    /// Nothing may be proposed then.
    pub fn open(&self, epoch: Epoch) -> io::Result<()> {
        let mut held = self.epoch.lock();
        if *held == Some(epoch) {
            return Ok(());
        }
        replace_durably(&self.path, epoch.0.to_string().as_bytes())?;
        *held = Some(epoch);
        Ok(())
    }
}

/// Replaces a small file so that after a power cut it holds the old or the new content, whole.
///
/// # Errors
/// The old content stands.
pub fn replace_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_survives_a_restart_and_damage_is_refused() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let note = OpenAddition::load(dir.path())?;
        assert_eq!(note.epoch(), None);
        note.open(Epoch(7))?;
        assert_eq!(OpenAddition::load(dir.path())?.epoch(), Some(Epoch(7)));
        fs::write(dir.path().join("open-addition"), "seven")?;
        assert!(OpenAddition::load(dir.path()).is_err());
        Ok(())
    }
}

//! The copy's epoch on disk: replaced whole, by write, fsync, rename and fsync of the directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::epoch::Epoch;

const FILE_NAME: &str = "epoch";
const MAGIC: &[u8; 8] = b"SKEPOCH1";
const FILE_BYTES: usize = 8 + 8 + 4;

/// Why an epoch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The copy has taken part in a newer epoch.
    #[error("epoch {given} is older than epoch {current} of this copy")]
    Stale {
        /// What was asked for.
        given: Epoch,
        /// What the copy has.
        current: Epoch,
    },
    /// The file is not an epoch file, or was damaged.
    #[error("epoch file {0} is damaged; restore it or remove the copy and synchronise it again")]
    Damaged(PathBuf),
    /// Reading or writing failed.
    #[error("{action} {path}")]
    Io {
        /// What failed.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The durable epoch and what it is now.
#[derive(Debug)]
pub(super) struct EpochFile {
    directory: PathBuf,
    epoch: Epoch,
}

impl EpochFile {
    /// Reads the file; a missing one is epoch zero.
    pub(super) fn open(directory: &Path) -> Result<EpochFile, EpochError> {
        let path = directory.join(FILE_NAME);
        let epoch = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).ok_or(EpochError::Damaged(path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Epoch(0),
            Err(source) => {
                return Err(EpochError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        Ok(EpochFile {
            directory: directory.to_owned(),
            epoch,
        })
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Makes a newer epoch durable, then current.
    pub(super) fn advance(&mut self, epoch: Epoch) -> Result<(), EpochError> {
        if epoch < self.epoch {
            return Err(EpochError::Stale {
                given: epoch,
                current: self.epoch,
            });
        }
        if epoch > self.epoch {
            self.replace(epoch)?;
            self.epoch = epoch;
        }
        Ok(())
    }

    fn replace(&self, epoch: Epoch) -> Result<(), EpochError> {
        let (path, fresh) = (
            self.directory.join(FILE_NAME),
            self.directory.join("epoch.new"),
        );
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| EpochError::Io {
                action,
                path,
                source,
            }
        };
        let mut file = File::create(&fresh).map_err(failed("create", &fresh))?;
        file.write_all(&encode(epoch))
            .map_err(failed("write", &fresh))?;
        file.sync_all().map_err(failed("sync", &fresh))?;
        fs::rename(&fresh, &path).map_err(failed("replace", &path))?;
        let directory = File::open(&self.directory).map_err(failed("open", &self.directory))?;
        directory
            .sync_all()
            .map_err(failed("sync", &self.directory))
    }
}

fn encode(epoch: Epoch) -> [u8; FILE_BYTES] {
    let mut bytes = [0; FILE_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&epoch.0.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Epoch> {
    let bytes: &[u8; FILE_BYTES] = bytes.try_into().ok()?;
    let epoch = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    (encode(Epoch(epoch)) == *bytes).then_some(Epoch(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_survive_a_restart_and_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = EpochFile::open(dir.path()).unwrap();
        assert_eq!(file.epoch(), Epoch(0));
        file.advance(Epoch(7)).unwrap();
        let mut file = EpochFile::open(dir.path()).unwrap();
        assert_eq!(file.epoch(), Epoch(7));
        file.advance(Epoch(7)).unwrap();
        let refused = file.advance(Epoch(6)).unwrap_err();
        assert!(
            matches!(
                refused,
                EpochError::Stale {
                    given: Epoch(6),
                    current: Epoch(7)
                }
            ),
            "{refused}"
        );
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        EpochFile::open(dir.path())
            .unwrap()
            .advance(Epoch(7))
            .unwrap();
        for damage in [&b""[..], b"SKEPOCH1\x07\0\0\0\0\0\0\0\0\0\0\0", b"nonsense"] {
            fs::write(dir.path().join(FILE_NAME), damage).unwrap();
            assert!(matches!(
                EpochFile::open(dir.path()),
                Err(EpochError::Damaged(_))
            ));
        }
    }
}

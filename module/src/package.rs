//! `.safe` packages: a zip file with `conf/userconfig.xml` and the scripts in `bin/`.
//!
//! A package is read whole into memory within limits and checked to the last byte before anything is written. The
//! extraction is our own: an archive may hold regular files and directories under `conf/`, `bin/` and `web/` and
//! nothing else, so links, devices and ways out of the directory do not exist in it.

mod archive;
mod entry;
mod error;
mod extract;
mod pack;

pub use error::{EntryProblem, PackageError};

use crate::configuration::Configuration;
use crate::notice::Notice;
use entry::Entry;
use std::path::Path;

/// Largest package.
pub const PACKAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The configuration within a package.
pub(crate) const CONFIGURATION: &str = "conf/userconfig.xml";

/// A package that has passed every check.
#[derive(Debug)]
pub struct Package {
    entries: Vec<Entry>,
    configuration: Configuration,
    notices: Vec<Notice>,
    hash: [u8; 32],
}

impl Package {
    /// Checks the bytes of a `.safe` file, its names, kinds, sizes and its configuration.
    ///
    /// # Errors
    /// The first thing that is wrong. Nothing has been written anywhere.
    pub fn read(bytes: &[u8]) -> Result<Package, PackageError> {
        let entries = archive::read(bytes)?;
        let file = |name: &str| {
            entries
                .iter()
                .find(|entry| entry.name == name)
                .and_then(Entry::content)
        };
        let text = file(CONFIGURATION).ok_or(PackageError::NoConfiguration)?;
        let text = std::str::from_utf8(text).map_err(PackageError::NotUtf8)?;
        let (configuration, notices) = Configuration::parse(text)?;
        if configuration.user.is_some() {
            for name in ["bin/start_prim", "bin/stop_prim"] {
                if file(name).is_none() {
                    return Err(PackageError::NoScript { name });
                }
            }
        }
        Ok(Package {
            configuration,
            notices,
            hash: *blake3::hash(bytes).as_bytes(),
            entries,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// What the configuration says without effect.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The name of this package: the BLAKE3 hash of its bytes.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The scripts in `bin/`, by file name, in order.
    pub fn scripts(&self) -> impl Iterator<Item = &str> {
        let files = self
            .entries
            .iter()
            .filter(|entry| entry.content().is_some());
        files
            .filter_map(|entry| entry.name.strip_prefix("bin/"))
            .filter(|name| !name.contains('/'))
    }

    /// Writes the package as the directory `into`, which must not exist; its parent must.
    ///
    /// Everything is written and synced in a fresh directory beside it, then renamed: after a crash `into` is there
    /// whole or not at all. Files of `bin/` become executable; only root can read any of it.
    ///
    /// # Errors
    /// [`PackageError::Exists`] when `into` exists, else what the file system answered; nothing is left behind.
    pub fn extract(&self, into: &Path) -> Result<(), PackageError> {
        extract::extract(&self.entries, into)
    }

    /// Makes a package of a directory that holds `conf/`, `bin/` and perhaps `web/`. The same files give the same
    /// bytes, on every machine and at any time.
    ///
    /// # Errors
    /// What [`Package::read`] would refuse, and files that do not belong into a package.
    pub fn pack(directory: &Path) -> Result<Vec<u8>, PackageError> {
        let bytes = pack::pack(directory)?;
        Package::read(&bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;

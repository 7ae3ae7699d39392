//! Whether what is read of a copy may not be on its disk.
//!
//! After a failed write Linux keeps the pages and calls them clean (Rebello et al., "Can Applications Recover from fsync Failures?",
//! USENIX ATC 2020): who reads them finds what a power loss takes away, and no later sync says so.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// Kept under the lock of the disk's health.
#[derive(Debug)]
pub(super) struct Doubt {
    /// Says by being there that the copy is doubted: the pages outlive the daemon, and not the machine's next start.
    mark: PathBuf,
    is_cast: bool,
    /// Files, by device and number, whose content was given up since.
    rewritten: HashSet<(u64, u64)>,
}

impl Doubt {
    /// As the run before left it; a directory that does not say is no reason to trust the copy.
    pub(super) fn open(run_dir: &Path, directory: &Path) -> Doubt {
        let name = xxh3_64(directory.as_os_str().as_encoded_bytes());
        let mark = run_dir.join(format!("doubted-{name:016x}"));
        let is_cast = mark.try_exists().unwrap_or(true);
        Doubt {
            mark,
            is_cast,
            rewritten: HashSet::new(),
        }
    }

    pub(super) fn is_cast(&self) -> bool {
        self.is_cast
    }

    pub(super) fn cast(&mut self) {
        self.rewritten.clear();
        if !self.is_cast {
            self.is_cast = true;
            warn(File::create(&self.mark).map(drop));
        }
    }

    /// Every file was written anew, and is on the disk.
    pub(super) fn lift(&mut self) {
        self.rewritten = HashSet::new();
        if std::mem::take(&mut self.is_cast) {
            warn(std::fs::remove_file(&self.mark));
        }
    }

    pub(super) fn was_rewritten(&self, file: (u64, u64)) -> bool {
        self.rewritten.contains(&file)
    }

    pub(super) fn set_rewritten(&mut self, file: (u64, u64)) {
        self.rewritten.insert(file);
    }
}

/// As long as this daemon runs it is known all the same.
fn warn(outcome: io::Result<()>) {
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "whether this copy is doubted cannot be noted for the next daemon");
    }
}

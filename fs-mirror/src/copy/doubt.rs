//! Whether what is read of a copy may not be on its disk.
//!
//! After a failed write Linux keeps the pages and calls them clean (Rebello et al., "Can Applications Recover from fsync Failures?",
//! USENIX ATC 2020): who reads them finds what a power loss takes away, and no later sync says so.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Says by being there that the copy is doubted: the pages outlive the daemon.
const FILE_NAME: &str = "doubted";

#[derive(Debug)]
pub(super) struct Doubt {
    state_dir: PathBuf,
    is_cast: AtomicBool,
}

impl Doubt {
    /// As the run before left it; a state directory that does not say is no reason to trust the copy.
    pub(super) fn open(state_dir: &Path) -> Doubt {
        let is_cast = state_dir.join(FILE_NAME).try_exists().unwrap_or(true);
        Doubt {
            state_dir: state_dir.to_owned(),
            is_cast: AtomicBool::new(is_cast),
        }
    }

    pub(super) fn is_cast(&self) -> bool {
        self.is_cast.load(Ordering::Acquire)
    }

    /// The file is made by a thread of its own: its disk may be the one that failed, and hang.
    pub(super) fn cast(&self) {
        if self.is_cast.swap(true, Ordering::AcqRel) {
            return;
        }
        let state_dir = self.state_dir.clone();
        let noting = move || {
            let noted = File::create(state_dir.join(FILE_NAME)).and_then(|file| file.sync_all());
            warn(noted.and_then(|()| sync_directory(&state_dir)));
        };
        warn(
            std::thread::Builder::new()
                .name("mirror-doubt".into())
                .spawn(noting)
                .map(drop),
        );
    }

    /// Every block was written anew, and is on the disk.
    pub(super) fn lift(&self) {
        if self.is_cast.swap(false, Ordering::AcqRel) {
            let removed = std::fs::remove_file(self.state_dir.join(FILE_NAME));
            warn(removed.and_then(|()| sync_directory(&self.state_dir)));
        }
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Until the daemon ends it is known all the same.
fn warn(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "whether this copy is doubted is not on the disk");
    }
}

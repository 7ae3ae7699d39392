//! What sled leaves out: syncing files and directories, and sharing one sync among many commits.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Condvar, Mutex};

use crate::error::StoreError;

/// The data file inside a sled directory.
const DATA_FILE: &str = "db";
/// Where sled puts pages that outgrow a segment; our values are too small for that, but a page is sled's to size.
const LARGE_PAGES: &str = "blobs";

/// Group commit. A ticket is the number of batches applied when it was drawn; whoever finds nobody syncing syncs for all
/// tickets drawn so far, the others wait. `durable <= applied`.
pub(crate) struct Durability {
    data: File,
    large_pages: PathBuf,
    applied: AtomicU64,
    syncs: AtomicU64,
    progress: Mutex<Progress>,
    moved: Condvar,
}

struct Progress {
    durable: u64,
    is_syncing: bool,
    failed: Option<Arc<io::Error>>,
    large_pages_changed: Option<SystemTime>,
}

impl Durability {
    /// Syncs everything a store that has just been opened consists of, up to the parent of its directory.
    pub(crate) fn establish(directory: &Path) -> io::Result<Self> {
        sync_tree(directory)?;
        let parent = fs::canonicalize(directory)?;
        if let Some(parent) = parent.parent() {
            File::open(parent)?.sync_all()?;
        }
        let large_pages = directory.join(LARGE_PAGES);
        let progress = Progress {
            durable: 0,
            is_syncing: false,
            failed: None,
            large_pages_changed: changed_at(&large_pages)?,
        };
        Ok(Durability {
            data: File::open(directory.join(DATA_FILE))?,
            large_pages,
            applied: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            progress: Mutex::new(progress),
            moved: Condvar::new(),
        })
    }

    /// Draws the ticket of a batch that has just been applied.
    pub(crate) fn ticket(&self) -> u64 {
        self.applied.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Fails when the store has failed before.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.progress
            .lock()
            .failed
            .clone()
            .map_or(Ok(()), |error| Err(StoreError::Failed(error)))
    }

    /// Waits until the batch of `ticket` is durable, syncing for the whole group when nobody else does.
    pub(crate) fn wait_durable(
        &self,
        ticket: u64,
        flush: impl Fn() -> sled::Result<usize>,
    ) -> Result<(), StoreError> {
        let mut progress = self.progress.lock();
        loop {
            if let Some(error) = &progress.failed {
                return Err(StoreError::Failed(error.clone()));
            }
            if progress.durable >= ticket {
                return Ok(());
            }
            if progress.is_syncing {
                self.moved.wait(&mut progress);
                continue;
            }
            progress.is_syncing = true;
            let known = progress.large_pages_changed;
            drop(progress);
            // Drawn before the flush: every batch up to it has been applied, so the flush covers it.
            let covered = self.applied.load(Ordering::Acquire);
            let outcome = self.sync(known, &flush);
            progress = self.progress.lock();
            progress.is_syncing = false;
            match outcome {
                Ok(changed) => {
                    progress.durable = covered;
                    progress.large_pages_changed = changed;
                }
                Err(error) => progress.failed = Some(Arc::new(error)),
            }
            self.moved.notify_all();
        }
    }

    fn sync(
        &self,
        known: Option<SystemTime>,
        flush: impl Fn() -> sled::Result<usize>,
    ) -> io::Result<Option<SystemTime>> {
        flush().map_err(io::Error::other)?;
        let changed = changed_at(&self.large_pages)?;
        if changed != known {
            sync_tree(&self.large_pages)?;
        }
        self.data.sync_data()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(changed)
    }
}

fn changed_at(directory: &Path) -> io::Result<Option<SystemTime>> {
    match fs::metadata(directory) {
        Ok(metadata) => metadata.modified().map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Syncs every file below `directory`, then the directories that name them.
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // sled's own cleaning may remove a file meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    File::open(directory)?.sync_all()
}

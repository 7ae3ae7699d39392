//! What a reintegration takes from a copy that a person's force left behind: kept beside the copy until a person discards it.
//!
//! One set per force, named by its epoch, readable by root alone:
//!
//! ```text
//! DIRECTORY/../.NAME.sidekick-diverged/EPOCH/removed/PATH        had no name on the primary: moved, costs no space
//!                                            overwritten/PATH    as it was before the first byte of it was changed: a copy
//!                                            partial/INODE.RUN   a copy that is being made
//!                                            kept/INODE          another name of what is below overwritten/
//! ```
//!
//! A file is kept whole, and durably, before it is touched. When there is no room for that the session ends instead: the
//! copy stays out of date until somebody makes room or gives up what would be kept.

mod content;
mod keeper;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::Epoch;
use crate::mount::table;
pub(crate) use keeper::Keeper;

/// Kept because it had no name on the primary any more.
pub(crate) const REMOVED: &str = "removed";
/// Kept because its content was about to change.
pub(crate) const OVERWRITTEN: &str = "overwritten";
/// Where sets are below the state directory of a copy whose directory is a file system of its own. Outlives the module: it may
/// be all that is left of acknowledged writes.
pub const BELOW_STATE: &str = "diverged";
/// Copies that are being made.
pub(crate) const PARTIAL: &str = "partial";
/// Which inodes were kept as overwritten: in the next session their content is not the copy's own any more.
pub(crate) const KEPT: &str = "kept";

/// Everything that was set aside of one copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aside {
    place: PathBuf,
}

/// What one force left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AsideSet {
    /// The epoch of the force.
    pub since: Epoch,
    /// Where it is.
    pub directory: PathBuf,
    /// How many files there are.
    pub files_total: u64,
    /// Their bytes, holes not counted.
    pub bytes_total: u64,
    /// The first of them, by name.
    pub files: Vec<AsideFile>,
}

/// One file that was set aside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AsideFile {
    /// Relative to the replicated directory.
    pub path: PathBuf,
    /// Its length.
    pub size: u64,
    /// When it was set aside, milliseconds of Unix time.
    pub at_unix_ms: u64,
    /// It had no name on the primary; otherwise its content was changed.
    pub is_removed: bool,
}

impl Aside {
    /// Beside the directory, so that moving costs nothing; below `state_dir` when the directory is a file system of its own
    /// and beside it is another.
    pub(crate) fn locate(directory: &Path, state_dir: &Path) -> Aside {
        let place = match (directory.parent(), directory.file_name()) {
            (Some(parent), Some(name)) if !table::is_foreign_mount(directory) => {
                let mut hidden = std::ffi::OsString::from(".");
                hidden.push(name);
                hidden.push(".sidekick-diverged");
                parent.join(hidden)
            }
            (Some(_), Some(_)) | (None, _) | (_, None) => state_dir.join(BELOW_STATE),
        };
        Aside { place }
    }

    /// Where the sets are.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Where the set of one force is, whether there is one or not.
    pub fn directory_of(&self, since: Epoch) -> PathBuf {
        self.place.join(since.0.to_string())
    }

    /// All sets, the oldest first, each with its first `files_max` files.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn sets(&self, files_max: usize) -> io::Result<Vec<AsideSet>> {
        let mut sets = Vec::new();
        for entry in entries_of(&self.place)? {
            let name = entry.file_name();
            if let Some(since) = name.to_str().and_then(|name| name.parse().ok()) {
                sets.push(self.set(Epoch(since), files_max)?);
            }
        }
        sets.sort_by_key(|set: &AsideSet| set.since);
        Ok(sets)
    }

    fn set(&self, since: Epoch, files_max: usize) -> io::Result<AsideSet> {
        let directory = self.directory_of(since);
        let mut set = AsideSet {
            since,
            directory: directory.clone(),
            files_total: 0,
            bytes_total: 0,
            files: Vec::new(),
        };
        for (kind, is_removed) in [(REMOVED, true), (OVERWRITTEN, false)] {
            let top = directory.join(kind);
            // Not recursive: as deep as the tree may be.
            let mut below = vec![top.clone()];
            while let Some(next) = below.pop() {
                for entry in entries_of(&next)? {
                    let status = entry.metadata()?;
                    if status.is_dir() {
                        below.push(entry.path());
                        continue;
                    }
                    set.files_total += 1;
                    set.bytes_total += status.blocks() * 512;
                    if set.files.len() < files_max {
                        let path = entry.path();
                        set.files.push(AsideFile {
                            path: path.strip_prefix(&top).unwrap_or(&path).to_owned(),
                            size: status.len(),
                            at_unix_ms: changed_at_unix_ms(&status),
                            is_removed,
                        });
                    }
                }
            }
        }
        set.files.sort();
        Ok(set)
    }

    /// Removes the set of one force; false when there is none.
    ///
    /// # Errors
    /// Something cannot be removed; the rest may be gone.
    pub fn discard(&self, since: Epoch) -> io::Result<bool> {
        match fs::remove_dir_all(self.directory_of(since)) {
            Ok(()) => {
                // The last set takes the place with it; any other still needs it.
                match fs::remove_dir(&self.place) {
                    Ok(()) => {}
                    Err(error) => tracing::debug!(%error, "other sets are kept"),
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps what a session is about to take from the copy whose real directory is `root`.
    ///
    /// # Errors
    /// The place cannot be made.
    pub(crate) fn keeper(
        &self,
        since: Epoch,
        root: std::os::fd::BorrowedFd<'_>,
    ) -> io::Result<Keeper> {
        let set = self.directory_of(since);
        for kind in [REMOVED, OVERWRITTEN, PARTIAL, KEPT] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(set.join(kind))?;
        }
        remove_partial(&set.join(PARTIAL))?;
        Keeper::open(&set, root)
    }
}

/// What an earlier run of the daemon had begun to copy would take room for ever: the copy begins anew. This run's own goes on.
fn remove_partial(directory: &Path) -> io::Result<()> {
    for entry in entries_of(directory)? {
        if !keeper::is_of_this_run(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn entries_of(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Moving or copying a file here is what changed its inode last.
fn changed_at_unix_ms(status: &fs::Metadata) -> u64 {
    let seconds = u64::try_from(status.ctime()).unwrap_or(0);
    let nanoseconds = u64::try_from(status.ctime_nsec()).unwrap_or(0);
    seconds * 1000 + nanoseconds / 1_000_000
}

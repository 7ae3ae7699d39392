//! Checked entries to a directory, whole or not at all.

use super::entry::Entry;
use super::error::PackageError;
use rustix::fs::{self as sys, AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Only the owner, root, reads a package: it may hold passwords.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o700);
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const SCRIPT_MODE: Mode = Mode::from_raw_mode(0o700);

/// Every path is resolved below the fresh directory: no link is followed, none leads out.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Writes `entries` as the new directory `into`.
pub(super) fn extract(entries: &[Entry], into: &Path) -> Result<(), PackageError> {
    let (parent, name) = split(into)?;
    let parent_fd = open_directory(&parent)?;
    if sys::statat(&parent_fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(PackageError::Exists {
            path: into.to_owned(),
        });
    }
    let fresh = fresh_name(name);
    let fresh_path = parent.join(&fresh);
    sys::mkdirat(&parent_fd, &fresh, DIRECTORY_MODE)
        .map_err(|error| failed("create", &fresh_path, error))?;
    let written = write_all(entries, &parent_fd, &fresh, &fresh_path).and_then(|()| {
        sys::renameat_with(&parent_fd, &fresh, &parent_fd, name, RenameFlags::NOREPLACE).map_err(
            |error| match error {
                Errno::EXIST => PackageError::Exists {
                    path: into.to_owned(),
                },
                error => failed("rename", &fresh_path, error),
            },
        )?;
        sys::fsync(&parent_fd).map_err(|error| failed("sync", &parent, error))
    });
    if written.is_err() {
        // The first error is the one to tell; what cannot be removed now is a hidden directory that nobody reads.
        let _ = std::fs::remove_dir_all(&fresh_path);
    }
    written
}

fn split(into: &Path) -> Result<(PathBuf, &OsStr), PackageError> {
    let name = into
        .file_name()
        .ok_or_else(|| failed("extract to", into, Errno::INVAL))?;
    let parent = match into.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    Ok((parent, name))
}

/// A name that nobody else uses: this process counts, others have another id.
fn fresh_name(name: &OsStr) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!(
        ".{}.{}-{count}.new",
        name.to_string_lossy(),
        std::process::id()
    )
}

fn failed(action: &'static str, path: &Path, error: Errno) -> PackageError {
    PackageError::Io {
        action,
        path: path.to_owned(),
        source: error.into(),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, PackageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    sys::open(path, flags, Mode::empty()).map_err(|error| failed("open", path, error))
}

fn write_all(
    entries: &[Entry],
    parent: &OwnedFd,
    fresh: &str,
    fresh_path: &Path,
) -> Result<(), PackageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = sys::openat2(parent, fresh, flags, Mode::empty(), BENEATH)
        .map_err(|error| failed("open", fresh_path, error))?;
    // Entries are in order, so a directory comes before what it holds.
    for entry in entries {
        let path = fresh_path.join(&entry.name);
        match entry.content() {
            None => make_directory(&root, entry).map_err(|error| failed("create", &path, error))?,
            Some(content) => {
                write_file(&root, entry, content).map_err(|source| PackageError::Io {
                    action: "write",
                    path,
                    source,
                })?
            }
        }
    }
    let directories = entries.iter().filter(|entry| entry.content().is_none());
    for directory in directories {
        sync_directory(&root, &directory.name)
            .map_err(|error| failed("sync", &fresh_path.join(&directory.name), error))?;
    }
    sys::fsync(&root).map_err(|error| failed("sync", fresh_path, error))
}

fn make_directory(root: &OwnedFd, entry: &Entry) -> Result<(), Errno> {
    match entry.name.rsplit_once('/') {
        Some((above, name)) => sys::mkdirat(beneath(root, above)?, name, DIRECTORY_MODE),
        None => sys::mkdirat(root, entry.name.as_str(), DIRECTORY_MODE),
    }
}

fn beneath(root: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    sys::openat2(
        root,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        BENEATH,
    )
}

fn sync_directory(root: &OwnedFd, name: &str) -> Result<(), Errno> {
    sys::fsync(beneath(root, name)?.as_fd())
}

fn write_file(root: &OwnedFd, entry: &Entry, content: &[u8]) -> io::Result<()> {
    let mode = if entry.is_script() {
        SCRIPT_MODE
    } else {
        FILE_MODE
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(sys::openat2(
        root,
        entry.name.as_str(),
        flags,
        mode,
        BENEATH,
    )?);
    file.write_all(content)?;
    file.sync_all()
}

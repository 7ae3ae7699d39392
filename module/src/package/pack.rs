//! A directory to the bytes of a package; the same files give the same bytes.

use super::PACKAGE_BYTES_MAX;
use super::entry::check_name;
use super::error::{EntryProblem, PackageError};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Most bytes of all files together: what is larger would not be read back either.
const FILES_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Packs `directory`.
pub(super) fn pack(directory: &Path) -> Result<Vec<u8>, PackageError> {
    let mut files = BTreeMap::new();
    collect(directory, "", &mut files)?;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let mut left = FILES_BYTES_MAX;
    for (name, path) in &files {
        let content = read(path, &mut left)?;
        let mode = if name.starts_with("bin/") {
            0o755
        } else {
            0o644
        };
        let options = SimpleFileOptions::DEFAULT
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(mode);
        writer
            .start_file(name.as_str(), options)
            .map_err(PackageError::Archive)?;
        writer
            .write_all(&content)
            .map_err(|source| failed("pack", path, source))?;
    }
    let bytes = writer.finish().map_err(PackageError::Archive)?.into_inner();
    if bytes.len() > PACKAGE_BYTES_MAX {
        return Err(PackageError::Limit {
            what: "the package",
            limit: format!("{PACKAGE_BYTES_MAX} bytes"),
        });
    }
    Ok(bytes)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PackageError {
    PackageError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Finds the files below `directory`, whose names start with `prefix`.
fn collect(
    directory: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), PackageError> {
    let entries =
        fs::read_dir(directory).map_err(|source| failed("read directory", directory, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| failed("read directory", directory, source))?;
        let path = entry.path();
        let refuse = |problem| PackageError::File {
            path: path.clone(),
            problem,
        };
        let kind = entry
            .file_type()
            .map_err(|source| failed("look at", &path, source))?;
        let raw = [prefix.as_bytes(), entry.file_name().as_bytes()].concat();
        let name = check_name(&raw).map_err(refuse)?;
        if kind.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else if kind.is_file() {
            files.insert(name.to_owned(), path);
        } else if kind.is_symlink() {
            return Err(refuse(EntryProblem::Kind("a symbolic link")));
        } else {
            return Err(refuse(EntryProblem::Kind("a device, pipe or socket")));
        }
    }
    Ok(())
}

fn read(path: &Path, left: &mut u64) -> Result<Vec<u8>, PackageError> {
    // A link put in place since the walk is not followed.
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let open =
        || -> io::Result<File> { OpenOptions::new().read(true).custom_flags(flags).open(path) };
    let file = open().map_err(|source| failed("open", path, source))?;
    let mut content = Vec::new();
    file.take(*left + 1)
        .read_to_end(&mut content)
        .map_err(|source| failed("read", path, source))?;
    match left.checked_sub(content.len() as u64) {
        Some(rest) => *left = rest,
        None => {
            let limit = format!("{FILES_BYTES_MAX} bytes");
            return Err(PackageError::Limit {
                what: "the size of all files",
                limit,
            });
        }
    }
    Ok(content)
}

//! The bytes of a `.safe` file to checked entries.

use super::PACKAGE_BYTES_MAX;
use super::entry::{Entry, OBSOLETE_FILE, check_name};
use super::error::{EntryProblem, PackageError};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use zip::ZipArchive;
use zip::read::ZipFile;

/// Most entries.
const ENTRIES_MAX: usize = 2000;
/// Most bytes after unpacking, all entries together.
const UNPACKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most unpacked bytes per packed byte, once an entry is larger than a page of text can be.
const RATIO_MAX: u64 = 200;
const RATIO_FREE_BYTES: u64 = 1024 * 1024;

const TYPE_MASK: u32 = 0o170_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_REGULAR: u32 = 0o100_000;
const SPECIAL_BITS: u32 = 0o7000;

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// All entries in the order of their names, directories that are only implied included.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Entry>, PackageError> {
    if bytes.len() > PACKAGE_BYTES_MAX {
        return Err(limit("the package", format!("{PACKAGE_BYTES_MAX} bytes")));
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(PackageError::Archive)?;
    if archive.len() > ENTRIES_MAX {
        return Err(limit("the number of entries", ENTRIES_MAX.to_string()));
    }
    if archive.offset() != 0 {
        return Err(PackageError::Prefixed);
    }
    if archive.has_duplicate_names() {
        return Err(PackageError::Entry {
            name: duplicate_name(&archive),
            problem: EntryProblem::Duplicate,
        });
    }
    let names = names(&archive)?;
    if archive
        .has_overlapping_entries()
        .map_err(PackageError::Archive)?
    {
        return Err(PackageError::Overlapping);
    }
    let mut entries = BTreeMap::new();
    let mut left = UNPACKED_BYTES_MAX;
    for (index, name) in names.iter().enumerate() {
        let content = content(&mut archive, index, name, &mut left)?;
        // The obsolete file is checked like any other and then dropped.
        if name != OBSOLETE_FILE {
            entries.insert(name.clone(), content);
        }
    }
    complete(entries)
}

fn limit(what: &'static str, limit: String) -> PackageError {
    PackageError::Limit { what, limit }
}

fn refuse<T>(name: &str, problem: EntryProblem) -> Result<T, PackageError> {
    Err(PackageError::Entry {
        name: name.to_owned(),
        problem,
    })
}

/// The zip crate keeps only the last entry of a name, so the culprit is gone; the archive is refused all the same.
fn duplicate_name(archive: &Archive<'_>) -> String {
    let name = archive.file_names_raw().next().unwrap_or_default();
    format!("{} or another", String::from_utf8_lossy(name))
}

/// The checked names by index.
fn names(archive: &Archive<'_>) -> Result<Vec<String>, PackageError> {
    let mut names = Vec::new();
    let mut folded = BTreeSet::new();
    for raw in archive.file_names_raw() {
        let shown = || String::from_utf8_lossy(raw).into_owned();
        let name = check_name(raw).map_err(|problem| PackageError::Entry {
            name: shown(),
            problem,
        })?;
        if !folded.insert(name.to_lowercase()) {
            return refuse(name, EntryProblem::Duplicate);
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// The content of a file, `None` for a directory. `left` is what may still be unpacked.
fn content(
    archive: &mut Archive<'_>,
    index: usize,
    name: &str,
    left: &mut u64,
) -> Result<Option<Vec<u8>>, PackageError> {
    let damaged = |error: String| EntryProblem::Damaged(error);
    // The encryption flag is looked at before the entry is opened: opening one without a password fails.
    let is_encrypted = archive
        .by_index_data(index)
        .is_ok_and(|data| data.encrypted());
    if is_encrypted {
        return refuse(name, EntryProblem::Encrypted);
    }
    let mut file = match archive.by_index(index) {
        Ok(file) => file,
        Err(error) => return refuse(name, damaged(error.to_string())),
    };
    if is_directory(&file).or_else(|problem| refuse(name, problem))? {
        return if file.size() == 0 {
            Ok(None)
        } else {
            refuse(name, EntryProblem::DirectoryContent)
        };
    }
    let size = file.size();
    if size > *left {
        return Err(limit(
            "the unpacked package",
            format!("{UNPACKED_BYTES_MAX} bytes"),
        ));
    }
    if size > RATIO_FREE_BYTES && size / RATIO_MAX > file.compressed_size() {
        return Err(limit(
            "the compression of an entry",
            format!("{RATIO_MAX} to 1"),
        ));
    }
    let mut content = Vec::new();
    // One byte more than announced tells a lie; reading to the end checks the checksum.
    if let Err(error) = file.by_ref().take(size + 1).read_to_end(&mut content) {
        return refuse(name, damaged(error.to_string()));
    }
    if content.len() as u64 != size {
        return refuse(name, EntryProblem::SizeLies);
    }
    *left -= size;
    Ok(Some(content))
}

fn is_directory(file: &ZipFile<'_, Cursor<&[u8]>>) -> Result<bool, EntryProblem> {
    let named_directory = file.name_raw().ends_with(b"/");
    // The raw bits, whatever system the archive claims to come from: the zip crate tidies its answer.
    let mode = file.external_attributes() >> 16;
    if mode & SPECIAL_BITS != 0 {
        return Err(EntryProblem::SpecialBits);
    }
    match mode & TYPE_MASK {
        0 => Ok(named_directory),
        TYPE_REGULAR if !named_directory => Ok(false),
        TYPE_DIRECTORY if named_directory => Ok(true),
        TYPE_REGULAR | TYPE_DIRECTORY => Err(EntryProblem::FileAndDirectory),
        0o120_000 => Err(EntryProblem::Kind("a symbolic link")),
        0o020_000 | 0o060_000 => Err(EntryProblem::Kind("a device")),
        0o010_000 => Err(EntryProblem::Kind("a pipe")),
        0o140_000 => Err(EntryProblem::Kind("a socket")),
        _ => Err(EntryProblem::Kind("something unknown")),
    }
}

/// Adds the directories above each entry; a file must not stand where one is needed.
fn complete(mut entries: BTreeMap<String, Option<Vec<u8>>>) -> Result<Vec<Entry>, PackageError> {
    for name in entries.keys().cloned().collect::<Vec<_>>() {
        for (end, _) in name.match_indices('/') {
            let above = &name[..end];
            match entries.get(above) {
                None => {
                    entries.insert(above.to_owned(), None);
                }
                Some(None) => {}
                Some(Some(_)) => return refuse(above, EntryProblem::FileAndDirectory),
            }
        }
    }
    Ok(entries
        .into_iter()
        .map(|(name, content)| Entry { name, content })
        .collect())
}

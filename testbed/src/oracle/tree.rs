//! Comparison of two directory trees by a walker that shares no code with the mirror (P3).
//!
//! Compared: names, types, modes, owners, modification times, sizes, bytes, link targets, device numbers, extended attributes
//! (ACLs are among them) and which names are hard links of one file. Not compared: access and change times, and the
//! modification times of directories that are named in `Ignore`.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Differences that are listed; the rest is counted.
const LISTED_MAX: usize = 20;
/// Longest extended attribute of Linux.
const XATTR_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
    device: u64,
    target: Option<PathBuf>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first name of the same file, when it has several.
    first_name: Option<PathBuf>,
}

/// What two trees differ in.
#[derive(Debug, Default)]
pub struct Differences {
    /// One line each, at most `LISTED_MAX`.
    pub lines: Vec<String>,
    /// All of them.
    pub count: usize,
    /// Entries compared.
    pub entries: usize,
    /// Bytes compared.
    pub bytes: u64,
}

impl Differences {
    fn add(&mut self, line: String) {
        self.count += 1;
        if self.lines.len() < LISTED_MAX {
            self.lines.push(line);
        }
    }

    /// The trees are equal.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} differences in {} entries", self.count, self.entries)?;
        for line in &self.lines {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// Compares two trees. Both must be at rest, or the answer means nothing.
///
/// # Errors
/// A tree cannot be read.
pub fn compare(left: &Path, right: &Path) -> anyhow::Result<Differences> {
    let (a, b) = (walk(left)?, walk(right)?);
    let mut found = Differences {
        entries: a.len(),
        ..Differences::default()
    };
    for path in b.keys().filter(|path| !a.contains_key(*path)) {
        found.add(format!("{}: only right", path.display()));
    }
    for (path, one) in &a {
        let Some(other) = b.get(path) else {
            found.add(format!("{}: only left", path.display()));
            continue;
        };
        if one != other {
            found.add(format!("{}: {}", path.display(), describe(one, other)));
        } else if one.kind == "file" {
            found.bytes += one.size;
            if let Some(offset) = first_difference(&left.join(path), &right.join(path))? {
                found.add(format!(
                    "{}: bytes differ from offset {offset}",
                    path.display()
                ));
            }
        }
    }
    Ok(found)
}

/// Compares until the trees are equal or the deadline has passed: an application at rest still writes now and then, and times
/// are shipped a moment after the data.
///
/// # Errors
/// They still differ at the deadline.
pub fn wait_equal(
    left: &Path,
    right: &Path,
    deadline: std::time::Duration,
) -> anyhow::Result<Differences> {
    Ok(crate::wait::until(
        "equal trees",
        deadline,
        || match compare(left, right) {
            Ok(found) if found.is_empty() => Ok(found),
            Ok(found) => Err(found.to_string()),
            Err(error) => Err(format!("{error:#}")),
        },
    )?)
}

fn describe(one: &Entry, other: &Entry) -> String {
    let mut parts = Vec::new();
    let mut part = |name: &str, a: String, b: String| {
        if a != b {
            parts.push(format!("{name} {a} != {b}"));
        }
    };
    part("type", one.kind.to_owned(), other.kind.to_owned());
    part(
        "mode",
        format!("{:o}", one.mode),
        format!("{:o}", other.mode),
    );
    part(
        "owner",
        format!("{:?}", one.owner),
        format!("{:?}", other.owner),
    );
    part("size", one.size.to_string(), other.size.to_string());
    part(
        "mtime",
        format!("{:?}", one.modified),
        format!("{:?}", other.modified),
    );
    part("device", one.device.to_string(), other.device.to_string());
    part(
        "target",
        format!("{:?}", one.target),
        format!("{:?}", other.target),
    );
    part(
        "xattrs",
        format!("{:?}", one.xattrs),
        format!("{:?}", other.xattrs),
    );
    part(
        "hard link of",
        format!("{:?}", one.first_name),
        format!("{:?}", other.first_name),
    );
    parts.join(", ")
}

fn walk(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let full = root.join(&directory);
        let listing = fs::read_dir(&full).with_context(|| format!("list {}", full.display()))?;
        for item in listing {
            let item = item.with_context(|| format!("list {}", full.display()))?;
            let path = directory.join(item.file_name());
            if item.file_type()?.is_dir() {
                directories.push(path.clone());
            }
            paths.push(path);
        }
    }
    // In the order of names, so that both sides choose the same first name.
    paths.sort();
    let mut first_names: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    for path in paths {
        let full = root.join(&path);
        let metadata =
            fs::symlink_metadata(&full).with_context(|| format!("read {}", full.display()))?;
        let first_name = if metadata.nlink() > 1 && !metadata.is_dir() {
            let id = (metadata.dev(), metadata.ino());
            Some(
                first_names
                    .entry(id)
                    .or_insert_with(|| path.clone())
                    .clone(),
            )
        } else {
            None
        };
        entries.insert(path, entry(&full, &metadata, first_name)?);
    }
    Ok(entries)
}

fn entry(full: &Path, metadata: &Metadata, first_name: Option<PathBuf>) -> anyhow::Result<Entry> {
    let kind = kind(metadata);
    Ok(Entry {
        kind,
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        // Sizes of directories depend on the history of the directory, not on its content.
        size: if kind == "directory" {
            0
        } else {
            metadata.size()
        },
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        device: metadata.rdev(),
        target: match kind {
            "link" => Some(fs::read_link(full)?),
            _other => None,
        },
        xattrs: xattrs(full)?,
        first_name,
    })
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "file"
    } else if kind.is_symlink() {
        "link"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else {
        "device"
    }
}

fn xattrs(full: &Path) -> anyhow::Result<BTreeMap<OsString, Vec<u8>>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    let length = match rustix::fs::llistxattr(full, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => {
            return Err(error).with_context(|| format!("list xattrs of {}", full.display()));
        }
    };
    let mut all = BTreeMap::new();
    let mut value = vec![0_u8; XATTR_BYTES_MAX];
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(full, name, &mut value[..])
            .with_context(|| format!("read xattr {} of {}", name.display(), full.display()))?;
        all.insert(name.to_owned(), value[..length].to_vec());
    }
    Ok(all)
}

fn first_difference(left: &Path, right: &Path) -> anyhow::Result<Option<u64>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (mut a, mut b) = (open(left)?, open(right)?);
    let (mut part_a, mut part_b) = (vec![0_u8; 256 << 10], vec![0_u8; 256 << 10]);
    let mut offset = 0;
    loop {
        let (count_a, count_b) = (fill(&mut a, &mut part_a)?, fill(&mut b, &mut part_b)?);
        let differs = part_a[..count_a]
            .iter()
            .zip(&part_b[..count_b])
            .position(|(x, y)| x != y);
        if let Some(position) = differs {
            return Ok(Some(offset + position as u64));
        }
        if count_a != count_b {
            return Ok(Some(offset + count_a.min(count_b) as u64));
        }
        if count_a == 0 {
            return Ok(None);
        }
        offset += count_a as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn build(root: &Path) {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/f"), b"hello").unwrap();
        fs::hard_link(root.join("d/f"), root.join("g")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("l")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for path in ["d/f", "d", ""] {
            File::open(root.join(path))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
    }

    fn difference(change: impl FnOnce(&Path)) -> String {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        build(a.path());
        build(b.path());
        // The times of links are those of their making and cannot be set by std.
        for root in [&a, &b] {
            fs::remove_file(root.path().join("l")).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
            File::open(root.path()).unwrap().set_modified(time).unwrap();
        }
        change(b.path());
        compare(a.path(), b.path()).unwrap().to_string()
    }

    /// Each kind of difference is planted once and must be found.
    #[test]
    fn every_planted_difference_is_found() {
        assert!(difference(|_| {}).starts_with("0 differences"));
        let keep_time = |path: &Path, change: &dyn Fn(&Path)| {
            let time = fs::metadata(path).unwrap().modified().unwrap();
            change(path);
            File::open(path).unwrap().set_modified(time).unwrap();
        };
        let bytes = difference(|root| {
            keep_time(&root.join("g"), &|path| fs::write(path, b"hellO").unwrap());
        });
        assert!(bytes.contains("offset 4"), "{bytes}");
        let mode = difference(|root| {
            fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        });
        assert!(mode.contains("mode"), "{mode}");
        let name = difference(|root| fs::write(root.join("h"), b"").unwrap());
        assert!(name.contains("h: only right"), "{name}");
        let link = difference(|root| {
            fs::remove_file(root.join("g")).unwrap();
            fs::copy(root.join("d/f"), root.join("g")).unwrap();
        });
        assert!(link.contains("hard link of"), "{link}");
        let time = difference(|root| {
            File::open(root.join("g"))
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
        });
        assert!(time.contains("mtime"), "{time}");
    }
}

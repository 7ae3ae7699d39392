//! Two trees, name by name.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

/// Everything of one name that must be equal on both copies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Described {
    file_type: FileType,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    rdev: u64,
    /// Of a regular file, or the target of a link.
    bytes: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// First name of the same inode.
    same_as: PathBuf,
}

/// Describes the whole tree, its root included.
pub(crate) fn describe(root: &Path) -> BTreeMap<PathBuf, Described> {
    let mut names = vec![PathBuf::new()];
    let mut described = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    collect(root, Path::new(""), &mut names);
    names.sort();
    for name in names {
        let path = root.join(&name);
        let metadata = path.symlink_metadata().unwrap();
        let file_type = FileType::from_raw_mode(metadata.mode());
        let bytes = match file_type {
            FileType::RegularFile => std::fs::read(&path).unwrap(),
            FileType::Symlink => std::fs::read_link(&path)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec(),
            _ => Vec::new(),
        };
        let same_as = inodes
            .entry(metadata.ino())
            .or_insert_with(|| name.clone())
            .clone();
        let one = Described {
            file_type,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            rdev: metadata.rdev(),
            bytes,
            xattrs: xattrs(&path),
            same_as,
        };
        described.insert(name, one);
    }
    described
}

/// Panics with the first difference.
pub(crate) fn assert_equal(primary: &Path, secondary: &Path) {
    let (ours, theirs) = (describe(primary), describe(secondary));
    let names = |tree: &BTreeMap<PathBuf, Described>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "names differ");
    for (name, one) in &ours {
        assert_eq!(one, &theirs[name], "{} differs", name.display());
    }
}

fn collect(root: &Path, below: &Path, names: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = below.join(entry.file_name());
        names.push(name.clone());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &name, names);
        }
    }
}

pub(crate) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0u8; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

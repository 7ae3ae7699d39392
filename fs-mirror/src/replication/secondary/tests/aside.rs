//! A copy that a force left behind: whatever only it has is still there after a reintegration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::AsideSet;
use crate::replication::change::{Change, FileId};
use crate::replication::testing::ops::ops;

const SINCE: Epoch = Epoch(2);

/// Content of every regular file below a directory, by its name.
fn contents(top: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut below) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(next) = below.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                below.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path().strip_prefix(top).unwrap().to_owned();
                found.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

fn set_of(copy: &TestCopy) -> Option<AsideSet> {
    copy.copy.aside().sets(1000).unwrap().into_iter().next()
}

fn discard(copy: &TestCopy) {
    copy.copy.aside().discard(SINCE).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_that_only_this_copy_has_is_lost(ours in ops(0..80), theirs in ops(0..80), live in ops(0..40)) {
        let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
        Primary::alone(source.path().to_owned()).apply(&ours);
        Primary::alone(copy.path()).apply(&theirs);
        let (on_primary, own) = (contents(source.path()), contents(&copy.path()));
        let mut mirror = Mirror::diverged(source, copy, SINCE);
        mirror.primary.resync();
        mirror.assert_equal();
        mirror.primary.apply(&live);
        mirror.assert_equal();
        let kept: Vec<Vec<u8>> = set_of(&mirror.copy)
            .map(|set| contents(&set.directory).into_values().collect())
            .unwrap_or_default();
        for (path, content) in &own {
            prop_assert!(
                on_primary.get(path) == Some(content) || kept.contains(content),
                "{} with {} bytes is lost", path.display(), content.len()
            );
        }
        discard(&mirror.copy);
    }
}

/// Goal: the list tells what was removed and what was overwritten, and equal files are not in it.
#[test]
fn the_set_tells_removed_from_overwritten() {
    let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
    for (name, theirs, mine) in [
        ("equal", Some("same"), "same"),
        ("differs", Some("theirs"), "mine"),
        ("longer", Some("the"), "the end is mine"),
        ("dir/only mine", None, "mine alone"),
    ] {
        for (top, content) in [
            (source.path().to_owned(), theirs),
            (copy.path(), Some(mine)),
        ] {
            if let Some(content) = content {
                let path = top.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
        }
    }
    std::os::unix::fs::symlink("nowhere", copy.path().join("dir/link")).unwrap();
    std::fs::create_dir(copy.path().join("dir/empty")).unwrap();
    let mut mirror = Mirror::diverged(source, copy, SINCE);
    mirror.primary.resync();
    mirror.assert_equal();
    let set = set_of(&mirror.copy).unwrap();
    let listed: Vec<(&str, bool)> = set
        .files
        .iter()
        .map(|file| (file.path.to_str().unwrap(), file.is_removed))
        .collect();
    let expected = [
        ("differs", false),
        ("dir/link", true),
        ("dir/only mine", true),
        ("longer", false),
    ];
    assert_eq!(listed, expected);
    assert!(set.directory.join("removed/dir/empty").is_dir());
    let longer = set.directory.join("overwritten/longer");
    assert_eq!(std::fs::read_to_string(longer).unwrap(), "the end is mine");
    discard(&mirror.copy);
}

/// Goal: once the copy is whole, nothing more is kept. Method: the application on the primary removes a file that was equal.
#[test]
fn a_whole_copy_keeps_nothing() {
    let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
    for top in [source.path().to_owned(), copy.path()] {
        std::fs::write(top.join("a"), "same").unwrap();
    }
    let mut mirror = Mirror::diverged(source, copy, SINCE);
    mirror.primary.resync();
    mirror.session.set_whole();
    std::fs::remove_file(mirror.source.path().join("a")).unwrap();
    let (parent, name) = (FileId::ROOT, b"a".as_slice());
    let root = mirror.source.path().to_owned();
    mirror
        .primary
        .ship_with_times(&root, &Change::Unlink { parent, name });
    mirror.assert_equal();
    assert_eq!(set_of(&mirror.copy).unwrap().files_total, 0);
    discard(&mirror.copy);
}

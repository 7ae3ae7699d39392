//! Where sets are, what is in them, and what happens when there is no room. What sessions put into them is tested with the
//! sessions (`replication/secondary/tests/aside.rs`).

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustix::fs::{CWD, Mode, OFlags};

use super::*;
use crate::replication::secondary::error::ApplyError;
use crate::replication::secondary::object::Inode;

const SINCE: Epoch = Epoch(5);

struct Fixture {
    dir: tempfile::TempDir,
    aside: Aside,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let aside = Aside::locate(&dir.path().join("data"), &dir.path().join("state"));
        Fixture { dir, aside }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn keeper(&self) -> Keeper {
        let root = opened(&self.data(), OFlags::DIRECTORY);
        self.aside.keeper(SINCE, root.as_fd()).unwrap()
    }
}

fn opened(path: &Path, flags: OFlags) -> std::os::fd::OwnedFd {
    rustix::fs::openat(
        CWD,
        path,
        flags | OFlags::PATH | OFlags::NOFOLLOW,
        Mode::empty(),
    )
    .unwrap()
}

fn keep(keeper: &Keeper, path: &Path) -> Result<(), ApplyError> {
    let file = opened(path, OFlags::empty());
    let inode = Inode::of(&rustix::fs::fstat(&file).unwrap());
    keeper.keep_content(&file, inode)
}

#[test]
fn sets_lie_beside_the_directory_and_only_root_may_look() {
    let fixture = Fixture::new();
    fixture.keeper();
    let place = fixture.dir.path().join(".data.sidekick-diverged");
    assert_eq!(fixture.aside.place(), place);
    for directory in [&place, &place.join("5"), &place.join("5/removed")] {
        let mode = directory.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{}", directory.display());
    }
}

#[test]
fn an_overwritten_file_is_kept_once_as_it_was() {
    let fixture = Fixture::new();
    let file = fixture.data().join("a");
    fs::write(&file, "mine").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    keep(&fixture.keeper(), &file).unwrap();
    fs::write(&file, "theirs").unwrap();
    // In the next session its content is not its own any more.
    keep(&fixture.keeper(), &file).unwrap();
    let sets = fixture.aside.sets(10).unwrap();
    assert_eq!((sets.len(), sets[0].files_total), (1, 1));
    assert_eq!(sets[0].since, SINCE);
    let kept = &sets[0].files[0];
    assert_eq!((kept.path.as_path(), kept.size), (Path::new("a"), 4));
    assert!(!kept.is_removed && kept.at_unix_ms > 0);
    let there = sets[0].directory.join("overwritten/a");
    assert_eq!(fs::read_to_string(&there).unwrap(), "mine");
    assert_eq!(there.metadata().unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn holes_stay_holes() {
    let fixture = Fixture::new();
    let path = fixture.data().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 900 << 20).unwrap();
    keep(&fixture.keeper(), &path).unwrap();
    let there = fixture.aside.directory_of(SINCE).join("overwritten/sparse");
    let status = there.metadata().unwrap();
    assert_eq!(status.len(), 1 << 30);
    assert!(status.blocks() * 512 < 1 << 20, "{}", status.blocks());
    let mut end = [0; 3];
    let kept = fs::File::open(there).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&kept, &mut end, 900 << 20).unwrap();
    assert_eq!(&end, b"end");
}

#[test]
fn a_taken_name_is_moved_and_two_of_one_name_are_both_kept() {
    let fixture = Fixture::new();
    let keeper = fixture.keeper();
    let root = opened(&fixture.data(), OFlags::DIRECTORY);
    for content in ["first", "second"] {
        fs::write(fixture.data().join("a"), content).unwrap();
        keeper.take(&root, b"a", false).unwrap();
    }
    // A name that shares its inode is copied: what is left of it may still be written to.
    fs::write(fixture.data().join("b"), "shared").unwrap();
    fs::hard_link(fixture.data().join("b"), fixture.data().join("c")).unwrap();
    keeper.take(&root, b"b", true).unwrap();
    fs::write(fixture.data().join("c"), "changed").unwrap();
    keeper.take(&root, b"gone already", false).unwrap();
    let set = fixture.aside.directory_of(SINCE);
    let read = |name: &str| fs::read_to_string(set.join(name)).unwrap();
    assert_eq!(
        (read("removed/a"), read("removed/a.~2~")),
        ("first".into(), "second".into())
    );
    assert_eq!(read("overwritten/b"), "shared");
    assert!(!fixture.data().join("b").exists());
    assert_eq!(fixture.aside.sets(1).unwrap()[0].files.len(), 1);
    assert_eq!(fixture.aside.sets(1).unwrap()[0].files_total, 3);
}

#[test]
fn a_set_is_discarded_alone_and_the_last_takes_the_place_along() {
    let fixture = Fixture::new();
    fixture.keeper();
    let root = opened(&fixture.data(), OFlags::DIRECTORY);
    fixture.aside.keeper(Epoch(9), root.as_fd()).unwrap();
    assert!(fixture.aside.discard(SINCE).unwrap());
    assert!(!fixture.aside.discard(SINCE).unwrap());
    let left: Vec<_> = fixture
        .aside
        .sets(1)
        .unwrap()
        .iter()
        .map(|s| s.since)
        .collect();
    assert_eq!(left, [Epoch(9)]);
    assert!(fixture.aside.discard(Epoch(9)).unwrap());
    assert!(!fixture.aside.place().exists());
}

/// Goal: a copy that would fill the file system is refused, says how much it needs, and leaves nothing behind that counts.
/// Method: the directory is a small file system of its own, so that its sets are below the state directory, in it as well.
#[test]
fn without_room_nothing_is_touched() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let small = small_disk(&dir);
    let aside = Aside::locate(&small, &small.join("state"));
    assert_eq!(aside.place(), small.join("state/diverged"));
    let root = opened(&small, OFlags::DIRECTORY);
    let keeper = aside.keeper(SINCE, root.as_fd()).unwrap();
    let file = small.join("large");
    fs::write(&file, vec![7; 3 << 20]).unwrap();
    let error = keep(&keeper, &file).unwrap_err();
    let ApplyError::NoRoom { needed, free } = error else {
        panic!("{error}")
    };
    assert!(needed >= 3 << 20 && free < 1 << 20, "{needed} {free}");
    assert_eq!(error.errno(), libc::ENOSPC);
    assert_eq!(aside.sets(1).unwrap()[0].files_total, 0);
    // With room it goes on.
    let smaller = small.join("smaller");
    fs::write(&smaller, vec![7; 100 << 10]).unwrap();
    keep(&keeper, &smaller).unwrap();
    drop((root, keeper));
    let unmounted = std::process::Command::new("umount").arg(&small).status();
    assert!(unmounted.unwrap().success());
}

/// A file system of 4 MiB; the caller takes it off.
fn small_disk(dir: &tempfile::TempDir) -> PathBuf {
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "none"])
        .arg(&small)
        .status()
        .unwrap();
    assert!(mounted.success());
    small
}

#[test]
fn regression_links_and_pipes_are_kept_on_another_file_system() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let small = small_disk(&dir);
    let aside = Aside::locate(&small, &dir.path().join("state"));
    let root = opened(&small, OFlags::DIRECTORY);
    let keeper = aside.keeper(SINCE, root.as_fd()).unwrap();
    std::os::unix::fs::symlink("the target", small.join("link")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(small.join("pipe"))
        .status();
    assert!(made.unwrap().success());
    let read = opened(&small, OFlags::DIRECTORY);
    for name in [&b"link"[..], b"pipe"] {
        keeper.take(&read, name, false).unwrap();
    }
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    let removed = aside.directory_of(SINCE).join("removed");
    let target = fs::read_link(removed.join("link")).unwrap();
    assert_eq!(target, Path::new("the target"));
    use std::os::unix::fs::FileTypeExt as _;
    let pipe = fs::symlink_metadata(removed.join("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(aside.sets(10).unwrap()[0].files_total, 2);
    drop((root, read, keeper));
    let unmounted = std::process::Command::new("umount").arg(&small).status();
    assert!(unmounted.unwrap().success());
}

#[test]
fn regression_what_a_dead_daemon_had_begun_to_copy_is_removed() {
    let fixture = Fixture::new();
    drop(fixture.keeper());
    let partial = fixture.aside.directory_of(SINCE).join(PARTIAL);
    let ours = partial.join(format!("8.{}", keeper::run()));
    fs::write(partial.join("7.1-2"), "of a daemon that was killed").unwrap();
    fs::write(&ours, "of this one, to be gone on with").unwrap();
    drop(fixture.keeper());
    let left: Vec<_> = fs::read_dir(&partial).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(ours.exists());
}

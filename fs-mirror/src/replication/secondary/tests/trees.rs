//! What the primary did is what the secondary has.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use proptest::prelude::*;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::*;
use crate::replication::change::{AttributeChange, Attributes, Change, FileId, Kind, Time};
use crate::replication::shipping::{Shipping, Ticket};
use crate::replication::testing::ops::{Op, ops};
use crate::replication::testing::primary::attributes;

const PLAIN: Attributes = Attributes {
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: Time {
        seconds: 1_000,
        nanoseconds: 7,
    },
};

fn create<'a>(name: &'a [u8], file: u64, kind: Kind<'a>) -> Change<'a> {
    Change::Create {
        parent: FileId::ROOT,
        name,
        file: FileId(file),
        kind,
        attributes: PLAIN,
    }
}

fn cases(count: u32) -> ProptestConfig {
    // Each case makes real files: few cases, long sequences. Failures are kept as named tests instead of files.
    ProptestConfig {
        cases: count,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn replaying_every_change_gives_the_same_tree(ops in ops(1..120)) {
        let mut mirror = Mirror::of_empty_trees();
        mirror.primary.apply(&ops);
        mirror.assert_equal();
        mirror.primary.assert_all_answered();
    }

    #[test]
    fn a_resync_makes_any_two_trees_equal(ours in ops(0..80), theirs in ops(0..80), live in ops(0..40)) {
        let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
        Primary::alone(source.path().to_owned()).apply(&ours);
        Primary::alone(copy.path()).apply(&theirs);
        let mut mirror = Mirror::over(source, copy);
        mirror.primary.resync();
        mirror.assert_equal();
        mirror.primary.apply(&live);
        mirror.assert_equal();
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn a_session_that_goes_on_over_another_link_loses_nothing(
        before in ops(0..60),
        lost in ops(1..60),
        after in ops(0..60),
        resyncs: bool,
    ) {
        let mut mirror = if resyncs {
            let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
            Primary::alone(copy.path()).apply(&after);
            let mut mirror = Mirror::over(source, copy);
            mirror.primary.resync();
            mirror
        } else {
            Mirror::of_empty_trees()
        };
        mirror.primary.apply(&before);
        mirror.lose_link();
        mirror.primary.apply(&lost);
        mirror.resume();
        mirror.primary.apply(&after);
        mirror.lose_link();
        mirror.resume();
        mirror.assert_equal();
        mirror.primary.assert_all_answered();
        prop_assert_eq!(mirror.replicator.session(), 1);
    }
}

#[test]
fn a_resync_of_equal_trees_ships_no_block() {
    let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
    let ops = [
        Op::Make {
            parent: 0,
            name: 0,
            kind: 0,
            mode: 0o640,
        },
        Op::Write {
            file: 0,
            offset: 0,
            length: 30_000,
            byte: 3,
        },
        Op::Make {
            parent: 0,
            name: 1,
            kind: 2,
            mode: 0o755,
        },
    ];
    Primary::alone(source.path().to_owned()).apply(&ops);
    Primary::alone(copy.path()).apply(&ops);
    let inode = copy.path().join("a").metadata().unwrap().ino();
    let mut mirror = Mirror::over(source, copy);
    mirror.primary.resync();
    mirror.assert_equal();
    let applied = mirror.session.applied();
    assert_eq!(
        (
            applied.blocks_compared,
            applied.blocks_different,
            applied.bytes_written
        ),
        (8, 0, 0)
    );
    assert_eq!(
        mirror.copy.path().join("a").metadata().unwrap().ino(),
        inode
    );
}

/// Goal: what the page cache has of a copy whose disk failed is not taken for what the disk has (R11), and is given up once, however
/// many sessions that takes. Method: two equal trees, with a file of two names, compared twice.
#[test]
fn regression_a_resync_of_a_doubted_copy_ships_every_block() {
    let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
    for root in [source.path().to_owned(), copy.path()] {
        std::fs::write(root.join("a"), [3; 30_000]).unwrap();
        std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
        std::fs::write(root.join("c"), [0; 5_000]).unwrap();
    }
    copy.copy.note_disk_failure(Errno::IO);
    copy.copy.begin_rewriting();
    let mut mirror = Mirror::over(source, copy);
    mirror.primary.resync();
    mirror.assert_equal();
    // This primary asks for a file by each of its names. Zeros are what an empty block reads as.
    assert_eq!(mirror.session.applied().bytes_written, 2 * 30_000);
    let (source, copy) = mirror.end();
    let mut mirror = Mirror::over(source, copy);
    mirror.primary.resync();
    mirror.assert_equal();
    assert_eq!(mirror.session.applied().bytes_written, 0);
    mirror.copy.copy.set_whole();
    assert!(!mirror.copy.copy.is_doubted());
}

#[test]
fn links_are_broken_and_made_as_on_the_primary() {
    let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
    for name in ["one", "two"] {
        std::fs::write(source.path().join(name), "same").unwrap();
    }
    std::fs::write(source.path().join("three"), "linked").unwrap();
    std::fs::hard_link(source.path().join("three"), source.path().join("four")).unwrap();
    // On the copy it is the other way round.
    std::fs::write(copy.path().join("one"), "same").unwrap();
    std::fs::hard_link(copy.path().join("one"), copy.path().join("two")).unwrap();
    for name in ["three", "four"] {
        std::fs::write(copy.path().join(name), "linked").unwrap();
    }
    let mut mirror = Mirror::over(source, copy);
    mirror.primary.resync();
    mirror.assert_equal();
}

#[test]
fn names_of_another_kind_and_whole_trees_make_way() {
    let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
    std::fs::write(source.path().join("was a tree"), "file").unwrap();
    std::fs::create_dir(source.path().join("was a file")).unwrap();
    std::os::unix::fs::symlink("new", source.path().join("link")).unwrap();
    let deep = copy.path().join("was a tree/a/b/c");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "x").unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), "x").unwrap();
    // Removing a tree must not follow a link out of it.
    std::os::unix::fs::symlink(outside.path(), deep.join("way out")).unwrap();
    std::fs::write(copy.path().join("was a file"), "x").unwrap();
    std::os::unix::fs::symlink("old", copy.path().join("link")).unwrap();
    let mut mirror = Mirror::over(source, copy);
    mirror.primary.resync();
    mirror.assert_equal();
    assert!(outside.path().join("precious").exists());
}

#[test]
fn set_id_bits_survive_the_change_of_owner() {
    let mirror = Mirror::of_empty_trees();
    let attributes = Attributes {
        mode: 0o6755,
        uid: 12,
        gid: 34,
        ..PLAIN
    };
    let change = Change::Create {
        parent: FileId::ROOT,
        name: b"su",
        file: FileId(2),
        kind: Kind::File,
        attributes,
    };
    mirror.replicator.ship(1, &change);
    let change = AttributeChange {
        mode: Some(0o4711),
        uid: Some(56),
        ..AttributeChange::default()
    };
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    assert_eq!(self::attributes(&mirror.copy.path().join("su")), attributes);
    mirror.replicator.ship(
        1,
        &Change::SetAttributes {
            file: FileId(2),
            change,
        },
    );
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    let metadata = mirror.copy.path().join("su").metadata().unwrap();
    assert_eq!(
        (
            metadata.permissions().mode() & 0o7777,
            metadata.uid(),
            metadata.gid()
        ),
        (0o4711, 56, 34)
    );
}

#[test]
fn access_control_lists_are_kept() {
    // user::rwx, user:1:rw-, group::r-x, mask::rwx, other::r--
    let acl: Vec<u8> = [
        &2u32.to_le_bytes()[..],
        &[1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff],
        &[2, 0, 6, 0, 1, 0, 0, 0],
        &[4, 0, 5, 0, 0xff, 0xff, 0xff, 0xff],
        &[16, 0, 7, 0, 0xff, 0xff, 0xff, 0xff],
        &[32, 0, 4, 0, 0xff, 0xff, 0xff, 0xff],
    ]
    .concat();
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("guarded");
    std::fs::create_dir(&path).unwrap();
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        if rustix::fs::setxattr(&path, name, &acl, XattrFlags::empty()).is_err() {
            eprintln!("skipped: this file system has no access control lists");
            return;
        }
    }
    std::fs::write(path.join("inherits"), "x").unwrap();
    let mut mirror = Mirror::over(source, TestCopy::new());
    mirror.primary.resync();
    mirror.assert_equal();
    mirror.primary.apply(&[Op::Make {
        parent: 1,
        name: 0,
        kind: 0,
        mode: 0o664,
    }]);
    mirror.assert_equal();
}

#[test]
fn changes_of_one_file_keep_their_order_among_many() {
    let mirror = Mirror::of_empty_trees();
    let replicator = &mirror.replicator;
    let names: Vec<String> = (0..16).map(|index| format!("file {index}")).collect();
    for (name, file) in names.iter().zip(2..) {
        replicator.ship(1, &create(name.as_bytes(), file, Kind::File));
    }
    // Overlapping writes, large enough for the workers, all shipped before anything is sent.
    for round in 0..40u8 {
        for file in 2..18 {
            let data = vec![round; 20_000 + usize::from(round)];
            replicator.ship(
                1,
                &Change::Write {
                    file: FileId(file),
                    offset: u64::from(round) * 100,
                    data: &data,
                },
            );
            if round % 10 == 9 {
                replicator.ship(
                    1,
                    &Change::Sync {
                        file: FileId(file),
                        data_only: true,
                    },
                );
            }
        }
    }
    replicator.wait_idle(PATIENCE).unwrap();
    for name in &names {
        let content = std::fs::read(mirror.copy.path().join(name)).unwrap();
        assert_eq!(content.len(), 39 * 100 + 20_039);
        for (position, byte) in content.iter().enumerate() {
            assert_eq!(
                usize::from(*byte),
                (position / 100).min(39),
                "{name} at {position}"
            );
        }
    }
    assert_eq!(mirror.session.applied().changes, 16 + 16 * 44);
}

#[test]
fn files_without_a_name_are_written_until_they_are_forgotten() {
    let mirror = Mirror::of_empty_trees();
    let replicator = &mirror.replicator;
    for change in [
        create(b"gone", 2, Kind::File),
        Change::Link {
            file: FileId(2),
            parent: FileId::ROOT,
            name: b"kept",
        },
        Change::Unlink {
            parent: FileId::ROOT,
            name: b"gone",
        },
        Change::Write {
            file: FileId(2),
            offset: 0,
            data: b"through the other name",
        },
        Change::Unlink {
            parent: FileId::ROOT,
            name: b"kept",
        },
        Change::Write {
            file: FileId(2),
            offset: 0,
            data: b"nowhere",
        },
        Change::SetAttributes {
            file: FileId(2),
            change: AttributeChange {
                size: Some(3),
                ..AttributeChange::default()
            },
        },
        Change::Forget { file: FileId(2) },
        create(b"gone", 3, Kind::Directory),
    ] {
        replicator.ship(1, &change);
    }
    replicator.wait_idle(PATIENCE).unwrap();
    assert!(mirror.copy.path().join("gone").is_dir());
}

#[test]
fn more_files_than_may_be_open_are_written() {
    let mirror = Mirror::of_empty_trees();
    let count = object::OPEN_FILES_MAX as u64 + 300;
    let names: Vec<String> = (0..count).map(|index| index.to_string()).collect();
    for (name, file) in names.iter().zip(2..) {
        mirror.replicator.reserve(0);
        mirror
            .replicator
            .ship(1, &create(name.as_bytes(), file, Kind::File));
        mirror.replicator.ship(
            1,
            &Change::Write {
                file: FileId(file),
                offset: 0,
                data: name.as_bytes(),
            },
        );
    }
    for (name, file) in names.iter().zip(2..) {
        let offset = name.len() as u64;
        mirror.replicator.ship(
            1,
            &Change::Write {
                file: FileId(file),
                offset,
                data: b"!",
            },
        );
    }
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    for name in names {
        assert_eq!(
            std::fs::read_to_string(mirror.copy.path().join(&name)).unwrap(),
            format!("{name}!")
        );
    }
}

#[test]
fn copies_that_are_identical_bind_on_use() {
    let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
    for root in [source.path(), &copy.path()] {
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), "before").unwrap();
    }
    let mirror = Mirror::over(source, copy);
    for change in [
        Change::Bind {
            parent: FileId::ROOT,
            name: b"d",
            file: FileId(2),
        },
        Change::Bind {
            parent: FileId(2),
            name: b"f",
            file: FileId(3),
        },
        Change::Write {
            file: FileId(3),
            offset: 0,
            data: b"after!",
        },
    ] {
        mirror.replicator.ship(1, &change);
    }
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    assert_eq!(
        std::fs::read_to_string(mirror.copy.path().join("d/f")).unwrap(),
        "after!"
    );
}

#[test]
fn everything_that_arrived_is_applied_before_the_session_is_over() {
    let mirror = Mirror::of_empty_trees();
    let Mirror {
        copy,
        replicator,
        session,
        ended,
        ..
    } = mirror;
    replicator.ship(1, &create(b"file", 2, Kind::File));
    let data = vec![7; 100_000];
    let mut last = Ticket::NotShipped;
    for index in 0..50 {
        last = replicator.ship(
            1,
            &Change::Write {
                file: FileId(2),
                offset: index * 100_000,
                data: &data,
            },
        );
    }
    replicator.flush();
    let applied = session.finish();
    assert!(matches!(
        ended.recv_timeout(PATIENCE).unwrap(),
        EndCause::Finished
    ));
    let length = copy
        .path()
        .join("file")
        .metadata()
        .map_or(0, |metadata| metadata.len());
    // Whole writes, and no acknowledged one missing; nothing is applied afterwards.
    assert_eq!(length, applied.bytes_written);
    assert_eq!(length % 100_000, 0);
    let acknowledged = 51 - replicator.stats().frames_in_flight as u64;
    assert!(acknowledged.saturating_sub(1) * 100_000 <= length);
    assert_ne!(last, Ticket::NotShipped);
    std::fs::File::options()
        .write(true)
        .open(copy.path().join("file"))
        .unwrap()
        .write_all_at(b"mine", 0)
        .unwrap();
}

#[test]
fn after_a_lost_session_a_resync_repairs_the_copy() {
    let mut mirror = Mirror::of_empty_trees();
    mirror.primary.apply(&[
        Op::Make {
            parent: 0,
            name: 0,
            kind: 0,
            mode: 0o600,
        },
        Op::Write {
            file: 0,
            offset: 0,
            length: 20_000,
            byte: 1,
        },
    ]);
    mirror.assert_equal();
    let (source, copy) = mirror.end();
    std::fs::write(source.path().join("a"), "changed meanwhile").unwrap();
    std::fs::write(source.path().join("new"), vec![5; 9_000]).unwrap();
    let mut mirror = Mirror::over(source, copy);
    mirror.primary.resync();
    mirror.assert_equal();
}

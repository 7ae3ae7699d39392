//! Peers that are old, wrong, or mean harm.

use proptest::prelude::*;

use super::*;
use crate::replication::change::{Attributes, Change, FileId, Kind, Time};
use crate::replication::link::{LinkReceiver, LinkSender};
use crate::replication::shipping::Shipping;
use crate::replication::testing::{PATIENCE, eventually};
use crate::replication::wire;

const ATTRIBUTES: Attributes = Attributes {
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: Time {
        seconds: 1,
        nanoseconds: 0,
    },
};

/// A session whose primary says whatever the test wants.
struct Raw {
    copy: TestCopy,
    sender: LinkSender,
    receiver: LinkReceiver,
    session: ApplySession,
    ended: mpsc::Receiver<EndCause>,
}

impl Raw {
    fn new() -> Raw {
        let copy = TestCopy::new();
        let (mut client, mut server) = links();
        let (told, ended) = mpsc::channel();
        let accepting = std::thread::spawn({
            let copy = copy.copy.clone();
            move || {
                let hello = server.read_hello(PATIENCE).unwrap();
                let on_end = Box::new(move |cause| drop(told.send(cause)));
                ApplySession::accept(copy, server, &hello, Options::default(), on_end).unwrap()
            }
        });
        client.greet(&hello(4, 1), PATIENCE).unwrap();
        let (sender, receiver) = client.split();
        Raw {
            copy,
            sender,
            receiver,
            session: accepting.join().unwrap(),
            ended,
        }
    }

    fn send(&mut self, epoch: u64, seq: u64, message: &Message<'_>) {
        let mut frame = Vec::new();
        wire::encode(&mut frame, Epoch(epoch), seq, message);
        self.sender.send(frame).unwrap();
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.sender.send(bytes.to_vec()).unwrap();
    }

    fn change(&mut self, seq: u64, change: Change<'_>) {
        self.send(4, seq, &Message::Change(change));
    }

    fn end(&self) -> EndCause {
        self.ended.recv_timeout(PATIENCE).unwrap()
    }

    /// What the secondary says next, besides signs of life.
    fn refusal(&mut self) -> (u64, i32) {
        loop {
            while let Some(length) = self.receiver.whole_frame().unwrap() {
                let frame = wire::decode(&self.receiver.buffered()[..length]).unwrap();
                let refused = match frame.message {
                    Message::Refused { seq, errno } => Some((seq, errno)),
                    _ => None,
                };
                self.receiver.advance(length);
                if let Some(refused) = refused {
                    return refused;
                }
            }
            self.receiver.receive().unwrap();
        }
    }
}

#[test]
fn a_primary_of_an_older_epoch_is_refused_for_ever() {
    let mirror = Mirror::of_empty_trees();
    assert_eq!(mirror.copy.copy.epoch(), Epoch(3));
    mirror.replicator.set_record(Epoch(8), false).unwrap();
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    assert_eq!(mirror.copy.copy.epoch(), Epoch(8));

    let (mut client, mut server) = links();
    let refusing = std::thread::spawn({
        let copy = mirror.copy.copy.clone();
        move || {
            let hello = server.read_hello(PATIENCE).unwrap();
            ApplySession::accept(copy, server, &hello, Options::default(), Box::new(|_| {})).err()
        }
    });
    let reply = client.greet(&hello(7, 9), PATIENCE).unwrap();
    let reason = RefusalReason::StaleEpoch {
        persisted: Epoch(8),
    };
    assert_eq!(reply, HelloReply::Refused { reason });
    assert!(matches!(
        refusing.join().unwrap(),
        Some(AcceptError::StaleEpoch { .. })
    ));
}

#[test]
fn frames_of_an_older_epoch_end_the_session_unapplied() {
    let mut raw = Raw::new();
    let make = Change::Create {
        parent: FileId::ROOT,
        name: b"x",
        file: FileId(2),
        kind: Kind::File,
        attributes: ATTRIBUTES,
    };
    raw.send(3, 1, &Message::Change(make));
    assert!(matches!(
        raw.end(),
        EndCause::Link(LinkError::Wire(WireError::StaleEpoch { .. }))
    ));
    assert!(!raw.copy.path().join("x").exists());
}

#[test]
fn nonsense_ends_the_session() {
    type Misbehave = fn(&mut Raw);
    let cases: [(&str, Misbehave); 6] = [
        ("absurd length", |raw| raw.raw(&u32::MAX.to_le_bytes())),
        ("unknown type", |raw| {
            raw.raw(&[
                17, 0, 0, 0, 99, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ])
        }),
        ("a second greeting", |raw| {
            raw.send(4, 0, &Message::Hello(hello(4, 2)))
        }),
        ("an acknowledgement", |raw| {
            raw.send(4, 0, &Message::Ack(wire::Acks::new(&[1])))
        }),
        ("a gap", |raw| raw.change(2, Change::Barrier)),
        ("a repetition", |raw| {
            raw.change(1, Change::Barrier);
            raw.change(1, Change::Barrier);
        }),
    ];
    for (name, misbehave) in cases {
        let mut raw = Raw::new();
        misbehave(&mut raw);
        let cause = raw.end();
        assert!(
            matches!(cause, EndCause::Link(LinkError::Wire(_))),
            "{name}: {cause:?}"
        );
        eventually("the session is over", || raw.session.is_over());
    }
}

#[test]
fn what_cannot_be_applied_is_refused_and_nothing_after_it_is_applied() {
    let missing = rustix::io::Errno::NOENT.raw_os_error();
    let unknown = rustix::io::Errno::BADF.raw_os_error();
    let invalid = rustix::io::Errno::INVAL.raw_os_error();
    let cases = [
        (
            Change::Unlink {
                parent: FileId::ROOT,
                name: b"nothing",
            },
            missing,
        ),
        (
            Change::Write {
                file: FileId(77),
                offset: 0,
                data: b"x",
            },
            unknown,
        ),
        (
            Change::Write {
                file: FileId::ROOT,
                offset: 0,
                data: b"x",
            },
            invalid,
        ),
        (
            Change::DirectoryEnd {
                directory: FileId::ROOT,
                attributes: ATTRIBUTES,
            },
            invalid,
        ),
        (
            Change::Bind {
                parent: FileId::ROOT,
                name: b"nothing",
                file: FileId(2),
            },
            missing,
        ),
        (
            Change::SetXattr {
                file: FileId::ROOT,
                name: b"nonsense",
                value: b"",
            },
            rustix::io::Errno::OPNOTSUPP.raw_os_error(),
        ),
    ];
    for (change, errno) in cases {
        let mut raw = Raw::new();
        raw.change(1, change);
        let after = Change::Create {
            parent: FileId::ROOT,
            name: b"after",
            file: FileId(9),
            kind: Kind::File,
            attributes: ATTRIBUTES,
        };
        raw.change(2, after);
        assert_eq!(raw.refusal(), (1, errno), "{change:?}");
        let Raw {
            copy,
            sender,
            receiver,
            ended,
            ..
        } = raw;
        drop((sender, receiver));
        assert!(matches!(
            ended.recv_timeout(PATIENCE).unwrap(),
            EndCause::NotApplied { seq: 1, .. }
        ));
        assert!(!copy.path().join("after").exists());
    }
}

#[test]
fn no_change_leaves_the_directory() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "untouched").unwrap();
    let attempts: [fn(&mut Raw); 3] = [
        // Through a symbolic link that is taken for a directory.
        |raw| {
            raw.change(
                1,
                Change::Bind {
                    parent: FileId::ROOT,
                    name: b"link",
                    file: FileId(2),
                },
            );
            raw.change(
                2,
                Change::Create {
                    parent: FileId(2),
                    name: b"x",
                    file: FileId(3),
                    kind: Kind::File,
                    attributes: ATTRIBUTES,
                },
            );
        },
        // Its target is not written.
        |raw| {
            raw.change(
                1,
                Change::Bind {
                    parent: FileId::ROOT,
                    name: b"file link",
                    file: FileId(2),
                },
            );
            raw.change(
                2,
                Change::Write {
                    file: FileId(2),
                    offset: 0,
                    data: b"overwritten",
                },
            );
        },
        // Nor listed away.
        |raw| {
            raw.change(
                1,
                Change::Bind {
                    parent: FileId::ROOT,
                    name: b"link",
                    file: FileId(2),
                },
            );
            raw.change(
                2,
                Change::DirectoryBegin {
                    directory: FileId(2),
                    attributes: ATTRIBUTES,
                },
            );
        },
    ];
    for attempt in attempts {
        let mut raw = Raw::new();
        std::os::unix::fs::symlink(outside.path(), raw.copy.path().join("link")).unwrap();
        std::os::unix::fs::symlink(
            outside.path().join("secret"),
            raw.copy.path().join("file link"),
        )
        .unwrap();
        attempt(&mut raw);
        assert_eq!(raw.refusal().0, 2);
    }
    let names: Vec<_> = std::fs::read_dir(outside.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(
        std::fs::read_to_string(outside.path().join("secret")).unwrap(),
        "untouched"
    );
}

#[test]
fn a_primary_that_goes_on_sending_cannot_hold_up_the_end() {
    let mirror = Mirror::of_empty_trees();
    let Mirror {
        replicator,
        session,
        ..
    } = mirror;
    let create = Change::Create {
        parent: FileId::ROOT,
        name: b"f",
        file: FileId(2),
        kind: Kind::File,
        attributes: ATTRIBUTES,
    };
    replicator.ship(1, &create);
    let writing = std::thread::spawn({
        let replicator = replicator.clone();
        move || {
            let data = vec![1; 100_000];
            while replicator.session() == 1 {
                replicator.reserve(data.len());
                replicator.ship(
                    1,
                    &Change::Write {
                        file: FileId(2),
                        offset: 0,
                        data: &data,
                    },
                );
                replicator.flush();
            }
        }
    });
    eventually("it is applying", || session.applied().changes > 20);
    session.finish();
    writing.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_frames_never_harm(frames in proptest::collection::vec((0u8..36, proptest::collection::vec(any::<u8>(), 0..80)), 1..20)) {
        let mut raw = Raw::new();
        for ((kind, payload), seq) in frames.iter().zip(1u64..) {
            let mut frame = (17 + payload.len() as u32).to_le_bytes().to_vec();
            frame.push(*kind);
            frame.extend_from_slice(&4u64.to_le_bytes());
            frame.extend_from_slice(&seq.to_le_bytes());
            frame.extend_from_slice(payload);
            if raw.sender.send(frame).is_err() {
                break;
            }
        }
        raw.session.finish();
        raw.ended.recv_timeout(PATIENCE).unwrap();
    }
}

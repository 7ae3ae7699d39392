use std::sync::mpsc;

use super::*;
use crate::replication::change::{Attributes, Change, FileId, Kind, Time};
use crate::replication::replicator::{AttachError, Replicator};
use crate::replication::shipping::Shipping;
use crate::replication::testing::primary::Answers;
use crate::replication::testing::{PATIENCE, Request, TestCopy, eventually, hello, links};

struct Fixture {
    copy: TestCopy,
    secondary: Secondary,
    ended: mpsc::Receiver<(u64, EndCause)>,
}

impl Fixture {
    /// `None` where this machine cannot mount, after saying why.
    fn new() -> Option<Fixture> {
        if !rustix::process::geteuid().is_root() || std::fs::metadata("/dev/fuse").is_err() {
            eprintln!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        let copy = TestCopy::new();
        let (told, ended) = mpsc::channel();
        let events: SecondaryEventSink = Box::new(move |event| match event {
            SecondaryEvent::SessionEnded { session, cause } => drop(told.send((session, cause))),
            SecondaryEvent::LocalDiskFailed { operation, errno } => panic!("{operation}: {errno}"),
        });
        let secondary = Secondary::start(copy.copy.clone(), events).unwrap();
        Some(Fixture {
            copy,
            secondary,
            ended,
        })
    }

    /// Greets the secondary as a primary would.
    fn greet(&self, primary: &Replicator<Request>, hello: &Hello) -> Result<(), AttachError> {
        let (client, mut server) = links();
        let secondary = &self.secondary;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let hello = server.read_hello(PATIENCE).unwrap();
                // What it answered is seen by the primary.
                let _ = secondary.accept(server, &hello, None);
            });
            primary.attach(client, hello, Arc::new(Answers::default()))
        })
    }

    /// Goes on with a session over another link.
    fn resume(&self, primary: &Replicator<Request>, hello: &Hello) -> Result<(), AttachError> {
        let (client, mut server) = links();
        let secondary = &self.secondary;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A primary whose session is over greets nobody.
                if let Ok(hello) = server.read_hello(PATIENCE) {
                    let _ = secondary.accept(server, &hello, None);
                }
            });
            primary.resume(client, hello.clone())
        })
    }
}

fn primary(epoch: u64) -> Replicator<Request> {
    Replicator::start(
        Epoch(epoch),
        false,
        Arc::new(Gate::open_forever()),
        Box::new(|_| {}),
    )
    .unwrap()
}

fn make(primary: &Replicator<Request>, name: &[u8], file: u64) {
    let attributes = Attributes {
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Time {
            seconds: 5,
            nanoseconds: 0,
        },
    };
    let (parent, file) = (FileId::ROOT, FileId(file));
    primary.ship(
        primary.session(),
        &Change::Create {
            parent,
            name,
            file,
            kind: Kind::File,
            attributes,
        },
    );
    primary.ship(
        primary.session(),
        &Change::Write {
            file,
            offset: 0,
            data: name,
        },
    );
    primary.wait_idle(PATIENCE).unwrap();
}

#[test]
fn what_is_applied_is_seen_read_only_and_stays_after_the_stop() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let primary = primary(3);
    fixture.greet(&primary, &hello(3, 1)).unwrap();
    make(&primary, b"file", 2);
    let path = fixture.copy.path().join("file");
    assert_eq!(std::fs::read(&path).unwrap(), b"file");
    let refused = std::fs::write(&path, "mine").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let progress = fixture.secondary.progress();
    assert_eq!((progress.session, progress.applied.changes), (Some(1), 2));

    let Fixture {
        copy,
        secondary,
        ended,
    } = fixture;
    secondary.stop().unwrap();
    assert!(matches!(
        ended.recv_timeout(PATIENCE).unwrap(),
        (1, EndCause::Finished)
    ));
    std::fs::write(copy.path().join("file"), "mine").unwrap();
    eventually("the primary notices", || primary.session() == 0);
}

#[test]
fn a_newer_session_takes_over_and_an_older_one_does_not() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let (first, second, stale) = (primary(3), primary(4), primary(2));
    fixture.greet(&first, &hello(3, 5)).unwrap();
    make(&first, b"first", 2);
    fixture.greet(&second, &hello(4, 1)).unwrap();
    assert_eq!(fixture.ended.recv_timeout(PATIENCE).unwrap().0, 5);
    make(&second, b"second", 2);
    let refused = fixture.greet(&stale, &hello(2, 9));
    let stale_epoch = RefusalReason::StaleEpoch {
        persisted: Epoch(4),
    };
    assert!(
        matches!(refused, Err(AttachError::Refused(reason)) if reason == stale_epoch),
        "{refused:?}"
    );
    let twin = primary(4);
    let refused = fixture.greet(&twin, &hello(4, 1));
    assert!(
        matches!(
            refused,
            Err(AttachError::Refused(RefusalReason::Busy { session: 1 }))
        ),
        "{refused:?}"
    );
    // The session that runs was not disturbed.
    make(&second, b"third", 3);
    let mut names: Vec<_> = std::fs::read_dir(fixture.copy.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["first", "second", "third"]);
    fixture.secondary.stop().unwrap();
}

/// Goal: a session goes on for the server that opened it only, and only where it is remembered; what is refused disturbs nothing.
#[test]
fn a_session_goes_on_for_who_opened_it_and_where_it_runs() {
    let Some(mut fixture) = Fixture::new() else {
        return;
    };
    let (first, stranger) = (primary(3), primary(3));
    fixture.greet(&first, &hello(3, 5)).unwrap();
    make(&first, b"first", 2);

    // Another server of the cluster that knows the number, and one that opened none.
    let other = Fixture::new().unwrap();
    other.greet(&stranger, &hello(3, 5)).unwrap();
    let usurped = Hello {
        from: 77,
        ..hello(3, 5)
    };
    let refused = fixture.resume(&stranger, &usurped);
    let unknown = |refused: &Result<(), AttachError>| {
        matches!(
            refused,
            Err(AttachError::Refused(RefusalReason::UnknownSession))
        )
    };
    assert!(unknown(&refused), "{refused:?}");
    eventually("its own session ends with it", || stranger.session() == 0);
    make(&first, b"second", 3);

    fixture.resume(&first, &hello(3, 5)).unwrap();
    make(&first, b"third", 4);
    assert_eq!(fixture.secondary.progress().session, Some(5));

    // The secondary was started again: what it had received and not applied is gone.
    fixture.secondary.stop().unwrap();
    let (told, ended) = mpsc::channel();
    let events: SecondaryEventSink = Box::new(move |event| match event {
        SecondaryEvent::SessionEnded { session, cause } => drop(told.send((session, cause))),
        SecondaryEvent::LocalDiskFailed { operation, errno } => panic!("{operation}: {errno}"),
    });
    fixture.secondary = Secondary::start(fixture.copy.copy.clone(), events).unwrap();
    fixture.ended = ended;
    let again = primary(3);
    fixture.greet(&again, &hello(3, 6)).unwrap();
    // Its primary may have noticed the end, or is told here: another session is not touched either way.
    let late = fixture.resume(&first, &hello(3, 5));
    assert!(late.is_err(), "{late:?}");
    make(&again, b"fourth", 5);
    assert_eq!(fixture.secondary.progress().session, Some(6));
}

//! Acknowledgement on receipt (R16): what comes before a change is applied, what after, and what that means for a takeover.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::replication::change::{Attributes, Change, FileId, Kind, Time};
use crate::replication::replicator::WaitError;
use crate::replication::shipping::{Shipping, Ticket, Verdict};
use crate::replication::testing::compare;
use crate::replication::testing::ops::ops;
use crate::replication::testing::slow::SlowPlace;
use crate::replication::testing::{eventually, request};

/// Long enough for what happens at once, on a busy machine too.
const A_WHILE: Duration = Duration::from_millis(100);

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

fn create(name: &[u8], file: u64) -> Change<'_> {
    Change::Create {
        parent: FileId::ROOT,
        name,
        file: FileId(file),
        kind: Kind::File,
        attributes: PLAIN,
    }
}

fn write(file: u64, offset: u64, data: &[u8]) -> Change<'_> {
    Change::Write {
        file: FileId(file),
        offset,
        data,
    }
}

fn sync(file: u64) -> Change<'static> {
    Change::Sync {
        file: FileId(file),
        data_only: true,
    }
}

/// Allowed through the epoch of the session, or not at all.
fn options(through: Option<u64>) -> Options {
    let options = Options::default();
    options.on_receipt.allow_through(through.map(Epoch));
    options
}

/// A session over a copy that can be made to stand still.
fn slow_mirror(options: Options) -> Option<(SlowPlace, Mirror)> {
    let place = SlowPlace::new()?;
    let copy = place.copy();
    let mirror = Mirror::with(tempfile::tempdir().unwrap(), copy, options);
    Some((place, mirror))
}

impl Mirror {
    fn ship(&self, change: &Change<'_>) {
        let ticket = self.replicator.ship(self.replicator.session(), change);
        assert_ne!(ticket, Ticket::NotShipped);
        self.replicator.flush();
    }

    fn in_flight(&self) -> usize {
        self.replicator.stats().frames_in_flight
    }

    fn assert_not_acknowledged(&self) {
        let idle = self.replicator.wait_idle(A_WHILE);
        assert_eq!(idle, Err(WaitError::TimedOut { waited: A_WHILE }));
    }
}

#[test]
fn a_change_is_acknowledged_before_a_slow_disk_has_it() {
    let Some((place, mirror)) = slow_mirror(options(Some(3))) else {
        return;
    };
    mirror.ship(&create(b"file", 2));
    mirror.ship(&Change::Barrier);
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    place.stand_still();
    mirror.ship(&write(2, 0, b"received"));
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    assert_eq!(mirror.session.applied().changes, 2);
    place.go_on();
    eventually("the write is applied", || {
        mirror.session.applied().changes == 3
    });
    let written = std::fs::read(mirror.copy.path().join("file")).unwrap();
    assert_eq!(written, b"received");
}

#[test]
fn without_leave_a_change_is_acknowledged_when_it_is_applied() {
    let Some((place, mirror)) = slow_mirror(options(None)) else {
        return;
    };
    mirror.ship(&create(b"file", 2));
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    place.stand_still();
    mirror.ship(&write(2, 0, b"received"));
    mirror.assert_not_acknowledged();
    place.go_on();
    mirror.replicator.wait_idle(PATIENCE).unwrap();
}

#[test]
fn a_sync_and_a_barrier_are_acknowledged_when_the_disk_has_it_all() {
    for question in [sync(2), Change::Barrier] {
        let Some((place, mirror)) = slow_mirror(options(Some(3))) else {
            return;
        };
        mirror.ship(&create(b"file", 2));
        mirror.ship(&Change::Barrier);
        mirror.replicator.wait_idle(PATIENCE).unwrap();
        place.stand_still();
        mirror.ship(&write(2, 0, b"received"));
        mirror.replicator.wait_idle(PATIENCE).unwrap();
        mirror.ship(&question);
        mirror.assert_not_acknowledged();
        assert_eq!(mirror.in_flight(), 1, "{question:?}");
        place.go_on();
        mirror.replicator.wait_idle(PATIENCE).unwrap();
        assert_eq!(mirror.session.applied().changes, 4);
    }
}

/// Goal: a frame of an epoch that the secondary's own record does not reach may belong to a record that does not tie it to its run.
#[test]
fn a_frame_of_a_later_epoch_is_acknowledged_when_it_is_applied() {
    let options = options(Some(3));
    let Some((place, mirror)) = slow_mirror(options.clone()) else {
        return;
    };
    mirror.ship(&create(b"file", 2));
    mirror.replicator.set_record(Epoch(4), false).unwrap();
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    place.stand_still();
    mirror.ship(&write(2, 0, b"of epoch 4"));
    mirror.assert_not_acknowledged();
    place.go_on();
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    options.on_receipt.allow_through(Some(Epoch(4)));
    place.stand_still();
    mirror.ship(&write(2, 0, b"of epoch 4, and known"));
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    place.go_on();
}

/// Goal: a copy that cannot apply what it acknowledged says so, before whoever ends the session goes on.
#[test]
fn a_change_that_was_acknowledged_and_cannot_be_applied_is_told() {
    let copy = TestCopy::new();
    let mirror = Mirror::with(tempfile::tempdir().unwrap(), copy, options(Some(3)));
    mirror.ship(&create(b"file", 2));
    mirror.ship(&Change::Barrier);
    mirror.replicator.wait_idle(PATIENCE).unwrap();
    std::fs::remove_file(mirror.copy.path().join("file")).unwrap();
    let unlink = Change::Unlink {
        parent: FileId::ROOT,
        name: b"file",
    };
    mirror.ship(&unlink);
    let Mirror {
        replicator,
        session,
        ended,
        ..
    } = mirror;
    eventually("the primary is told", || replicator.session() == 0);
    assert_eq!(replicator.stats().frames_in_flight, 0, "acknowledged first");
    session.finish();
    let EndCause::NotApplied { seq: 3, error } = ended.try_recv().unwrap() else {
        panic!("another end");
    };
    assert_eq!(error.errno(), Errno::NOENT.raw_os_error());
}

/// One writer of the random load: fills a file from its beginning, and counts what was acknowledged.
fn fill(replicator: &Replicator<Request>, file: u64, acknowledged: &AtomicU64) {
    let mut dice = file * 7919;
    let mut end = 0;
    loop {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let data = vec![file as u8; 1 + (dice >> 33) as usize % 60_000];
        replicator.reserve(data.len());
        let ticket = replicator.ship(replicator.session(), &write(file, end, &data));
        let (completion, reply) = request();
        replicator.complete(ticket, completion);
        if ticket == Ticket::NotShipped || reply.verdict() != Verdict::Acknowledged {
            return;
        }
        end += data.len() as u64;
        acknowledged.store(end, Ordering::Release);
    }
}

/// Goal: whoever takes over has everything that was acknowledged, however much of it was only received when the primary was lost.
#[test]
fn a_takeover_applies_everything_that_was_acknowledged() {
    const FILES: std::ops::Range<u64> = 2..6;
    for round in 0..5 {
        let gate = Arc::new(Gate::open_forever());
        let replicator = Replicator::start(Epoch(3), true, gate, Box::new(|_| {})).unwrap();
        let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
        let primary = Primary::alone(source.path().to_owned());
        let mut hello = hello(3, 1);
        hello.start = Start::Identical;
        let (options, links) = (options(Some(3)), links());
        let connected = connect(links, &replicator, &copy, &hello, &primary, options);
        let (session, _ended) = connected.unwrap();
        for file in FILES {
            replicator.ship(1, &create(format!("f{file}").as_bytes(), file));
        }
        let acknowledged: [AtomicU64; 6] = Default::default();
        std::thread::scope(|scope| {
            for file in FILES {
                let (replicator, acknowledged) = (&replicator, &acknowledged[file as usize]);
                scope.spawn(move || fill(replicator, file, acknowledged));
            }
            std::thread::sleep(Duration::from_millis(20 + 30 * round));
            session.finish();
            // What was received may be acknowledged a moment later; what is counted is on its way to nobody after this.
            replicator.fence();
        });
        for file in FILES {
            let promised = acknowledged[file as usize].load(Ordering::Acquire);
            let written = std::fs::read(copy.path().join(format!("f{file}"))).unwrap();
            assert!(written.len() as u64 >= promised, "{file}: {promised}");
            assert!(written.iter().all(|byte| u64::from(*byte) == file));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn replaying_what_was_only_received_gives_the_same_tree(ops in ops(1..120)) {
        let mut mirror = Mirror::with(tempfile::tempdir().unwrap(), TestCopy::new(), options(Some(3)));
        mirror.primary.apply(&ops);
        mirror.ship(&Change::Barrier);
        mirror.replicator.wait_idle(PATIENCE).unwrap();
        compare::assert_equal(mirror.source.path(), &mirror.copy.path());
        mirror.primary.assert_all_answered();
    }
}

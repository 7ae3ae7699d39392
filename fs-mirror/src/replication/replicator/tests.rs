//! The replicator over a real link, with a peer that does what each test says.

use std::sync::mpsc;

use super::*;
use crate::replication::change::FileId;
use crate::replication::link::{LinkError, LinkReceiver, LinkSender, Received};
use crate::replication::testing::primary::Answers;
use crate::replication::testing::{PATIENCE, Reply, Request, eventually, hello, links, request};
use crate::replication::wire::{self, Acks, Block, RefusalReason, WireError};

const CHANGE: Change<'static> = Change::Sync {
    file: FileId::ROOT,
    data_only: false,
};

struct Fixture {
    replicator: Arc<Replicator<Request>>,
    gate: Arc<Gate>,
    events: mpsc::Receiver<ReplicatorEvent>,
    answers: Arc<Answers>,
}

/// The secondary's end, driven by hand.
struct Peer {
    sender: LinkSender,
    receiver: LinkReceiver,
    epoch: Epoch,
}

impl Fixture {
    fn new(counts_peer: bool) -> Fixture {
        let gate = Arc::new(Gate::open_forever());
        let (told, events) = mpsc::channel();
        let sink: EventSink = Box::new(move |event| drop(told.send(event)));
        let replicator = Replicator::start(Epoch(5), counts_peer, gate.clone(), sink).unwrap();
        Fixture {
            replicator: Arc::new(replicator),
            gate,
            events,
            answers: Arc::default(),
        }
    }

    fn attach(&self, session: u64) -> Peer {
        self.try_attach(&hello(5, session)).unwrap()
    }

    fn try_attach(&self, hello: &Hello) -> Result<Peer, AttachError> {
        let (client, mut server) = links();
        let accepting = std::thread::spawn(move || {
            let hello = server.read_hello(PATIENCE).ok()?;
            server
                .send_message(hello.epoch, &Message::HelloReply(HelloReply::Accepted))
                .unwrap();
            let (sender, receiver) = server.split();
            Some(Peer {
                sender,
                receiver,
                epoch: hello.epoch,
            })
        });
        self.replicator
            .attach(client, hello, self.answers.clone())?;
        Ok(accepting.join().unwrap().unwrap())
    }

    /// A primary in lock-step with its peer.
    fn lock_step() -> (Fixture, Peer) {
        let fixture = Fixture::new(false);
        let peer = fixture.attach(1);
        let _proposed = fixture.replicator.hold_for_addition(PATIENCE).unwrap();
        fixture.replicator.set_record(Epoch(5), true).unwrap();
        (fixture, peer)
    }

    /// One request with one change.
    fn write(&self) -> Reply {
        let replicator = &self.replicator;
        let ticket = replicator.ship(replicator.session(), &CHANGE);
        let (completion, reply) = request();
        replicator.complete(ticket, completion);
        reply
    }

    fn loss(&self) -> LossCause {
        loop {
            match self.events.recv_timeout(PATIENCE).unwrap() {
                ReplicatorEvent::SessionLost { cause, .. } => return cause,
                ReplicatorEvent::LinkQuiet { .. } => {}
            }
        }
    }
}

impl Peer {
    fn send(&mut self, message: &Message<'_>) {
        let mut frame = Vec::new();
        wire::encode(&mut frame, self.epoch, 0, message);
        self.sender.send(frame).unwrap();
    }

    fn ack(&mut self, seqs: &[u64]) {
        self.send(&Message::Ack(Acks::new(seqs)));
    }

    /// The next numbered frame; pings are passed over.
    fn next(&mut self) -> (u64, Epoch) {
        loop {
            while let Some(length) = self.receiver.whole_frame().unwrap() {
                let frame = wire::decode(&self.receiver.buffered()[..length]).unwrap();
                let (seq, epoch) = (frame.seq, frame.epoch);
                self.receiver.advance(length);
                if seq > 0 {
                    return (seq, epoch);
                }
            }
            assert_ne!(self.receiver.receive().unwrap(), Received::Closed);
        }
    }
}

#[test]
fn alone_every_request_is_answered_at_once() {
    let fixture = Fixture::new(false);
    assert_eq!(fixture.write().verdict(), Verdict::Acknowledged);
    let mut peer = fixture.attach(1);
    assert_eq!(fixture.write().verdict(), Verdict::Acknowledged);
    assert_eq!(peer.next(), (1, Epoch(5)));
    assert!(!fixture.replicator.binds_on_use());
}

#[test]
fn in_lock_step_answers_follow_acknowledgements_in_any_order() {
    let (fixture, mut peer) = Fixture::lock_step();
    let replies: Vec<_> = (0..3).map(|_| fixture.write()).collect();
    for seq in 1..=3 {
        assert_eq!(peer.next().0, seq);
    }
    assert!(replies.iter().all(|reply| !reply.is_answered()));
    peer.ack(&[3, 1]);
    assert_eq!(replies[2].verdict(), Verdict::Acknowledged);
    assert_eq!(replies[0].verdict(), Verdict::Acknowledged);
    assert!(!replies[1].is_answered());
    peer.ack(&[2]);
    assert_eq!(replies[1].verdict(), Verdict::Acknowledged);
    fixture.replicator.wait_idle(PATIENCE).unwrap();
    eventually("the listener is told", || {
        fixture.answers.acknowledged.lock().len() == 3
    });
    assert_eq!(*fixture.answers.acknowledged.lock(), [3, 1, 2]);
    let stats = fixture.replicator.stats();
    assert_eq!(
        (
            stats.frames_shipped,
            stats.frames_in_flight,
            stats.latency.count()
        ),
        (3, 0, 3)
    );
}

#[test]
fn a_lost_secondary_leaves_requests_unanswered_until_the_record_drops_it() {
    let (fixture, peer) = Fixture::lock_step();
    let (during, _) = (fixture.write(), drop(peer));
    assert!(matches!(fixture.loss(), LossCause::Link(_)));
    let after = fixture.write();
    assert!(!during.is_answered() && !after.is_answered());
    assert_eq!(
        fixture.replicator.wait_idle(PATIENCE),
        Err(WaitError::NoSession)
    );
    fixture.replicator.set_record(Epoch(6), false).unwrap();
    assert_eq!(during.verdict(), Verdict::Acknowledged);
    assert_eq!(after.verdict(), Verdict::Acknowledged);
    fixture.replicator.wait_idle(PATIENCE).unwrap();
    // And a new session may begin.
    assert!(fixture.try_attach(&hello(6, 2)).is_ok());
}

/// Everything was answered, and the secondary lost power before it was told to sync. A stop that ended now would leave a record
/// that calls its copy whole.
#[test]
fn regression_copies_are_not_settled_while_the_record_counts_a_secondary_that_is_gone() {
    let (fixture, mut peer) = Fixture::lock_step();
    let reply = fixture.write();
    peer.ack(&[1]);
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
    fixture.replicator.wait_idle(PATIENCE).unwrap();
    drop(peer);
    assert!(matches!(fixture.loss(), LossCause::Link(_)));
    assert_eq!(
        fixture.replicator.wait_idle(PATIENCE),
        Err(WaitError::NoSession)
    );
    fixture.replicator.set_record(Epoch(6), false).unwrap();
    fixture.replicator.wait_idle(PATIENCE).unwrap();
}

#[test]
fn a_fenced_primary_never_acknowledges() {
    let (fixture, _peer) = Fixture::lock_step();
    let waiting = fixture.write();
    fixture.replicator.fence();
    assert_eq!(waiting.verdict(), Verdict::Fenced);
    assert_eq!(fixture.write().verdict(), Verdict::Fenced);
    assert!(matches!(fixture.loss(), LossCause::Ended));
    fixture.replicator.set_record(Epoch(6), false).unwrap();
    assert_eq!(fixture.write().verdict(), Verdict::Fenced);
    assert!(matches!(
        fixture.try_attach(&hello(6, 2)),
        Err(AttachError::Fenced)
    ));
}

#[test]
fn what_becomes_due_behind_a_closed_gate_waits_for_it() {
    let (fixture, mut peer) = Fixture::lock_step();
    fixture.gate.close();
    let kept = fixture.write();
    peer.ack(&[1]);
    fixture.replicator.wait_idle(PATIENCE).unwrap();
    assert!(!kept.is_answered());
    fixture.gate.set_forever();
    assert_eq!(kept.verdict(), Verdict::Acknowledged);

    fixture.gate.close();
    let fenced = fixture.write();
    peer.ack(&[2]);
    fixture.replicator.wait_idle(PATIENCE).unwrap();
    fixture.gate.fence();
    assert_eq!(fenced.verdict(), Verdict::Fenced);
}

#[test]
fn an_addition_is_held_until_everything_before_it_is_acknowledged() {
    let fixture = Fixture::new(false);
    let mut peer = fixture.attach(1);
    assert_eq!(fixture.write().verdict(), Verdict::Acknowledged);
    let holding = std::thread::spawn({
        let replicator = fixture.replicator.clone();
        move || replicator.hold_for_addition(PATIENCE)
    });
    eventually("held", || {
        fixture.replicator.shared.state.lock().core.waits_for_peer()
    });
    let reply = fixture.write();
    assert!(!holding.is_finished() && !reply.is_answered());
    peer.ack(&[1]);
    let _proposed = holding.join().unwrap().unwrap();
    assert!(!reply.is_answered());
    // The proposal was rejected.
    fixture.replicator.set_record(Epoch(5), false).unwrap();
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
}

#[test]
fn an_addition_that_cannot_be_proposed_changes_nothing() {
    let fixture = Fixture::new(false);
    let nobody = fixture.replicator.hold_for_addition(Duration::ZERO);
    assert_eq!(nobody.unwrap_err(), WaitError::NoSession);
    let _peer = fixture.attach(1);
    assert_eq!(fixture.write().verdict(), Verdict::Acknowledged);
    let waited = Duration::from_millis(20);
    assert_eq!(
        fixture.replicator.hold_for_addition(waited).unwrap_err(),
        WaitError::TimedOut { waited }
    );
    assert_eq!(fixture.write().verdict(), Verdict::Acknowledged);
}

/// Goal: an addition that was held and then not proposed (its note could not be written) keeps nobody waiting, also when the
/// peer is lost next.
#[test]
fn regression_an_addition_that_is_not_proposed_after_all_is_abandoned() {
    let fixture = Fixture::new(false);
    let peer = fixture.attach(1);
    let hold = fixture.replicator.hold_for_addition(PATIENCE).unwrap();
    let reply = fixture.write();
    assert!(!reply.is_answered());
    fixture.replicator.abandon_addition(hold);
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
    drop(peer);
    assert_eq!(fixture.write().verdict(), Verdict::Acknowledged);
}

/// Goal: one that stood before is not undone by whoever holds it a second time.
#[test]
fn an_addition_that_may_be_on_its_way_is_not_abandoned() {
    let fixture = Fixture::new(false);
    let _peer = fixture.attach(1);
    let _proposed = fixture.replicator.hold_for_addition(PATIENCE).unwrap();
    let second = fixture.replicator.hold_for_addition(PATIENCE).unwrap();
    fixture.replicator.abandon_addition(second);
    let reply = fixture.write();
    assert!(!reply.is_answered());
    fixture.replicator.set_record(Epoch(5), false).unwrap();
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
}

/// Goal: an addition that was proposed once is proposed again, and the second hold fails. The first may be committed, so
/// what waits for the peer goes on waiting.
#[test]
fn regression_a_second_hold_that_fails_does_not_release_what_waits() {
    let fixture = Fixture::new(false);
    let _peer = fixture.attach(1);
    let _proposed = fixture.replicator.hold_for_addition(PATIENCE).unwrap();
    let reply = fixture.write();
    let waited = Duration::from_millis(20);
    assert_eq!(
        fixture.replicator.hold_for_addition(waited).unwrap_err(),
        WaitError::TimedOut { waited }
    );
    assert!(!reply.is_answered());
    fixture.replicator.set_record(Epoch(5), false).unwrap();
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
}

#[test]
fn a_new_epoch_travels_with_the_frames_and_is_acknowledged() {
    let (fixture, mut peer) = Fixture::lock_step();
    fixture.replicator.set_record(Epoch(6), true).unwrap();
    let reply = fixture.write();
    assert_eq!(peer.next(), (1, Epoch(6)));
    assert_eq!(peer.next(), (2, Epoch(6)));
    peer.ack(&[2]);
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
    peer.epoch = Epoch(6);
    peer.ack(&[1]);
    fixture.replicator.wait_idle(PATIENCE).unwrap();
    let stale = fixture.replicator.set_record(Epoch(5), false);
    assert_eq!(
        stale,
        Err(StaleRecord {
            given: Epoch(5),
            current: Epoch(6)
        })
    );
}

#[test]
fn a_peer_that_breaks_the_rules_is_dropped() {
    type Rule = fn(&mut Peer);
    type Expected = fn(&LossCause) -> bool;
    let cases: [(&str, Rule, Expected); 6] = [
        (
            "refused",
            |peer| peer.send(&Message::Refused { seq: 1, errno: 28 }),
            |cause| matches!(cause, LossCause::Refused { seq: 1, errno: 28 }),
        ),
        (
            "never shipped",
            |peer| peer.ack(&[9]),
            |cause| matches!(cause, LossCause::Acknowledgement(_)),
        ),
        (
            "twice",
            |peer| peer.ack(&[1, 1]),
            |cause| matches!(cause, LossCause::Acknowledgement(_)),
        ),
        (
            "a change",
            |peer| peer.send(&Message::Change(CHANGE)),
            |cause| {
                matches!(
                    cause,
                    LossCause::Link(LinkError::Wire(WireError::Unexpected(_)))
                )
            },
        ),
        (
            "newer epoch",
            |peer| {
                peer.epoch = Epoch(9);
                peer.ack(&[1]);
            },
            |cause| {
                matches!(
                    cause,
                    LossCause::NewerEpoch {
                        theirs: Epoch(9),
                        ours: Epoch(5)
                    }
                )
            },
        ),
        (
            "older epoch",
            |peer| {
                peer.epoch = Epoch(4);
                peer.ack(&[1]);
            },
            |cause| {
                matches!(
                    cause,
                    LossCause::Link(LinkError::Wire(WireError::StaleEpoch { .. }))
                )
            },
        ),
    ];
    for (name, rule, expected) in cases {
        let (fixture, mut peer) = Fixture::lock_step();
        let _reply = fixture.write();
        peer.next();
        rule(&mut peer);
        let cause = fixture.loss();
        assert!(expected(&cause), "{name}: {cause:?}");
        assert_eq!(fixture.replicator.session(), 0);
    }
}

#[test]
fn a_silent_peer_is_lost_and_one_that_answers_pings_is_not() {
    let (silent, _peer) = Fixture::lock_step();
    let (alive, mut answering) = Fixture::lock_step();
    let answers = std::thread::spawn(move || {
        let deadline = Instant::now() + PEER_SILENCE_MAX * 2;
        while Instant::now() < deadline {
            answering.receiver.receive().unwrap();
            answering.send(&Message::Pong);
        }
        answering
    });
    assert!(matches!(silent.loss(), LossCause::Silent { .. }));
    let _answering = answers.join().unwrap();
    assert_eq!(alive.replicator.session(), 1);
    let lost = alive.events.try_iter();
    let lost = lost.filter(|event| matches!(event, ReplicatorEvent::SessionLost { .. }));
    assert_eq!(lost.count(), 0);
}

#[test]
fn blocks_that_differ_are_told_before_the_acknowledgement() {
    let (fixture, mut peer) = Fixture::lock_step();
    let reply = fixture.write();
    let block = Block {
        file: FileId(4),
        offset: 8,
        length: 9,
    };
    peer.send(&Message::NeedBlock(block));
    peer.ack(&[1]);
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
    assert_eq!(fixture.answers.needed.lock().pop_front(), Some(block));
}

#[test]
fn sessions_begin_only_when_they_may() {
    let fixture = Fixture::new(false);
    assert!(matches!(
        fixture.try_attach(&hello(4, 1)),
        Err(AttachError::StaleEpoch { .. })
    ));
    let in_sync = Hello {
        start: Start::Identical,
        ..hello(5, 1)
    };
    assert!(matches!(
        fixture.try_attach(&in_sync),
        Err(AttachError::Diverged)
    ));
    let peer = fixture.attach(1);
    assert!(matches!(
        fixture.try_attach(&hello(5, 2)),
        Err(AttachError::Busy { session: 1 })
    ));
    drop(peer);
    fixture.loss();
    assert!(matches!(
        fixture.try_attach(&hello(5, 1)),
        Err(AttachError::SessionNotNew { given: 1, last: 1 })
    ));
    let _peer = fixture.attach(2);
    fixture.replicator.abandon(1, "not this one");
    assert_eq!(fixture.replicator.ship(1, &CHANGE), Ticket::NotShipped);
    fixture.replicator.abandon(2, "this one");
    assert!(matches!(fixture.loss(), LossCause::Abandoned("this one")));
}

#[test]
fn a_refused_greeting_begins_no_session() {
    let fixture = Fixture::new(false);
    let (client, mut server) = links();
    let refusing = std::thread::spawn(move || {
        server.read_hello(PATIENCE).unwrap();
        server.refuse(RefusalReason::NotSecondary).unwrap();
    });
    let refused = fixture
        .replicator
        .attach(client, &hello(5, 1), fixture.answers.clone());
    assert!(matches!(
        refused,
        Err(AttachError::Refused(RefusalReason::NotSecondary))
    ));
    refusing.join().unwrap();
    assert_eq!(fixture.replicator.session(), 0);
}

#[test]
fn after_a_switchover_changes_wait_for_the_first_session() {
    let fixture = Fixture::new(true);
    let changing = std::thread::spawn({
        let replicator = fixture.replicator.clone();
        move || replicator.reserve(100)
    });
    let mut peer = fixture
        .try_attach(&Hello {
            start: Start::Identical,
            ..hello(5, 1)
        })
        .unwrap();
    changing.join().unwrap();
    assert!(fixture.replicator.binds_on_use());
    let reply = fixture.write();
    peer.next();
    assert!(!reply.is_answered());
    peer.ack(&[1]);
    assert_eq!(reply.verdict(), Verdict::Acknowledged);
}

#[test]
fn reserve_bounds_what_is_in_flight() {
    let fixture = Fixture::new(false);
    let mut peer = fixture.attach(1);
    let data = vec![0; wire::DATA_BYTES_MAX];
    let change = Change::Write {
        file: FileId(2),
        offset: 0,
        data: &data,
    };
    let reading = std::thread::spawn(move || {
        for _ in 0..64 {
            peer.next();
        }
        peer
    });
    let replicator = &fixture.replicator;
    for _ in 0..64 {
        replicator.reserve(0);
        replicator.ship(1, &change);
        replicator.flush();
    }
    let mut peer = reading.join().unwrap();
    let reserving = std::thread::spawn({
        let replicator = replicator.clone();
        move || replicator.reserve(wire::DATA_BYTES_MAX)
    });
    assert!(
        !replicator
            .shared
            .state
            .lock()
            .has_room_for(wire::DATA_BYTES_MAX)
    );
    peer.ack(&[2]);
    peer.ack(&[1]);
    reserving.join().unwrap();
}

#[test]
fn many_threads_share_one_link() {
    const THREADS: usize = 8;
    const EACH: u64 = 500;
    let (fixture, mut peer) = Fixture::lock_step();
    let acknowledging = std::thread::spawn(move || {
        for _ in 0..THREADS as u64 * EACH {
            let (seq, _) = peer.next();
            peer.ack(&[seq]);
        }
        peer
    });
    let replicator = &*fixture.replicator;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let (completion, reply) = request();
                    replicator.complete(replicator.ship(1, &CHANGE), completion);
                    assert_eq!(reply.verdict(), Verdict::Acknowledged);
                }
            });
        }
    });
    acknowledging.join().unwrap();
}

/// Goal: writers that wait for the first session after a switchover wait no longer than that may take. Method: a peer that takes
/// the connection and says nothing.
#[test]
fn regression_silent_peer_of_a_switchover_is_given_up_soon() {
    let fixture = Fixture::new(true);
    let (client, server) = links();
    let began = std::time::Instant::now();
    let hello = Hello {
        start: Start::Identical,
        ..hello(5, 1)
    };
    let attached = fixture
        .replicator
        .attach(client, &hello, fixture.answers.clone());
    assert!(attached.is_err());
    let took = began.elapsed();
    assert!(took < GREETING_MAX / 2, "{took:?}");
    drop(server);
}

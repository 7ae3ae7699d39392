use super::*;

const NOW: Answer = Answer::Now;
const ACK: Answer = Answer::AfterAck;
const RECORD: Answer = Answer::AfterRecord;

fn attached(session: u64) -> Event {
    Event::Attached {
        session,
        in_sync: false,
    }
}

fn shipped(session: u64) -> Ticket {
    Ticket::Shipped { session, seq: 1 }
}

/// Answers for a ticket of the running session (2), of an older one (1), and for none.
fn answers(core: &Core) -> [Answer; 3] {
    [
        core.answer(shipped(2)),
        core.answer(shipped(1)),
        core.answer(Ticket::NotShipped),
    ]
}

#[test]
fn every_state_has_its_answers() {
    use Event::{AdditionAbandoned, AdditionHeld, Fenced, RecordSet, Resynced, SessionLost};
    let added = RecordSet { counts_peer: true };
    let dropped = RecordSet { counts_peer: false };
    let (lost, synced) = (SessionLost { session: 2 }, Resynced { session: 2 });
    let fenced = [Answer::Fenced; 3];
    let cases: &[(&str, bool, &[Event], [Answer; 3])] = &[
        ("alone", false, &[], [NOW, NOW, NOW]),
        ("alone, resync", false, &[attached(2)], [NOW, NOW, NOW]),
        (
            "alone, resync done",
            false,
            &[attached(2), synced],
            [NOW, NOW, NOW],
        ),
        (
            "alone, session lost",
            false,
            &[attached(2), lost],
            [NOW, NOW, NOW],
        ),
        (
            "held",
            false,
            &[attached(2), synced, AdditionHeld],
            [ACK, NOW, NOW],
        ),
        (
            "held, lost",
            false,
            &[attached(2), synced, AdditionHeld, lost],
            [RECORD, RECORD, RECORD],
        ),
        (
            "held, lost, dropped",
            false,
            &[attached(2), synced, AdditionHeld, lost, dropped],
            [NOW, NOW, NOW],
        ),
        (
            "held, lost, next session",
            false,
            &[
                attached(1),
                AdditionHeld,
                SessionLost { session: 1 },
                attached(2),
            ],
            [ACK, RECORD, RECORD],
        ),
        (
            "held, abandoned",
            false,
            &[attached(2), synced, AdditionHeld, AdditionAbandoned],
            [NOW, NOW, NOW],
        ),
        (
            "held, rejected",
            false,
            &[attached(2), synced, AdditionHeld, dropped],
            [NOW, NOW, NOW],
        ),
        (
            "lock-step",
            false,
            &[attached(2), synced, AdditionHeld, added],
            [ACK, NOW, NOW],
        ),
        (
            "lock-step, late abandonment",
            false,
            &[attached(2), AdditionHeld, added, AdditionAbandoned],
            [ACK, NOW, NOW],
        ),
        (
            "lost",
            false,
            &[attached(2), synced, AdditionHeld, added, lost],
            [RECORD, RECORD, RECORD],
        ),
        (
            "lost, dropped",
            false,
            &[attached(2), synced, AdditionHeld, added, lost, dropped],
            [NOW, NOW, NOW],
        ),
        (
            "another session's loss",
            false,
            &[attached(2), AdditionHeld, added, SessionLost { session: 1 }],
            [ACK, NOW, NOW],
        ),
        (
            "another session's resync",
            true,
            &[attached(2), Resynced { session: 1 }],
            [ACK, RECORD, RECORD],
        ),
        ("started in sync", true, &[], [RECORD, RECORD, RECORD]),
        (
            "started in sync, resync",
            true,
            &[attached(2)],
            [ACK, RECORD, RECORD],
        ),
        (
            "started in sync, resync done",
            true,
            &[attached(2), synced],
            [ACK, NOW, NOW],
        ),
        (
            "switched over",
            true,
            &[Event::Attached {
                session: 2,
                in_sync: true,
            }],
            [ACK, NOW, NOW],
        ),
        ("fenced alone", false, &[Fenced], fenced),
        (
            "fenced in lock-step",
            true,
            &[attached(2), synced, Fenced],
            fenced,
        ),
        (
            "fenced is final",
            true,
            &[attached(2), Fenced, dropped, lost],
            fenced,
        ),
    ];
    for (name, counts_peer, events, expected) in cases {
        let mut core = Core::new(*counts_peer);
        for event in *events {
            core.on(*event);
        }
        assert_eq!(answers(&core), *expected, "{name}");
    }
}

#[test]
fn every_event_has_its_action() {
    let lock_step = || {
        let mut core = Core::new(false);
        for event in [
            attached(2),
            Event::AdditionHeld,
            Event::RecordSet { counts_peer: true },
        ] {
            core.on(event);
        }
        core
    };
    let cases = [
        (Event::Resynced { session: 2 }, Some(Action::AnswerStranded)),
        (Event::Resynced { session: 9 }, None),
        (Event::AdditionHeld, Some(Action::AnswerStranded)),
        (Event::AdditionAbandoned, None),
        (Event::RecordSet { counts_peer: true }, None),
        (
            Event::RecordSet { counts_peer: false },
            Some(Action::AnswerAll),
        ),
        (Event::SessionLost { session: 2 }, Some(Action::Strand)),
        (Event::SessionLost { session: 1 }, None),
        (Event::Fenced, Some(Action::FenceAll)),
    ];
    for (event, action) in cases {
        assert_eq!(lock_step().on(event), action, "{event:?}");
    }
}

#[test]
fn only_untouched_copies_begin_in_sync() {
    assert!(Core::new(true).may_begin_in_sync());
    assert!(!Core::new(false).may_begin_in_sync());
    let mut changed = Core::new(true);
    changed.on_unshipped();
    assert!(!changed.may_begin_in_sync());
    let mut second = Core::new(true);
    second.on(Event::Attached {
        session: 1,
        in_sync: true,
    });
    second.on(Event::SessionLost { session: 1 });
    assert!(!second.may_begin_in_sync());
}

#[test]
fn changes_are_held_until_the_first_session_or_the_drop() {
    let started = Core::new(true);
    assert!(started.holds_changes());
    assert!(!Core::new(false).holds_changes());
    for event in [
        attached(1),
        Event::RecordSet { counts_peer: false },
        Event::Fenced,
    ] {
        let mut core = started;
        core.on(event);
        assert!(!core.holds_changes(), "{event:?}");
    }
    let mut lost = started;
    lost.on(attached(1));
    lost.on(Event::SessionLost { session: 1 });
    assert!(!lost.holds_changes());
}

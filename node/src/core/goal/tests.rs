use std::collections::{BTreeMap, BTreeSet};

use consensus::state::{AckMode, EventId, PackageHash};

use super::*;

const ME: ServerId = ServerId(1);
const PEER: ServerId = ServerId(2);

/// A record of a module of servers 1 and 2, both wanted started.
pub(crate) fn record(epoch: u64, primary: Option<ServerId>, in_sync: &[ServerId]) -> MirrorRecord {
    MirrorRecord {
        name: "test".parse().expect("a valid name"),
        installation: 1,
        servers: [ME, PEER],
        epoch: Epoch(epoch),
        primary,
        in_sync: in_sync.iter().copied().collect::<BTreeSet<_>>(),
        wanted: BTreeMap::from([(ME, Wanted::Started), (PEER, Wanted::Started)]),
        ack: AckMode::Disk,
        package: PackageHash([0; 32]),
        directories: vec!["/srv/data".to_owned()],
        addresses: Vec::new(),
        identical: false,
        diverged: BTreeMap::new(),
        unfilled: BTreeSet::new(),
        received_only: BTreeSet::new(),
        heart_timeout_ms: None,
        last_cause: EventId(0),
    }
}

fn stopped(mut record: MirrorRecord, server: ServerId) -> MirrorRecord {
    record.wanted.insert(server, Wanted::Stopped);
    record
}

const FRESH: Standing = Standing {
    me: ME,
    is_fresh: true,
    addition_open: None,
    is_out: false,
};
const NO_WISH: Wishes = Wishes {
    swap_at: None,
    is_leaving: false,
    is_leave_overdue: false,
    is_right_overdue: false,
};
const OVERDUE: Wishes = Wishes {
    is_right_overdue: true,
    ..NO_WISH
};

#[test]
fn goal_follows_record_and_wishes() {
    let both = record(7, Some(ME), &[ME, PEER]);
    let alone = record(7, Some(ME), &[ME]);
    let theirs = record(7, Some(PEER), &[PEER]);
    let swap = Wishes {
        swap_at: Some(Epoch(7)),
        ..NO_WISH
    };
    let old_swap = Wishes {
        swap_at: Some(Epoch(6)),
        ..NO_WISH
    };
    let leaving = Wishes {
        is_leaving: true,
        ..NO_WISH
    };
    let leaving_overdue = Wishes {
        is_leaving: true,
        ..OVERDUE
    };
    let out_of_time = Wishes {
        is_leave_overdue: true,
        ..leaving
    };
    let lead = |counts_peer| Goal::Lead {
        epoch: Epoch(7),
        counts_peer,
    };
    let hand_over = |to| Goal::HandOver {
        epoch: Epoch(7),
        to,
    };
    let table: [(Option<&MirrorRecord>, Wishes, bool, Goal); 20] = [
        (None, NO_WISH, false, Goal::Down),
        (None, NO_WISH, true, Goal::Fence),
        (Some(&both), NO_WISH, false, lead(true)),
        (Some(&alone), NO_WISH, true, lead(false)),
        (Some(&both), swap, true, hand_over(Some(PEER))),
        (Some(&both), old_swap, true, lead(true)),
        (Some(&alone), swap, true, lead(false)),
        (
            Some(&stopped(both.clone(), ME)),
            NO_WISH,
            true,
            hand_over(None),
        ),
        (Some(&theirs), NO_WISH, true, Goal::Fence),
        (Some(&theirs), NO_WISH, false, Goal::Follow),
        (
            Some(&stopped(theirs.clone(), ME)),
            NO_WISH,
            false,
            Goal::Down,
        ),
        (Some(&both), OVERDUE, true, Goal::Fence),
        (Some(&both), OVERDUE, false, Goal::Follow),
        (Some(&alone), OVERDUE, true, lead(false)),
        (Some(&both), leaving, true, hand_over(None)),
        (Some(&both), out_of_time, true, Goal::Fence),
        (Some(&alone), out_of_time, true, Goal::Fence),
        // Nothing runs any more: the role is left in order all the same.
        (Some(&both), out_of_time, false, hand_over(None)),
        (Some(&both), leaving_overdue, false, Goal::Down),
        (Some(&theirs), leaving, false, Goal::Down),
    ];
    for (record, wishes, is_leading, expected) in table {
        let found = goal(&FRESH, record, wishes, is_leading);
        assert_eq!(
            found, expected,
            "{record:?} {wishes:?} leading={is_leading}"
        );
    }
}

#[test]
fn regression_a_removed_server_fences_what_it_led_and_runs_nothing() {
    let removed = Standing {
        is_out: true,
        ..FRESH
    };
    let alone = record(7, Some(ME), &[ME]);
    let theirs = record(7, Some(PEER), &[PEER]);
    let free = record(7, None, &[ME]);
    assert_eq!(goal(&removed, Some(&alone), NO_WISH, true), Goal::Fence);
    assert_eq!(goal(&removed, Some(&alone), NO_WISH, false), Goal::Down);
    assert_eq!(goal(&removed, Some(&theirs), NO_WISH, false), Goal::Down);
    assert!(!may_take_over(&removed, &free));
}

#[test]
fn only_a_fresh_wanted_holder_of_an_in_sync_copy_proposes_itself() {
    let free = record(7, None, &[ME]);
    let stale = Standing {
        is_fresh: false,
        ..FRESH
    };
    assert!(may_take_over(&FRESH, &free));
    assert!(!may_take_over(&stale, &free));
    assert!(!may_take_over(&FRESH, &stopped(free, ME)));
    assert!(!may_take_over(&FRESH, &record(7, None, &[PEER])));
    assert!(!may_take_over(&FRESH, &record(7, Some(PEER), &[ME])));
    assert!(
        !may_take_over(&FRESH, &record(7, None, &[])),
        "first start: an operator says whose copy counts"
    );
}

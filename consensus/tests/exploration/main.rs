//! Every order of events, up to a bound: two servers and a witness, one mirror module, the real
//! [`consensus::state::ClusterState::apply`].
//!
//! Around it stands a small model of what a node does: what it has applied, what it proposes and may never see
//! committed, leases, shipped and acknowledged writes. Everything is asynchronous: whatever may happen may also not
//! happen, so cut and slow links need no model of their own. Time is abstract: a voter may declare a server once the
//! leases it granted have run out, so declaring *ends* its grant.
//!
//! Checked in every state: no acknowledged write is missing on a member of the committed in-sync set, and never do
//! two servers have the right to serve. From every n-th state: when all members return, one server serves, with every
//! acknowledged write; when one in-sync server and the witness return, that server does.
//!
//! `model::Bug` switches a rule off; the exploration must notice each. Larger bounds: `EXPLORE_STATES=3000000 cargo
//! test -p consensus --test exploration --release`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a model with a bound: what is missing is a mistake of the test"
)]

mod actions;
mod healing;
mod model;
mod search;
mod world;

use consensus::state::AckMode;

use model::{Bounds, Bug};
use search::{Outcome, explore};
use world::Begin;

fn states_max() -> usize {
    std::env::var("EXPLORE_STATES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60_000)
}

/// What is explored: how writes are acknowledged, what it begins with, how far it goes.
#[derive(Clone, Copy)]
struct Case(AckMode, Begin, Bounds);

fn holds(Case(ack, begin, bounds): Case) {
    match explore(ack, begin, Bug::None, bounds, states_max()) {
        Outcome::Holds {
            states,
            is_complete,
        } => {
            println!(
                "{states} states, {}",
                if is_complete { "all" } else { "bound reached" }
            );
        }
        Outcome::Violated { what, trace } => panic!("{what}\n  {}", trace.join("\n  ")),
    }
}

fn finds(bug: Bug, Case(ack, begin, bounds): Case) {
    match explore(ack, begin, bug, bounds, states_max()) {
        Outcome::Holds { states, .. } => panic!("{bug:?} not found in {states} states"),
        Outcome::Violated { what, trace } => println!(
            "{bug:?}: {what} after {} steps: {}",
            trace.len(),
            trace.join(", ")
        ),
    }
}

const CALM: Bounds = Bounds {
    writes: 1,
    crashes: 0,
    declarations: 0,
    planned: 0,
    epochs: 3,
};
const CRASH: Bounds = Bounds { crashes: 1, ..CALM };
const SILENCE: Bounds = Bounds {
    declarations: 2,
    ..CALM
};
const PLAN: Bounds = Bounds {
    planned: 1,
    ..CRASH
};
const FAULTS: Bounds = Bounds {
    writes: 1,
    crashes: 2,
    declarations: 2,
    planned: 0,
    epochs: 4,
};

#[test]
fn roles_hold_when_servers_fall_silent() {
    holds(Case(AckMode::Disk, Begin::InSync, SILENCE));
    holds(Case(AckMode::Disk, Begin::Alone, SILENCE));
}

#[test]
fn roles_hold_when_servers_crash() {
    holds(Case(AckMode::Disk, Begin::InSync, FAULTS));
}

#[test]
fn roles_hold_when_servers_crash_during_an_addition() {
    holds(Case(AckMode::Disk, Begin::Alone, FAULTS));
}

#[test]
fn roles_hold_around_planned_changes() {
    holds(Case(AckMode::Disk, Begin::InSync, PLAN));
}

#[test]
fn roles_hold_with_acknowledgement_on_receipt() {
    holds(Case(AckMode::Receipt, Begin::InSync, FAULTS));
    holds(Case(AckMode::Receipt, Begin::Alone, CRASH));
}

#[test]
fn finds_a_skipped_epoch_check() {
    finds(Bug::EpochUnchecked, Case(AckMode::Disk, Begin::Alone, CALM));
}

#[test]
fn finds_an_acknowledgement_before_the_peer() {
    finds(
        Bug::AcknowledgeFirst,
        Case(AckMode::Disk, Begin::InSync, CALM),
    );
}

#[test]
fn finds_a_promoted_stale_copy() {
    finds(
        Bug::StalePromoted,
        Case(AckMode::Disk, Begin::Alone, SILENCE),
    );
}

#[test]
fn finds_a_forgotten_open_addition() {
    finds(
        Bug::AdditionForgotten,
        Case(AckMode::Disk, Begin::Alone, CALM),
    );
}

#[test]
fn finds_an_open_addition_forgotten_over_a_restart() {
    finds(
        Bug::AdditionForgottenOverRestart,
        Case(AckMode::Disk, Begin::Alone, CRASH),
    );
}

#[test]
fn finds_a_lease_while_declared() {
    finds(
        Bug::LeaseWhileDeclared,
        Case(AckMode::Disk, Begin::InSync, SILENCE),
    );
}

#[test]
fn finds_a_lease_on_a_stale_record() {
    finds(
        Bug::LeaseOnStaleRecord,
        Case(AckMode::Disk, Begin::InSync, SILENCE),
    );
}

#[test]
fn finds_a_declaration_that_outlives_its_withdrawal() {
    finds(
        Bug::RoundsIgnored,
        Case(
            AckMode::Disk,
            Begin::InSync,
            Bounds {
                writes: 0,
                epochs: 1,
                ..SILENCE
            },
        ),
    );
}

#[test]
fn finds_a_declaration_counted_twice() {
    finds(
        Bug::DeclarationCountedTwice,
        Case(AckMode::Disk, Begin::InSync, SILENCE),
    );
}

#[test]
fn finds_a_new_run_that_trusts_the_record_of_the_former() {
    finds(
        Bug::RunUnannounced,
        Case(AckMode::Disk, Begin::InSync, PLAN),
    );
}

#[test]
fn finds_a_receipt_taken_for_a_disk() {
    finds(
        Bug::ReceiptTrusted,
        Case(AckMode::Receipt, Begin::InSync, FAULTS),
    );
}

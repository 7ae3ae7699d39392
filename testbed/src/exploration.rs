//! Every order of events, up to a bound: two servers and a witness, one mirror module, the product's own decisions.
//!
//! What decides is real: `ClusterState::apply`, the voter's `Watcher` and the `LeaseHolder`, `node::core`'s right and next
//! move, and `fs_mirror`'s core for which write may be answered. Around it stands a small model of what a member does:
//! what it has applied, what it proposes and may never see committed, shipped and acknowledged writes. Everything is
//! asynchronous: whatever may happen may also not happen, so cut and slow links need no model of their own. Time is
//! abstract: a voter may declare a server once the leases it granted have run out, so declaring *ends* its grant.
//!
//! A fault is a crash, or a silence: a server that voters do not hear for longer than a lease.
//!
//! Checked in every state: no acknowledged write is missing on a member of the committed in-sync set, a server that serves
//! has them all, and never do two servers have the right to serve. From every n-th state: when all members return, one
//! server serves, with every acknowledged write; when one in-sync server and the witness return, that server does.

mod actions;
mod against_model;
pub mod command_line;
mod healing;
mod model;
mod observed;
mod search;
mod settled;
mod voter;
mod world;

#[cfg(test)]
mod tests;

pub use model::Bounds;
pub use search::{Case, Outcome, explore};
pub use world::Begin;

use consensus::state::AckMode;

use crate::planted::Bug;

/// Nothing goes wrong.
pub const CALM: Bounds = Bounds {
    writes: 1,
    faults: 0,
    crashes: 0,
    planned: 0,
    epochs: 3,
};
/// One server falls silent.
pub const SILENCE: Bounds = Bounds { faults: 1, ..CALM };
/// One crash, or one silence.
pub const FAULT: Bounds = Bounds {
    faults: 1,
    crashes: 1,
    ..CALM
};
/// Three faults of any kind.
pub const FAULTS: Bounds = Bounds {
    writes: 1,
    faults: 3,
    crashes: 3,
    planned: 0,
    epochs: 4,
};
/// A planned change and a fault.
pub const PLAN: Bounds = Bounds {
    planned: 1,
    ..FAULT
};

/// What is explored without a bug.
pub fn cases(states_max: usize) -> Vec<(&'static str, Case)> {
    let case = |ack, begin, bounds| Case {
        ack,
        begin,
        bounds,
        bug: None,
        states_max,
    };
    vec![
        (
            "in sync, one fault",
            case(AckMode::Disk, Begin::InSync, FAULT),
        ),
        ("alone, one fault", case(AckMode::Disk, Begin::Alone, FAULT)),
        (
            "in sync, three faults",
            case(AckMode::Disk, Begin::InSync, FAULTS),
        ),
        (
            "alone, three faults",
            case(AckMode::Disk, Begin::Alone, FAULTS),
        ),
        (
            "in sync, a planned change and a fault",
            case(AckMode::Disk, Begin::InSync, PLAN),
        ),
        (
            "on receipt, in sync, three faults",
            case(AckMode::Receipt, Begin::InSync, FAULTS),
        ),
        (
            "on receipt, alone, one fault",
            case(AckMode::Receipt, Begin::Alone, FAULT),
        ),
        (
            "on receipt, in sync, a planned change and a fault",
            case(AckMode::Receipt, Begin::InSync, PLAN),
        ),
    ]
}

/// Where a planted bug is looked for; none: it lives where the exploration does not reach.
pub fn case_for(bug: Bug, states_max: usize) -> Option<Case> {
    let (ack, begin, bounds) = match bug {
        Bug::EpochUnchecked | Bug::AdditionForgotten => (AckMode::Disk, Begin::Alone, CALM),
        Bug::AcknowledgeFirst => (AckMode::Disk, Begin::InSync, CALM),
        Bug::StalePromoted => (AckMode::Disk, Begin::Alone, SILENCE),
        Bug::AdditionForgottenOverRestart => (AckMode::Disk, Begin::Alone, FAULT),
        Bug::LeaseWhileDeclared
        | Bug::LeaseOnStaleRecord
        | Bug::LeaseFromReceipt
        | Bug::TakeoverBeforeGrace
        | Bug::DeclarationCountedTwice
        | Bug::FencedByRole => (AckMode::Disk, Begin::InSync, SILENCE),
        Bug::RoundsIgnored => (
            AckMode::Disk,
            Begin::InSync,
            Bounds {
                writes: 0,
                faults: 2,
                epochs: 1,
                ..SILENCE
            },
        ),
        Bug::RunUnannounced => (AckMode::Disk, Begin::InSync, PLAN),
        Bug::ReceiptTrusted => (
            AckMode::Receipt,
            Begin::InSync,
            Bounds {
                faults: 2,
                crashes: 1,
                ..FAULTS
            },
        ),
        Bug::PeerUnsynced => (AckMode::Receipt, Begin::InSync, PLAN),
        // The exploration has no lengths, and no disks that fail.
        Bug::LeaseLongerThanWaited
        | Bug::WholeCopyDropped
        | Bug::NumberReused
        | Bug::ClockInApply
        | Bug::VoteWithoutQuorum
        | Bug::CommitWithoutQuorum => return None,
    };
    Some(Case {
        ack,
        begin,
        bounds,
        bug: Some(bug),
        states_max,
    })
}

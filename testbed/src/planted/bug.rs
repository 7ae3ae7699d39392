//! Old and possible bugs that can be switched on, one at a time, to see whether the proof kit finds them.
//!
//! The product carries no switch: each bug is planted where a harness hands something to the product's code or takes
//! something from it (a command before it is applied, an answer before the lease counts it).

use std::collections::BTreeSet;

use clap::ValueEnum;
use consensus::state::{ClusterState, Command, Declaration, Incarnation, Round, ServerId};

/// A rule switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Bug {
    /// `apply` does not compare epochs.
    EpochUnchecked,
    /// The primary answers before the peer has the write.
    AcknowledgeFirst,
    /// `apply` promotes a copy that is not in sync.
    StalePromoted,
    /// The primary forgets that it may have proposed an addition.
    AdditionForgotten,
    /// The same, over a restart.
    AdditionForgottenOverRestart,
    /// A voter grants again although its withdrawal is not applied.
    LeaseWhileDeclared,
    /// A voter grants to a server that has not applied the loss of its role.
    LeaseOnStaleRecord,
    /// A lease is counted from the receipt of an answer, not from the sending of the heartbeat.
    LeaseFromReceipt,
    /// A voter declares a member as soon as a third of a lease has passed in silence.
    TakeoverBeforeGrace,
    /// A voter grants the lease of the profile where a module asked for a shorter one, for which alone it waits.
    LeaseLongerThanWaited,
    /// `apply` takes a declaration that was taken back.
    RoundsIgnored,
    /// `apply` counts one voter twice.
    DeclarationCountedTwice,
    /// A new run serves by the record of the former one, and voters grant it leases.
    RunUnannounced,
    /// A primary serves as long as it calls itself primary, however old the last word of a quorum is.
    FencedByRole,
    /// A member whose store was wiped comes back under its old number.
    NumberReused,
    /// `apply` takes a copy that only received for one on disk.
    ReceiptTrusted,
    /// A planned stop ends although the secondary, which the record counts, cannot be asked to sync.
    PeerUnsynced,
    /// A primary whose disk failed strikes off the other copy when its session ends.
    WholeCopyDropped,
    /// `apply` reads the clock of the machine it runs on.
    ClockInApply,
    /// A candidate leads the log with its own vote alone.
    VoteWithoutQuorum,
    /// A leader counts an entry as committed that is on its own disk alone.
    CommitWithoutQuorum,
}

impl Bug {
    /// As the command line calls it.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// The rule it breaks.
    pub fn rule(self) -> &'static str {
        match self {
            Self::EpochUnchecked | Self::ClockInApply => "R1",
            Self::VoteWithoutQuorum | Self::CommitWithoutQuorum => "Raft",
            Self::AcknowledgeFirst => "R3",
            Self::StalePromoted => "R5",
            Self::AdditionForgotten | Self::AdditionForgottenOverRestart => "R6",
            Self::LeaseWhileDeclared
            | Self::LeaseOnStaleRecord
            | Self::LeaseFromReceipt
            | Self::TakeoverBeforeGrace
            | Self::LeaseLongerThanWaited
            | Self::RoundsIgnored
            | Self::DeclarationCountedTwice
            | Self::RunUnannounced => "R7",
            Self::FencedByRole => "R8",
            Self::NumberReused => "R12",
            Self::ReceiptTrusted | Self::PeerUnsynced => "R16",
            Self::WholeCopyDropped => "R11",
        }
    }

    /// What goes wrong, in one line.
    pub fn about(self) -> &'static str {
        match self {
            Self::EpochUnchecked => "the epoch of a command is not compared",
            Self::AcknowledgeFirst => "acknowledges before the peer has the write",
            Self::StalePromoted => "promotes a copy that is not in sync",
            Self::AdditionForgotten => "forgets the open addition",
            Self::AdditionForgottenOverRestart => "forgets the open addition over a restart",
            Self::LeaseWhileDeclared => "grants a lease while its declaration stands",
            Self::LeaseOnStaleRecord => "grants a lease on a stale record",
            Self::LeaseFromReceipt => "counts a lease from the receipt of the answer",
            Self::TakeoverBeforeGrace => "declares before every lease has passed",
            Self::LeaseLongerThanWaited => "grants a longer lease than it waits for",
            Self::RoundsIgnored => "takes a declaration that was taken back",
            Self::DeclarationCountedTwice => "counts one voter's declaration twice",
            Self::RunUnannounced => "a new run acts before its start is committed",
            Self::FencedByRole => "fences on the role, not on the quorum's age",
            Self::NumberReused => "a wiped store comes back under its old number",
            Self::ReceiptTrusted => "takes received for written after a crash",
            Self::WholeCopyDropped => "strikes off the whole copy beside a failed disk",
            Self::PeerUnsynced => "stops without the secondary's sync",
            Self::ClockInApply => "applying an entry reads the clock",
            Self::VoteWithoutQuorum => "leads the log with its own vote alone",
            Self::CommitWithoutQuorum => "counts an entry on one disk as committed",
        }
    }

    /// Plants it into a command and the state it is about to meet. `local_unix_ms`: the clock of the machine.
    pub fn before_apply(
        self,
        command: &mut Command,
        at_unix_ms: &mut u64,
        state: &mut ClusterState,
        local_unix_ms: u64,
    ) {
        match (self, command) {
            (Self::ClockInApply, _) => *at_unix_ms = local_unix_ms,
            (
                Self::EpochUnchecked,
                Command::AddSecondary { module, epoch, .. }
                | Command::DropSecondary { module, epoch, .. }
                | Command::TakeOver { module, epoch, .. }
                | Command::StepDown { module, epoch, .. }
                | Command::Switchover { module, epoch, .. },
            ) => {
                if let Some(record) = state.modules.get(module) {
                    *epoch = record.epoch;
                }
            }
            (Self::RoundsIgnored, Command::Declare { .. }) => state.withdrawals.clear(),
            (
                Self::DeclarationCountedTwice,
                Command::Declare {
                    voter,
                    server,
                    incarnation,
                    ..
                },
            ) => declare_for_another(state, *voter, *server, *incarnation),
            _ => {}
        }
    }

    /// Plants it into the state after an entry.
    pub fn after_apply(self, state: &mut ClusterState) {
        if self == Self::ReceiptTrusted {
            let records = state.modules.values_mut();
            records.for_each(|record| record.received_only.clear());
        }
        if self == Self::StalePromoted {
            promote_whoever_lives(state);
        }
    }
}

/// The declaration of `voter` counts for another voter as well.
fn declare_for_another(
    state: &mut ClusterState,
    voter: ServerId,
    server: ServerId,
    incarnation: Incarnation,
) {
    let voters = state.voters();
    let mut others = voters.iter().rev();
    let Some(twin) = others.find(|other| **other != voter && **other != server) else {
        return;
    };
    let twice = Declaration {
        incarnation,
        round: Round {
            incarnation: Incarnation(0),
            number: 0,
        },
        evidence: String::new(),
    };
    let by_voter = state.declarations.entry(server).or_default();
    by_voter.insert(*twin, twice);
}

fn promote_whoever_lives(state: &mut ClusterState) {
    let is_down =
        |members: &std::collections::BTreeMap<ServerId, consensus::state::Member>,
         server: ServerId| { members.get(&server).is_none_or(|member| member.is_down) };
    for record in state.modules.values_mut() {
        let Some(primary) = record.primary.filter(|p| is_down(&state.members, *p)) else {
            continue;
        };
        let peer = record.peer_of(primary);
        let Some(peer) = peer.filter(|peer| !is_down(&state.members, *peer)) else {
            continue;
        };
        record.primary = Some(peer);
        record.in_sync = BTreeSet::from([peer]);
        record.epoch = record.epoch.next();
    }
}

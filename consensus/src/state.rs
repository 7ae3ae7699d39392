//! The cluster state: the one thing all members agree on.
//!
//! It owns who is a member, who counts as down, and the roles of every module. [`ClusterState::apply`] is the only
//! way it changes: a total, deterministic function of the log (R1). It reads no clock, does no I/O and cannot panic.
//! A command that is refused changes nothing.
//!
//! It never talks to anybody, and it never believes a server about another one alone: "down" is the opinion of a
//! majority of the voters (R7). The rules R1 to R18 are those of the design.

mod apply;
mod command;
mod directories;
mod events;
mod hearts;
mod ids;
mod members;
mod mirror;
mod rejection;
mod validate;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use command::{Accepted, Command, Proposal, REASON_MAX, StepDownReason};
pub use events::{EVENTS_MAX, EVIDENCE_MAX, Event, EventKind};
pub use ids::{
    Epoch, EventId, Incarnation, MemberName, ModuleName, NAME_LENGTH_MAX, NameError, PackageHash,
    PackageHashError, ServerId, Who,
};
pub use members::{
    ClusterInfo, Declaration, FORMER_VOTERS_MAX, FormerVoters, LANS_MAX, MEMBERS_MAX, Member,
    MemberKind, NewMember, Round, TOKENS_MAX, Token, VOTERS_MAX,
};
pub use mirror::{
    ADDRESSES_MAX, AckMode, DIRECTORIES_MAX, MODULES_MAX, MirrorRecord, Standing, VACANT, Wanted,
};
pub use rejection::{DirectoryProblem, Rejection, RunningConflict};
pub use validate::Violation;

/// Everything the members agree on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster's identity; none before the first entry.
    pub cluster: Option<ClusterInfo>,
    /// The members.
    pub members: BTreeMap<ServerId, Member>,
    /// The highest number given to a member so far.
    pub last_server: ServerId,
    /// Sets of voters that were replaced while modules were installed, oldest first, until no lease can rest on them.
    pub former_voters: Vec<FormerVoters>,
    /// Members that left; their numbers are never used again (R12).
    pub removed: BTreeSet<ServerId>,
    /// Join tokens, by the SHA-256 of their secret.
    pub tokens: BTreeMap<[u8; 32], Token>,
    /// The modules.
    pub modules: BTreeMap<ModuleName, MirrorRecord>,
    /// The highest epoch of any module that was uninstalled. New modules begin above it: a copy refuses older epochs
    /// for ever, also when a module of the same name comes back.
    pub epoch_floor: Epoch,
    /// Who is declared dead by whom.
    pub declarations: BTreeMap<ServerId, BTreeMap<ServerId, Declaration>>,
    /// For each member and voter the newest round that the voter took back.
    pub withdrawals: BTreeMap<ServerId, BTreeMap<ServerId, Round>>,
    /// For each member the index of the last entry that may have taken a role from it: its start, or the conclusion
    /// that it is down. It gets no lease before it has applied that entry (R7).
    pub role_change_index: BTreeMap<ServerId, u64>,
    /// For each member the shortest heart timeout that was ever asked of its present run, in milliseconds. Whoever takes
    /// over from it reckons with it: the former primary may have applied less, but never knew of a shorter one.
    pub shortest_hearts: BTreeMap<ServerId, u32>,
    /// What happened, oldest first.
    pub events: VecDeque<Event>,
    /// The number of the newest event.
    pub last_event: EventId,
}

impl ClusterState {
    /// Who votes: one, three or five members, servers first, in the order they joined; the others learn. An even number of
    /// voters would survive no more losses than the odd number below it. A pair without a witness therefore has one voter,
    /// its first server, and no group ever has two: it would be lost with either.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<ServerId> {
        let of_kind = |kind| {
            self.members
                .values()
                .filter(move |m| m.kind == kind)
                .map(|m| m.id)
        };
        let may_vote = of_kind(MemberKind::Server).chain(of_kind(MemberKind::Witness));
        let count = match self.members.len() {
            0..3 => 1,
            3..VOTERS_MAX => 3,
            _ => VOTERS_MAX,
        };
        may_vote.take(count).collect()
    }

    /// The sets of voters of which each must agree, by a majority of its own, that a server holds a lease, or that it is
    /// down: the present voters, and those that a lease may still rest on (`docs/design/2026-11-26-voters.md`).
    pub fn electorates(&self) -> impl Iterator<Item = BTreeSet<ServerId>> + '_ {
        let former = self
            .former_voters
            .iter()
            .map(|former| former.voters.clone());
        former.chain([self.voters()])
    }

    /// Everybody whose opinion on who is alive counts somewhere.
    #[must_use]
    pub fn all_voters(&self) -> BTreeSet<ServerId> {
        self.electorates().flatten().collect()
    }

    /// The cluster has applied the start of this run of `server`. Until then the run must not count on the record:
    /// its former self may have given roles away in entries it has not seen.
    #[must_use]
    pub fn knows_run(&self, server: ServerId, incarnation: Incarnation) -> bool {
        self.members
            .get(&server)
            .is_some_and(|m| m.incarnation == incarnation)
    }

    /// A member as sentences name it.
    #[must_use]
    pub fn who(&self, server: ServerId) -> Option<Who> {
        self.members.get(&server).map(Member::who)
    }

    /// The name of a member, for people; the number of who is none.
    #[must_use]
    pub fn name_of(&self, server: ServerId) -> String {
        self.members.get(&server).map_or_else(
            || format!("server {server}"),
            |member| member.name.to_string(),
        )
    }

    /// Whom `server` waits for in `module`: nobody leads there who counts as up, and `server` may not. Empty when it
    /// waits for nobody.
    #[must_use]
    pub fn waits_for(&self, module: &ModuleName, server: ServerId) -> BTreeSet<ServerId> {
        let Some(record) = self.modules.get(module) else {
            return BTreeSet::new();
        };
        let down = |s: ServerId| self.members.get(&s).is_none_or(|m| m.is_down);
        let is_led = record.primary.is_some_and(|p| !down(p));
        if is_led || record.in_sync.contains(&server) {
            BTreeSet::new()
        } else {
            record.in_sync.clone()
        }
    }
}

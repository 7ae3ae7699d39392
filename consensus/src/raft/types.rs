//! The types openraft is instantiated with.

use std::fmt;

use openraft::EmptyNode;
use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};

use crate::position::LogPosition;
use crate::state::{Accepted, Proposal, Rejection};

openraft::declare_raft_types!(
    /// One Raft group for the cluster. Addresses are not in the Raft configuration but in the cluster state, so that a server
    /// can be readdressed without a membership change.
    pub(crate) TypeConfig:
        D = Record,
        R = Outcome,
        NodeId = u64,
        Node = EmptyNode,
        // One leader per term: the advanced default allows several, and a reader of a log has to know that.
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;
/// A snapshot is the encoded cluster state: small enough to be handled whole.
pub(crate) type SnapshotData = Vec<u8>;
pub(crate) type Raft = openraft::Raft<TypeConfig, super::machine::Machine>;

/// An entry's place, in words of our own; `None` is before the first.
pub(crate) fn position_of(log_id: Option<LogId>) -> LogPosition {
    log_id.map_or_else(LogPosition::default, |log_id| LogPosition {
        term: log_id.leader_id.term,
        index: log_id.index,
    })
}

/// What a log entry carries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record(pub(crate) Proposal);

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What applying an entry answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome(pub(crate) Result<Accepted, Rejection>);

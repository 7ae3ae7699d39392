//! Who belongs to the cluster, how a new member gets in, and who is believed to be alive.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ids::{Incarnation, MemberName, ServerId, Who};

/// Most members a cluster can have.
pub const MEMBERS_MAX: usize = 64;
/// Most members that vote; the others follow the log without a vote.
pub const VOTERS_MAX: usize = 5;
/// Most sets of voters that wait to be forgotten; more changes have to wait too.
pub const FORMER_VOTERS_MAX: usize = 8;
/// Most addresses (LANs) of one member.
pub const LANS_MAX: usize = 8;
/// Most join tokens kept at a time; expired ones make room.
pub const TOKENS_MAX: usize = 256;

/// What a member is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberKind {
    /// Hosts modules and votes.
    Server,
    /// Votes only: the third opinion of a pair.
    Witness,
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            MemberKind::Server => "server",
            MemberKind::Witness => "witness",
        })
    }
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number, never reused.
    pub id: ServerId,
    /// Its name, unique in the cluster.
    pub name: MemberName,
    /// Server or witness.
    pub kind: MemberKind,
    /// Where it listens; the position is the number of the LAN.
    pub addresses: Vec<SocketAddr>,
    /// SHA-256 of the DER of its certificate: the only key it is known by.
    pub certificate: [u8; 32],
    /// The run of its daemon that is known to the cluster.
    pub incarnation: Incarnation,
    /// A majority of the voters has declared this run dead, and has not taken it back.
    pub is_down: bool,
}

impl Member {
    /// The member as sentences name it.
    #[must_use]
    pub fn who(&self) -> Who {
        Who {
            id: self.id,
            name: self.name.clone(),
        }
    }
}

/// A member as it introduces itself; its number is given by the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMember {
    /// The name it asks for.
    pub name: MemberName,
    /// Server or witness.
    pub kind: MemberKind,
    /// Where it listens; the position is the number of the LAN.
    pub addresses: Vec<SocketAddr>,
    /// SHA-256 of the DER of its certificate.
    pub certificate: [u8; 32],
    /// The run of its daemon.
    pub incarnation: Incarnation,
}

/// The cluster's own identity, set once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Random at creation: two clusters of one name stay two clusters.
    pub id: [u8; 16],
    /// What people call it.
    pub name: MemberName,
    /// SHA-256 of the DER of the cluster's certificate authority.
    pub ca_fingerprint: [u8; 32],
    /// Length of a lease in milliseconds (R7): that of the profile, which modules lower for their servers.
    pub lease_ms: u64,
}

/// A set of voters that was replaced, and still has a say in who is alive (see [`super::ClusterState::electorates`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerVoters {
    /// Who voted.
    pub voters: BTreeSet<ServerId>,
    /// Index of the entry that replaced them.
    pub replaced_at: u64,
}

/// A join token; only the SHA-256 of its secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// For a witness; otherwise for a server.
    pub witness: bool,
    /// Not valid from this second on.
    pub expires_at_unix_s: u64,
    /// The member that joined with it.
    pub used_by: Option<ServerId>,
}

/// Number of one opinion of a voter about a member. A withdrawal ends every declaration of its round and of earlier
/// ones, also those still on their way into the log: without it, a late declaration could count towards "down" while
/// its author, who took it back, grants leases again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Round {
    /// The run of the voter that holds the opinion.
    pub incarnation: Incarnation,
    /// Counts up within one run.
    pub number: u64,
}

/// A voter's statement that it has not heard a member for longer than any lease it granted can last (R7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    /// The run of the member that was not heard.
    pub incarnation: Incarnation,
    /// The opinion this is.
    pub round: Round,
    /// What the voter saw, as a sentence.
    pub evidence: String,
}

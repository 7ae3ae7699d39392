//! A heartbeat and its answer.

use crate::state::{Incarnation, ServerId};

use super::time::BootTime;

/// A sign of life, as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who sent it.
    pub from: ServerId,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// When it was sent, on the sender's clock: it orders the heartbeats of one run and is echoed in the answer.
    pub sent: BootTime,
    /// The last log index the sender has applied.
    pub applied: u64,
    /// The LAN it came over.
    pub lan: usize,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The sender may count this voter towards its lease.
    Grant {
        /// For so long after the sending of the heartbeat.
        lease_ns: u64,
    },
    /// It may not.
    NoGrant(NoGrant),
}

impl Verdict {
    /// How long after the sending of the heartbeat the sender may count this voter towards its lease; `None`: not at all.
    #[must_use]
    pub fn lease_ns(self) -> Option<u64> {
        match self {
            Self::Grant { lease_ns } => Some(lease_ns),
            Self::NoGrant(_) => None,
        }
    }
}

/// Why a heartbeat was answered without a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoGrant {
    /// This voter has not applied its own start: a declaration of its former run may still be on its way.
    OwnStartNotApplied,
    /// The sender is no member, as far as this voter has applied.
    NotMember,
    /// The sender's start is not committed, or not applied here.
    RunNotKnown,
    /// The sender's run is over: a newer one is known.
    RunOver,
    /// A newer heartbeat of the same run has arrived.
    Old,
    /// This voter has declared the sender, and has not applied its withdrawal.
    Declared,
    /// The sender has not applied the entry that may have taken a role from it.
    Behind,
}

//! What travels between members.

use std::sync::Arc;

use consensus::liveness::BootTime;
use consensus::state::{Epoch, Incarnation, Proposal};

use super::raft;

/// Position of a member; its number in the cluster is one more.
pub(super) type Place = usize;

/// Which connection a message travels on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// Heartbeats and their answers.
    Beats,
    /// Raft and proposals.
    Control,
    /// The stream of a module.
    Mirror,
}

#[derive(Debug, Clone)]
pub(super) enum Message {
    Beat(Beat),
    BeatAnswer {
        lan: usize,
        sent: BootTime,
        lease_ns: Option<u64>,
    },
    Raft(raft::Message),
    /// To whom it takes for the leader; it may be passed on once.
    Propose {
        id: u64,
        origin: Place,
        is_relayed: bool,
        proposal: Arc<Proposal>,
    },
    /// `is_decided`: committed and applied, or refused; otherwise the asked one does not lead and kept nothing.
    Answered {
        id: u64,
        is_decided: bool,
    },
    Mirror {
        module: usize,
        session: u64,
        mirror: Mirror,
    },
}

/// A heartbeat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beat {
    pub(super) incarnation: Incarnation,
    pub(super) sent: BootTime,
    pub(super) applied: u64,
    pub(super) lan: usize,
    /// Whom the sender hears, a bit per place.
    pub(super) hears: u8,
}

/// On the stream of a module.
#[derive(Debug, Clone)]
pub(super) enum Mirror {
    Hello {
        epoch: Epoch,
        is_identical: bool,
    },
    HelloAnswer {
        is_accepted: bool,
    },
    Frame {
        seq: u64,
        epoch: Epoch,
        payload: Payload,
    },
    /// Everything up to `seq` is where it must be.
    Ack {
        seq: u64,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Payload {
    Ping,
    Write(u32),
    /// A part of the tree as it stands at the primary.
    Part {
        part: u32,
        writes: Vec<u32>,
    },
    /// Everything before is to be on disk.
    Barrier,
}

impl Message {
    pub(super) fn channel(&self) -> Channel {
        match self {
            Self::Beat(_) | Self::BeatAnswer { .. } => Channel::Beats,
            Self::Raft(_) | Self::Propose { .. } | Self::Answered { .. } => Channel::Control,
            Self::Mirror { .. } => Channel::Mirror,
        }
    }
}

//! What can end, refuse or delay a session, as the primary tells the node.

use std::io;
use std::time::Duration;

use super::window::NotInFlight;
use crate::Epoch;
use crate::replication::link::LinkError;
use crate::replication::wire::{RefusalReason, WireError};

/// What the node has to know.
#[derive(Debug)]
pub enum ReplicatorEvent {
    /// A session is over. Told once per session. While the record names the peer, waiting requests go on waiting.
    SessionLost {
        /// The session.
        session: u64,
        /// Why.
        cause: LossCause,
    },
    /// Nothing is heard over the link: another may do better ([`super::Replicator::resume`]). Told once, until something is
    /// heard again.
    LinkQuiet {
        /// The session.
        session: u64,
    },
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum LossCause {
    /// Nothing was heard of the peer.
    #[error("the secondary was silent for {silent:?}")]
    Silent {
        /// For how long.
        silent: Duration,
    },
    /// The peer lives and does not apply.
    #[error("the secondary has not acknowledged change {seq} for {limit:?}")]
    TooSlow {
        /// The change.
        seq: u64,
        /// The limit.
        limit: Duration,
    },
    /// The peer could not apply a change: its copy leaves the in-sync set (R11).
    #[error("the secondary could not apply change {seq}: {}", io::Error::from_raw_os_error(*errno))]
    Refused {
        /// The change.
        seq: u64,
        /// Why, as in `errno(3)`.
        errno: i32,
    },
    /// The connection failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer acknowledged what it never got.
    #[error("the secondary broke the protocol")]
    Acknowledgement(#[from] NotInFlight),
    /// The peer lives in a later epoch: we are not primary any more.
    #[error("the secondary answers in epoch {theirs}, ours is {ours}")]
    NewerEpoch {
        /// Epoch of the frame.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// The file system could not name a change to the secondary.
    #[error("{0}")]
    Abandoned(&'static str),
    /// The peer would not go on over another link.
    #[error("the secondary did not take another link: {0}")]
    NotResumed(RefusalReason),
    /// The link was silent, and no other one could be used in its place.
    #[error(
        "the link to the secondary was silent, and the session could not go on over another one: {0}"
    )]
    NotMoved(String),
    /// We ended it.
    #[error("the primary ended the session")]
    Ended,
}

impl From<WireError> for LossCause {
    fn from(error: WireError) -> LossCause {
        LossCause::Link(error.into())
    }
}

/// Why a session did not begin.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Another one runs or is beginning.
    #[error("session {session} is still running")]
    Busy {
        /// Its number; 0 when it is only beginning.
        session: u64,
    },
    /// The session that should go on over another link is over.
    #[error("session {session} does not run")]
    NotRunning {
        /// Its number.
        session: u64,
    },
    /// The greeting's epoch is not ours.
    #[error("greeting of epoch {given}, the record is at {current}")]
    StaleEpoch {
        /// In the greeting.
        given: Epoch,
        /// Ours.
        current: Epoch,
    },
    /// Session numbers only grow.
    #[error("session {given} is not newer than {last}")]
    SessionNotNew {
        /// In the greeting.
        given: u64,
        /// The last one used.
        last: u64,
    },
    /// A session in sync was asked for and the copies may differ: attach with a resync.
    #[error("the copies may differ: the session must resynchronise")]
    Diverged,
    /// This server may not serve any more.
    #[error("this server is not primary any more")]
    Fenced,
    /// The peer said no.
    #[error("the secondary refused: {0}")]
    Refused(RefusalReason),
    /// The connection failed.
    #[error("greet the secondary")]
    Link(#[from] LinkError),
    /// The system gives no thread.
    #[error("start a thread for the session")]
    Thread(#[source] io::Error),
}

/// Why the addition of the peer must not be proposed, or a wait ended without success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitError {
    /// No session runs, or it ended meanwhile.
    #[error("no session with the secondary")]
    NoSession,
    /// Not everything was acknowledged in time.
    #[error("the secondary did not acknowledge everything within {waited:?}")]
    TimedOut {
        /// How long we waited.
        waited: Duration,
    },
}

/// The record is older than the one in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record of epoch {given}, in force is {current}")]
pub struct StaleRecord {
    /// Epoch of the record.
    pub given: Epoch,
    /// Epoch in force.
    pub current: Epoch,
}

/// Called with no lock held, from any thread; must not block.
pub type EventSink = Box<dyn Fn(ReplicatorEvent) + Send + Sync>;

//! Bringing a copy up to date while the application runs: the source's half, on the primary.
//!
//! `source` walks the tree, binds every object and compares block digests; its decisions are in the pure `core`. The
//! replication hands it what the secondary answers through [`Listener`].

mod core;
pub mod source;
pub(crate) mod target;

/// The unit of comparison, in bytes: every digest is of one block, the last block of a file may be shorter.
pub const BLOCK_BYTES: u64 = 128 * 1024;

use crate::replication::change::FileId;

/// What the replication tells the resync source about its session. Called from the receiving thread: never blocks.
pub trait Listener: Send + Sync + 'static {
    /// The secondary's block differs from the digest. Always told before the digest itself is acknowledged.
    fn need_block(&self, file: FileId, offset: u64, length: u32);

    /// The secondary has applied change number `seq` of the session (only needed for the numbers of `BlockDigest`,
    /// `Write` and `Barrier` that the source shipped; others are ignored).
    fn acknowledged(&self, seq: u64);

    /// The session is over; nothing more will be told.
    fn session_ended(&self);
}

/// What a resync is doing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Telling the secondary what there is: `bytes_total` still grows.
    #[default]
    Listing,
    /// Comparing, and sending what differs.
    Comparing,
    /// Waiting until the secondary has everything on its disk.
    Finishing,
    /// The copies are equal.
    Done,
}

/// How far a resync is. No number ever goes back.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Names the secondary was told.
    pub entries: u64,
    /// Bytes of all files found so far.
    pub bytes_total: u64,
    /// Bytes known to be equal: `bytes_done <= bytes_total`.
    pub bytes_done: u64,
    /// Bytes that differed and were sent.
    pub bytes_sent: u64,
}

//! What the file system asks of the replication: ship a change, then answer the request when every copy has it.

use super::change::Change;

/// Position of a shipped change in its session, or that nothing was shipped because no session is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ticket {
    /// No secondary is attached: local success is all there is.
    NotShipped,
    /// Shipped as number `seq` of session `session`.
    Shipped {
        /// The session.
        session: u64,
        /// Number in the session, from 1.
        seq: u64,
    },
}

/// How a request ends once replication has decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every copy that must have the change has it: answer success.
    Acknowledged,
    /// This server may not act as primary any more: answer EIO, never success.
    Fenced,
}

/// A request of the application that waits for the other copy.
pub trait Completion: Send + 'static {
    /// Answers the request. Called once, from any thread, with no lock of ours held.
    fn finish(self, verdict: Verdict);
}

/// The primary's door to replication. One implementation, `Replicator`; the trait lets `fs` be tested alone.
pub trait Shipping<C: Completion>: Send + Sync + 'static {
    /// The running session; 0 when none. An object is bound when it was bound in *this* session.
    fn session(&self) -> u64;

    /// The running session began with identical copies (the first session after a switchover, `Hello::in_sync`): there
    /// is no resync, and an object that is not bound yet must be bound with `Change::Bind` (its unbound ancestors first,
    /// under the namespace lock) before a change of it is shipped. False in a session that resynchronises: there, an
    /// unbound object ships nothing because the resync has yet to list it.
    fn binds_on_use(&self) -> bool;

    /// Lets one changing request in: waits until `bytes` more fit into what may be in flight
    /// (`IN_FLIGHT_BYTES_MAX`), or the session is gone. Called by every request that changes something, with no lock
    /// held and before anything is changed, whether a session runs or not: a primary that started with an in-sync peer
    /// holds requests here until its first session has begun or the record dropped the peer, so that a session that
    /// begins in sync really finds identical copies.
    fn reserve(&self, bytes: usize);

    /// Appends `change` to the order of `session`; `NotShipped` when that is not the running session (any more), so a
    /// `FileId` of one session never travels in another. Called with the lock that orders the change held; copies,
    /// never blocks. The objects it names must be bound in `session`.
    fn ship(&self, session: u64, change: &Change<'_>) -> Ticket;

    /// Ends `session`, if it still runs: the file system changed something that it cannot name to the secondary.
    fn abandon(&self, session: u64, reason: &'static str);

    /// Sends what was shipped and answers the request when every copy that must have the change has it: at once when
    /// the record names no other copy, else after the secondary's acknowledgement or a committed change of the record.
    /// Called once per request, after all locks are released. Several changes of one request: the last ticket.
    fn complete(&self, ticket: Ticket, completion: C);

    /// Sends what was shipped without a request to answer (resync, times, forget).
    fn flush(&self);
}

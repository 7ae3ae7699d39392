//! Which requests of the application may be answered: the decision of R3, R4 and R6, without a socket, clock or thread.
//!
//! Two independent facts decide: what the committed record says of the peer ([`Record`]) and which session runs.
//!
//! ```text
//!            | no session               | session, not in sync yet | session, in sync
//!   Alone    | answer now               | answer now (resync)      | answer now
//!   Proposed | wait for the record      | wait for the peer        | wait for the peer
//!   InSync   | wait for the record (R4) | wait for the peer        | wait for the peer
//! ```
//!
//! A change that the running session does not carry (it was made before the session, or its object was not bound yet) waits
//! for the record too, or until the session is in sync: then the peer has it by way of the resync.

use super::shipping::Ticket;

#[cfg(test)]
mod tests;

/// What the committed record says of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Record {
    /// It is not in the in-sync set: this copy alone makes a write acknowledged.
    Alone,
    /// Its addition may be committed unseen: both records are obeyed (R6).
    Proposed,
    /// It is in the in-sync set: nothing is acknowledged without it.
    InSync,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Session {
    id: u64,
    is_in_sync: bool,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session began; `in_sync`: with identical copies.
    Attached {
        /// Its number.
        session: u64,
        /// Nothing needs to be listed or hashed.
        in_sync: bool,
    },
    /// The peer of this session has everything that was ever changed here.
    Resynced {
        /// The session.
        session: u64,
    },
    /// The addition of the peer is about to be proposed.
    AdditionHeld,
    /// It was not proposed after all.
    AdditionAbandoned,
    /// A committed record was applied.
    RecordSet {
        /// Whether the peer is in its in-sync set, or an addition that may be committed unseen puts it there.
        counts_peer: bool,
    },
    /// The session is over.
    SessionLost {
        /// Its number.
        session: u64,
    },
    /// This server may never answer again.
    Fenced,
}

/// What the shell does about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Requests that wait for an acknowledgement of the session wait for the record from now on.
    Strand,
    /// Answer the requests that wait for the record.
    AnswerStranded,
    /// Answer every waiting request.
    AnswerAll,
    /// End every waiting request with an error.
    FenceAll,
}

/// When one request may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// At once.
    Now,
    /// When the peer has acknowledged its ticket.
    AfterAck,
    /// When the record no longer names the peer, or a session is in sync.
    AfterRecord,
    /// Never with success.
    Fenced,
}

/// The facts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Core {
    record: Record,
    session: Option<Session>,
    is_fenced: bool,
    /// Something was changed here, or a session ran, since this copy and the peer's were known to be identical.
    has_diverged: bool,
}

impl Core {
    /// A primary that has just been started from a record that names the peer, or does not.
    pub fn new(counts_peer: bool) -> Core {
        Core {
            record: record(counts_peer),
            session: None,
            is_fenced: false,
            has_diverged: !counts_peer,
        }
    }

    /// What the record says.
    pub fn record(&self) -> Record {
        self.record
    }

    /// Whether a session without resync may begin: the copies are still as the switchover left them.
    pub fn may_begin_in_sync(&self) -> bool {
        self.record == Record::InSync && !self.has_diverged
    }

    /// Whether changes must not begin yet: the peer is in the in-sync set and its first session, which may begin with
    /// identical copies, has not.
    pub fn holds_changes(&self) -> bool {
        !self.is_fenced && self.session.is_none() && self.may_begin_in_sync()
    }

    /// Whether requests wait for the peer at all.
    pub fn waits_for_peer(&self) -> bool {
        match self.record {
            Record::Alone => false,
            Record::Proposed | Record::InSync => true,
        }
    }

    /// Whether the record counts on a copy of the peer that may lack on its disk what it confirmed: it cannot be asked to
    /// sync, and died perhaps.
    pub fn counts_on_memory_of_peer(&self) -> bool {
        self.waits_for_peer() && self.session.is_none() && self.has_diverged
    }

    /// Whether this server may never answer again.
    pub fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    /// A change was made while no session ran.
    pub fn on_unshipped(&mut self) {
        self.has_diverged = true;
    }

    /// When the request with this ticket may be answered.
    pub fn answer(&self, ticket: Ticket) -> Answer {
        if self.is_fenced {
            return Answer::Fenced;
        }
        if !self.waits_for_peer() {
            return Answer::Now;
        }
        match (self.session, ticket) {
            (Some(running), Ticket::Shipped { session, .. }) if running.id == session => {
                Answer::AfterAck
            }
            (Some(running), Ticket::Shipped { .. } | Ticket::NotShipped) if running.is_in_sync => {
                Answer::Now
            }
            (Some(_) | None, Ticket::Shipped { .. } | Ticket::NotShipped) => Answer::AfterRecord,
        }
    }

    /// Takes note of what happened and says what follows for the requests that wait.
    pub fn on(&mut self, event: Event) -> Option<Action> {
        if self.is_fenced {
            return None;
        }
        match event {
            Event::Attached { session, in_sync } => {
                assert!(
                    self.session.is_none(),
                    "session {session} while another runs"
                );
                assert!(
                    !in_sync || self.may_begin_in_sync(),
                    "session {session} cannot begin in sync"
                );
                self.session = Some(Session {
                    id: session,
                    is_in_sync: in_sync,
                });
                self.has_diverged = true;
                None
            }
            Event::Resynced { session } => self.mark_in_sync(Some(session)),
            Event::AdditionHeld => {
                if self.record == Record::Alone {
                    self.record = Record::Proposed;
                }
                self.mark_in_sync(None)
            }
            Event::AdditionAbandoned => match self.record {
                Record::Proposed => self.set_record(Record::Alone),
                Record::Alone | Record::InSync => None,
            },
            Event::RecordSet { counts_peer } => self.set_record(record(counts_peer)),
            Event::SessionLost { session } => {
                if self.session.is_none_or(|running| running.id != session) {
                    return None;
                }
                self.session = None;
                Some(Action::Strand)
            }
            Event::Fenced => {
                self.is_fenced = true;
                Some(Action::FenceAll)
            }
        }
    }

    fn set_record(&mut self, record: Record) -> Option<Action> {
        self.record = record;
        match record {
            Record::Alone => Some(Action::AnswerAll),
            Record::Proposed | Record::InSync => None,
        }
    }

    fn mark_in_sync(&mut self, session: Option<u64>) -> Option<Action> {
        let running = self.session.as_mut()?;
        if session.is_some_and(|session| session != running.id) {
            return None;
        }
        running.is_in_sync = true;
        Some(Action::AnswerStranded)
    }
}

fn record(counts_peer: bool) -> Record {
    if counts_peer {
        Record::InSync
    } else {
        Record::Alone
    }
}

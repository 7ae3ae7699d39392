//! What a member has proposed and not heard of: asked again until it is decided, or its time is up.

use std::sync::Arc;

use consensus::liveness::BootTime;
use consensus::state::{Command, Proposal, ServerId};

use super::clock::{MS, SECOND};
use super::message::Place;

/// An attempt without an answer is made again after this time.
const RETRY_NS: u64 = SECOND;
/// After a member said that it does not lead.
const PAUSE_NS: u64 = 10 * MS;

/// Who waits for it: one proposal each at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Start,
    Opinion(ServerId),
    /// Of the agent of a module.
    Agent(usize),
    /// Of the partnership of a module.
    Partner(usize),
    Operator,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) purpose: Purpose,
    pub(super) proposal: Arc<Proposal>,
    deadline: BootTime,
    tried: Option<(Place, BootTime)>,
    not_before: BootTime,
}

#[derive(Debug)]
pub(super) struct Proposals {
    next_id: u64,
    pending: Vec<Pending>,
}

impl Proposals {
    pub(super) fn new(first_id: u64) -> Self {
        Self {
            next_id: first_id,
            pending: Vec::new(),
        }
    }

    pub(super) fn is_pending(&self, purpose: Purpose) -> bool {
        self.pending
            .iter()
            .any(|pending| pending.purpose == purpose)
    }

    /// False when one for this purpose is under way.
    pub(super) fn begin(
        &mut self,
        purpose: Purpose,
        proposal: Proposal,
        deadline: BootTime,
    ) -> bool {
        if self.is_pending(purpose) {
            return false;
        }
        self.next_id += 1;
        self.pending.push(Pending {
            id: self.next_id,
            purpose,
            proposal: Arc::new(proposal),
            deadline,
            tried: None,
            not_before: BootTime(0),
        });
        true
    }

    pub(super) fn on_answer(&mut self, id: u64, is_decided: bool, now: BootTime) {
        if is_decided {
            self.pending.retain(|pending| pending.id != id);
        } else if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == id) {
            pending.tried = None;
            pending.not_before = now.plus_ns(PAUSE_NS);
        }
    }

    /// What to ask `leader` now.
    pub(super) fn due(
        &mut self,
        leader: Option<Place>,
        now: BootTime,
    ) -> Vec<(u64, Arc<Proposal>)> {
        self.pending.retain(|pending| now < pending.deadline);
        let Some(leader) = leader else {
            return Vec::new();
        };
        let mut due = Vec::new();
        for pending in &mut self.pending {
            let is_tried = pending
                .tried
                .is_some_and(|(asked, at)| asked == leader && now.ns_since(at) < RETRY_NS);
            if !is_tried && now >= pending.not_before {
                pending.tried = Some((leader, now));
                due.push((pending.id, Arc::clone(&pending.proposal)));
            }
        }
        due
    }
}

/// A proposal of `author`.
pub(super) fn proposal(
    command: Command,
    author: ServerId,
    evidence: &str,
    at_unix_ms: u64,
) -> Proposal {
    Proposal {
        command,
        author: format!("server {author}"),
        evidence: evidence.to_owned(),
        at_unix_ms,
    }
}

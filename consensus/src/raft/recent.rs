//! What was accepted a moment ago, so that whoever lost an answer and asks again is told.
//!
//! Every member applies every entry, so any leader may be asked. The memory is this member's own and never part of the state:
//! it answers callers and decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::state::{Accepted, Proposal};

/// Proposals remembered. A caller asks again within seconds.
const PROPOSALS_MAX: usize = 1024;

/// What was accepted lately. A cheap clone of one memory.
#[derive(Clone, Default)]
pub(crate) struct Recent {
    memory: Arc<Mutex<Memory>>,
}

/// All that was accepted after entry `complete_after`, oldest first.
#[derive(Default)]
struct Memory {
    complete_after: u64,
    accepted: VecDeque<(u64, Proposal, Accepted)>,
}

impl Memory {
    fn find_since(&self, index: u64, proposal: &Proposal) -> Option<(u64, Accepted)> {
        let since = self.accepted.iter().rev();
        let found = since
            .take_while(|(at, ..)| *at > index)
            .find(|(_, known, _)| known == proposal);
        found.map(|(at, _, accepted)| (*at, *accepted))
    }
}

/// What is known of a proposal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was accepted.
    Accepted(Accepted),
    /// It was not accepted after the entry that was asked about.
    NotAccepted,
    /// The memory does not reach back that far.
    Forgotten,
}

impl Recent {
    /// `proposal`, in the entry at `index`, was accepted.
    pub(crate) fn note(&self, index: u64, proposal: &Proposal, accepted: Accepted) {
        let mut memory = self.memory.lock();
        memory
            .accepted
            .push_back((index, proposal.clone(), accepted));
        if memory.accepted.len() > PROPOSALS_MAX
            && let Some((index, ..)) = memory.accepted.pop_front()
        {
            memory.complete_after = index;
        }
    }

    /// The state came as a whole, as it was after the entry at `index`: what was accepted before is not known.
    pub(crate) fn begin_after(&self, index: u64) {
        *self.memory.lock() = Memory {
            complete_after: index,
            accepted: VecDeque::new(),
        };
    }

    /// The entry in which a proposal was accepted that was first made when the entry at `index` was the newest its author knew.
    pub(crate) fn entry_since(&self, index: u64, proposal: &Proposal) -> Option<u64> {
        let memory = self.memory.lock();
        memory.find_since(index, proposal).map(|(entry, _)| entry)
    }

    /// What became of a proposal that was first made when the entry at `index` was the newest its author knew.
    pub(crate) fn since(&self, index: u64, proposal: &Proposal) -> Known {
        let memory = self.memory.lock();
        match memory.find_since(index, proposal) {
            Some((_, accepted)) => Known::Accepted(accepted),
            None if memory.complete_after <= index => Known::NotAccepted,
            None => Known::Forgotten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, ModuleName, ServerId};

    fn proposal(at_unix_ms: u64) -> Proposal {
        let name: ModuleName = "pg".parse().unwrap();
        Proposal {
            command: Command::UninstallModule { name },
            author: "ann".into(),
            evidence: String::new(),
            at_unix_ms,
        }
    }

    #[test]
    fn what_was_accepted_is_known_until_too_much_follows() {
        let recent = Recent::default();
        let added = Accepted::MemberAdded(ServerId(4));
        recent.note(7, &proposal(1), added);
        assert_eq!(recent.since(3, &proposal(1)), Known::Accepted(added));
        assert_eq!(
            recent.since(7, &proposal(1)),
            Known::NotAccepted,
            "the same words, said before"
        );
        assert_eq!(recent.since(0, &proposal(2)), Known::NotAccepted);
        for index in 0..PROPOSALS_MAX as u64 {
            recent.note(8 + index, &proposal(100 + index), Accepted::Done);
        }
        assert_eq!(recent.since(3, &proposal(1)), Known::Forgotten);
        assert_eq!(recent.since(7, &proposal(1)), Known::NotAccepted);
    }

    #[test]
    fn a_state_that_came_as_a_whole_hides_what_led_to_it() {
        let recent = Recent::default();
        recent.note(7, &proposal(1), Accepted::Done);
        recent.begin_after(20);
        assert_eq!(recent.since(3, &proposal(1)), Known::Forgotten);
        assert_eq!(recent.since(20, &proposal(1)), Known::NotAccepted);
    }
}

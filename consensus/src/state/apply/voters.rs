//! What a change of the voters means for leases and declarations (R7; `docs/design/2026-11-26-voters.md`).

use std::collections::BTreeSet;

use super::super::ClusterState;
use super::super::command::Accepted;
use super::super::ids::ServerId;
use super::super::members::{FORMER_VOTERS_MAX, FormerVoters};
use super::super::rejection::Rejection;
use super::Entry;

impl ClusterState {
    /// There is room for one more change of the voters.
    pub(super) fn check_voters_may_change(&self) -> Result<(), Rejection> {
        if self.former_voters.len() < FORMER_VOTERS_MAX {
            Ok(())
        } else {
            Err(Rejection::VotersChanging)
        }
    }

    /// To be called after a member came or went, with who voted before.
    ///
    /// A server that has not applied this entry may hold a lease by the former voters. As long as one may, they keep their
    /// say; and whoever has applied this entry grants nothing to whoever has not.
    pub(super) fn on_voters_changed(&mut self, entry: Entry<'_>, before: BTreeSet<ServerId>) {
        // Without a module nobody has a role that a lease protects.
        if before == self.voters() || before.is_empty() || self.modules.is_empty() {
            return;
        }
        self.former_voters.push(FormerVoters {
            voters: before,
            replaced_at: entry.index,
        });
        for server in self.members.keys() {
            self.role_change_index.insert(*server, entry.index);
        }
    }

    pub(super) fn settle_voters(&mut self, entry: Entry<'_>, replaced_at: u64) -> Accepted {
        let before = self.former_voters.len();
        self.former_voters
            .retain(|former| former.replaced_at > replaced_at);
        if self.former_voters.len() == before {
            return Accepted::Unchanged;
        }
        self.conclude(entry, None);
        Accepted::Done
    }
}

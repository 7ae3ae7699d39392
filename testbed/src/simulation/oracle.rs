//! What must hold at every moment, checked by one who sees everything at once.

use consensus::state::{
    ClusterState, EventId, EventKind, MirrorRecord, ModuleName, Proposal, Violation,
};

use super::copy::Writes;
use super::member::Member;
use super::raft::{Entry, majority};
use crate::planted::Bug;

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// P1.
    #[error("P1: the acknowledged write {write} of {module} is missing {place}")]
    WriteLost {
        /// The module.
        module: String,
        /// The write.
        write: u32,
        /// Where.
        place: String,
    },
    /// P2.
    #[error("P2: two servers have {what} of {module} at once")]
    Two {
        /// The right to serve, or the virtual address.
        what: &'static str,
        /// The module.
        module: String,
    },
    /// P4.
    #[error("P4: {module} is led by {primary}, whose copy was not in sync")]
    StalePromoted {
        /// The module.
        module: String,
        /// Who leads.
        primary: String,
    },
    /// R11.
    #[error(
        "R11: {primary}, whose disk failed, strikes off the other copy of {module}, which counts"
    )]
    WholeCopyStruckOff {
        /// The module.
        module: String,
        /// Who leads.
        primary: String,
    },
    /// P5.
    #[error("P5: {what} {seconds} s after the last fault: {situation}")]
    NotServed {
        /// What is missing.
        what: &'static str,
        /// Virtual seconds.
        seconds: u64,
        /// Roles and what runs where.
        situation: String,
    },
    /// P10.
    #[error(
        "P10: the role change of {module} at epoch {epoch} has no cause that explains it: {why}"
    )]
    NoCause {
        /// The module.
        module: String,
        /// The epoch.
        epoch: u64,
        /// What is missing.
        why: &'static str,
    },
    /// An entry is counted as committed without a quorum.
    #[error("entry {index} is counted as committed, and on the disks of {holders} members only")]
    NotOnQuorum {
        /// Its index.
        index: usize,
        /// Members that have it on disk.
        holders: usize,
    },
    /// A committed entry is another one later, or elsewhere.
    #[error("the committed entry {index} is not the same everywhere")]
    LogDiffers {
        /// Its index.
        index: usize,
    },
    /// Two members made different states of the same entries.
    #[error("{member} has another state than the others after entry {index}")]
    StateDiffers {
        /// The member.
        member: &'static str,
        /// The entry.
        index: usize,
    },
    /// A state that cannot be.
    #[error("after entry {index}: {violation}")]
    Invalid {
        /// The entry.
        index: usize,
        /// What is wrong.
        violation: Violation,
    },
}

/// What is true, whoever knows it already.
#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) truth: ClusterState,
    log: Vec<Entry>,
    /// Entries counted as committed since somebody looked.
    fresh: Vec<usize>,
    digests: Vec<u64>,
    pub(super) modules: Vec<Data>,
    pub(super) broken: Option<Broken>,
    pub(super) failovers: u64,
    pub(super) role_changes: u64,
}

/// The writes of one module.
#[derive(Debug, Default)]
pub(super) struct Data {
    next: u32,
    pub(super) acknowledged: Writes,
}

impl Oracle {
    pub(super) fn new(truth: ClusterState, log: Vec<Entry>, modules: usize) -> Self {
        Self {
            // The entries of the beginning were applied in one go: only what follows is compared.
            digests: vec![0; log.len()],
            truth,
            log,
            fresh: Vec::new(),
            modules: (0..modules).map(|_| Data::default()).collect(),
            broken: None,
            failovers: 0,
            role_changes: 0,
        }
    }

    pub(super) fn next_write(&mut self, module: usize) -> u32 {
        let data = &mut self.modules[module];
        data.next += 1;
        data.next - 1
    }

    pub(super) fn report(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// A member counts the entry at `index` as committed. True when nobody did before.
    pub(super) fn on_committed(&mut self, index: usize, entry: &Entry, bug: Option<Bug>) -> bool {
        if let Some(known) = self.log.get(index - 1) {
            if !known.is_same(entry) {
                self.report(Broken::LogDiffers { index });
            }
            return false;
        }
        self.log.push(entry.clone());
        self.fresh.push(index);
        if let Some(proposal) = &entry.proposal {
            let before = self.truth.modules.clone();
            let last_event = self.truth.last_event;
            planted_apply(&mut self.truth, index, proposal, bug, 0);
            if let Err(violation) = self.truth.validate() {
                self.report(Broken::Invalid { index, violation });
            }
            self.count_events(last_event);
            for (name, earlier) in &before {
                self.check_roles(name, earlier);
            }
        }
        self.digests.push(digest(&self.truth));
        true
    }

    /// What was counted as committed since the last call has to be on the disks of a quorum. A disk that was lost
    /// since had it, or not.
    pub(super) fn check_quorum(&mut self, members: &[Member]) {
        for index in std::mem::take(&mut self.fresh) {
            let entry = &self.log[index - 1];
            let has_it = |member: &&Member| {
                member.durable.holds(index, entry) || member.lost.holds(index, entry)
            };
            let holders = members.iter().filter(has_it).count();
            if holders < majority(members.len()) {
                self.report(Broken::NotOnQuorum { index, holders });
            }
        }
    }

    /// The state of `member` after the entry at `index`.
    pub(super) fn check_applied(&mut self, member: &'static str, index: usize, digest: u64) {
        let expected = self.digests.get(index - 1).copied();
        if expected.is_some_and(|expected| expected != 0 && expected != digest) {
            self.report(Broken::StateDiffers { member, index });
        }
    }

    fn count_events(&mut self, since: EventId) {
        for event in self.truth.events.iter().filter(|event| event.id > since) {
            if matches!(
                event.kind,
                EventKind::FailedOver { .. } | EventKind::HandedOver { .. }
            ) {
                self.failovers += 1;
            }
        }
    }

    fn check_roles(&mut self, name: &ModuleName, earlier: &MirrorRecord) {
        let Some(record) = self.truth.modules.get(name) else {
            return;
        };
        if (record.primary, &record.in_sync) == (earlier.primary, &earlier.in_sync) {
            return;
        }
        self.role_changes += 1;
        let module = name.to_string();
        if let Some(primary) = record.primary
            && !earlier.in_sync.contains(&primary)
        {
            let primary = primary.to_string();
            self.report(Broken::StalePromoted { module, primary });
            return;
        }
        if let Err(why) = explained(&self.truth, record) {
            let epoch = record.epoch.0;
            self.report(Broken::NoCause { module, epoch, why });
        }
    }
}

/// The chain of causes of the last role change ends with somebody who saw or wanted something.
fn explained(state: &ClusterState, record: &MirrorRecord) -> Result<(), &'static str> {
    let event = |id: EventId| state.events.iter().rev().find(|event| event.id == id);
    let Some(mut at) = event(record.last_cause) else {
        return Err("its event is gone");
    };
    if at.epoch != Some(record.epoch) {
        return Err("its event is of another epoch");
    }
    while let Some(cause) = at.cause {
        match event(cause) {
            Some(cause) if cause.id < at.id => at = cause,
            Some(_) => return Err("a cause is younger than what it caused"),
            None => return Err("a cause is gone"),
        }
    }
    if at.author.is_empty() || at.evidence.is_empty() {
        return Err("nobody says what was seen");
    }
    Ok(())
}

/// Applies as a member does, with the planted bug at its place.
pub(super) fn planted_apply(
    state: &mut ClusterState,
    index: usize,
    proposal: &Proposal,
    bug: Option<Bug>,
    local_unix_ms: u64,
) {
    let Some(bug) = bug else {
        // Refused commands change nothing; their authors look at the state.
        let _ = state.apply(index as u64, proposal);
        return;
    };
    let mut planted = proposal.clone();
    bug.before_apply(
        &mut planted.command,
        &mut planted.at_unix_ms,
        state,
        local_unix_ms,
    );
    let _ = state.apply(index as u64, &planted);
    bug.after_apply(state);
}

/// What two equal states have in common; events only grow, so the newest stands for all.
pub(super) fn digest(state: &ClusterState) -> u64 {
    let facts = (
        &state.members,
        &state.modules,
        &state.declarations,
        &state.withdrawals,
        &state.role_change_index,
        state.events.back(),
    );
    let bytes = postcard::to_stdvec(&facts).unwrap_or_default();
    let mix =
        |digest: u64, byte: &u8| (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

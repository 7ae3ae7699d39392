//! What is known against the copy of this server, and what follows from it (R11, R16).

use consensus::state::{Command, MirrorRecord, StepDownReason};
use tokio::time::Instant;

use super::{Agent, Local, STEP_RETRY};
use crate::core::failed_copy::{Failures, is_compared_first, is_shared};

impl Agent {
    /// A copy that is whole again has nothing of its own any more.
    pub(super) fn end_setting_aside(&self, record: Option<&MirrorRecord>) {
        let me = self.member.id();
        if let Local::Following(secondary) = &self.local
            && record.is_some_and(|record| record.in_sync.contains(&me))
        {
            secondary.set_whole();
            self.copy_trouble.clear();
            // Not by a force: that trusts what there is.
            if record.is_some_and(|record| is_shared(record, me) && record.primary != Some(me)) {
                self.installed.copy.set_whole();
            }
        }
    }

    /// Whether this copy may be acknowledged for on receipt (R16), and whether what it lacks is still asked for.
    pub(super) fn tell_what_counts(&self, record: Option<&MirrorRecord>) {
        let me = self.member.id();
        if let Local::Following(secondary) = &self.local {
            let through = record.and_then(|record| record.acknowledges_on_receipt(me));
            secondary.acknowledge_on_receipt(through.map(|epoch| fs_mirror::Epoch(epoch.0)));
        }
        // There is no better copy. A bad disk stays one while it leads alone, and leads no longer than that.
        if record.is_none_or(|record| !is_shared(record, me) && !is_compared_first(record, me)) {
            self.copy_trouble.forget_failure();
            self.installed.copy.go_on_alone();
        }
    }

    /// A copy whose disk failed leaves the set (R11): its primary strikes it off when the stream ends. One that is being written anew
    /// begins again.
    pub(super) fn end_failed_session(&self, record: Option<&MirrorRecord>) {
        let me = self.member.id();
        let (Local::Following(secondary), Some(record)) = (&self.local, record) else {
            return;
        };
        let has_failed = if record.in_sync.contains(&me) {
            is_shared(record, me) && record.primary != Some(me) && self.failures().disk.is_some()
        } else {
            self.disk_failure.is_noted()
        };
        if has_failed {
            secondary.end_session();
        }
    }

    /// Everything of this copy is compared from now on, and what the sessions before had to tell is told. A failure of this one ends it.
    pub(super) fn forget_failures(&self) {
        self.disk_failure.forget();
        self.copy_trouble.forget_failure();
    }

    pub(super) fn failures(&self) -> Failures {
        Failures {
            disk: self.disk_failure.text().or_else(|| {
                let is_doubted = self.installed.copy.is_doubted();
                is_doubted.then(|| "an earlier write or sync failed".to_owned())
            }),
            not_applied: self.copy_trouble.failure(),
        }
    }

    /// Why the copy of this server, which the record names primary, cannot be trusted any more, when another copy counts (R11).
    pub(super) fn against_leading(&self, record: Option<&MirrorRecord>) -> Option<String> {
        let me = self.member.id();
        let record = record.filter(|record| record.primary == Some(me))?;
        self.failures().against_leading(record, me)
    }

    /// A failed write or sync is never retried into health: everything ends here, and another copy that counts leads, once its server
    /// is there. Until that is committed nothing is mounted here again.
    pub(super) async fn leave_failed_disk(
        &mut self,
        record: Option<&MirrorRecord>,
        failure: &str,
    ) -> bool {
        let Some(epoch) = record.map(|record| record.epoch) else {
            return false;
        };
        let left = match &self.local {
            Local::Following(_) => self.stop_following().await,
            Local::Leading(_) | Local::Nothing => self.fence().await,
        };
        if let Err(error) = left {
            tracing::error!(module = %self.module, error = format!("{error:#}"), "leaving the copy after a disk failure");
        }
        let command = Command::StepDown {
            module: self.module.clone(),
            epoch,
            server: self.member.id(),
            reason: StepDownReason::DiskFailed,
        };
        if let Err(error) = self.propose(command, failure).await {
            tracing::error!(module = %self.module, error = format!("{error:#}"), "not stepped down yet");
            self.not_before = Instant::now() + STEP_RETRY;
            return false;
        }
        true
    }
}

//! What the agent has put on record: that the role is given to another, taken, or given up.

use consensus::state::{Command, Epoch, MirrorRecord, ServerId, StepDownReason};
use tokio::time::Instant;

use super::{Agent, Local, PROPOSAL_DEADLINE, STEP_RETRY};

impl Agent {
    pub(super) async fn propose_hand_over(
        &mut self,
        epoch: Epoch,
        to: Option<ServerId>,
    ) -> anyhow::Result<()> {
        let command = match to.filter(|_| self.unclean_at != Some(epoch)) {
            Some(to) => Command::Switchover {
                module: self.module.clone(),
                epoch,
                from: self.member.id(),
                to,
            },
            None => Command::StepDown {
                module: self.module.clone(),
                epoch,
                server: self.member.id(),
                reason: if self.gave_up {
                    StepDownReason::ApplicationFailed
                } else {
                    StepDownReason::Stopped
                },
            },
        };
        self.propose(command, "application stopped, drained, unmounted")
            .await?;
        self.gave_up = false;
        Ok(())
    }

    pub(super) async fn propose_take_over(&mut self, record: &MirrorRecord) -> bool {
        let command = Command::TakeOver {
            module: self.module.clone(),
            epoch: record.epoch,
            server: self.member.id(),
        };
        match self
            .propose(command, "started, in sync, and there is no primary")
            .await
        {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(module = %self.module, error = format!("{error:#}"), "not the new primary");
                self.not_before = Instant::now() + STEP_RETRY;
                false
            }
        }
    }

    /// Commits, then waits until this server has applied it: the next look must not see the old record.
    async fn propose(&self, command: Command, evidence: &str) -> anyhow::Result<()> {
        let mut applied = self.member.consensus.watch();
        let epoch = self.record().map(|record| record.epoch);
        let proposal = self.member.proposal(command, evidence);
        self.member
            .consensus
            .propose(proposal, PROPOSAL_DEADLINE)
            .await?;
        let moved = applied.wait_for(|applied| {
            applied
                .state
                .modules
                .get(&self.module)
                .map(|record| record.epoch)
                != epoch
        });
        tokio::time::timeout(PROPOSAL_DEADLINE, moved).await??;
        Ok(())
    }

    /// Why this primary's own copy cannot be trusted any more, when another copy can take over (R11).
    pub(super) fn disk_failure(&mut self, record: Option<&MirrorRecord>) -> Option<String> {
        if let Local::Leading(leading) = &self.local
            && let Some(failure) = leading.disk_failure()
        {
            self.failed_disk = Some(failure);
        }
        let me = self.member.id();
        record.filter(|record| record.primary == Some(me) && record.in_sync.len() > 1)?;
        self.failed_disk.clone()
    }

    /// A failed write or sync is never retried into health: everything ends here, and the in-sync secondary leads. Until
    /// that is committed nothing is mounted here again.
    pub(super) async fn leave_failed_disk(
        &mut self,
        record: Option<&MirrorRecord>,
        failure: &str,
    ) -> bool {
        let Some(epoch) = record.map(|record| record.epoch) else {
            return false;
        };
        if let Err(error) = self.fence().await {
            tracing::error!(module = %self.module, error = format!("{error:#}"), "fencing after a disk failure");
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

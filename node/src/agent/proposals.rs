//! What the agent has put on record: that the role is given to another, taken, or given up.

use std::sync::Arc;

use consensus::state::{Command, Epoch, MirrorRecord, ServerId, StepDownReason};
use fs_mirror::DrainError;
use tokio::time::Instant;

use super::{Agent, PROPOSAL_DEADLINE, STEP_RETRY, blocking};
use crate::core::hand_over::{Ending, HandOver, hand_over};

impl Agent {
    pub(super) async fn propose_hand_over(
        &mut self,
        epoch: Epoch,
        to: Option<ServerId>,
    ) -> anyhow::Result<()> {
        let Some(record) = self.record_to_end(epoch).await? else {
            return Ok(());
        };
        // Noted since the last look, which would not have come here: the next one leaves this copy.
        if self.against_leading(Some(&record)).is_some() {
            return Ok(());
        }
        let (module, me) = (self.module.clone(), self.member.id());
        let command = match hand_over(&record, me, to, self.ending(epoch)) {
            HandOver::Drop { secondary } => return self.propose_drop(&record, secondary).await,
            HandOver::SwitchOver { to } => Command::Switchover {
                module,
                epoch,
                from: me,
                to,
            },
            HandOver::StepDown => Command::StepDown {
                module,
                epoch,
                server: me,
                reason: if self.gave_up {
                    StepDownReason::ApplicationFailed
                } else {
                    StepDownReason::Stopped
                },
            },
        };
        let evidence = if self.ending(epoch) == Ending::default() {
            "nothing of the module runs here any more"
        } else {
            "application stopped, drained, unmounted"
        };
        self.propose(command, evidence).await?;
        self.gave_up = false;
        Ok(())
    }

    /// How the last tenure at this epoch ended.
    pub(super) fn ending(&self, epoch: Epoch) -> Ending {
        let ended = self.ended.filter(|(at, _)| *at == epoch);
        ended.map(|(_, ending)| ending).unwrap_or_default()
    }

    /// The record that is about to end; `None` when it has ended already. The secondary may have acknowledged by one that this server
    /// has not applied, in a mode that has just begun (R16): unless the copies are known to be the same, a majority is asked.
    async fn record_to_end(&self, epoch: Epoch) -> anyhow::Result<Option<MirrorRecord>> {
        let Some(record) = self.record().filter(|record| record.epoch == epoch) else {
            return Ok(None);
        };
        if self.ending(epoch).is_confirmed || record.in_sync.len() < 2 {
            return Ok(Some(record));
        }
        let state = self.member.consensus.read_index(PROPOSAL_DEADLINE).await?;
        let newest = state.modules.get(&self.module);
        Ok(newest.filter(|newest| newest.epoch == epoch).cloned())
    }

    /// What the partnership does else, which has ended with the tenure (R16): this copy is on its disk, then it is the only one.
    async fn propose_drop(
        &mut self,
        record: &MirrorRecord,
        server: ServerId,
    ) -> anyhow::Result<()> {
        let copy = Arc::clone(&self.installed.copy);
        let synced = blocking(move || copy.sync().map_err(DrainError::Sync)).await?;
        if let Err(error) = synced {
            self.disk_failure.note(error.to_string());
            return Err(error.into());
        }
        // What a sync of the tenure before was told late.
        if self.against_leading(Some(record)).is_some() {
            return Ok(());
        }
        let command = Command::DropSecondary {
            module: self.module.clone(),
            epoch: record.epoch,
            primary: self.member.id(),
            server,
        };
        let evidence = "nothing runs here any more, and the secondary did not confirm that it has applied everything";
        self.propose(command, evidence).await
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
    pub(super) async fn propose(&self, command: Command, evidence: &str) -> anyhow::Result<()> {
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
}

//! Leaving the role of a primary the hard way: the ladder of R8, rung by rung, each bounded and none depending on the one
//! before.

use std::net::IpAddr;
use std::time::Duration;

use super::{Agent, Local, blocking};
use crate::core::address_times::EXPIRY_MAX;
use crate::core::ladder::{Rungs, Verdict, judge};
use crate::shell::addresses::remove_all;

/// How long the mount may take to be aborted; the file system bounds each of its steps.
const ABORT_DEADLINE: Duration = Duration::from_secs(15);
/// What processes get to go, once the mount that may have held them is gone.
const KILL_AGAIN_DEADLINE: Duration = Duration::from_secs(3);

impl Agent {
    /// Stops answering, drops the addresses, runs the stop script, kills, aborts the mount; the watchdog is what is left when
    /// none of that is sure.
    pub(super) async fn fence(&mut self) -> anyhow::Result<()> {
        let Local::Leading(mut leading) = std::mem::replace(&mut self.local, Local::Nothing) else {
            return Ok(());
        };
        self.becoming_since = None;
        tracing::warn!(module = %self.module, "fencing: this server may not act as primary any more");
        leading.fence();
        leading.drop_addresses();
        let was_killed = self.installed.application.kill().await;
        let aborted = tokio::time::timeout(ABORT_DEADLINE, leading.abort()).await;
        let aborted = aborted.unwrap_or_else(|_| Err(anyhow::anyhow!("aborting the mount hangs")));
        let rungs = Rungs {
            addresses_gone: self.are_addresses_gone().await,
            // What waited for the mount can die now.
            processes_gone: was_killed
                || self
                    .installed
                    .application
                    .kill_again(KILL_AGAIN_DEADLINE)
                    .await,
            mount_gone: aborted.is_ok(),
        };
        self.follow_verdict(judge(rungs)).await;
        aborted
    }

    async fn follow_verdict(&self, verdict: Verdict) {
        match verdict {
            Verdict::Fenced => self.disarm_watchdog().await,
            Verdict::Harmless(what) => {
                tracing::error!(module = %self.module, "fenced, but {what}");
                self.disarm_watchdog().await;
            }
            Verdict::Reset(why) => self.reset(why).await,
        }
    }

    async fn reset(&self, why: &str) {
        let cause = format!("fencing of module {} failed: {why}", self.module);
        if !self.member.watchdog.bite() {
            tracing::error!("{cause}; there is no watchdog: switch this server off");
            return;
        }
        tracing::error!("{cause}; the watchdog resets this server");
        let watchdog = self.member.watchdog.clone();
        if let Err(error) = blocking(move || watchdog.note_cause(&cause)).await {
            tracing::error!(%error, "the cause of the reset is not noted");
        }
    }

    /// Removed, or run out by themselves: the kernel ends them without us. One that was still here may be put back by whoever
    /// put it here, so it is looked for once more.
    async fn are_addresses_gone(&self) -> bool {
        let addresses = self.installed.configuration.addresses();
        if addresses.is_empty() || were_none_here(addresses.clone()).await {
            return true;
        }
        tokio::time::sleep(EXPIRY_MAX).await;
        were_none_here(addresses).await
    }

    /// Arms the watchdog before anything of the primary's role begins. A machine without one is as safe as the softer steps
    /// make it.
    pub(super) async fn arm_watchdog(&self) {
        let (watchdog, holder) = (self.member.watchdog.clone(), self.module.to_string());
        let armed = blocking(move || watchdog.hold(&holder)).await;
        match armed {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::debug!(module = %self.module, "there is no watchdog"),
            Ok(Err(error)) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(module = %self.module, error, "leading without a watchdog");
            }
            Err(error) => tracing::warn!(%error, "leading without a watchdog"),
        }
    }

    /// The role was left in order.
    pub(super) async fn disarm_watchdog(&self) {
        let (watchdog, holder) = (self.member.watchdog.clone(), self.module.to_string());
        if let Err(error) = blocking(move || watchdog.release(&holder)).await {
            tracing::error!(%error, "the watchdog was not disarmed");
        }
    }
}

/// Removes the addresses; true when there was nothing to remove.
async fn were_none_here(addresses: Vec<IpAddr>) -> bool {
    match blocking(move || remove_all(&addresses)).await {
        Ok(Ok(removed)) => {
            if !removed.is_empty() {
                tracing::warn!(?removed, "virtual addresses were still here");
            }
            removed.is_empty()
        }
        Ok(Err(error)) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(error, "whether the virtual addresses are gone is not known");
            false
        }
        Err(error) => {
            tracing::error!(%error, "looking for virtual addresses failed");
            false
        }
    }
}

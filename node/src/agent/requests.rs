//! What others ask of an agent, and how it answers.

use consensus::state::{Epoch, MirrorRecord, ServerId};
use fs_mirror::{Hello, Link, RefusalReason};
use tokio::sync::oneshot;

use super::{Agent, Local};
use crate::core::plan::Stage;

/// What others ask of an agent.
pub enum Request {
    /// Hand over to the in-sync secondary.
    Swap {
        /// Told when the role has moved, or why not.
        done: oneshot::Sender<Result<Epoch, SwapRefused>>,
    },
    /// Stop and start the application here.
    Restart {
        /// Told when it was started again.
        done: oneshot::Sender<Result<(), RestartRefused>>,
    },
    /// The daemon stops: end the application in order, let the other server lead.
    Leave {
        /// Told when nothing of the module runs here any more.
        done: oneshot::Sender<()>,
    },
    /// The primary opened its stream to this copy.
    Session {
        /// The connection; the hello was read from it.
        link: Link,
        /// What the primary said.
        hello: Hello,
    },
}

/// Why a switchover was not done.
#[derive(Debug, thiserror::Error)]
pub enum SwapRefused {
    /// Only a primary can hand over.
    #[error("this server is not the primary of the module")]
    NotPrimary,
    /// Nobody could take over without losing writes.
    #[error("no secondary is in sync")]
    NoSecondary,
    /// The role moved, or the application came back here, before the switchover was committed.
    #[error("the role changed before the switchover was committed")]
    Overtaken,
}

/// Why the application was not restarted.
#[derive(Debug, thiserror::Error)]
pub enum RestartRefused {
    /// Only where it runs.
    #[error("the application does not run on this server")]
    NotServing,
    /// The stop or start script failed; the module's log has its output.
    #[error("the application could not be restarted; see the log of the module")]
    Failed,
}

impl Agent {
    pub(super) fn on_request(&mut self, request: Request) {
        match request {
            Request::Swap { done } => self.on_swap(done),
            Request::Restart { done } => self.on_restart(done),
            Request::Leave { done } => self.leaving = Some(done),
            Request::Session { link, hello } => self.on_session(link, &hello),
        }
    }

    fn on_swap(&mut self, done: oneshot::Sender<Result<Epoch, SwapRefused>>) {
        let me = self.member.id();
        let refused = match self.record() {
            Some(record) if record.primary != Some(me) => SwapRefused::NotPrimary,
            Some(record) if record.in_sync.len() < 2 => SwapRefused::NoSecondary,
            Some(record) => {
                self.swap = Some((record.epoch, done));
                return;
            }
            None => SwapRefused::NotPrimary,
        };
        answer(done, Err(refused));
    }

    fn on_restart(&mut self, done: oneshot::Sender<Result<(), RestartRefused>>) {
        match &self.local {
            Local::Leading(leading)
                if leading.stage() == Stage::Serving && !self.installed.application.is_busy() =>
            {
                self.restart = Some(done);
                self.installed.application.stop();
            }
            Local::Leading(_) | Local::Following(_) | Local::Nothing => {
                answer(done, Err(RestartRefused::NotServing));
            }
        }
    }

    /// Blocks until the session before has ended and the epoch is persisted.
    fn on_session(&mut self, link: Link, hello: &Hello) {
        let me = self.member.id();
        let is_credible = !hello.in_sync
            || self
                .record()
                .is_some_and(|record| is_in_step(&record, hello, me));
        let answered = match &self.local {
            Local::Following(secondary) if is_credible => {
                tokio::task::block_in_place(|| secondary.accept(link, hello))
                    .map_err(anyhow::Error::new)
            }
            Local::Following(_) | Local::Nothing | Local::Leading(_) => {
                tokio::task::block_in_place(|| link.refuse(RefusalReason::NotSecondary))
                    .map_err(anyhow::Error::new)
            }
        };
        match answered {
            Ok(()) => {
                tracing::info!(module = %self.module, from = hello.from, "answered the primary's stream")
            }
            Err(error) => {
                tracing::info!(module = %self.module, error = format!("{error:#}"), "no session")
            }
        }
    }
}

/// Answers a caller who may have gone.
pub(super) fn answer<T>(done: oneshot::Sender<T>, result: T) {
    if done.send(result).is_err() {
        tracing::debug!("nobody waits for this answer any more");
    }
}

/// The primary's claim that both copies are identical, checked against what is committed.
fn is_in_step(record: &MirrorRecord, hello: &Hello, me: ServerId) -> bool {
    record.epoch.0 == hello.epoch.0
        && record.identical
        && record.in_sync.contains(&me)
        && record
            .primary
            .is_some_and(|primary| primary.0 == hello.from)
}

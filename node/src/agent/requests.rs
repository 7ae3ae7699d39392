//! What others ask of an agent, and how it answers.

use std::time::Duration;

use consensus::state::{Epoch, MirrorRecord, ServerId};
use fs_mirror::{Hello, Link, RefusalReason, Start};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Agent, Local};
use crate::core::plan::Stage;

/// How long a stream may wait until this server has applied as much as its primary.
const RECORD_PATIENCE: Duration = Duration::from_millis(700);

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
    /// The daemon stops and has waited long enough: end the application the hard way.
    LeaveAtOnce {
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
            Request::LeaveAtOnce { done } => {
                tracing::warn!(module = %self.module, "the application did not end in time: ending it the hard way");
                self.leaving = Some(done);
                self.is_leave_overdue = true;
            }
            Request::Session { link, hello } => self.on_session(link, hello),
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
    fn on_session(&mut self, link: Link, hello: Hello) {
        let me = self.member.id();
        let record = self.record();
        let applied = record.as_ref().map_or(0, |record| record.epoch.0);
        // A session that goes on over another link was let in before.
        let begins = !matches!(hello.start, Start::Resume { .. });
        if begins && hello.epoch.0 > applied && matches!(self.local, Local::Following(_)) {
            // Only the record tells whether this copy was left behind by a force, and must be set aside before it changes.
            let until = Instant::now() + RECORD_PATIENCE;
            if let Some(earlier) = self.early.replace(EarlySession { link, hello, until }) {
                self.refuse_session(earlier.link);
            }
            return;
        }
        let is_credible = hello.start != Start::Identical
            || record
                .as_ref()
                .is_some_and(|record| is_in_step(record, &hello, me));
        // Who is not the primary of a record at least as new must not even end the session that runs.
        let is_usurped = record.as_ref().is_some_and(|record| {
            let named = record.primary.map(|primary| primary.0);
            record.epoch.0 >= hello.epoch.0 && named != Some(hello.from)
        });
        let has_no_room = self.copy_trouble.is_fresh();
        let diverged_since = record
            .as_ref()
            .and_then(|record| record.diverged.get(&me))
            .map(|since| fs_mirror::Epoch(since.0));
        match &self.local {
            Local::Following(secondary) if is_credible && !is_usurped && !has_no_room => {
                let accepted =
                    tokio::task::block_in_place(|| secondary.accept(link, &hello, diverged_since));
                if accepted.is_ok() && hello.start == Start::Compare {
                    self.forget_failures();
                }
                self.told_session(&hello, accepted.map_err(anyhow::Error::new));
            }
            Local::Following(_) | Local::Nothing | Local::Leading(_) => self.refuse_session(link),
        }
    }

    fn told_session(&self, hello: &Hello, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => {
                tracing::info!(module = %self.module, from = hello.from, "answered the primary's stream")
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::info!(module = %self.module, error, "no session");
                // A session that cannot go on says nothing of this copy: the primary begins another.
                if !matches!(hello.start, Start::Resume { .. }) {
                    self.copy_trouble.note_refused(&error);
                }
            }
        }
    }

    fn refuse_session(&self, link: Link) {
        let refused = tokio::task::block_in_place(|| link.refuse(RefusalReason::NotSecondary));
        if let Err(error) = refused {
            tracing::debug!(module = %self.module, %error, "the primary went away");
        }
    }

    /// Takes the stream that was ahead of the record, once the record is there; refuses it when that takes too long.
    pub(super) fn look_at_early_session(&mut self, record: Option<&MirrorRecord>) {
        let applied = record.map_or(0, |record| record.epoch.0);
        let is_due = |early: &mut EarlySession| {
            early.hello.epoch.0 <= applied || Instant::now() >= early.until
        };
        if let Some(early) = self.early.take_if(is_due) {
            if early.hello.epoch.0 <= applied {
                self.on_session(early.link, early.hello);
            } else {
                self.refuse_session(early.link);
            }
        }
    }
}

/// A stream whose primary has applied more than this server.
pub(super) struct EarlySession {
    link: Link,
    hello: Hello,
    pub(super) until: Instant,
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

//! This server as secondary of a module: follows the primary's sessions, and shows the directory read-only.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::fs::{Access, Fs};
use crate::mount::{Mount, MountError, THREADS_DEFAULT, Unmount, UnmountError};
use crate::replication::link::Link;
use crate::replication::secondary::{
    AcceptError, Applied, ApplySession, EndCause, OnReceipt, Options,
};
use crate::replication::wire::{Hello, RefusalReason, Start};
use crate::{Alone, Copy, Epoch, Gate};

/// How long readers of the directory may take to leave before they are cut off.
const READERS_LEAVE_WITHIN: Duration = Duration::from_millis(200);

/// What the node has to know.
#[derive(Debug)]
pub enum SecondaryEvent {
    /// Nothing more will be applied in this session. After `EndCause::NotApplied` this copy is not in sync any more: it may lack what was
    /// acknowledged. Told before [`Secondary::stop`] returns.
    SessionEnded {
        /// The session.
        session: u64,
        /// Why.
        cause: EndCause,
    },
    /// The read-only mount met a failure of this server's disk.
    LocalDiskFailed {
        /// The system call.
        operation: &'static str,
        /// As in `errno(3)`.
        errno: i32,
    },
}

/// Called from a thread of the session; must not block, nor call back into [`Secondary`].
pub type SecondaryEventSink = Box<dyn Fn(SecondaryEvent) + Send + Sync>;

/// Why a server could not become secondary.
#[derive(Debug, thiserror::Error)]
pub enum SecondaryStartError {
    /// The real directory cannot be looked at.
    #[error("look at the copy: {0}")]
    Directory(Errno),
    /// The directory cannot be mounted over.
    #[error("mount the directory read-only")]
    Mount(#[from] MountError),
}

/// A secondary that runs.
pub struct Secondary {
    copy: Arc<Copy>,
    events: Arc<SecondaryEventSink>,
    mount: Option<Mount>,
    on_receipt: Arc<OnReceipt>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    session: Option<Followed>,
    /// Figures of the last session that ended.
    last: Applied,
}

/// A session, and who opened it.
struct Followed {
    epoch: Epoch,
    primary: u64,
    session: ApplySession,
}

/// How far a secondary has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecondaryProgress {
    /// The session that runs, if any.
    pub session: Option<u64>,
    /// What was applied in it, or in the last one.
    pub applied: Applied,
}

impl Secondary {
    /// Mounts the directory read-only and waits for a primary.
    ///
    /// # Errors
    /// See [`SecondaryStartError`]; nothing is mounted then.
    pub fn start(
        copy: Arc<Copy>,
        events: SecondaryEventSink,
    ) -> Result<Secondary, SecondaryStartError> {
        let events = Arc::new(events);
        let on_fault = {
            let (events, copy) = (events.clone(), Arc::clone(&copy));
            Box::new(move |fault: crate::fs::Fault| {
                copy.note_disk_failure(fault.errno);
                let errno = fault.errno.raw_os_error();
                events(SecondaryEvent::LocalDiskFailed {
                    operation: fault.operation,
                    errno,
                });
            })
        };
        let gate = Arc::new(Gate::open_forever());
        let fs = Fs::new(&copy, Access::ReadOnly, gate, Arc::new(Alone), on_fault);
        let fs = Arc::new(fs.map_err(SecondaryStartError::Directory)?);
        let mount = Mount::start(fs, copy.directory(), THREADS_DEFAULT)?;
        Ok(Secondary {
            copy,
            events,
            mount: Some(mount),
            on_receipt: Arc::default(),
            running: Mutex::default(),
        })
    }

    /// Follows the primary that greeted, or follows it on over another link. A session that runs is finished first when the new one is newer. `diverged_since`:
    /// the epoch of the force that left this copy behind, if one did; what only this copy has is set aside then.
    ///
    /// # Errors
    /// See [`AcceptError`]; the primary was told.
    pub fn accept(
        &self,
        link: Link,
        hello: &Hello,
        diverged_since: Option<Epoch>,
    ) -> Result<(), AcceptError> {
        let mut running = self.running.lock();
        let persisted = self.copy.epoch();
        if hello.epoch < persisted {
            // A primary of the past must not even end the session that runs.
            link.refuse(RefusalReason::StaleEpoch { persisted })?;
            return Err(AcceptError::StaleEpoch {
                given: hello.epoch,
                persisted,
            });
        }
        if let Start::Resume { received } = hello.start {
            return running.resume(link, hello, received);
        }
        if let Some(session) = running.newer_than(hello) {
            link.refuse(RefusalReason::Busy { session })?;
            return Err(AcceptError::Busy { session });
        }
        running.finish();
        // What the threads of the session before had to tell of the disk is told.
        if hello.start == Start::Compare {
            self.copy.begin_rewriting();
        }
        let (events, id) = (self.events.clone(), hello.session);
        let on_end =
            Box::new(move |cause| events(SecondaryEvent::SessionEnded { session: id, cause }));
        let options = Options {
            diverged_since,
            on_receipt: self.on_receipt.clone(),
            ..Options::default()
        };
        let session = ApplySession::accept(self.copy.clone(), link, hello, options, on_end)?;
        tracing::info!(
            module = self.copy.module(),
            session = id,
            epoch = hello.epoch.0,
            "following the primary"
        );
        running.session = Some(Followed {
            epoch: hello.epoch,
            primary: hello.from,
            session,
        });
        Ok(())
    }

    /// Nothing is applied or acknowledged any more until another session begins: this copy must not count.
    pub fn end_session(&self) {
        if let Some(followed) = &self.running.lock().session {
            followed.session.close();
        }
    }

    /// This copy is whole: nothing has to be set aside any more.
    pub fn set_whole(&self) {
        if let Some(followed) = &self.running.lock().session {
            followed.session.set_whole();
        }
    }

    /// The record of this epoch ties this server's right to lead to its run: changes of a primary at this epoch or an earlier one are
    /// acknowledged on receipt, also in the session that runs. `None`: all are acknowledged when they are applied, from now on.
    pub fn acknowledge_on_receipt(&self, through: Option<Epoch>) {
        self.on_receipt.allow_through(through);
    }

    /// What was applied so far.
    pub fn progress(&self) -> SecondaryProgress {
        let running = self.running.lock();
        match &running.session {
            Some(Followed { session, .. }) => SecondaryProgress {
                session: Some(session.id()).filter(|_| !session.is_over()),
                applied: session.applied(),
            },
            None => SecondaryProgress {
                session: None,
                applied: running.last,
            },
        }
    }

    /// Ends the session, applies what had arrived whole, and unmounts. Afterwards the copy may become primary, and nothing
    /// of the old session will touch it or be acknowledged.
    ///
    /// # Errors
    /// The mount could not be taken off; the session is over all the same.
    pub fn stop(mut self) -> Result<(), UnmountError> {
        self.running.lock().finish();
        match self.mount.take() {
            Some(mount) => unmount(mount),
            None => Ok(()),
        }
    }
}

impl Drop for Secondary {
    fn drop(&mut self) {
        self.running.lock().finish();
        if let Some(mount) = self.mount.take()
            && let Err(error) = unmount(mount)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "read-only mount left behind"
            );
        }
    }
}

impl Running {
    /// The session that runs, when it is not older than the one that greets.
    fn newer_than(&self, hello: &Hello) -> Option<u64> {
        let Followed { epoch, session, .. } = self.session.as_ref()?;
        let is_newer = (*epoch, session.id()) >= (hello.epoch, hello.session);
        (is_newer && !session.is_over()).then(|| session.id())
    }

    fn resume(&self, link: Link, hello: &Hello, received: u64) -> Result<(), AcceptError> {
        let is_meant = |followed: &&Followed| {
            let Followed {
                primary, session, ..
            } = followed;
            (*primary, session.id()) == (hello.from, hello.session) && !session.is_over()
        };
        match self.session.as_ref().filter(is_meant) {
            Some(followed) => followed.session.resume(link, hello.epoch, received),
            None => {
                link.refuse(RefusalReason::UnknownSession)?;
                Err(AcceptError::NotRunning {
                    session: hello.session,
                })
            }
        }
    }

    fn finish(&mut self) {
        if let Some(followed) = self.session.take() {
            self.last = followed.session.finish();
        }
    }
}

/// Readers must never delay a promotion: who does not leave is cut off.
fn unmount(mount: Mount) -> Result<(), UnmountError> {
    match mount.stop(Unmount::Clean(READERS_LEAVE_WITHIN)) {
        Ok(()) => Ok(()),
        Err((_, mount)) => mount.stop(Unmount::Abort).map_err(|(error, _)| error),
    }
}

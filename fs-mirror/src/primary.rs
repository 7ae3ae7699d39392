//! This server as primary of a module: the mounted file system, the replication it ships to, and the resync of a
//! secondary that comes (back).

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::copy::EpochError;
use crate::fs::errno::is_disk_failure;
use crate::fs::{Access, Errno, Fault, Fs};
use crate::fuse::Answer;
use crate::mount::{self, Mount, MountError, THREADS_DEFAULT, UnmountError};
use crate::replication::change::FileId;
use crate::replication::link::Link;
use crate::replication::replicator::{
    AdditionHold, AttachError, LossCause, Replicator, ReplicatorEvent, StaleRecord, WaitError,
};
use crate::replication::shipping::{Shipping, Ticket};
use crate::replication::stats::ReplicationStats;
use crate::replication::wire::{Hello, Start};
use crate::resync::source::{Outcome, Source};
use crate::resync::{Listener, Progress};
use crate::{Copy, Epoch, Gate};

/// How long processes may take to leave the directory before a clean unmount becomes an abort.
pub const USERS_LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How long what was changed between the drain and the end of a clean unmount may take to be on both disks.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

/// How often modification times of files that stay open are shipped.
const TIMES_SWEPT_EVERY: Duration = Duration::from_secs(1);

/// How a primary can be tuned.
#[derive(Clone, Copy, Debug)]
pub struct PrimaryOptions {
    /// Threads that read requests of the kernel.
    pub threads: usize,
}

impl Default for PrimaryOptions {
    fn default() -> Self {
        PrimaryOptions {
            threads: THREADS_DEFAULT,
        }
    }
}

/// How a primary ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// The application has stopped: what still uses the directory gets a few seconds to leave.
    Clean,
    /// At once; every request fails.
    Abort,
}

/// What the node has to know.
#[derive(Debug)]
pub enum PrimaryEvent {
    /// A session is over. While the record names the peer, waiting requests go on waiting.
    SessionLost {
        /// The session.
        session: u64,
        /// Why.
        cause: LossCause,
    },
    /// Nothing is heard over the link: another may do better ([`Primary::resume`]).
    LinkQuiet {
        /// The session.
        session: u64,
    },
    /// The secondary has everything, on its disk, and every change since.
    Resynced {
        /// The session.
        session: u64,
        /// Bytes compared.
        bytes_total: u64,
        /// Bytes that differed and were sent.
        bytes_sent: u64,
        /// How long it took.
        took: Duration,
    },
    /// This server's own disk failed: it must hand over (R11).
    LocalDiskFailed {
        /// The system call.
        operation: &'static str,
        /// As in `errno(3)`.
        errno: i32,
    },
}

/// Called from any thread, with no lock held; must not block, nor call back into [`Primary`].
pub type PrimaryEventSink = Box<dyn Fn(PrimaryEvent) + Send + Sync>;

/// Why a server could not become primary.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The epoch is old, or cannot be made durable.
    #[error("make the epoch durable")]
    Epoch(#[from] EpochError),
    /// The real directory cannot be looked at.
    #[error("look at the copy: {0}")]
    Directory(Errno),
    /// The system gives no thread.
    #[error("start a thread")]
    Thread(#[source] io::Error),
    /// The directory cannot be mounted over.
    #[error("mount the directory read-write")]
    Mount(#[from] MountError),
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The epoch is old, or cannot be made durable.
    #[error("make the epoch durable")]
    Epoch(#[from] EpochError),
    /// A newer record is in force.
    #[error(transparent)]
    Stale(#[from] StaleRecord),
}

impl RecordError {
    /// Whether the disk of the epoch failed, as against one that is full.
    pub fn is_disk_failure(&self) -> bool {
        match self {
            RecordError::Epoch(EpochError::Io { source, .. }) => {
                Errno::from_io_error(source).is_some_and(is_disk_failure)
            }
            RecordError::Epoch(EpochError::Stale { .. } | EpochError::Damaged(_))
            | RecordError::Stale(_) => false,
        }
    }
}

/// Why the copies may not be equal, or not durable.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The local disk failed.
    #[error("sync the directory: {0}")]
    Sync(Errno),
    /// The secondary has not acknowledged everything.
    #[error("wait for the secondary")]
    Secondary(#[from] WaitError),
}

/// Why a primary did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The mount did not come off cleanly.
    #[error("take the mount off")]
    Unmount(#[from] UnmountError),
    /// What was changed on the way down, and acknowledged, may not be applied on the secondary.
    #[error("make what was changed last the same on both copies")]
    NotDrained(#[from] DrainError),
}

/// A primary that runs.
pub struct Primary {
    copy: Arc<Copy>,
    gate: Arc<Gate>,
    fs: Arc<Fs<Answer>>,
    replicator: Arc<Replicator<Answer>>,
    events: Arc<PrimaryEventSink>,
    mount: Mutex<Option<Mount>>,
    /// The barrier up to which the last drain made both copies equal.
    drained_to: Mutex<Ticket>,
    is_confirmed: AtomicBool,
    resync: Mutex<Option<Resync>>,
    /// The last resync, for whoever asks how far it is: never locked across network or disk.
    shown: Mutex<Option<Arc<Source<Answer>>>>,
    sweeper: Sweeper,
}

/// The last resync that was begun.
struct Resync {
    thread: JoinHandle<()>,
}

impl Primary {
    /// Makes the epoch durable, then mounts the directory read-write. Requests are served while `gate` is open.
    /// `counts_peer`: the committed record names a peer in the in-sync set, or an addition that is in the air may, so nothing is
    /// acknowledged before the peer is attached or a record without it was set.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is mounted then.
    pub fn start(
        copy: Arc<Copy>,
        epoch: Epoch,
        counts_peer: bool,
        gate: Arc<Gate>,
        events: PrimaryEventSink,
        options: PrimaryOptions,
    ) -> Result<Primary, StartError> {
        copy.persist_epoch(epoch)?;
        let events = Arc::new(events);
        let replicator = Replicator::start(
            epoch,
            counts_peer,
            Arc::clone(&gate),
            session_events(&events),
        );
        let replicator = Arc::new(replicator.map_err(StartError::Thread)?);
        let shipping: Arc<dyn Shipping<Answer>> = Arc::clone(&replicator) as _;
        let fs = Fs::new(
            &copy,
            Access::ReadWrite,
            Arc::clone(&gate),
            shipping,
            disk_events(&events, &copy),
        );
        let fs = Arc::new(fs.map_err(StartError::Directory)?);
        let sweeper = Sweeper::start(Arc::clone(&fs)).map_err(StartError::Thread)?;
        let mount = Mount::start(Arc::clone(&fs), copy.directory(), options.threads)?;
        tracing::info!(
            module = copy.module(),
            epoch = epoch.0,
            counts_peer,
            "serving as primary"
        );
        let (mount, resync) = (Mutex::new(Some(mount)), Mutex::default());
        Ok(Primary {
            copy,
            gate,
            fs,
            replicator,
            events,
            mount,
            drained_to: Mutex::new(Ticket::NotShipped),
            is_confirmed: AtomicBool::new(false),
            resync,
            shown: Mutex::default(),
            sweeper,
        })
    }

    /// Begins a session with the copy at the other end of `link`: every change is shipped from now on. Unless the copies
    /// are identical (`Start::Identical`), the tree is compared in the background, and `Resynced` follows.
    ///
    /// # Errors
    /// See [`AttachError`]; no session began.
    pub fn attach(&self, link: Link, hello: Hello) -> Result<(), AttachError> {
        let mut resync = self.resync.lock();
        if hello.start == Start::Identical {
            return self.replicator.attach(link, &hello, Arc::new(InSync));
        }
        let source = Source::new(Arc::clone(&self.fs), hello.session);
        self.replicator
            .attach(link, &hello, Arc::clone(&source) as Arc<dyn Listener>)?;
        // The session of the resync before is over, and so it is about to end.
        if let Some(before) = resync.take() {
            before.end();
        }
        let thread = self
            .run_resync(Arc::clone(&source), hello.session)
            .map_err(|error| {
                self.replicator.end_session();
                AttachError::Thread(error)
            })?;
        *self.shown.lock() = Some(source);
        *resync = Some(Resync { thread });
        Ok(())
    }

    /// Whether this session runs, and nothing is heard on its link for a while.
    pub fn is_quiet(&self, session: u64) -> bool {
        self.replicator.is_quiet(session)
    }

    /// Goes on with the running session over `link`: the one in use is silent.
    ///
    /// # Errors
    /// See `Replicator::resume`.
    pub fn resume(&self, link: Link, hello: Hello) -> Result<(), AttachError> {
        self.replicator.resume(link, hello)
    }

    fn run_resync(&self, source: Arc<Source<Answer>>, session: u64) -> io::Result<JoinHandle<()>> {
        let (replicator, events) = (Arc::clone(&self.replicator), Arc::clone(&self.events));
        std::thread::Builder::new()
            .name("mirror-resync".into())
            .spawn(move || match source.run() {
                Outcome::Complete {
                    bytes_total,
                    bytes_sent,
                    took,
                } => {
                    replicator.set_resynced(session);
                    events(PrimaryEvent::Resynced {
                        session,
                        bytes_total,
                        bytes_sent,
                        took,
                    });
                }
                Outcome::SessionOver => {
                    tracing::info!(session, "the resync ended with its session")
                }
            })
    }

    /// The addition of the peer may be committed unseen: requests are acknowledged only with the peer from now on (R6).
    /// Returns once everything before is applied there; only then may the addition be proposed (R10).
    ///
    /// # Errors
    /// The addition must not be proposed; requests are answered as before the call.
    pub fn hold_for_addition(&self, patience: Duration) -> Result<AdditionHold, WaitError> {
        let session = self.replicator.session();
        if session != 0 {
            // What was acknowledged may only have been received. And a peer that started anew may not be missed yet, with nothing on its
            // way to it: what it acknowledged in its former run proves nothing now. Its start makes a new record, and this is sent under
            // the record in force.
            self.fs.ship_barrier(session);
        }
        self.replicator.hold_for_addition(patience)
    }

    /// The addition was not proposed and will not be: requests are answered as before the hold.
    pub fn abandon_addition(&self, hold: AdditionHold) {
        self.replicator.abandon_addition(hold);
    }

    /// A record was applied in which this server still is the primary; the peer counts as in the in-sync set, or not.
    ///
    /// # Errors
    /// See [`RecordError`]; the record before stays in force.
    pub fn set_record(&self, epoch: Epoch, counts_peer: bool) -> Result<(), RecordError> {
        self.copy.persist_epoch(epoch)?;
        Ok(self.replicator.set_record(epoch, counts_peer)?)
    }

    /// This server is not the primary any more: every waiting and later request ends with an error. Final.
    pub fn fence(&self) {
        self.gate.fence();
        self.replicator.fence();
    }

    /// Returns when both copies are equal and durable. The application has stopped before.
    ///
    /// # Errors
    /// See [`DrainError`].
    pub fn drain(&self, within: Duration) -> Result<(), DrainError> {
        let deadline = Instant::now() + within;
        self.fs.sweep_times();
        let barrier = self.ship_barrier();
        self.sync()?;
        self.replicator
            .wait_idle(deadline.saturating_duration_since(Instant::now()))?;
        *self.drained_to.lock() = barrier;
        Ok(())
    }

    /// `NotShipped`: no session runs.
    fn ship_barrier(&self) -> Ticket {
        loop {
            let session = self.replicator.session();
            let ticket = match session {
                0 => Ticket::NotShipped,
                _ => self.fs.ship_barrier(session),
            };
            // Not shipped: that session has ended, and another may have begun.
            if session == 0 || ticket != Ticket::NotShipped {
                return ticket;
            }
        }
    }

    /// Drains once more when anything was changed since: somebody outside the application may have done so. A copy that does not
    /// count needs nothing.
    fn settle(&self) -> Result<(), DrainError> {
        if !self.replicator.waits_for_peer() {
            return Ok(());
        }
        let drained_to = *self.drained_to.lock();
        if drained_to == Ticket::NotShipped || drained_to != self.replicator.last_change() {
            self.drain(SETTLE_WITHIN)?;
        }
        let is_confirmed = *self.drained_to.lock() != Ticket::NotShipped;
        self.is_confirmed.store(is_confirmed, Ordering::Release);
        Ok(())
    }

    /// Whether a clean end left both copies equal and on both disks, by word of the secondary, and nothing was acknowledged after that.
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed.load(Ordering::Acquire)
    }

    /// Returns when everything that was ever applied to this copy is on its disk. A success after a failure means nothing.
    ///
    /// # Errors
    /// `Sync`; `LocalDiskFailed` was told.
    pub fn sync(&self) -> Result<(), DrainError> {
        self.copy.sync().map_err(|errno| {
            (self.events)(PrimaryEvent::LocalDiskFailed {
                operation: "syncfs",
                errno: errno.raw_os_error(),
            });
            DrainError::Sync(errno)
        })
    }

    /// What is read of this copy may not be on its disk.
    pub fn is_doubted(&self) -> bool {
        self.copy.is_doubted()
    }

    /// How far the last resync is, or was; all zero before the first.
    pub fn progress(&self) -> Progress {
        let shown = self.shown.lock().clone();
        shown.map(|source| source.progress()).unwrap_or_default()
    }

    /// Figures of the running session, or of the last one.
    pub fn stats(&self) -> ReplicationStats {
        self.replicator.stats()
    }

    /// Takes the mount off and ends the session. Before a clean end what was changed since a drain is made the same on both copies.
    ///
    /// # Errors
    /// `Busy`: somebody would not leave, and was cut off. `Io`: the mount is dead, but the system kept it. `NotDrained`: the secondary may
    /// lack what it has acknowledged on receipt, should it start anew.
    pub fn stop(&self, how: Unmount) -> Result<(), StopError> {
        let mount = self.mount.lock().take();
        let unmounted = match mount {
            Some(mount) => self.unmount(mount, how),
            None => Ok(()),
        };
        self.sweeper.stop();
        // An attempt to attach may be under way: a session that began after this would be ended by nobody.
        self.replicator.fence();
        if let Some(resync) = self.resync.lock().take() {
            resync.end();
        }
        unmounted
    }

    fn unmount(&self, mount: Mount, how: Unmount) -> Result<(), StopError> {
        match how {
            Unmount::Clean => match mount.stop(mount::Unmount::Clean(USERS_LEAVE_WITHIN)) {
                Ok(()) => Ok(self.settle()?),
                Err((error, mount)) => {
                    // Nothing is acknowledged any more, and what was is shipped.
                    self.gate.fence();
                    let (settled, aborted) = (self.settle(), self.abort(*mount));
                    settled?;
                    aborted?;
                    Err(error.into())
                }
            },
            Unmount::Abort => Ok(self.abort(mount)?),
        }
    }

    /// Nothing may be acknowledged on the way down, and nothing may keep a thread of the mount waiting.
    fn abort(&self, mount: Mount) -> Result<(), UnmountError> {
        self.fence();
        mount
            .stop(mount::Unmount::Abort)
            .map_err(|(error, _)| error)
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Unmount::Abort) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "mount left behind"
            );
        }
    }
}

impl std::fmt::Debug for Primary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Primary")
            .field("module", &self.copy.module())
            .field("fs", &self.fs)
            .finish_non_exhaustive()
    }
}

impl Resync {
    /// Waits for its thread: its session is over.
    fn end(self) {
        if self.thread.join().is_err() {
            tracing::error!("the resync panicked");
        }
    }
}

fn session_events(events: &Arc<PrimaryEventSink>) -> crate::replication::replicator::EventSink {
    let events = Arc::clone(events);
    Box::new(move |event| match event {
        ReplicatorEvent::SessionLost { session, cause } => {
            events(PrimaryEvent::SessionLost { session, cause })
        }
        ReplicatorEvent::LinkQuiet { session } => events(PrimaryEvent::LinkQuiet { session }),
    })
}

fn disk_events(events: &Arc<PrimaryEventSink>, copy: &Arc<Copy>) -> crate::fs::OnFault {
    let (events, copy) = (Arc::clone(events), Arc::clone(copy));
    Box::new(move |Fault { operation, errno }| {
        copy.note_disk_failure(errno);
        let errno = errno.raw_os_error();
        events(PrimaryEvent::LocalDiskFailed { operation, errno });
    })
}

/// A session that began in sync has nothing to compare.
#[derive(Debug)]
struct InSync;

impl Listener for InSync {
    fn need_block(&self, _file: FileId, _offset: u64, _length: u32) {}

    fn acknowledged(&self, _seq: u64) {}

    fn session_ended(&self) {}
}

/// Ships the times of files that stay open, now and then.
struct Sweeper {
    wakeup: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sweeper {
    fn start(fs: Arc<Fs<Answer>>) -> io::Result<Sweeper> {
        let wakeup = Arc::new((Mutex::new(false), Condvar::new()));
        let waiting = Arc::clone(&wakeup);
        let thread = std::thread::Builder::new()
            .name("mirror-times".into())
            .spawn(move || {
                let (is_stopped, changed) = &*waiting;
                let mut stopped = is_stopped.lock();
                while !*stopped {
                    changed.wait_for(&mut stopped, TIMES_SWEPT_EVERY);
                    parking_lot::MutexGuard::unlocked(&mut stopped, || fs.sweep_times());
                }
            })?;
        Ok(Sweeper {
            wakeup,
            thread: Mutex::new(Some(thread)),
        })
    }

    fn stop(&self) {
        *self.wakeup.0.lock() = true;
        self.wakeup.1.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // It never panics; were it to, there would be nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop();
    }
}

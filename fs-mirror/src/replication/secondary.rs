//! The secondary's side of replication: receives a session and applies it to the directory.
//!
//! Changes of names and of directories are applied by the receiving thread in the order of the wire. Changes of one file
//! are applied in that file's order: in the receiving thread when nothing else waits, so that a single writer pays no
//! hand-over, else by workers. Every change is acknowledged once it is applied, or once it is received where [`OnReceipt`]
//! allows that; acknowledgements share frames and system calls. What cannot be applied is refused, and the session is over
//! (R11).

pub(crate) mod apply;
pub(crate) mod error;
pub(crate) mod object;
mod pool;
mod session;
pub(crate) mod tree;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::error::ApplyError;

use self::apply::{Counters, Files};
use self::session::{Receiver, Shared};
use self::tree::Tree;
use super::link::{Link, LinkError};
use super::wire::{Hello, HelloReply, Message, RefusalReason, WireError};
use crate::aside::Keeper;
use crate::copy::EpochError;
use crate::{Copy, Epoch};

/// A primary of whom nothing was heard for so long is gone; it pings every 150 ms.
pub const PRIMARY_SILENCE_MAX: Duration = Duration::from_secs(3);

/// How a session is applied.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads beside the receiving one.
    pub workers: usize,
    /// The epoch of the force that left this copy behind: what only this copy has is set aside before it is changed.
    pub diverged_since: Option<Epoch>,
    /// Which changes may be acknowledged before they are applied; may change while the session runs.
    pub on_receipt: Arc<OnReceipt>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            workers: 2,
            diverged_since: None,
            on_receipt: Arc::default(),
        }
    }
}

/// Up to which epoch a change may be acknowledged when it is received, and applied after (R16). None at first.
///
/// A frame of a later epoch belongs to a record that this server may not have applied yet, and that need not tie its right to
/// lead to its run: such a frame is acknowledged when it is applied, whatever was allowed before.
#[derive(Debug, Default)]
pub struct OnReceipt {
    /// The first epoch that is not allowed.
    end: AtomicU64,
}

impl OnReceipt {
    /// The committed record of this epoch ties this server's right to lead to its run; `None`: the newest one does not.
    pub fn allow_through(&self, epoch: Option<Epoch>) {
        let end = epoch.map_or(0, |epoch| epoch.0.saturating_add(1));
        self.end.store(end, Ordering::Release);
    }

    fn allows(&self, epoch: Epoch) -> bool {
        epoch.0 < self.end.load(Ordering::Acquire)
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum EndCause {
    /// We ended it.
    #[error("the secondary ended the session")]
    Finished,
    /// The connection failed, or the primary broke the protocol.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Nothing was heard of the primary.
    #[error("the primary was silent for {silent:?}")]
    Silent {
        /// For how long.
        silent: Duration,
    },
    /// A change could not be applied: this copy is not in sync any more, and may lack what was acknowledged.
    #[error("change {seq} could not be applied")]
    NotApplied {
        /// The change.
        seq: u64,
        /// Why.
        #[source]
        error: ApplyError,
    },
    /// A new epoch could not be made durable.
    #[error("persist the epoch")]
    NotDurable(#[source] EpochError),
}

impl From<WireError> for EndCause {
    fn from(error: WireError) -> EndCause {
        EndCause::Link(error.into())
    }
}

/// Why a session did not begin. The primary was told.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// This copy has followed a later primary.
    #[error("greeting of epoch {given}, this copy has seen {persisted}")]
    StaleEpoch {
        /// In the greeting.
        given: Epoch,
        /// Ours.
        persisted: Epoch,
    },
    /// A session that is as new runs.
    #[error("session {session} is running")]
    Busy {
        /// Its number.
        session: u64,
    },
    /// The epoch could not be made durable.
    #[error("persist the epoch")]
    NotDurable(#[source] EpochError),
    /// The session that the primary wants to go on with does not run.
    #[error("session {session} is not running")]
    NotRunning {
        /// Its number.
        session: u64,
    },
    /// No descriptor is left.
    #[error("open the copy")]
    Descriptor(#[source] io::Error),
    /// The directory cannot be read.
    #[error("open the copy")]
    Directory(#[source] ApplyError),
    /// What only this copy has could not be set aside.
    #[error("make {place} for what is set aside")]
    Aside {
        /// Where.
        place: std::path::PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("answer the primary")]
    Link(#[from] LinkError),
    /// The system gives no thread.
    #[error("start a thread for the session")]
    Thread(#[source] io::Error),
}

/// What was applied so far in a session.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Changes applied.
    pub changes: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Blocks compared by digest.
    pub blocks_compared: u64,
    /// Those that differed and were asked for.
    pub blocks_different: u64,
}

/// A running session. Dropping it finishes it.
#[derive(Debug)]
pub struct ApplySession {
    id: u64,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    keeper: Option<Arc<Keeper>>,
    threads: Vec<JoinHandle<()>>,
}

impl ApplySession {
    /// Checks and answers the greeting, and applies what follows to `copy`. `on_end` is called once, by a
    /// thread of the session, when nothing more will be applied.
    ///
    /// # Errors
    /// See [`AcceptError`]; the primary was told when the connection allowed it.
    pub fn accept(
        copy: Arc<Copy>,
        mut link: Link,
        hello: &Hello,
        options: Options,
        on_end: Box<dyn FnOnce(EndCause) + Send>,
    ) -> Result<ApplySession, AcceptError> {
        let persisted = copy.epoch();
        if hello.epoch < persisted {
            link.refuse(RefusalReason::StaleEpoch { persisted })?;
            return Err(AcceptError::StaleEpoch {
                given: hello.epoch,
                persisted,
            });
        }
        if hello.epoch > persisted
            && let Err(error) = copy.persist_epoch(hello.epoch)
        {
            link.refuse(RefusalReason::NotDurable)?;
            return Err(AcceptError::NotDurable(error));
        }
        let root = copy
            .root()
            .try_clone_to_owned()
            .map_err(AcceptError::Descriptor)?;
        let keeper = match keeper_of(&copy, options.diverged_since) {
            Ok(keeper) => keeper,
            Err(error) => {
                link.refuse(RefusalReason::NotDurable)?;
                return Err(error);
            }
        };
        let tree = Tree::new(
            root,
            keeper.clone(),
            copy.is_doubted().then(|| copy.clone()),
        )
        .map_err(AcceptError::Directory)?;
        link.send_message(hello.epoch, &Message::HelloReply(HelloReply::Accepted))?;

        let counters = Arc::new(Counters::default());
        let (sender, receiver) = link.split();
        let on_receipt = options.on_receipt.clone();
        let files = Files {
            copy: copy.clone(),
            open_files: tree.open_files.clone(),
            counters: counters.clone(),
        };
        let shared = Arc::new(Shared::new(sender, hello.epoch, files, on_receipt));
        let mut session = ApplySession {
            id: hello.session,
            shared,
            counters,
            keeper,
            threads: Vec::new(),
        };
        let receiver = Receiver::new(session.shared.clone(), receiver, tree, copy, &options);
        let receiver = receiver.map_err(AcceptError::Thread)?;
        let pulse = session.shared.clone();
        session.spawn("mirror-receive", move || on_end(receiver.run()))?;
        session.spawn("mirror-pulse", move || pulse.keep_alive())?;
        Ok(session)
    }

    /// Goes on over `link`, over which the primary, which has `received` bytes of ours, says that the one before is silent.
    ///
    /// # Errors
    /// `Link`: the connection failed, and the session is over.
    pub fn resume(&self, mut link: Link, epoch: Epoch, received: u64) -> Result<(), AcceptError> {
        let reply = HelloReply::Resumed {
            received: self.shared.link.suspend(),
        };
        let resumed = link
            .send_message(epoch, &Message::HelloReply(reply))
            .and_then(|()| self.shared.link.resume(link, received));
        if resumed.is_err() {
            self.shared.link.close();
        }
        // What was lost with the other link goes out now, from another thread: a primary that dies in this moment must not hold up
        // whoever would take over.
        self.shared.wake_pulse();
        Ok(resumed?)
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), AcceptError> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(AcceptError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Number of the session.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it has ended by itself.
    pub fn is_over(&self) -> bool {
        self.shared.is_over()
    }

    /// Ends it without waiting.
    pub fn close(&self) {
        self.shared.link.close();
    }

    /// This copy is whole: nothing has to be set aside any more.
    pub fn set_whole(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.end();
        }
    }

    /// Ends the session. Everything that had arrived whole is applied when it returns, and nothing will be applied or
    /// acknowledged afterwards. Gives what was applied.
    pub fn finish(mut self) -> Applied {
        self.end();
        self.applied()
    }

    /// What was applied so far.
    pub fn applied(&self) -> Applied {
        let Counters {
            changes,
            bytes_written,
            blocks_compared,
            blocks_different,
        } = &*self.counters;
        Applied {
            changes: changes.load(Ordering::Relaxed),
            bytes_written: bytes_written.load(Ordering::Relaxed),
            blocks_compared: blocks_compared.load(Ordering::Relaxed),
            blocks_different: blocks_different.load(Ordering::Relaxed),
        }
    }

    fn end(&mut self) {
        self.shared.is_finishing.store(true, Ordering::Release);
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        // Reading only: closing both ways would make the kernel answer late frames with a reset, which destroys what has
        // arrived before them and was not read yet.
        self.shared.link.close_reading();
        let me = std::thread::current().id();
        for thread in self
            .threads
            .drain(..)
            .filter(|thread| thread.thread().id() != me)
        {
            // One that panicked has left its message.
            let _ = thread.join();
        }
    }
}

fn keeper_of(copy: &Copy, since: Option<Epoch>) -> Result<Option<Arc<Keeper>>, AcceptError> {
    let Some(since) = since else {
        return Ok(None);
    };
    let keeper = copy.aside().keeper(since, copy.root());
    keeper
        .map(|keeper| Some(Arc::new(keeper)))
        .map_err(|source| AcceptError::Aside {
            place: copy.aside().directory_of(since),
            source,
        })
}

impl Drop for ApplySession {
    fn drop(&mut self) {
        self.end();
    }
}

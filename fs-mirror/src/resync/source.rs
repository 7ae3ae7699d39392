//! The source's thread: carries out the plan against the file system and the running session.
//!
//! It never holds a lock while it waits, ships no more than the plan's windows allow, and reads without keeping the
//! application's writes waiting. It ends with the acknowledged barrier, or with the session.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::core::{Block, Plan, Step};
use super::{Listener, Phase, Progress};
use crate::fs::Fs;
use crate::fs::blocks::{BlockOf, Outcome as BlockOutcome};
use crate::fs::errno::Errno;
use crate::fs::inodes::Inode;
use crate::replication::change::FileId;
use crate::replication::shipping::{Completion, Ticket};

/// The resync thread gives way to the application's (see `nice(1)`).
const NICENESS: i32 = 5;

/// What the source may be told before it listens: more than two for each thing under way is nonsense.
const TOLD_MAX: usize = 1024;

/// Frames that may be shipped before they are sent.
const UNSENT_MAX: usize = 16;

/// How a resync ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The secondary has everything, on its disk.
    Complete {
        /// Bytes of all files compared.
        bytes_total: u64,
        /// Bytes that differed and were sent.
        bytes_sent: u64,
        /// How long it took.
        took: Duration,
    },
    /// The session ended before.
    SessionOver,
}

/// One resync, of one session.
#[derive(Debug)]
pub struct Source<C: Completion> {
    fs: Arc<Fs<C>>,
    session: u64,
    inbox: Mutex<Inbox>,
    told: Condvar,
    progress: Mutex<Progress>,
}

/// What the receiving thread has told and the source has not read.
#[derive(Debug, Default)]
struct Inbox {
    events: Vec<Told>,
    /// Numbers of our own changes that are not acknowledged: what the application changed is not ours to count.
    own: HashSet<u64>,
    /// While a change of ours is being shipped its number is not in `own` yet: every number told is kept here.
    early: Option<Vec<u64>>,
    is_session_over: bool,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Needed(FileId, u64),
    Acknowledged(u64),
}

/// Something the plan works on.
#[derive(Debug)]
struct Held {
    inode: Arc<Inode>,
    open: Option<OwnedFd>,
}

/// The session ended, or the disk failed so that it will.
#[derive(Debug)]
struct Over;

impl<C: Completion> Source<C> {
    /// A resync of `session`, which need not have begun yet.
    pub fn new(fs: Arc<Fs<C>>, session: u64) -> Arc<Source<C>> {
        Arc::new(Source {
            fs,
            session,
            inbox: Mutex::default(),
            told: Condvar::new(),
            progress: Mutex::default(),
        })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        *self.progress.lock()
    }

    /// Runs the resync. Call once, on a thread of its own, when the session has begun.
    pub fn run(&self) -> Outcome {
        // Being nice is a courtesy: without it everything works as well.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
        let started = Instant::now();
        let mut work = Work {
            source: self,
            plan: Plan::default(),
            held: HashMap::new(),
            buffer: Vec::new(),
            unsent: 0,
        };
        let is_complete = work.run().is_ok();
        work.give_back_all();
        if !is_complete {
            return Outcome::SessionOver;
        }
        self.progress.lock().phase = Phase::Done;
        let bytes = work.plan.bytes();
        Outcome::Complete {
            bytes_total: bytes.total,
            bytes_sent: bytes.sent,
            took: started.elapsed(),
        }
    }

    /// Ships a change of ours so that its acknowledgement is not missed, however fast it comes.
    fn shipping_own<T>(
        &self,
        ship: impl FnOnce() -> T,
        seq_of: impl FnOnce(&T) -> Option<u64>,
    ) -> T {
        self.inbox.lock().early = Some(Vec::new());
        let shipped = ship();
        let mut inbox = self.inbox.lock();
        let early = inbox.early.take().unwrap_or_default();
        match seq_of(&shipped) {
            Some(seq) if early.contains(&seq) => inbox.events.push(Told::Acknowledged(seq)),
            Some(seq) => {
                inbox.own.insert(seq);
            }
            None => {}
        }
        shipped
    }

    /// What was told meanwhile; waits for something when `waits`.
    fn take_told(&self, waits: bool) -> Result<Vec<Told>, Over> {
        let mut inbox = self.inbox.lock();
        while waits && inbox.events.is_empty() && !inbox.is_session_over {
            self.told.wait(&mut inbox);
        }
        if inbox.is_session_over {
            Err(Over)
        } else {
            Ok(std::mem::take(&mut inbox.events))
        }
    }
}

impl<C: Completion> Listener for Source<C> {
    fn need_block(&self, file: FileId, offset: u64, _length: u32) {
        // The plan knows its blocks; it goes on when the digest is acknowledged, so nobody is woken for this.
        let mut inbox = self.inbox.lock();
        // No more can be under comparison: a peer that says more has lost its mind, and is not heard.
        if inbox.events.len() < TOLD_MAX {
            inbox.events.push(Told::Needed(file, offset));
        }
    }

    fn acknowledged(&self, seq: u64) {
        let mut inbox = self.inbox.lock();
        if let Some(early) = inbox.early.as_mut() {
            early.push(seq);
        }
        if inbox.own.remove(&seq) {
            inbox.events.push(Told::Acknowledged(seq));
            self.told.notify_one();
        }
    }

    fn session_ended(&self) {
        self.inbox.lock().is_session_over = true;
        self.told.notify_one();
    }
}

/// The resync thread's own state.
struct Work<'a, C: Completion> {
    source: &'a Source<C>,
    plan: Plan,
    held: HashMap<FileId, Held>,
    buffer: Vec<u8>,
    unsent: usize,
}

impl<C: Completion> Work<'_, C> {
    fn run(&mut self) -> Result<(), Over> {
        let root = self.source.fs.begin_resync(self.source.session);
        self.held.insert(
            FileId::ROOT,
            Held {
                inode: root,
                open: None,
            },
        );
        self.plan.on_directory(FileId::ROOT);
        loop {
            self.hear(false)?;
            match self.plan.next() {
                Step::List(directory) => self.list(directory),
                Step::Compare(block) => self.compare(block)?,
                Step::Send(block) => self.send(block)?,
                Step::Wait => {
                    self.flush();
                    self.hear(true)?;
                }
                // A rename may have listed more in the meantime.
                Step::Finish if self.take_found() => {}
                Step::Finish => return self.finish(),
            }
            self.give_back_over();
            self.report(if self.plan.is_listing() {
                Phase::Listing
            } else {
                Phase::Comparing
            });
        }
    }

    fn hear(&mut self, waits: bool) -> Result<(), Over> {
        for told in self.source.take_told(waits)? {
            match told {
                Told::Needed(file, offset) => self.plan.on_needed(file, offset),
                Told::Acknowledged(seq) => self.plan.on_acknowledged(seq),
            }
        }
        self.take_found();
        Ok(())
    }

    /// Plans what listings have bound; true when there was anything.
    fn take_found(&mut self) -> bool {
        let found = self.source.fs.take_found();
        let is_any = !found.is_empty();
        for found in found {
            if found.inode.is_directory() {
                self.plan.on_directory(found.file);
            } else {
                self.plan.on_file(found.file, found.size);
            }
            self.held.insert(
                found.file,
                Held {
                    inode: found.inode,
                    open: None,
                },
            );
        }
        is_any
    }

    fn list(&mut self, directory: FileId) {
        if let Some(held) = self.held.get(&directory) {
            self.source.fs.pace(super::BLOCK_BYTES as usize);
            self.source.fs.list(&held.inode, self.source.session);
            self.source.fs.flush();
        }
        self.plan.on_listed(directory);
    }

    fn compare(&mut self, block: Block) -> Result<(), Over> {
        match self.ship(block, Fs::ship_digest)? {
            BlockOutcome::Shipped { seq, .. } => self.plan.on_compared(block, seq),
            BlockOutcome::Nothing => self.plan.on_file_ended(block),
            BlockOutcome::SessionOver => return Err(Over),
        }
        Ok(())
    }

    fn send(&mut self, block: Block) -> Result<(), Over> {
        match self.ship(block, Fs::ship_content)? {
            BlockOutcome::Shipped { seq, length } => self.plan.on_sent(block, Some((seq, length))),
            BlockOutcome::Nothing => self.plan.on_sent(block, None),
            BlockOutcome::SessionOver => return Err(Over),
        }
        Ok(())
    }

    fn ship(
        &mut self,
        block: Block,
        ship: impl FnOnce(&Fs<C>, u64, BlockOf<'_>, &mut Vec<u8>) -> Result<BlockOutcome, Errno>,
    ) -> Result<BlockOutcome, Over> {
        let fs = &self.source.fs;
        let Some(held) = self.held.get_mut(&block.file) else {
            return Ok(BlockOutcome::Nothing);
        };
        if held.inode.is_gone() {
            return Ok(BlockOutcome::Nothing);
        }
        if held.open.is_none() {
            held.open = Some(self.source.opened(&held.inode)?);
        }
        let Some(open) = &held.open else {
            return Ok(BlockOutcome::Nothing);
        };
        fs.pace(super::BLOCK_BYTES as usize);
        let Block {
            file,
            offset,
            length,
        } = block;
        let of = BlockOf {
            inode: &held.inode,
            file,
            open,
            offset,
            length,
        };
        let buffer = &mut self.buffer;
        let shipped = self.source.shipping_own(
            || ship(fs, self.source.session, of, buffer),
            |outcome| match outcome {
                Ok(BlockOutcome::Shipped { seq, .. }) => Some(*seq),
                Ok(BlockOutcome::Nothing | BlockOutcome::SessionOver) | Err(_) => None,
            },
        );
        self.unsent += 1;
        if self.unsent >= UNSENT_MAX {
            self.flush();
        }
        shipped.map_err(|errno| self.source.unreadable(errno))
    }

    fn flush(&mut self) {
        self.source.fs.flush();
        self.unsent = 0;
    }

    fn give_back_over(&mut self) {
        for file in self.plan.take_over() {
            if let Some(held) = self.held.remove(&file) {
                self.source.fs.release_found(&held.inode);
            }
        }
    }

    fn give_back_all(&mut self) {
        self.take_found();
        for (_, held) in self.held.drain() {
            self.source.fs.release_found(&held.inode);
        }
    }

    fn report(&self, phase: Phase) {
        let bytes = self.plan.bytes();
        let mut progress = self.source.progress.lock();
        progress.entries = self.source.fs.listed_count();
        progress.bytes_total = bytes.total;
        progress.bytes_done = bytes.done;
        progress.bytes_sent = bytes.sent;
        progress.phase = phase;
    }

    fn finish(&mut self) -> Result<(), Over> {
        let source = self.source;
        self.report(Phase::Finishing);
        let ticket = source.shipping_own(
            || source.fs.ship_barrier(source.session),
            |ticket| match ticket {
                Ticket::Shipped { seq, .. } => Some(*seq),
                Ticket::NotShipped => None,
            },
        );
        let Ticket::Shipped { seq: barrier, .. } = ticket else {
            return Err(Over);
        };
        loop {
            let told = source.take_told(true)?;
            if told
                .iter()
                .any(|told| matches!(told, Told::Acknowledged(seq) if *seq == barrier))
            {
                return Ok(());
            }
        }
    }
}

impl<C: Completion> Source<C> {
    fn opened(&self, inode: &Inode) -> Result<OwnedFd, Over> {
        self.fs
            .open_for_resync(inode)
            .map_err(|errno| self.unreadable(errno))
    }

    /// Without being read the file cannot be compared, so this session cannot succeed.
    fn unreadable(&self, errno: Errno) -> Over {
        tracing::warn!(%errno, "a file cannot be read for the secondary");
        self.fs.abandon(self.session, "a file cannot be read");
        Over
    }
}

//! One session with the secondary: a thread that reads its answers, and one that keeps the link alive.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::resuming::QUIET_AFTER;
use super::{
    ACKNOWLEDGE_MAX, ACKNOWLEDGE_RESYNC_MAX, Completion, LossCause, PEER_SILENCE_MAX, PING_AFTER,
    ReplicatorEvent, Shared, Verdict,
};
use crate::Epoch;
use crate::replication::link::{Link, LinkError, LinkHandle, LinkReceiver, Received};
use crate::replication::outbox::Outbox;
use crate::replication::wire::{self, Acks, Hello, Message};
use crate::resync::Listener;

/// The running session.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) outbox: Outbox,
    pub(super) listener: Arc<dyn Listener>,
    /// Epoch of the greeting: the secondary answers in no older one.
    epoch: Epoch,
    pub(super) link: LinkHandle,
    /// Nothing was heard for `QUIET_AFTER`.
    is_quiet: AtomicBool,
    ending: Mutex<Ending>,
    ended: Condvar,
}

#[derive(Default)]
struct Ending {
    /// The first reason given is the one that is told.
    cause: Option<LossCause>,
    is_over: bool,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Session {
    pub(super) fn new(
        link: Link,
        hello: &Hello,
        listener: Arc<dyn Listener>,
    ) -> (Session, LinkReceiver) {
        let (sender, receiver) = link.split();
        let session = Session {
            id: hello.session,
            link: sender.handle(),
            outbox: Outbox::new(sender, hello.epoch),
            listener,
            epoch: hello.epoch,
            is_quiet: AtomicBool::new(false),
            ending: Mutex::default(),
            ended: Condvar::new(),
        };
        (session, receiver)
    }

    /// # Errors
    /// The system gives no thread; then the session must be declared over by the caller.
    pub(super) fn start_threads<C: Completion>(
        self: &Arc<Self>,
        shared: &Arc<Shared<C>>,
        receiver: LinkReceiver,
    ) -> io::Result<()> {
        let builder = || std::thread::Builder::new();
        let (session, pulse) = (self.clone(), self.clone());
        let pulse = builder()
            .name("mirror-pulse".into())
            .spawn(move || pulse.keep_alive())?;
        self.ending.lock().threads.push(pulse);
        let shared = shared.clone();
        let reader = builder()
            .name("mirror-acks".into())
            .spawn(move || session.read(&shared, receiver))?;
        self.ending.lock().threads.push(reader);
        Ok(())
    }

    /// Nothing was heard for a while: the link is doubted.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Acquire)
    }

    /// Ends the session; the reading thread notices and tells.
    pub(super) fn end(&self, cause: LossCause) {
        let mut ending = self.ending.lock();
        ending.cause.get_or_insert(cause);
        ending.is_over = true;
        drop(ending);
        self.ended.notify_all();
        self.link.close();
    }

    /// Waits for the threads, unless called by one of them.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut self.ending.lock().threads);
        let me = std::thread::current().id();
        for thread in threads
            .into_iter()
            .filter(|thread| thread.thread().id() != me)
        {
            // A thread that panicked has already taken the process down or left its message.
            let _ = thread.join();
        }
    }

    fn keep_alive(&self) {
        let mut ending = self.ending.lock();
        while !ending.is_over {
            self.ended.wait_for(&mut ending, PING_AFTER);
            if ending.is_over {
                return;
            }
            parking_lot::MutexGuard::unlocked(&mut ending, || {
                if !self.outbox.take_was_used() {
                    self.outbox.append(0, &Message::Ping);
                }
                // May block while the peer does not read; the reading thread then ends the session.
                self.outbox.kick();
            });
        }
    }

    /// Has sent what waits, by the thread that may block on it.
    pub(super) fn wake_pulse(&self) {
        self.ended.notify_all();
    }

    fn read<C: Completion>(&self, shared: &Shared<C>, receiver: LinkReceiver) {
        let cause = match Reader::new(self, shared, receiver).run() {
            Ok(never) => match never {},
            Err(cause) => cause,
        };
        self.end(cause);
        let cause = self.ending.lock().cause.take().unwrap_or(LossCause::Ended);
        shared.on_session_over(self, cause);
    }
}

/// Cannot be made: the reading loop ends with an error only.
enum Never {}

struct Reader<'s, C: Completion> {
    session: &'s Session,
    shared: &'s Shared<C>,
    receiver: LinkReceiver,
    heard_at: Instant,
    /// How often this silence was told.
    told_quiet: u32,
    checked_at: Instant,
    /// Requests to be answered, emptied after each batch of frames.
    due: Vec<C>,
    acknowledged: Vec<u64>,
}

impl<'s, C: Completion> Reader<'s, C> {
    fn new(session: &'s Session, shared: &'s Shared<C>, receiver: LinkReceiver) -> Reader<'s, C> {
        let now = Instant::now();
        Reader {
            session,
            shared,
            receiver,
            heard_at: now,
            told_quiet: 0,
            checked_at: now,
            due: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Never, LossCause> {
        loop {
            let outcome = self.handle_frames();
            self.answer();
            outcome?;
            if let Some(bytes) = self.receiver.take_unconfirmed() {
                // Leaves with what is sent next.
                self.session.outbox.append(0, &Message::Received { bytes });
            }
            match self.receiver.receive()? {
                Received::Bytes => {
                    self.heard_at = Instant::now();
                    self.told_quiet = 0;
                    self.session.is_quiet.store(false, Ordering::Release);
                }
                Received::Closed => return Err(LinkError::Closed.into()),
                Received::Idle => self.check_silence()?,
            }
            self.check_speed()?;
        }
    }

    fn handle_frames(&mut self) -> Result<(), LossCause> {
        while let Some(length) = self.receiver.whole_frame()? {
            let frame = wire::decode(&self.receiver.buffered()[..length])?;
            frame.check_epoch(self.session.epoch)?;
            let epoch = frame.epoch;
            match frame.message {
                Message::Ack(acks) => take_acks(
                    self.shared,
                    acks,
                    epoch,
                    &mut self.due,
                    &mut self.acknowledged,
                )?,
                Message::NeedBlock(block) => {
                    self.session
                        .listener
                        .need_block(block.file, block.offset, block.length);
                }
                Message::Refused { seq, errno } => return Err(LossCause::Refused { seq, errno }),
                Message::Pong => {}
                Message::Received { bytes } => self.session.link.confirm(bytes),
                other @ (Message::Hello(_)
                | Message::HelloReply(_)
                | Message::Ping
                | Message::EpochChange
                | Message::Change(_)) => return Err(other.unexpected().into()),
            }
            self.receiver.advance(length);
        }
        Ok(())
    }

    fn answer(&mut self) {
        for completion in self.due.drain(..) {
            self.shared
                .delivery
                .deliver(completion, Verdict::Acknowledged);
        }
        for seq in self.acknowledged.drain(..) {
            self.session.listener.acknowledged(seq);
        }
    }

    fn check_silence(&mut self) -> Result<(), LossCause> {
        let silent = self.heard_at.elapsed();
        if silent > PEER_SILENCE_MAX {
            return Err(LossCause::Silent { silent });
        }
        // Told again as long as it lasts: an attempt to go on may have failed.
        if silent > QUIET_AFTER * (self.told_quiet + 1) {
            self.told_quiet += 1;
            self.session.is_quiet.store(true, Ordering::Release);
            (self.shared.events)(ReplicatorEvent::LinkQuiet {
                session: self.session.id,
            });
        }
        Ok(())
    }

    fn check_speed(&mut self) -> Result<(), LossCause> {
        const CHECK_EVERY: Duration = Duration::from_secs(1);
        let now = Instant::now();
        if now.duration_since(self.checked_at) < CHECK_EVERY {
            return Ok(());
        }
        self.checked_at = now;
        let state = self.shared.state.lock();
        let limit = if state.core.waits_for_peer() {
            ACKNOWLEDGE_MAX
        } else {
            ACKNOWLEDGE_RESYNC_MAX
        };
        match state.window.overdue(now, limit, ACKNOWLEDGE_RESYNC_MAX) {
            Some(seq) => Err(LossCause::TooSlow { seq, limit }),
            None => Ok(()),
        }
    }
}

fn take_acks<C: Completion>(
    shared: &Shared<C>,
    acks: Acks<'_>,
    epoch: Epoch,
    due: &mut Vec<C>,
    acknowledged: &mut Vec<u64>,
) -> Result<(), LossCause> {
    let now = Instant::now();
    let mut state = shared.state.lock();
    if epoch > state.epoch {
        return Err(LossCause::NewerEpoch {
            theirs: epoch,
            ours: state.epoch,
        });
    }
    let state_ref = &mut *state;
    for seq in acks.iter() {
        due.extend(
            state_ref
                .window
                .on_ack(seq, now, &mut state_ref.stats.latency)?,
        );
        acknowledged.push(seq);
    }
    if state.waiters > 0 {
        shared.changed.notify_all();
    }
    Ok(())
}

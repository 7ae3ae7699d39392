//! The primary's side of replication: ships changes, and answers requests when every copy that must have them does.
//!
//! One mutex guards the decision core, the window of unacknowledged changes and the session; it is never held over I/O or
//! while a request is answered. Threads: per session one that reads (`acks`) and one that keeps the link from looking
//! dead (`pulse`); one for the replicator's life that answers what became due while the gate was closed.

mod delivery;
mod outcome;
mod resuming;
mod session;
mod window;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

pub use self::outcome::{
    AttachError, EventSink, LossCause, ReplicatorEvent, StaleRecord, WaitError,
};
pub use self::window::NotInFlight;

use self::delivery::Delivery;
use self::session::Session;
use self::window::Window;
use super::change::Change;
use super::core::{Action, Answer, Core, Event, Record};
use super::link::Link;
use super::shipping::{Completion, Shipping, Ticket, Verdict};
use super::stats::ReplicationStats;
use super::wire::{Hello, HelloReply, Message, Start, WireError};
use crate::resync::Listener;
use crate::{Epoch, Gate};

/// Bytes shipped and not acknowledged; a request that would exceed it waits in `reserve`. Requests that passed `reserve`
/// at the same moment may exceed it by what they ship.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// The same for the number of changes.
pub const IN_FLIGHT_FRAMES_MAX: usize = 64 << 10;
/// A link on which nothing was sent for so long carries a ping.
pub const PING_AFTER: Duration = Duration::from_millis(150);
/// A peer of whom nothing was heard for so long is lost.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(1);
/// A change that requests wait for and that is not acknowledged for so long makes the peer too slow to keep.
pub const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(30);
/// The same while nothing waits for the peer: removing a tree in a resync takes its time.
pub const ACKNOWLEDGE_RESYNC_MAX: Duration = Duration::from_secs(600);
/// How long the peer may take to answer our greeting.
pub const GREETING_MAX: Duration = Duration::from_secs(5);
/// The same after a switchover: writers wait meanwhile, and there is another way.
pub const GREETING_IN_SYNC_MAX: Duration = Duration::from_millis(800);

/// An addition that may be proposed now. Whoever does not propose it abandons it.
#[derive(Debug)]
#[must_use = "requests wait for the peer until the addition is committed, refused or abandoned"]
pub struct AdditionHold {
    /// A hold that stood before belongs to an addition that may be on its way: it is not ours to undo.
    is_new: bool,
}

/// Ships what the file system changes. One per primary's tenure.
pub struct Replicator<C: Completion> {
    shared: Arc<Shared<C>>,
    deliverer: Option<JoinHandle<()>>,
}

struct Shared<C: Completion> {
    state: Mutex<State<C>>,
    /// Something was acknowledged, or a session began or ended.
    changed: Condvar,
    /// Copies of facts in `state`, read without its lock.
    session: AtomicU64,
    binds_on_use: AtomicBool,
    delivery: Delivery<C>,
    events: EventSink,
}

struct State<C> {
    core: Core,
    epoch: Epoch,
    running: Option<Arc<Session>>,
    is_attaching: bool,
    last_session: u64,
    /// Number of the last frame of that session that is more than talk about the session itself; zero before the first.
    last_change: u64,
    window: Window<C>,
    /// Requests that wait for the record.
    stranded: Vec<C>,
    /// Threads in `reserve`, `wait_idle` and the like.
    waiters: usize,
    stats: ReplicationStats,
}

impl<C: Completion> Replicator<C> {
    /// A primary at `epoch` whose record names the peer, or does not. Requests are answered while `gate` is open.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        epoch: Epoch,
        counts_peer: bool,
        gate: Arc<Gate>,
        events: EventSink,
    ) -> io::Result<Replicator<C>> {
        let state = State {
            core: Core::new(counts_peer),
            epoch,
            running: None,
            is_attaching: false,
            last_session: 0,
            last_change: 0,
            window: Window::new(),
            stranded: Vec::new(),
            waiters: 0,
            stats: ReplicationStats::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            session: AtomicU64::new(0),
            binds_on_use: AtomicBool::new(false),
            delivery: Delivery::new(gate),
            events,
        });
        let deliverer = std::thread::Builder::new()
            .name("mirror-gate".into())
            .spawn({
                let shared = shared.clone();
                move || shared.delivery.run()
            })?;
        Ok(Replicator {
            shared,
            deliverer: Some(deliverer),
        })
    }

    /// Greets the secondary over `link` and begins a session: from now on changes are shipped. `listener` is told what
    /// the secondary answers. Blocks for one round trip, at most `GREETING_MAX`.
    ///
    /// # Errors
    /// See [`AttachError`]; no session began.
    pub fn attach(
        &self,
        link: Link,
        hello: &Hello,
        listener: Arc<dyn Listener>,
    ) -> Result<(), AttachError> {
        self.shared.begin_attaching(hello)?;
        let attached = self.shared.greet_and_begin(link, hello, listener);
        self.shared.state.lock().is_attaching = false;
        attached
    }

    /// The secondary now has everything that was changed here before and during `session` and not shipped: every
    /// object is bound, every block compared, and the barrier acknowledged.
    pub fn set_resynced(&self, session: u64) {
        self.shared.step(Event::Resynced { session });
    }

    /// From now on requests wait for the peer as if it were in the in-sync set (R6). Returns once everything shipped
    /// before is acknowledged: only then may its addition be proposed (R10). After a resync, and a barrier, only: what is acknowledged may
    /// only have been received, unless it is a barrier, or comes before one.
    ///
    /// # Errors
    /// The addition must not be proposed; requests are answered as before the call.
    pub fn hold_for_addition(&self, patience: Duration) -> Result<AdditionHold, WaitError> {
        let hold = AdditionHold {
            is_new: self.shared.state.lock().core.record() == Record::Alone,
        };
        self.shared.step(Event::AdditionHeld);
        self.flush();
        match self.shared.wait_acknowledged(patience) {
            Ok(()) => Ok(hold),
            Err(error) => {
                self.abandon_addition(hold);
                Err(error)
            }
        }
    }

    /// The addition was not proposed and will not be: requests are answered as before the hold.
    pub fn abandon_addition(&self, hold: AdditionHold) {
        if hold.is_new {
            self.shared.step(Event::AdditionAbandoned);
        }
    }

    /// A committed record was applied in which this server still is the primary.
    ///
    /// # Errors
    /// `StaleRecord`: nothing was changed.
    pub fn set_record(&self, epoch: Epoch, counts_peer: bool) -> Result<(), StaleRecord> {
        {
            let mut state = self.shared.state.lock();
            if epoch < state.epoch {
                return Err(StaleRecord {
                    given: epoch,
                    current: state.epoch,
                });
            }
            if epoch > state.epoch {
                state.set_epoch(epoch);
            }
        }
        self.shared.step(Event::RecordSet { counts_peer });
        self.flush();
        Ok(())
    }

    /// This server is not the primary any more: every waiting and later request ends with an error. Final.
    pub fn fence(&self) {
        self.shared.step(Event::Fenced);
        self.end_session();
    }

    /// Waits until the secondary has acknowledged everything shipped so far; at once when no session runs and the record counts on
    /// no secondary, or on one whose copy is as the switchover left it. What was acknowledged is applied when a barrier comes last.
    ///
    /// # Errors
    /// `NoSession`: the record must drop the secondary first, or the session ended meanwhile. `TimedOut`.
    pub fn wait_idle(&self, patience: Duration) -> Result<(), WaitError> {
        {
            let state = self.shared.state.lock();
            if state.core.counts_on_memory_of_peer() {
                return Err(WaitError::NoSession);
            }
            if state.running.is_none() && state.stranded.is_empty() {
                return Ok(());
            }
        }
        self.flush();
        self.shared.wait_acknowledged(patience)
    }

    /// The last change of the tree, or barrier, that was shipped in the running session, or in the last one that ran.
    pub fn last_change(&self) -> Ticket {
        let state = self.shared.state.lock();
        match state.last_change {
            0 => Ticket::NotShipped,
            seq => Ticket::Shipped {
                session: state.last_session,
                seq,
            },
        }
    }

    /// Whether nothing is acknowledged without the peer: the record names it, or an addition may.
    pub fn waits_for_peer(&self) -> bool {
        self.shared.state.lock().core.waits_for_peer()
    }

    /// Ends the running session, if any; `SessionLost` follows with `Ended`.
    pub fn end_session(&self) {
        if let Some(session) = self.shared.running() {
            session.end(LossCause::Ended);
        }
    }

    /// Figures of the running session, or of the last one.
    pub fn stats(&self) -> ReplicationStats {
        let state = self.shared.state.lock();
        let mut stats = state.stats.clone();
        stats.frames_in_flight = state.window.frames();
        stats.bytes_in_flight = state.window.bytes_in_flight();
        if let Some(session) = &state.running {
            stats.bytes_sent = session.outbox.bytes_sent();
        }
        stats
    }
}

impl<C: Completion> Drop for Replicator<C> {
    fn drop(&mut self) {
        let session = self.shared.running();
        if let Some(session) = &session {
            session.end(LossCause::Ended);
            session.join();
        }
        self.shared.delivery.stop();
        if let Some(deliverer) = self.deliverer.take() {
            // Ends within one look at the gate.
            let _ = deliverer.join();
        }
    }
}

impl<C: Completion> Shipping<C> for Replicator<C> {
    fn session(&self) -> u64 {
        self.shared.session.load(Ordering::Acquire)
    }

    fn binds_on_use(&self) -> bool {
        self.shared.binds_on_use.load(Ordering::Acquire)
    }

    fn reserve(&self, bytes: usize) {
        let mut state = self.shared.state.lock();
        let mut must_flush = true;
        while !state.has_room_for(bytes) {
            // What fills the room may not even be sent yet: a request flushes after it has shipped everything.
            if std::mem::take(&mut must_flush) {
                MutexGuard::unlocked(&mut state, || self.flush());
                continue;
            }
            state = self.shared.wait_changed(state, None);
        }
    }

    fn ship(&self, session: u64, change: &Change<'_>) -> Ticket {
        let mut state = self.shared.state.lock();
        match &state.running {
            Some(running) if running.id == session => {}
            Some(_) => return Ticket::NotShipped,
            None => {
                state.core.on_unshipped();
                return Ticket::NotShipped;
            }
        }
        Ticket::Shipped {
            session,
            seq: state.ship(&Message::Change(*change)),
        }
    }

    fn abandon(&self, session: u64, reason: &'static str) {
        if let Some(running) = self
            .shared
            .running()
            .filter(|running| running.id == session)
        {
            running.end(LossCause::Abandoned(reason));
        }
    }

    fn complete(&self, ticket: Ticket, completion: C) {
        let mut state = self.shared.state.lock();
        let running = state.running.clone();
        let due = match state.core.answer(ticket) {
            Answer::Now => Some((completion, Verdict::Acknowledged)),
            Answer::Fenced => Some((completion, Verdict::Fenced)),
            Answer::AfterAck => match ticket {
                Ticket::Shipped { seq, .. } => state
                    .window
                    .wait(seq, completion)
                    .map(|completion| (completion, Verdict::Acknowledged)),
                Ticket::NotShipped => {
                    unreachable!("nothing was shipped and its acknowledgement is awaited")
                }
            },
            Answer::AfterRecord => {
                state.stranded.push(completion);
                None
            }
        };
        drop(state);
        if let Some((completion, verdict)) = due {
            self.shared.delivery.deliver(completion, verdict);
        }
        if let Some(session) = running {
            session.outbox.kick();
        }
    }

    fn flush(&self) {
        if let Some(session) = self.shared.running() {
            session.outbox.kick();
        }
    }
}

impl<C: Completion> Shared<C> {
    fn running(&self) -> Option<Arc<Session>> {
        self.state.lock().running.clone()
    }

    fn begin_attaching(&self, hello: &Hello) -> Result<(), AttachError> {
        let mut state = self.state.lock();
        if state.is_attaching || state.running.is_some() {
            let session = state.running.as_ref().map_or(0, |running| running.id);
            return Err(AttachError::Busy { session });
        }
        if hello.session <= state.last_session {
            return Err(AttachError::SessionNotNew {
                given: hello.session,
                last: state.last_session,
            });
        }
        state.check_hello(hello)?;
        state.is_attaching = true;
        Ok(())
    }

    fn greet_and_begin(
        self: &Arc<Self>,
        mut link: Link,
        hello: &Hello,
        listener: Arc<dyn Listener>,
    ) -> Result<(), AttachError> {
        let in_sync = hello.start == Start::Identical;
        let patience = if in_sync {
            GREETING_IN_SYNC_MAX
        } else {
            GREETING_MAX
        };
        match link.greet(hello, patience)? {
            HelloReply::Accepted => {}
            reply @ HelloReply::Resumed { .. } => {
                let error: WireError = Message::HelloReply(reply).unexpected();
                return Err(AttachError::Link(error.into()));
            }
            HelloReply::Refused { reason } => return Err(AttachError::Refused(reason)),
        }
        let (session, receiver) = Session::new(link, hello, listener);
        let session = Arc::new(session);
        {
            let mut state = self.state.lock();
            state.check_hello(hello)?;
            state.core.on(Event::Attached {
                session: hello.session,
                in_sync,
            });
            state.running = Some(session.clone());
            state.last_session = hello.session;
            state.last_change = 0;
            state.window = Window::new();
            state.stats = ReplicationStats::default();
            self.binds_on_use.store(in_sync, Ordering::Release);
            self.session.store(hello.session, Ordering::Release);
            self.changed.notify_all();
        }
        session.start_threads(self, receiver).map_err(|source| {
            session.end(LossCause::Ended);
            self.on_session_over(&session, LossCause::Ended);
            AttachError::Thread(source)
        })
    }

    /// Tells the core and does what follows.
    fn step(&self, event: Event) {
        self.step_locked(self.state.lock(), event);
    }

    fn step_locked(&self, mut state: MutexGuard<'_, State<C>>, event: Event) {
        self.changed.notify_all();
        let Some(action) = state.core.on(event) else {
            return;
        };
        let (due, verdict) = state.perform(action);
        drop(state);
        for completion in due {
            self.delivery.deliver(completion, verdict);
        }
        match action {
            Action::FenceAll => self.delivery.fence(),
            Action::Strand | Action::AnswerStranded | Action::AnswerAll => {}
        }
    }

    /// The reading thread of `session` has ended: nothing will be acknowledged any more.
    fn on_session_over(&self, session: &Session, cause: LossCause) {
        let mut state = self.state.lock();
        state.stats.bytes_sent = session.outbox.bytes_sent();
        state.running = None;
        self.session.store(0, Ordering::Release);
        self.binds_on_use.store(false, Ordering::Release);
        self.step_locked(
            state,
            Event::SessionLost {
                session: session.id,
            },
        );
        session.listener.session_ended();
        (self.events)(ReplicatorEvent::SessionLost {
            session: session.id,
            cause,
        });
    }

    fn wait_acknowledged(&self, patience: Duration) -> Result<(), WaitError> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        let session = state.running.as_ref().ok_or(WaitError::NoSession)?.id;
        let last = state.window.next_seq() - 1;
        loop {
            if state
                .running
                .as_ref()
                .is_none_or(|running| running.id != session)
            {
                return Err(WaitError::NoSession);
            }
            if state.window.is_acked_through(last) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(WaitError::TimedOut { waited: patience });
            }
            state = self.wait_changed(state, Some(deadline));
        }
    }

    fn wait_changed<'s>(
        &self,
        mut state: MutexGuard<'s, State<C>>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'s, State<C>> {
        state.waiters += 1;
        match deadline {
            Some(deadline) => drop(self.changed.wait_until(&mut state, deadline)),
            None => self.changed.wait(&mut state),
        }
        state.waiters -= 1;
        state
    }
}

impl<C> State<C> {
    fn check_hello(&self, hello: &Hello) -> Result<(), AttachError> {
        if self.core.is_fenced() {
            return Err(AttachError::Fenced);
        }
        if hello.epoch != self.epoch {
            return Err(AttachError::StaleEpoch {
                given: hello.epoch,
                current: self.epoch,
            });
        }
        if hello.start == Start::Identical && !self.core.may_begin_in_sync() {
            return Err(AttachError::Diverged);
        }
        Ok(())
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        if self.core.holds_changes() {
            return false;
        }
        self.running.is_none()
            || self.window.frames() == 0
            || (self.window.bytes_in_flight() + bytes <= IN_FLIGHT_BYTES_MAX
                && self.window.frames() < IN_FLIGHT_FRAMES_MAX)
    }

    /// Appends to the running session's order.
    fn ship(&mut self, message: &Message<'_>) -> u64 {
        let Some(running) = &self.running else {
            unreachable!("shipped without a session")
        };
        let seq = self.window.next_seq();
        let bytes = running.outbox.append(seq, message);
        let is_barrier = matches!(
            message,
            Message::Change(Change::Barrier | Change::Sync { .. })
        );
        let is_talk = matches!(
            message,
            Message::Change(Change::Forget { .. }) | Message::EpochChange
        );
        if !is_talk {
            self.last_change = seq;
        }
        self.window.push(bytes, is_barrier, Instant::now());
        self.stats.frames_shipped += 1;
        seq
    }

    fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        if let Some(running) = &self.running {
            running.outbox.set_epoch(epoch);
            self.ship(&Message::EpochChange);
        }
    }

    fn perform(&mut self, action: Action) -> (Vec<C>, Verdict) {
        match action {
            Action::Strand => {
                let State {
                    window,
                    stranded,
                    core,
                    ..
                } = self;
                stranded.extend(window.take_waiting());
                let due = if core.waits_for_peer() {
                    Vec::new()
                } else {
                    std::mem::take(stranded)
                };
                (due, Verdict::Acknowledged)
            }
            Action::AnswerStranded => (std::mem::take(&mut self.stranded), Verdict::Acknowledged),
            Action::AnswerAll => (self.take_all(), Verdict::Acknowledged),
            Action::FenceAll => (self.take_all(), Verdict::Fenced),
        }
    }

    fn take_all(&mut self) -> Vec<C> {
        let mut all = std::mem::take(&mut self.stranded);
        all.extend(self.window.take_waiting());
        all
    }
}

//! The thread that receives a session: applies what must or may be applied here, hands the rest to the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::apply::{Files, Namespace, Order};
use super::error::ApplyError;
use super::object::Object;
use super::pool::{Job, Owed, Pool, Work};
use super::tree::Tree;
use super::{EndCause, OnReceipt, Options, PRIMARY_SILENCE_MAX};
use crate::replication::change::Change;
use crate::replication::link::{LinkError, LinkHandle, LinkReceiver, LinkSender, Received};
use crate::replication::outbox::Outbox;
use crate::replication::replicator::{IN_FLIGHT_BYTES_MAX, PING_AFTER};
use crate::replication::wire::{self, FRAME_BYTES_MAX, Message, WireError};
use crate::{Copy, Epoch};

/// A change with fewer bytes of data is applied at once: handing it over would cost more.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// Acknowledgements that gather while more work is at hand.
const ACKS_GATHERED_MAX: usize = 16;
/// How long we listen to a primary that was told of a failure, so that the message is not lost with the connection.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// What all threads of a session share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) outbox: Outbox,
    pub(super) link: LinkHandle,
    files: Files,
    on_receipt: Arc<OnReceipt>,
    /// `finish` was called: what has arrived is applied, then the session ends.
    pub(super) is_finishing: AtomicBool,
    /// A change could not be applied; `failure` says which.
    has_failed: AtomicBool,
    failure: Mutex<Option<(u64, ApplyError)>>,
    is_over: Mutex<bool>,
    over: Condvar,
}

impl Shared {
    pub(super) fn new(
        sender: LinkSender,
        epoch: Epoch,
        files: Files,
        on_receipt: Arc<OnReceipt>,
    ) -> Shared {
        Shared {
            link: sender.handle(),
            outbox: Outbox::new(sender, epoch),
            files,
            on_receipt,
            is_finishing: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            is_over: Mutex::new(false),
            over: Condvar::new(),
        }
    }

    fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// The first failure ends the session: nothing is applied after it.
    fn fail(&self, seq: u64, error: ApplyError) {
        if let Some(errno) = error.of_disk() {
            self.files.copy.note_disk_failure(errno);
        }
        let mut failure = self.failure.lock();
        if failure.is_none() {
            *failure = Some((seq, error));
            self.has_failed.store(true, Ordering::Release);
            self.outbox.append(
                0,
                &Message::Refused {
                    seq,
                    errno: error.errno(),
                },
            );
        }
    }

    fn apply_to(
        &self,
        object: &Arc<Object>,
        owed: Owed,
        change: &Change<'_>,
    ) -> Result<(), ApplyError> {
        if let Some(block) = self.files.apply(object, change)? {
            self.outbox.append(0, &Message::NeedBlock(block));
        }
        self.on_applied(owed);
        Ok(())
    }

    fn on_applied(&self, owed: Owed) {
        self.files.counters.changes.fetch_add(1, Ordering::Relaxed);
        match owed {
            Owed::Acknowledgement { seq } => self.outbox.acknowledge(seq),
            Owed::Nothing { .. } => {}
        }
    }

    /// What the primary is owed once `change`, number `seq` of a frame at `epoch`, is applied.
    fn owed(&self, seq: u64, epoch: Epoch, change: &Change<'_>) -> Owed {
        if may_be_owed_nothing(change) && self.on_receipt.allows(epoch) {
            Owed::Nothing { seq }
        } else {
            Owed::Acknowledgement { seq }
        }
    }

    /// Shows the primary that we live while a change takes its time.
    pub(super) fn keep_alive(&self) {
        let mut is_over = self.is_over.lock();
        while !*is_over {
            self.over.wait_for(&mut is_over, PING_AFTER);
            if !*is_over {
                parking_lot::MutexGuard::unlocked(&mut is_over, || {
                    if !self.outbox.take_was_used() {
                        self.outbox.append(0, &Message::Pong);
                    }
                    self.outbox.kick();
                });
            }
        }
    }

    /// Has sent what waits, by the thread that may block on it.
    pub(super) fn wake_pulse(&self) {
        self.over.notify_all();
    }

    pub(super) fn is_over(&self) -> bool {
        *self.is_over.lock()
    }

    fn set_over(&self) {
        *self.is_over.lock() = true;
        self.over.notify_all();
    }
}

impl Work for Shared {
    fn perform(&self, object: &Arc<Object>, job: Job) {
        if self.has_failed() {
            return;
        }
        let frame = wire::decode(&job.frame).map(|frame| frame.message);
        let Ok(Message::Change(change)) = frame else {
            unreachable!("the receiving thread has decoded it")
        };
        if matches!(change, Change::Sync { .. } | Change::Barrier) {
            // May take long: what was done before it is acknowledged first.
            self.outbox.kick();
        }
        if let Err(error) = self.apply_to(object, job.owed, &change) {
            self.fail(job.owed.seq(), error);
        }
    }

    fn flush(&self) {
        self.outbox.kick();
    }
}

/// Owned by the receiving thread.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    receiver: LinkReceiver,
    namespace: Namespace,
    pool: Pool,
    copy: Arc<Copy>,
    epoch: Epoch,
    last_seq: u64,
    acks_gathered: usize,
}

impl Receiver {
    pub(super) fn new(
        shared: Arc<Shared>,
        receiver: LinkReceiver,
        tree: Tree,
        copy: Arc<Copy>,
        options: &Options,
    ) -> std::io::Result<Receiver> {
        let pool = Pool::start(options.workers, shared.clone())?;
        let epoch = copy.epoch();
        let namespace = Namespace::new(tree);
        Ok(Receiver {
            shared,
            receiver,
            namespace,
            pool,
            copy,
            epoch,
            last_seq: 0,
            acks_gathered: 0,
        })
    }

    /// Until the session ends; everything received whole is applied by then, unless something could not be.
    pub(super) fn run(mut self) -> EndCause {
        if self.namespace.tree.doubted().is_some() {
            // Else the sync at the end of the comparison would tell it, and everything would have to be written again.
            self.copy.hear_of_former_failures();
        }
        let cause = match self.receive() {
            Ok(never) => match never {},
            Err(cause) => cause,
        };
        self.pool.wait_all();
        self.shared.outbox.kick();
        let failure = *self.shared.failure.lock();
        let cause = match failure {
            Some((seq, error)) => {
                self.linger();
                EndCause::NotApplied { seq, error }
            }
            None => cause,
        };
        self.shared.link.close();
        self.shared.set_over();
        cause
    }

    fn receive(&mut self) -> Result<Never, EndCause> {
        let mut heard_at = Instant::now();
        let mut finishing_bytes = 0;
        loop {
            while let Some(length) = self.receiver.whole_frame()? {
                if self.shared.has_failed() {
                    return Err(EndCause::Finished);
                }
                self.on_frame(length)?;
            }
            if let Some(bytes) = self.receiver.take_unconfirmed() {
                self.shared.outbox.append(0, &Message::Received { bytes });
                self.acks_gathered += 1;
            }
            self.flush();
            if self.shared.has_failed() {
                return Err(EndCause::Finished);
            }
            let buffered = self.receiver.buffered().len();
            match self.receiver.receive() {
                Ok(Received::Bytes) => heard_at = Instant::now(),
                Ok(Received::Closed) | Err(_)
                    if self.shared.is_finishing.load(Ordering::Acquire) =>
                {
                    return Err(EndCause::Finished);
                }
                Ok(Received::Closed) => return Err(LinkError::Closed.into()),
                Ok(Received::Idle) => check_silence(heard_at)?,
                Err(error) => return Err(error.into()),
            }
            if self.shared.is_finishing.load(Ordering::Acquire) {
                // The kernel gives what has arrived, then the end. A primary that goes on sending must not hold us up.
                finishing_bytes += self.receiver.buffered().len() - buffered;
                if finishing_bytes > IN_FLIGHT_BYTES_MAX + FRAME_BYTES_MAX {
                    return Err(EndCause::Finished);
                }
            }
        }
    }

    fn on_frame(&mut self, length: usize) -> Result<(), EndCause> {
        let buffered = self.receiver.buffered();
        let is_last = wire::whole_frame_length(&buffered[length..])?.is_none();
        let frame = wire::decode(&buffered[..length])?;
        frame.check_epoch(self.epoch)?;
        let (epoch, seq) = (frame.epoch, frame.seq);
        if epoch > self.epoch {
            // Before the first answer at the new epoch (R3).
            self.copy
                .persist_epoch(epoch)
                .map_err(EndCause::NotDurable)?;
            self.epoch = epoch;
            self.shared.outbox.set_epoch(epoch);
        }
        match frame.message {
            Message::Change(change) => {
                check_seq(&mut self.last_seq, seq)?;
                let placed = Placed {
                    owed: self.shared.owed(seq, self.epoch, &change),
                    length,
                    is_last,
                };
                let outcome = apply(
                    &mut self.namespace,
                    &self.pool,
                    &self.shared,
                    placed,
                    &change,
                );
                match outcome {
                    Ok(Outcome::Applied) => self.acks_gathered += 1,
                    Ok(Outcome::Queued(object)) => {
                        let (owed, frame) = (placed.owed, self.receiver.take(length));
                        self.acks_gathered += usize::from(owed == Owed::Nothing { seq });
                        self.pool.submit(&object, Job { owed, frame });
                        return Ok(());
                    }
                    Err(error) => {
                        self.shared.fail(seq, error);
                        return Err(EndCause::Finished);
                    }
                }
            }
            Message::EpochChange => {
                check_seq(&mut self.last_seq, seq)?;
                self.shared.on_applied(Owed::Acknowledgement { seq });
                self.acks_gathered += 1;
            }
            Message::Ping => {
                self.shared.outbox.append(0, &Message::Pong);
                self.shared.outbox.kick();
            }
            Message::Received { bytes } => self.shared.link.confirm(bytes),
            other @ (Message::Hello(_)
            | Message::HelloReply(_)
            | Message::Pong
            | Message::Ack(_)
            | Message::NeedBlock(_)
            | Message::Refused { .. }) => return Err(other.unexpected().into()),
        }
        self.receiver.advance(length);
        if self.acks_gathered >= ACKS_GATHERED_MAX {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.acks_gathered) > 0 {
            self.shared.outbox.kick();
        }
    }

    /// Reads on without looking, until the primary closes: closing with unread bytes would destroy what we said last.
    fn linger(&mut self) {
        let deadline = Instant::now() + LINGER_MAX;
        while Instant::now() < deadline && !self.shared.is_finishing.load(Ordering::Acquire) {
            let length = self.receiver.buffered().len();
            self.receiver.advance(length);
            match self.receiver.receive() {
                Ok(Received::Bytes | Received::Idle) => {}
                Ok(Received::Closed) | Err(_) => return,
            }
        }
    }
}

/// Cannot be made: receiving ends with a cause only.
enum Never {}

/// A change and its place in the stream.
#[derive(Clone, Copy)]
struct Placed {
    owed: Owed,
    length: usize,
    /// No other whole frame is buffered behind it.
    is_last: bool,
}

enum Outcome {
    Applied,
    /// To be done by a worker.
    Queued(Arc<Object>),
}

fn apply(
    namespace: &mut Namespace,
    pool: &Pool,
    shared: &Shared,
    placed: Placed,
    change: &Change<'_>,
) -> Result<Outcome, ApplyError> {
    let order = namespace.order_of(change)?;
    if let Owed::Nothing { seq } = placed.owed {
        // Whole, in its place, of an epoch that is durable here, and named rightly: what follows is this copy's own affair.
        shared.outbox.acknowledge(seq);
        if placed.is_last {
            shared.outbox.kick();
        }
    }
    match order {
        Order::Object(object) => {
            // Reads or waits for the disk: others must not wait with it.
            let is_slow = matches!(change, Change::Sync { .. } | Change::BlockDigest { .. });
            let may_wait = placed.is_last || placed.length <= INLINE_BYTES_MAX;
            if is_slow || !may_wait || pool.is_busy(object.id) {
                return Ok(Outcome::Queued(object.clone()));
            }
            shared.apply_to(object, placed.owed, change)?;
        }
        Order::Names(file) => {
            if let Some(file) = file {
                pool.wait_idle(file);
            }
            namespace.apply(change)?;
            shared.on_applied(placed.owed);
        }
        Order::Everything(root) => {
            pool.wait_all();
            return Ok(Outcome::Queued(root.clone()));
        }
    }
    Ok(Outcome::Applied)
}

/// Whether this change may be acknowledged on receipt: whoever waits for it waits for a change of the tree and nothing more. The others
/// are questions: whether it is on the disk, whether everything is, whether it is the same.
fn may_be_owed_nothing(change: &Change<'_>) -> bool {
    match change {
        Change::Create { .. }
        | Change::Link { .. }
        | Change::Unlink { .. }
        | Change::Rmdir { .. }
        | Change::Rename { .. }
        | Change::Write { .. }
        | Change::SetAttributes { .. }
        | Change::SetXattr { .. }
        | Change::RemoveXattr { .. }
        | Change::Allocate { .. }
        | Change::Forget { .. }
        | Change::Bind { .. } => true,
        Change::Sync { .. }
        | Change::Barrier
        | Change::DirectoryBegin { .. }
        | Change::Entry { .. }
        | Change::DirectoryEnd { .. }
        | Change::BlockDigest { .. } => false,
    }
}

/// Changes are numbered without a gap: a lost or repeated one must never go unnoticed.
fn check_seq(last: &mut u64, seq: u64) -> Result<(), WireError> {
    if seq != *last + 1 {
        return Err(WireError::OutOfRange {
            field: "sequence number",
            value: seq,
        });
    }
    *last = seq;
    Ok(())
}

fn check_silence(heard_at: Instant) -> Result<(), EndCause> {
    let silent = heard_at.elapsed();
    if silent > PRIMARY_SILENCE_MAX {
        Err(EndCause::Silent { silent })
    } else {
        Ok(())
    }
}

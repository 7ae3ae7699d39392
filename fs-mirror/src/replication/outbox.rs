//! Frames on their way to the peer, sent by whoever has something to send.
//!
//! Flat combining: frames are appended under a short lock; [`Outbox::kick`] makes its caller the sender when nobody sends,
//! so that a single writer pays no hand-over to another thread, and many writers share one system call. What is appended
//! while somebody sends goes with his next batch.

use parking_lot::Mutex;

use super::link::{LinkHandle, LinkSender};
use super::wire::{self, ACK_SEQS_MAX, Acks, Message};
use crate::Epoch;

/// Both sides have one per session. How much it holds is bounded by what may be in flight.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    link: LinkHandle,
}

#[derive(Debug)]
struct State {
    /// Frames that wait.
    pending: Vec<u8>,
    /// Acknowledgements that wait; they follow the frames, so what a change causes precedes its acknowledgement.
    acks: Vec<u64>,
    epoch: Epoch,
    /// Absent while somebody sends, and once the link has failed.
    sender: Option<LinkSender>,
    /// Takes what is appended while a batch is being sent.
    spare: Vec<u8>,
    has_failed: bool,
    /// Something was sent since the last [`Outbox::take_was_used`].
    was_used: bool,
    bytes_sent: u64,
}

impl Outbox {
    pub(super) fn new(sender: LinkSender, epoch: Epoch) -> Outbox {
        let link = sender.handle();
        let state = State {
            pending: Vec::new(),
            acks: Vec::new(),
            epoch,
            sender: Some(sender),
            spare: Vec::new(),
            has_failed: false,
            was_used: false,
            bytes_sent: 0,
        };
        Outbox {
            state: Mutex::new(state),
            link,
        }
    }

    /// Appends one frame and returns its length.
    pub(super) fn append(&self, seq: u64, message: &Message<'_>) -> usize {
        let mut state = self.state.lock();
        let (epoch, start) = (state.epoch, state.pending.len());
        wire::encode(&mut state.pending, epoch, seq, message);
        let length = state.pending.len() - start;
        if state.has_failed {
            // The session is about to be declared lost; nobody will read this.
            state.pending.clear();
        }
        length
    }

    /// Frames appended from now on carry this epoch.
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.state.lock().epoch = epoch;
    }

    /// Adds an acknowledgement to what is sent next.
    pub(super) fn acknowledge(&self, seq: u64) {
        let mut state = self.state.lock();
        state.acks.push(seq);
        if state.acks.len() == ACK_SEQS_MAX {
            state.encode_acks();
        }
    }

    /// Sends what waits, unless somebody else is sending: then he does it. May block while the peer does not read.
    /// A failure closes the link, which ends the session in the thread that reads.
    pub(super) fn kick(&self) {
        let mut state = self.state.lock();
        let Some(mut sender) = state.sender.take() else {
            return;
        };
        loop {
            state.encode_acks();
            // Looked at under the lock: whoever moves the link kicks afterwards.
            if state.pending.is_empty() && !sender.must_follow() {
                state.sender = Some(sender);
                return;
            }
            let spare = std::mem::take(&mut state.spare);
            let batch = std::mem::replace(&mut state.pending, spare);
            drop(state);
            let bytes = batch.len() as u64;
            let sent = sender.send(batch);
            state = self.state.lock();
            state.was_used = true;
            state.bytes_sent += bytes;
            match sent {
                Ok(spare) => state.spare = spare,
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "mirror link failed while sending"
                    );
                    state.has_failed = true;
                    state.pending = Vec::new();
                    drop(state);
                    self.link.close();
                    return;
                }
            }
        }
    }

    /// Whether anything was sent since this was last asked.
    pub(super) fn take_was_used(&self) -> bool {
        std::mem::take(&mut self.state.lock().was_used)
    }

    /// Plaintext bytes sent so far.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.state.lock().bytes_sent
    }
}

impl State {
    fn encode_acks(&mut self) {
        if !self.acks.is_empty() {
            wire::encode(
                &mut self.pending,
                self.epoch,
                0,
                &Message::Ack(Acks::new(&self.acks)),
            );
            self.acks.clear();
        }
    }
}

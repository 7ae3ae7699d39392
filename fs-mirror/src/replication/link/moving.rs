//! Moving a link to another connection while its two halves are in use: nothing is lost, repeated or reordered.
//!
//! Both ends suspend their receiving, tell each other how many bytes have arrived, and send on from there. Each keeps what
//! the other has not confirmed ([`super::kept`]). The two sides of a session never notice more than a pause.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::BytesMut;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Link, LinkError, LinkHandle, TICK, Wire};

/// What both halves and every handle share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The connection in use: the one to be closed.
    current: Mutex<Arc<Wire>>,
    /// Held by the receiving half while it receives.
    pub(super) inbox: Mutex<Inbox>,
    /// Where the sending half goes on.
    onward: Mutex<Option<Onward>>,
    /// Signalled when a move has ended, or the link.
    moved: Condvar,
    is_moving: AtomicBool,
    is_closing: AtomicBool,
    /// Bytes that the peer has confirmed.
    confirmed: AtomicU64,
}

/// What has arrived, and where more will.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Plaintext bytes since the session began.
    pub(super) received: u64,
    /// The connection to receive from now on, and what it has already brought.
    next: Option<(Arc<Wire>, BytesMut)>,
}

/// The connection to send over from now on.
#[derive(Debug)]
pub(super) struct Onward {
    pub(super) wire: Arc<Wire>,
    /// Bytes that the peer has of those sent so far.
    pub(super) peer_received: u64,
}

impl Shared {
    pub(super) fn new(wire: Arc<Wire>) -> Shared {
        Shared {
            current: Mutex::new(wire),
            inbox: Mutex::new(Inbox {
                received: 0,
                next: None,
            }),
            onward: Mutex::default(),
            moved: Condvar::new(),
            is_moving: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            confirmed: AtomicU64::new(0),
        }
    }

    pub(super) fn current(&self) -> Arc<Wire> {
        self.current.lock().clone()
    }

    /// A failure of the connection is none of the link while it is being moved.
    pub(super) fn is_moving(&self) -> bool {
        self.is_moving.load(Ordering::Acquire) && !self.is_closing.load(Ordering::Acquire)
    }

    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }

    pub(super) fn is_onward(&self) -> bool {
        self.onward.lock().is_some()
    }

    pub(super) fn take_onward(&self) -> Option<Onward> {
        self.onward.lock().take()
    }

    /// Whether there is a connection that the sending half does not use yet; waits for the end of a move that is under way.
    pub(super) fn has_moved_on(&self) -> bool {
        let mut inbox = self.inbox.lock();
        while self.is_moving() {
            self.moved.wait_for(&mut inbox, TICK);
        }
        self.is_onward()
    }

    /// For the receiving half: waits a moment while the link is being moved, then takes the connection it was moved to.
    pub(super) fn next_inbox(
        &self,
        inbox: &mut MutexGuard<'_, Inbox>,
    ) -> Option<(Arc<Wire>, BytesMut)> {
        if self.is_moving() {
            self.moved.wait_for(inbox, TICK);
        }
        inbox.next.take()
    }

    fn set_closing(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.moved.notify_all();
    }
}

impl LinkHandle {
    /// First half of a move: receives nothing any more over the connection in use, and says how many bytes have arrived.
    /// [`LinkHandle::resume`] or [`LinkHandle::close`] must follow.
    pub(in crate::replication) fn suspend(&self) -> u64 {
        self.0.is_moving.store(true, Ordering::Release);
        // Wakes the receiving half and tells the peer nothing: it may be receiving still.
        let _ = self.0.current().socket.shutdown(Shutdown::Read);
        let mut inbox = self.0.inbox.lock();
        inbox.next = None;
        inbox.received
    }

    /// Second half of a move: goes on over `link`. The peer has `peer_received` bytes of what was sent.
    ///
    /// # Errors
    /// `Closed`: the link was closed meanwhile.
    pub(in crate::replication) fn resume(
        &self,
        link: Link,
        peer_received: u64,
    ) -> Result<(), LinkError> {
        let (wire, brought) = link.into_wire();
        let mut current = self.0.current.lock();
        if self.0.is_closing.load(Ordering::Acquire) {
            wire.close();
            return Err(LinkError::Closed);
        }
        let before = std::mem::replace(&mut *current, wire.clone());
        drop(current);
        *self.0.onward.lock() = Some(Onward {
            wire: wire.clone(),
            peer_received,
        });
        {
            let mut inbox = self.0.inbox.lock();
            inbox.next = Some((wire, brought));
            self.0.is_moving.store(false, Ordering::Release);
        }
        self.0.moved.notify_all();
        // Whoever still waits to send over it goes on.
        before.close();
        Ok(())
    }

    /// The peer has confirmed so many bytes of the session.
    pub(in crate::replication) fn confirm(&self, bytes: u64) {
        self.0.confirmed.fetch_max(bytes, Ordering::AcqRel);
    }

    /// Ends both directions; blocked reads and writes return.
    pub fn close(&self) {
        let current = self.0.current.lock();
        self.0.set_closing();
        current.close();
    }

    /// Ends reading after what has arrived; writing goes on.
    pub fn close_reading(&self) {
        let current = self.0.current.lock();
        self.0.set_closing();
        let _ = current.socket.shutdown(Shutdown::Read);
    }
}

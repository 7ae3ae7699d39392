//! TLS 1.3 over a blocking socket, carrying frames between two copies.
//!
//! The two halves of a [`Link`] never wait for each other: the mutex around the TLS state is held to encrypt or decrypt
//! a piece, never while the socket blocks. Only the sending half writes to the socket, so records leave in the order in
//! which they were sealed. Both can be moved to another connection ([`moving`]). A dead peer hangs nobody: reads return [`Received::Idle`] every [`TICK`], and
//! [`LinkHandle::close`] from any thread ends both halves.

mod kept;
mod moving;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use rustls::{ClientConnection, Connection, ProtocolVersion, ServerConnection};

use self::kept::Kept;
use self::moving::Shared;
use super::wire::{self, Hello, HelloReply, Message, RefusalReason, WireError};
use crate::Epoch;

/// How long a read waits before it reports [`Received::Idle`].
pub const TICK: Duration = Duration::from_millis(100);
/// Data that the peer's kernel does not acknowledge for so long ends the connection, should nobody close it earlier.
const TCP_USER_TIMEOUT_MS: u32 = 30_000;
/// Does not pace. One that does (`bbr`, the default of some machines) sends a large write by a timer: 128 KiB writes were
/// 20 % slower and cost 15 % more processor time (measured).
const CONGESTION_CONTROL: &str = "cubic";
/// Bytes taken from the socket in one read.
const READ_BYTES: usize = 256 << 10;
/// Bytes sealed before they are written to the socket: the peer opens one piece while the next is sealed (measured: 128 KiB
/// writes 14 % faster than with pieces of 128 KiB). Also bounds how long the TLS state is locked.
const SEAL_BYTES: usize = 32 << 10;
/// Bytes that arrive before the peer is told that it need not keep them.
const CONFIRM_EVERY: u64 = 64 << 10;

/// The connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("{step} the mirror link")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// TLS failed: a wrong certificate, a damaged record.
    #[error("TLS on the mirror link")]
    Tls(#[source] rustls::Error),
    /// An older TLS was negotiated.
    #[error("mirror link without TLS 1.3")]
    NotTls13,
    /// The peer sent something that is not allowed.
    #[error("peer of the mirror link broke the protocol")]
    Wire(#[from] WireError),
    /// The peer closed the connection.
    #[error("peer closed the mirror link")]
    Closed,
    /// The peer never says what has arrived.
    #[error("peer of the mirror link confirmed none of {bytes} bytes")]
    Unconfirmed {
        /// Bytes that are kept for it.
        bytes: u64,
    },
    /// The peer did not answer in time.
    #[error("no answer on the mirror link within {waited:?}")]
    TimedOut {
        /// How long we waited.
        waited: Duration,
    },
}

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// More bytes are buffered.
    Bytes,
    /// Nothing came for a [`TICK`].
    Idle,
    /// The peer will send no more.
    Closed,
}

/// A connection to the other copy.
#[derive(Debug)]
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
}

/// The half that writes.
#[derive(Debug)]
pub struct LinkSender {
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    kept: Kept,
    /// Bytes written to the connection in use, or before it, since the session began.
    written: u64,
    sealed: Vec<u8>,
}

/// The half that reads.
#[derive(Debug)]
pub struct LinkReceiver {
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    sealed: Box<[u8]>,
    plain: BytesMut,
    /// Bytes that arrived since the session began, and how many of them the peer was told of.
    received: u64,
    told: u64,
}

/// Ends the connection from any thread, or moves it.
#[derive(Clone, Debug)]
pub struct LinkHandle(Arc<Shared>);

/// One connection.
#[derive(Debug)]
struct Wire {
    socket: TcpStream,
    tls: Mutex<Connection>,
}

impl Link {
    /// The dialling side. The handshake may or may not be complete.
    ///
    /// # Errors
    /// `Io`: the socket refuses an option.
    pub fn client(socket: TcpStream, tls: ClientConnection) -> Result<Link, LinkError> {
        Link::new(socket, Connection::Client(tls))
    }

    /// The accepting side. The handshake may or may not be complete; plaintext that `tls` has already decrypted is kept.
    ///
    /// # Errors
    /// `Io`: the socket refuses an option.
    pub fn server(socket: TcpStream, tls: ServerConnection) -> Result<Link, LinkError> {
        Link::new(socket, Connection::Server(tls))
    }

    fn new(socket: TcpStream, mut tls: Connection) -> Result<Link, LinkError> {
        prepare(&socket).map_err(|source| LinkError::Io {
            step: "prepare the socket of",
            source,
        })?;
        tls.set_buffer_limit(None);
        let wire = Arc::new(Wire {
            socket,
            tls: Mutex::new(tls),
        });
        let shared = Arc::new(Shared::new(wire.clone()));
        Ok(Link {
            sender: LinkSender {
                shared: shared.clone(),
                wire: wire.clone(),
                kept: Kept::default(),
                written: 0,
                sealed: Vec::with_capacity(SEAL_BYTES + SEAL_BYTES / 8),
            },
            receiver: LinkReceiver {
                shared,
                wire,
                sealed: vec![0; READ_BYTES].into_boxed_slice(),
                plain: BytesMut::with_capacity(READ_BYTES),
                received: 0,
                told: 0,
            },
        })
    }

    /// Completes the handshake and makes sure of TLS 1.3.
    ///
    /// # Errors
    /// `Tls` when the peer's certificate is not accepted, `TimedOut`, `NotTls13`, `Io`.
    pub fn establish(&mut self, patience: Duration) -> Result<(), LinkError> {
        let deadline = Instant::now() + patience;
        let wire = self.receiver.wire.clone();
        let mut tls = wire.tls.lock();
        while tls.is_handshaking() || tls.wants_write() {
            match shake(&mut tls, &wire.socket) {
                Ok(()) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(LinkError::Closed);
                }
                Err(error) => return Err(from_io("shake hands on", error)),
            }
            // Looked at after every step: a peer that sends a byte now and then must not hold us up.
            if tls.is_handshaking() && Instant::now() >= deadline {
                return Err(LinkError::TimedOut { waited: patience });
            }
        }
        drain(&mut tls, &mut self.receiver.plain)?;
        match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Ok(()),
            _ => Err(LinkError::NotTls13),
        }
    }

    /// Accepting side: the first frame, so that the link can be brought to its module.
    ///
    /// # Errors
    /// Everything that `establish` and a peer can do wrong. A peer of another protocol version is told so.
    pub fn read_hello(&mut self, patience: Duration) -> Result<Hello, LinkError> {
        self.establish(patience)?;
        let error = match self.read_message(patience, |message| match message {
            Message::Hello(hello) => Ok(hello),
            other => Err(other.unexpected()),
        }) {
            Ok(hello) => return Ok(hello),
            Err(error) => error,
        };
        if let LinkError::Wire(WireError::OutOfRange {
            field: "protocol version",
            ..
        }) = error
        {
            let reason = RefusalReason::Version {
                supported: wire::WIRE_VERSION,
            };
            self.send_message(
                Epoch(0),
                &Message::HelloReply(HelloReply::Refused { reason }),
            )?;
        }
        Err(error)
    }

    /// Accepting side: tells the primary why not, and closes.
    ///
    /// # Errors
    /// `Io`: it could not be told.
    pub fn refuse(mut self, reason: RefusalReason) -> Result<(), LinkError> {
        self.send_message(
            Epoch(0),
            &Message::HelloReply(HelloReply::Refused { reason }),
        )?;
        let _ = self.receiver.wire.socket.shutdown(Shutdown::Write);
        Ok(())
    }

    /// Dialling side: greets and waits for the answer.
    ///
    /// # Errors
    /// Everything that `establish` and a peer can do wrong.
    pub fn greet(&mut self, hello: &Hello, patience: Duration) -> Result<HelloReply, LinkError> {
        self.establish(patience)?;
        self.send_message(hello.epoch, &Message::Hello(hello.clone()))?;
        self.read_message(patience, |message| match message {
            Message::HelloReply(reply) => Ok(reply),
            other => Err(other.unexpected()),
        })
    }

    /// Sends one frame without a number.
    ///
    /// # Errors
    /// `Io`, `Tls`.
    pub(crate) fn send_message(
        &mut self,
        epoch: Epoch,
        message: &Message<'_>,
    ) -> Result<(), LinkError> {
        let mut frame = Vec::new();
        wire::encode(&mut frame, epoch, 0, message);
        self.sender.write(&frame)
    }

    /// Ends it from another thread.
    pub fn handle(&self) -> LinkHandle {
        LinkHandle(self.receiver.shared.clone())
    }

    /// The two halves, to be used by two threads: the greeting is over, from here on bytes are counted.
    pub(super) fn split(mut self) -> (LinkSender, LinkReceiver) {
        self.receiver.received = self.receiver.plain.len() as u64;
        self.receiver.shared.inbox.lock().received = self.receiver.received;
        (self.sender, self.receiver)
    }

    /// The connection, and what it has brought after the greeting.
    fn into_wire(self) -> (Arc<Wire>, BytesMut) {
        (self.receiver.wire, self.receiver.plain)
    }

    fn read_message<T>(
        &mut self,
        patience: Duration,
        accept: impl FnOnce(Message<'_>) -> Result<T, WireError>,
    ) -> Result<T, LinkError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(length) = wire::whole_frame_length(self.receiver.buffered())? {
                let accepted = accept(wire::decode(&self.receiver.buffered()[..length])?.message)?;
                self.receiver.advance(length);
                return Ok(accepted);
            }
            match self.receiver.receive()? {
                Received::Closed => return Err(LinkError::Closed),
                Received::Bytes | Received::Idle if Instant::now() < deadline => {}
                Received::Bytes | Received::Idle => {
                    return Err(LinkError::TimedOut { waited: patience });
                }
            }
        }
    }
}

impl LinkSender {
    /// Sends `batch` after everything before it, or fails; blocks while the peer does not read. Over another connection when
    /// the link was moved. Gives an empty buffer back. After an error the link is of no use.
    ///
    /// # Errors
    /// `Io`, `Tls`, `Wire`, `Unconfirmed`.
    pub fn send(&mut self, batch: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        self.kept.forget(self.shared.confirmed())?;
        self.kept.push(batch)?;
        while let Err(error) = self.write_kept() {
            if !self.shared.has_moved_on() {
                return Err(error);
            }
        }
        Ok(self.kept.spare())
    }

    /// Whether the link was moved since anything was sent.
    pub(super) fn must_follow(&self) -> bool {
        self.shared.is_onward()
    }

    /// Ends the connection from any thread.
    pub fn handle(&self) -> LinkHandle {
        LinkHandle(self.shared.clone())
    }

    fn write_kept(&mut self) -> Result<(), LinkError> {
        if let Some(onward) = self.shared.take_onward() {
            self.kept.check(onward.peer_received)?;
            self.wire = onward.wire;
            self.written = onward.peer_received;
        }
        loop {
            let rest = self.kept.after(self.written);
            let piece = &rest[..rest.len().min(SEAL_BYTES)];
            if piece.is_empty() {
                return Ok(());
            }
            write_piece(&self.wire, &mut self.sealed, piece)?;
            self.written += piece.len() as u64;
        }
    }

    /// Writes bytes of the greeting, which are neither counted nor kept.
    fn write(&mut self, plain: &[u8]) -> Result<(), LinkError> {
        for piece in plain.chunks(SEAL_BYTES) {
            write_piece(&self.wire, &mut self.sealed, piece)?;
        }
        Ok(())
    }
}

impl LinkReceiver {
    /// Waits for bytes, at most one [`TICK`]. `Idle` as well while the link is being moved.
    ///
    /// # Errors
    /// `Io`, `Tls`.
    pub fn receive(&mut self) -> Result<Received, LinkError> {
        let shared = self.shared.clone();
        let mut inbox = shared.inbox.lock();
        let next = shared.next_inbox(&mut inbox);
        let has_moved = next.is_some();
        if let Some((wire, brought)) = next {
            self.wire = wire;
            self.plain.extend_from_slice(&brought);
            inbox.received += brought.len() as u64;
        } else if shared.is_moving() {
            return Ok(Received::Idle);
        }
        let buffered = self.plain.len();
        let received = self.receive_from_wire();
        inbox.received += (self.plain.len() - buffered) as u64;
        self.received = inbox.received;
        match received {
            Ok(Received::Closed) | Err(_) if shared.is_moving() => Ok(Received::Idle),
            // The peer has just told how much it has.
            Ok(Received::Idle) if has_moved => Ok(Received::Bytes),
            Ok(received) => Ok(received),
            Err(error) => Err(error),
        }
    }

    fn receive_from_wire(&mut self) -> Result<Received, LinkError> {
        let length = match (&self.wire.socket).read(&mut self.sealed) {
            Ok(0) => return Ok(Received::Closed),
            Ok(length) => length,
            Err(error) if is_timeout(&error) => return Ok(Received::Idle),
            Err(source) => {
                return Err(LinkError::Io {
                    step: "read from",
                    source,
                });
            }
        };
        let mut input = &self.sealed[..length];
        let mut tls = self.wire.tls.lock();
        let mut is_closed = false;
        while !input.is_empty() {
            tls.read_tls(&mut input).map_err(|source| LinkError::Io {
                step: "read TLS records from",
                source,
            })?;
            is_closed |= tls
                .process_new_packets()
                .map_err(LinkError::Tls)?
                .peer_has_closed();
            drain(&mut tls, &mut self.plain)?;
            MutexGuard::bump(&mut tls);
        }
        Ok(if is_closed {
            Received::Closed
        } else {
            Received::Bytes
        })
    }

    /// How many bytes have arrived in all, when it is time to tell the peer.
    pub(super) fn take_unconfirmed(&mut self) -> Option<u64> {
        if self.received - self.told < CONFIRM_EVERY {
            return None;
        }
        self.told = self.received;
        Some(self.received)
    }

    /// What was decrypted and not yet consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.plain
    }

    /// Length of the first frame, when it is buffered as a whole.
    ///
    /// # Errors
    /// `WireError::Length`.
    pub fn whole_frame(&self) -> Result<Option<usize>, WireError> {
        wire::whole_frame_length(&self.plain)
    }

    /// Consumes `length` bytes.
    pub fn advance(&mut self, length: usize) {
        self.plain.advance(length);
    }

    /// Consumes `length` bytes and keeps them, without a copy.
    pub fn take(&mut self, length: usize) -> Bytes {
        self.plain.split_to(length).freeze()
    }
}

impl Wire {
    fn close(&self) {
        // Fails only when the peer was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn write_piece(wire: &Wire, sealed: &mut Vec<u8>, piece: &[u8]) -> Result<(), LinkError> {
    sealed.clear();
    seal(wire, sealed, piece).map_err(|source| from_io("encrypt for", source))?;
    (&wire.socket)
        .write_all(sealed)
        .map_err(|source| LinkError::Io {
            step: "write to",
            source,
        })
}

fn seal(wire: &Wire, sealed: &mut Vec<u8>, piece: &[u8]) -> io::Result<()> {
    let mut tls = wire.tls.lock();
    tls.writer().write_all(piece)?;
    while tls.wants_write() {
        tls.write_tls(sealed)?;
    }
    Ok(())
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TICK))?;
    socket.set_write_timeout(None)?;
    rustix::net::sockopt::set_tcp_user_timeout(socket, TCP_USER_TIMEOUT_MS)?;
    // A kernel without it keeps its own.
    let _ = rustix::net::sockopt::set_tcp_congestion(socket, CONGESTION_CONTROL);
    Ok(())
}

/// One step of the handshake: sends what is to be sent, else waits for a record, at most one [`TICK`].
fn shake(tls: &mut Connection, socket: &TcpStream) -> io::Result<()> {
    if tls.wants_write() {
        return tls.write_tls(&mut &*socket).map(drop);
    }
    if tls.read_tls(&mut &*socket)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match tls.process_new_packets() {
        Ok(_) => Ok(()),
        Err(error) => {
            // The alert that tells the peer why; it may be gone already.
            let _ = tls.write_tls(&mut &*socket);
            Err(io::Error::other(error))
        }
    }
}

/// Moves decrypted bytes out of the TLS state.
fn drain(tls: &mut Connection, plain: &mut BytesMut) -> Result<(), LinkError> {
    let mut reader = tls.reader();
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LinkError::Closed);
            }
            Err(source) => {
                return Err(LinkError::Io {
                    step: "read from",
                    source,
                });
            }
        };
        let length = chunk.len();
        if length == 0 {
            return Ok(());
        }
        plain.extend_from_slice(chunk);
        reader.consume(length);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    // EAGAIN is what SO_RCVTIMEO gives; a signal is as harmless.
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// rustls hides its own errors in `io::Error`; takes them out again.
fn from_io(step: &'static str, error: io::Error) -> LinkError {
    match error.downcast::<rustls::Error>() {
        Ok(tls) => LinkError::Tls(tls),
        Err(source) => LinkError::Io { step, source },
    }
}

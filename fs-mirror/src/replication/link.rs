//! TLS 1.3 over a blocking socket, carrying frames between two copies.
//!
//! The two halves of a [`Link`] never wait for each other: the mutex around the TLS state is held to encrypt or decrypt
//! a piece, never while the socket blocks. Only the sending half writes to the socket, so records leave in the order in
//! which they were sealed. A dead peer hangs nobody: reads return [`Received::Idle`] every [`TICK`], and
//! [`LinkHandle::close`] from any thread ends both halves.

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use rustls::{ClientConnection, Connection, ProtocolVersion, ServerConnection};

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
    sealed: Vec<u8>,
}

/// The half that reads.
#[derive(Debug)]
pub struct LinkReceiver {
    shared: Arc<Shared>,
    sealed: Box<[u8]>,
    plain: BytesMut,
}

/// Ends the connection from any thread.
#[derive(Clone, Debug)]
pub struct LinkHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
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
        let shared = Arc::new(Shared {
            socket,
            tls: Mutex::new(tls),
        });
        Ok(Link {
            sender: LinkSender {
                shared: shared.clone(),
                sealed: Vec::with_capacity(SEAL_BYTES + SEAL_BYTES / 8),
            },
            receiver: LinkReceiver {
                shared,
                sealed: vec![0; READ_BYTES].into_boxed_slice(),
                plain: BytesMut::with_capacity(READ_BYTES),
            },
        })
    }

    /// Completes the handshake and makes sure of TLS 1.3.
    ///
    /// # Errors
    /// `Tls` when the peer's certificate is not accepted, `TimedOut`, `NotTls13`, `Io`.
    pub fn establish(&mut self, patience: Duration) -> Result<(), LinkError> {
        let deadline = Instant::now() + patience;
        let shared = self.receiver.shared.clone();
        let mut tls = shared.tls.lock();
        while tls.is_handshaking() || tls.wants_write() {
            match shake(&mut tls, &shared.socket) {
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
        let _ = self.receiver.shared.socket.shutdown(Shutdown::Write);
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
        self.sender.send(&frame)
    }

    /// Ends it from another thread.
    pub fn handle(&self) -> LinkHandle {
        LinkHandle(self.receiver.shared.clone())
    }

    /// The two halves.
    pub(super) fn split(self) -> (LinkSender, LinkReceiver) {
        (self.sender, self.receiver)
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
    /// Sends everything, or fails; blocks while the peer does not read. After an error the link is of no use.
    ///
    /// # Errors
    /// `Io`, `Tls`.
    pub fn send(&mut self, plain: &[u8]) -> Result<(), LinkError> {
        for piece in plain.chunks(SEAL_BYTES) {
            self.seal(piece)
                .map_err(|source| from_io("encrypt for", source))?;
            let written = (&self.shared.socket).write_all(&self.sealed);
            self.sealed.clear();
            written.map_err(|source| LinkError::Io {
                step: "write to",
                source,
            })?;
        }
        Ok(())
    }

    /// Ends the connection from any thread.
    pub fn handle(&self) -> LinkHandle {
        LinkHandle(self.shared.clone())
    }

    fn seal(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut tls = self.shared.tls.lock();
        tls.writer().write_all(piece)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.sealed)?;
        }
        Ok(())
    }
}

impl LinkReceiver {
    /// Waits for bytes, at most one [`TICK`].
    ///
    /// # Errors
    /// `Io`, `Tls`.
    pub fn receive(&mut self) -> Result<Received, LinkError> {
        let length = match (&self.shared.socket).read(&mut self.sealed) {
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
        let mut tls = self.shared.tls.lock();
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

impl LinkHandle {
    /// Ends both directions; blocked reads and writes return.
    pub fn close(&self) {
        // Fails only when the peer was faster.
        let _ = self.0.socket.shutdown(Shutdown::Both);
    }

    /// Ends reading after what has arrived; writing goes on.
    pub fn close_reading(&self) {
        let _ = self.0.socket.shutdown(Shutdown::Read);
    }
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

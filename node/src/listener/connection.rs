//! What an accepted connection becomes.

use std::io;
use std::net::{SocketAddr, TcpStream as BlockingStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::state::ServerId;
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::budget::Ticket;
use crate::security::PeerIdentity;

/// A stranger's connection ends after this time. Joining takes a few seconds.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(60);

/// Who is at the other end; tonic puts it into the extensions of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The address it comes from.
    pub from: SocketAddr,
    /// The member; `None` for a stranger.
    pub peer: Option<PeerIdentity>,
}

/// The stream of a mirror, opened by the primary: the socket blocks, the handshake is complete.
#[derive(Debug)]
pub struct MirrorConnection {
    /// The member at the other end.
    pub peer: ServerId,
    /// The address it comes from.
    pub from: SocketAddr,
    /// The connection.
    pub socket: BlockingStream,
    /// Its TLS state, which may already hold bytes received.
    pub tls: ServerConnection,
}

impl MirrorConnection {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
        peer: ServerId,
    ) -> io::Result<MirrorConnection> {
        let (socket, tls) = stream.into_inner();
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        Ok(MirrorConnection {
            peer,
            from,
            socket,
            tls,
        })
    }
}

/// A gRPC connection, as tonic takes it.
pub(super) struct GrpcConnection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
    stranger: Option<Stranger>,
}

/// A place for a stranger, and its end.
struct Stranger {
    _place: Ticket,
    end: Pin<Box<Sleep>>,
}

impl GrpcConnection {
    pub(super) fn of_member(
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
        peer: PeerIdentity,
    ) -> GrpcConnection {
        GrpcConnection {
            stream,
            info: ConnectionInfo {
                from,
                peer: Some(peer),
            },
            stranger: None,
        }
    }

    pub(super) fn of_stranger(
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
        place: Ticket,
    ) -> GrpcConnection {
        GrpcConnection {
            stream,
            info: ConnectionInfo { from, peer: None },
            stranger: Some(Stranger {
                _place: place,
                end: Box::pin(sleep(STRANGER_TIME_MAX)),
            }),
        }
    }
}

impl Connected for GrpcConnection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info
    }
}

impl AsyncRead for GrpcConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(stranger) = &mut self.stranger
            && stranger.end.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for GrpcConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

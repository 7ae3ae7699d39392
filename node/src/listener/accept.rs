//! The common port: accepts, authenticates, hands over.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{debug, info, warn};

use super::bind::{listen, tune};
use super::budget::{Budget, Limits, Ticket};
use super::connection::{GrpcConnection, MirrorConnection};
use super::peer_layer::PeerLayer;
use crate::security::{ALPN_GRPC, ALPN_MIRROR, PeerIdentity};

/// A handshake that takes longer is none.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);
/// Handshakes under way. A member opens a handful when it starts; more come from something broken
/// or hostile, and are closed unread.
const HANDSHAKES: Limits = Limits {
    total: 128,
    per_source: 24,
};
/// Connections without a certificate.
const STRANGERS: Limits = Limits {
    total: 32,
    per_source: 8,
};
/// Connections authenticated and not yet taken by tonic; more are closed.
const HANDED_OVER_MAX: usize = 64;
/// After a failure to accept (no descriptors left) the port rests this long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Failed handshakes are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Flow control that a fast LAN does not wait for; bounds what one connection can make us hold.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME_MAX: u32 = 1 << 20;
/// Calls under way on one connection.
const CALLS_MAX: u32 = 256;
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the common port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// An address is taken, or cannot be.
    #[error("listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The gRPC server ended.
    #[error("serve gRPC")]
    Serve(#[from] tonic::transport::Error),
}

/// The common port, bound but not yet served.
pub struct Listener {
    sockets: Vec<TcpListener>,
    door: Arc<Door>,
}

/// What every accepted connection needs.
struct Door {
    acceptor: TlsAcceptor,
    handshakes: Arc<Budget>,
    strangers: Arc<Budget>,
    failures: FailureLog,
}

impl Listener {
    /// Binds those addresses that can be bound, and tells of the others; an address that this machine does not have yet is fine.
    ///
    /// # Errors
    /// `Bind`: none can be bound.
    // Asynchronous because sockets register with the runtime they are made in.
    #[expect(clippy::unused_async, reason = "must be called within a runtime")]
    pub async fn bind(
        addresses: &[SocketAddr],
        config: Arc<ServerConfig>,
    ) -> Result<(Listener, Vec<ListenerError>), ListenerError> {
        let (mut sockets, mut failures) = (Vec::new(), Vec::new());
        for &address in addresses {
            match listen(address) {
                Ok(socket) => sockets.push(socket),
                Err(source) => failures.push(ListenerError::Bind { address, source }),
            }
        }
        if sockets.is_empty()
            && let Some(failure) = failures.pop()
        {
            return Err(failure);
        }
        let listener = Listener {
            sockets,
            door: Arc::new(Door {
                acceptor: TlsAcceptor::from(config),
                handshakes: Budget::new(HANDSHAKES),
                strangers: Budget::new(STRANGERS),
                failures: FailureLog::default(),
            }),
        };
        Ok((listener, failures))
    }

    /// Where it really listens: port 0 has been replaced.
    ///
    /// # Errors
    /// Those of the system.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves `routes` over gRPC and gives mirror streams to `on_mirror`, which must not block, until
    /// it is dropped. Requests of members carry `consensus::Peer`.
    ///
    /// # Errors
    /// `Serve`.
    pub async fn serve(
        self,
        routes: Routes,
        on_mirror: impl Fn(MirrorConnection) + Send + Sync + 'static,
    ) -> Result<(), ListenerError> {
        let (hand_over, handed_over) = mpsc::channel(HANDED_OVER_MAX);
        let on_mirror = Arc::new(on_mirror);
        // Dropped with this future, and all the tasks with it.
        let mut accepting = JoinSet::new();
        for socket in self.sockets {
            let guest = Guest {
                door: Arc::clone(&self.door),
                on_mirror: Arc::clone(&on_mirror),
                hand_over: hand_over.clone(),
            };
            accepting.spawn(accept_all(socket, guest));
        }
        drop(hand_over);
        let incoming = ReceiverStream::new(handed_over).map(Ok::<_, io::Error>);
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .max_concurrent_streams(CALLS_MAX)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .layer(PeerLayer)
            .add_routes(routes)
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    }
}

async fn accept_all<F>(socket: TcpListener, guest: Guest<F>)
where
    F: Fn(MirrorConnection) + Send + Sync + 'static,
{
    let mut handshakes = JoinSet::new();
    loop {
        // Finished ones are collected as new ones come: their number is bounded by the budget.
        while handshakes.try_join_next().is_some() {}
        match socket.accept().await {
            Ok((stream, from)) => {
                // Without a place it is closed unread, which costs us nothing.
                if let Some(place) = guest.door.handshakes.take(from.ip()) {
                    handshakes.spawn(guest.clone().welcome(stream, from, place));
                } else {
                    guest
                        .door
                        .failures
                        .note(from, "too many handshakes at once");
                }
            }
            Err(error) => {
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// One connection on its way in.
struct Guest<F> {
    door: Arc<Door>,
    on_mirror: Arc<F>,
    hand_over: mpsc::Sender<GrpcConnection>,
}

impl<F> Clone for Guest<F> {
    fn clone(&self) -> Self {
        Guest {
            door: Arc::clone(&self.door),
            on_mirror: Arc::clone(&self.on_mirror),
            hand_over: self.hand_over.clone(),
        }
    }
}

impl<F: Fn(MirrorConnection)> Guest<F> {
    async fn welcome(self, stream: TcpStream, from: SocketAddr, _place: Ticket) {
        if let Err(error) = tune(&stream) {
            debug!(%from, %error, "connection ended before it began");
            return;
        }
        match timeout(HANDSHAKE_DEADLINE, self.door.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.dispatch(stream, from),
            Ok(Err(error)) => self.door.failures.note(from, &error.to_string()),
            Err(_elapsed) => self.door.failures.note(from, "handshake took too long"),
        }
    }

    fn dispatch(&self, stream: TlsStream<TcpStream>, from: SocketAddr) {
        let (_, tls) = stream.get_ref();
        let shown = tls.peer_certificates().and_then(|chain| chain.first());
        let peer = shown.and_then(PeerIdentity::of);
        let protocol = tls.alpn_protocol().map(<[u8]>::to_vec);
        match (protocol.as_deref(), peer) {
            (Some(ALPN_MIRROR), Some(peer)) => {
                match MirrorConnection::new(stream, from, peer.server) {
                    Ok(connection) => (self.on_mirror)(connection),
                    Err(error) => debug!(%from, %error, "mirror stream ended before it began"),
                }
            }
            (Some(ALPN_GRPC), Some(peer)) => {
                self.give(GrpcConnection::of_member(stream, from, peer));
            }
            (Some(ALPN_GRPC), None) if shown_is_none(&stream) => {
                match self.door.strangers.take(from.ip()) {
                    Some(place) => self.give(GrpcConnection::of_stranger(stream, from, place)),
                    None => self
                        .door
                        .failures
                        .note(from, "too many connections without a certificate"),
                }
            }
            _ => self
                .door
                .failures
                .note(from, "no certificate of a member, or no protocol of ours"),
        }
    }

    fn give(&self, connection: GrpcConnection) {
        if self.hand_over.try_send(connection).is_err() {
            warn!("a connection was closed: the server takes none right now");
        }
    }
}

/// A certificate that verifies but names no member is not a stranger's: it is nobody's.
fn shown_is_none(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.peer_certificates().is_none()
}

/// Says that connections fail, without letting a flood of them fill the log.
#[derive(Debug)]
struct FailureLog {
    start: Instant,
    /// Milliseconds since `start` from which on the next line may be written.
    next_ms: AtomicU64,
    unsaid: AtomicU64,
}

impl Default for FailureLog {
    fn default() -> Self {
        FailureLog {
            start: Instant::now(),
            next_ms: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }
}

impl FailureLog {
    fn note(&self, from: SocketAddr, why: &str) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next_ms.load(Ordering::Relaxed);
        let after = now.saturating_add(LOG_EVERY.as_millis() as u64);
        let may_write = now >= next
            && self
                .next_ms
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if may_write {
            let unsaid = self.unsaid.swap(0, Ordering::Relaxed);
            info!(%from, why, unsaid, "connection refused");
        } else {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
        }
    }
}

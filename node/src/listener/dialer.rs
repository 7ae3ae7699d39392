//! Connections to other members, each verified to be the one that was meant.

use std::io;
use std::net::{SocketAddr, TcpStream as BlockingStream};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use consensus::state::ServerId;
use consensus::{BoxStream, Dialer};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::bind::tune;
use super::dial_error::DialError;
use crate::security::{ALPN_GRPC, ALPN_MIRROR, JoinToken, Security, join_config};

/// On a LAN, a machine that is there answers within a millisecond.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// The handshake is computation on two machines that may be busy.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// What each LAN is ahead of the next: the first one is used while it works, and costs no more than this when it does not.
const HEAD_START: Duration = Duration::from_millis(50);
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Dials members of the cluster.
pub struct MemberDialer {
    security: Arc<Security>,
    own: Arc<ArcSwap<Vec<SocketAddr>>>,
}

impl MemberDialer {
    /// Dials from `own`, the addresses of this member; the position is the number of the LAN.
    #[must_use]
    pub fn new(security: Arc<Security>, own: Vec<SocketAddr>) -> MemberDialer {
        MemberDialer {
            security,
            own: Arc::new(ArcSwap::from_pointee(own)),
        }
    }

    /// Dials from other addresses from now on.
    pub fn set_own(&self, own: Vec<SocketAddr>) {
        self.own.store(Arc::new(own));
    }

    /// Opens the stream of a mirror to `peer`: over the LAN that answers first. The socket
    /// that is returned blocks, the handshake is complete.
    ///
    /// # Errors
    /// A [`DialError`] inside, that of the address that failed last.
    pub async fn dial_mirror(
        &self,
        peer: ServerId,
        addresses: &[SocketAddr],
    ) -> io::Result<(BlockingStream, ClientConnection)> {
        let stream = self.dial_any(peer, addresses, ALPN_MIRROR).await?;
        let (socket, tls) = stream.into_inner();
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        Ok((socket, tls))
    }

    /// A gRPC channel to `peer`, connected; it connects again when the connection is lost.
    ///
    /// # Errors
    /// That of the address that failed last.
    pub async fn channel(
        &self,
        peer: ServerId,
        addresses: &[SocketAddr],
    ) -> Result<Channel, DialError> {
        let first = self.dial_any(peer, addresses, ALPN_GRPC).await?;
        let dialer = MemberDialer {
            security: Arc::clone(&self.security),
            own: Arc::clone(&self.own),
        };
        let (dialer, known) = (Arc::new(dialer), Arc::new(addresses.to_vec()));
        over(first, move || {
            let (dialer, known) = (Arc::clone(&dialer), Arc::clone(&known));
            async move { dialer.dial_any(peer, &known, ALPN_GRPC).await }
        })
        .await
    }

    async fn dial_any(
        &self,
        peer: ServerId,
        addresses: &[SocketAddr],
        protocol: &[u8],
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let mut dialling: FuturesUnordered<_> = (0u32..)
            .zip(addresses)
            .map(async |(lan, &address)| {
                sleep(HEAD_START * lan).await;
                self.dial_one(peer, lan as usize, address, protocol).await
            })
            .collect();
        let mut failure = DialError::NoAddress(peer);
        while let Some(dialled) = dialling.next().await {
            match dialled {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn dial_one(
        &self,
        peer: ServerId,
        lan: usize,
        address: SocketAddr,
        protocol: &[u8],
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let stream = connect(address, self.own.load().get(lan).copied()).await?;
        let config = self.security.client_config(protocol);
        handshake(stream, address, config, self.security.member_name(peer)).await
    }
}

#[async_trait]
impl Dialer for MemberDialer {
    async fn dial(&self, peer: ServerId, lan: usize, address: SocketAddr) -> io::Result<BoxStream> {
        let stream = self.dial_one(peer, lan, address, ALPN_GRPC).await?;
        Ok(Box::new(stream))
    }
}

/// A gRPC channel to the member at `contact`, of whom only what `token` says is known. Anybody but a
/// member of the token's cluster is refused.
///
/// # Errors
/// `OtherCluster`, among others.
pub async fn join_channel(contact: SocketAddr, token: &JoinToken) -> Result<Channel, DialError> {
    let config = join_config(token)?;
    let name = ServerName::try_from("any.sidekick").expect("a constant DNS name");
    let dial = move || {
        let (config, name) = (Arc::clone(&config), name.clone());
        async move { handshake(connect(contact, None).await?, contact, config, name).await }
    };
    over(dial().await?, dial).await
}

/// A channel over a connection that exists already (so that its failure has had its own name), and
/// over new ones when that is lost.
async fn over<D, F>(first: TlsStream<TcpStream>, dial: D) -> Result<Channel, DialError>
where
    D: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<TlsStream<TcpStream>, DialError>> + Send,
{
    let address = first.get_ref().0.peer_addr();
    let address = address.unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
    let first = Arc::new(Mutex::new(Some(first)));
    let connector = service_fn(move |_uri| {
        let (first, dial) = (first.lock().take(), dial.clone());
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => dial().await?,
            };
            Ok::<_, DialError>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://member.sidekick")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|source| DialError::Http { address, source })
}

/// A TCP connection that leaves by the LAN of `own`: with several LANs, the routing table would
/// happily use one for all, and a dead LAN would go unnoticed. When this machine does not have that address, the routing table
/// decides.
async fn connect(address: SocketAddr, own: Option<SocketAddr>) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Unreachable { address, source };
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(failed)?;
    let leaves_by =
        own.filter(|own| own.is_ipv4() == address.is_ipv4() && !own.ip().is_unspecified());
    if let Some(mut own) = leaves_by {
        own.set_port(0);
        match socket.bind(own) {
            Ok(()) => {}
            // The machine has moved, or has lost this LAN. Without an answer from the others it could not be told better.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let stream = timeout(CONNECT_TIMEOUT, socket.connect(address))
        .await
        .map_err(|_elapsed| DialError::TimedOut {
            address,
            waited: CONNECT_TIMEOUT,
        })?
        .map_err(failed)?;
    tune(&stream).map_err(failed)?;
    Ok(stream)
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let expected = name.to_str().into_owned();
    timeout(
        HANDSHAKE_TIMEOUT,
        TlsConnector::from(config).connect(name, stream),
    )
    .await
    .map_err(|_elapsed| DialError::TimedOut {
        address,
        waited: HANDSHAKE_TIMEOUT,
    })?
    .map_err(|source| DialError::from_handshake(address, &expected, source))
}

//! Connections to other members: who is where, which LAN answers, one connection per purpose.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::machine::Applied;
use crate::heard::Heard;
use crate::state::ServerId;

/// Time for one connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Head start of a better LAN before the next one is tried beside it: a dead LAN must not delay an election.
const STAGGER: Duration = Duration::from_millis(60);
/// Nobody dials a member again sooner after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A connection whose pings stay unanswered is closed: calls on it fail then, and the next one dials again. Without it a call
/// on a connection whose other end lost power hangs until TCP gives up.
const PING_INTERVAL: Duration = Duration::from_millis(300);
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two looks whether a connection in use should be left.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A connected, authenticated byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Any [`Stream`].
pub type BoxStream = Box<dyn Stream>;

/// Opens connections to members. The node implements it with TLS.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `peer` at `address`, its address on LAN number `lan`. Small messages must not be delayed (`TCP_NODELAY`).
    ///
    /// # Errors
    /// Nobody answers there, or it is not `peer` that answers.
    async fn dial(&self, peer: ServerId, lan: usize, address: SocketAddr) -> io::Result<BoxStream>;
}

/// What a connection is for. One stream blocks whatever shares its connection, so each purpose has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Log entries, snapshots.
    Replication,
    /// Votes and Raft's own heartbeats: they must pass while a snapshot is sent.
    Leadership,
    /// Proposals and reads forwarded to the leader.
    Proposals,
}

/// Why there is no connection to a member.
#[derive(Debug, Clone, Error)]
pub(crate) enum ConnectError {
    /// The member is in no list: not in the applied state, not among those known from the start.
    #[error("no address is known for server {0}")]
    Unknown(ServerId),
    /// Nobody answers on any LAN.
    #[error("server {peer} answers on none of its addresses")]
    Unreachable {
        /// Who was dialled.
        peer: ServerId,
        /// What went wrong last.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It says that this member was removed from the cluster for good.
    #[error("server {by} says that this member was removed from the cluster")]
    Removed {
        /// Who says so.
        by: ServerId,
    },
    /// It has just been tried in vain.
    #[error("server {0} did not answer a moment ago")]
    TriedJustNow(ServerId),
}

/// Addresses of members: from the applied state, and before that has arrived from what the caller knew at the start.
pub(crate) struct AddressBook {
    pub(crate) applied: watch::Receiver<Applied>,
    pub(crate) known: BTreeMap<ServerId, Vec<SocketAddr>>,
}

impl AddressBook {
    /// The addresses of `server`; the index is the LAN.
    pub(crate) fn addresses(&self, server: ServerId) -> Vec<SocketAddr> {
        let applied = self.applied.borrow();
        match applied.state.members.get(&server) {
            Some(member) => member.addresses.clone(),
            None => self.known.get(&server).cloned().unwrap_or_default(),
        }
    }
}

/// All connections of this member to others, for requests. Heartbeats have their own.
pub(crate) struct Links {
    dialer: Arc<dyn Dialer>,
    book: AddressBook,
    heard: Arc<Heard>,
    slots: Mutex<BTreeMap<(ServerId, Purpose), SharedSlot>>,
}

/// Held across dialling, so that one connection is made however many wait for it.
type SharedSlot = Arc<tokio::sync::Mutex<Slot>>;

/// A connection, or when it last failed.
#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    failed_at: Option<Instant>,
}

#[derive(Clone)]
struct Connection {
    lan: usize,
    address: SocketAddr,
    channel: Channel,
}

impl Links {
    pub(crate) fn new(dialer: Arc<dyn Dialer>, book: AddressBook, heard: Arc<Heard>) -> Arc<Links> {
        Arc::new(Links {
            dialer,
            book,
            heard,
            slots: Mutex::default(),
        })
    }

    /// A channel to `peer`, connected now or before. Dialling goes on when the caller gives up waiting: a caller that waits
    /// less than a connection takes finds it ready the next time.
    pub(crate) async fn channel(
        self: &Arc<Self>,
        peer: ServerId,
        purpose: Purpose,
    ) -> Result<Channel, ConnectError> {
        let slot = self
            .slots
            .lock()
            .entry((peer, purpose))
            .or_default()
            .clone();
        if let Ok(slot) = slot.try_lock()
            && let Some(connection) = &slot.connection
            && self.is_usable(peer, connection)
        {
            return Ok(connection.channel.clone());
        }
        let links = self.clone();
        let asked_at = Instant::now();
        let dialling = tokio::spawn(async move {
            let mut slot = slot.lock().await;
            links.connect_slot(peer, &mut slot, asked_at).await
        });
        dialling.await.map_err(|error| ConnectError::Unreachable {
            peer,
            source: Arc::new(error),
        })?
    }

    /// Forgets the connection after a call on it has failed; the next call dials again.
    pub(crate) fn forget(&self, peer: ServerId, purpose: Purpose) {
        let slot = self.slots.lock().get(&(peer, purpose)).cloned();
        // Somebody who holds the slot is dialling: there is nothing to forget then.
        if let Some(slot) = slot
            && let Ok(mut slot) = slot.try_lock()
        {
            slot.connection = None;
        }
    }

    /// Returns when calls to `peer` should no longer be waited for on the connection they use.
    pub(crate) async fn until_left(&self, peer: ServerId, purpose: Purpose) {
        let slot = self
            .slots
            .lock()
            .entry((peer, purpose))
            .or_default()
            .clone();
        loop {
            sleep(LOOK_INTERVAL).await;
            let slot = slot.lock().await;
            if !slot
                .connection
                .as_ref()
                .is_some_and(|connection| self.is_usable(peer, connection))
            {
                return;
            }
        }
    }

    /// A connection is left when its address is no longer the member's, or its LAN has fallen silent while another is alive.
    fn is_usable(&self, peer: ServerId, connection: &Connection) -> bool {
        let addresses = self.book.addresses(peer);
        let is_current = addresses.get(connection.lan) == Some(&connection.address);
        let is_alive = |lan| self.heard.is_fresh(peer, lan);
        is_current && (is_alive(connection.lan) || !(0..addresses.len()).any(is_alive))
    }

    async fn connect_slot(
        &self,
        peer: ServerId,
        slot: &mut Slot,
        asked_at: Instant,
    ) -> Result<Channel, ConnectError> {
        if let Some(connection) = slot
            .connection
            .take_if(|connection| self.is_usable(peer, connection))
        {
            let channel = connection.channel.clone();
            slot.connection = Some(connection);
            return Ok(channel);
        }
        if slot
            .failed_at
            .is_some_and(|at| at > asked_at || at.elapsed() < RETRY_AFTER)
        {
            return Err(ConnectError::TriedJustNow(peer));
        }
        let last_lan = slot.connection.take().map(|connection| connection.lan);
        match self.dial_lans(peer, last_lan).await {
            Ok(connection) => {
                let channel = connection.channel.clone();
                *slot = Slot {
                    connection: Some(connection),
                    failed_at: None,
                };
                Ok(channel)
            }
            Err(error) => {
                slot.failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// Dials the LANs of `peer`, the most promising first, the others a little later beside it; the first to answer is taken.
    async fn dial_lans(
        &self,
        peer: ServerId,
        last_lan: Option<usize>,
    ) -> Result<Connection, ConnectError> {
        let mut lans: Vec<_> = self.book.addresses(peer).into_iter().enumerate().collect();
        lans.sort_by_key(|(lan, _)| {
            (
                !self.heard.is_fresh(peer, *lan),
                Some(*lan) == last_lan,
                *lan,
            )
        });
        let mut attempts: FuturesUnordered<_> = (0_u32..)
            .zip(lans)
            .map(|(turn, (lan, address))| async move {
                sleep(STAGGER * turn).await;
                let channel =
                    connect(self.dialer.clone(), peer, lan, address, CONNECT_TIMEOUT).await?;
                Ok(Connection {
                    lan,
                    address,
                    channel,
                })
            })
            .collect();
        let mut failure = ConnectError::Unknown(peer);
        while let Some(outcome) = attempts.next().await {
            match outcome {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// A channel over one new connection of the dialer. It never reconnects by itself: which LAN to dial next is ours to decide.
pub(crate) async fn connect(
    dialer: Arc<dyn Dialer>,
    peer: ServerId,
    lan: usize,
    address: SocketAddr,
    time_limit: Duration,
) -> Result<Channel, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { peer, source };
    let dialling = timeout(time_limit, dialer.dial(peer, lan, address));
    let stream = dialling
        .await
        .map_err(|error| unreachable(Arc::new(error)))?;
    let mut stream = Some(stream.map_err(|error| unreachable(Arc::new(error)))?);
    let connector = service_fn(move |_| {
        let stream = stream
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream.map(TokioIo::new) }
    });
    // The name is not looked up: the connector has its stream already, and TLS has verified who is there.
    let endpoint = Endpoint::from_static("http://member")
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| unreachable(Arc::new(error)))
}

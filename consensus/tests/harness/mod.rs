//! A cluster in one process: members over plain TCP on loopback, two LANs, links that can be cut and power that can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use consensus::state::{
    Accepted, AckMode, ClusterInfo, ClusterState, Command, Incarnation, MemberKind, ModuleName,
    NewMember, PackageHash, Proposal, ServerId, Wanted,
};
use consensus::{
    BoxStream, Consensus, Dialer, LogPosition, OpenError, Options, Origin, Peer, StartError,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn};
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

pub(crate) const CLUSTER: [u8; 16] = [9; 16];
pub(crate) const LANS: usize = 2;
/// Patience with what must happen at all; what must happen in time is measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const LEASE_MS: u64 = 1500;

/// An open connection: from, to, LAN, and what has become of it.
type Open = (u64, u64, usize, Arc<Trouble>);

/// What is wrong with a connection.
#[derive(Default)]
struct Trouble {
    /// Nothing gets through.
    is_cut: AtomicBool,
    /// What was asked gets through, the answers do not.
    is_deaf: AtomicBool,
}

/// All links between members.
#[derive(Default)]
pub(crate) struct Wires {
    cut: Mutex<BTreeSet<(u64, u64, usize)>>,
    open: Mutex<Vec<Open>>,
}

impl Wires {
    /// Cuts `a` from `b` on the LANs: what is under way is lost, new connections hang.
    pub(crate) fn cut(&self, a: u64, b: u64, lans: &[usize]) {
        let mut cut = self.cut.lock();
        for lan in lans {
            cut.extend([(a, b, *lan), (b, a, *lan)]);
        }
        for (from, to, lan, trouble) in &*self.open.lock() {
            if cut.contains(&(*from, *to, *lan)) {
                trouble.is_cut.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What `a` asks `b` over connections that are open still arrives, but no answer does; new connections of `a` hang.
    pub(crate) fn deafen(&self, a: u64, b: u64) {
        let mut cut = self.cut.lock();
        for (from, to, lan, trouble) in &*self.open.lock() {
            if (*from, *to) == (a, b) {
                trouble.is_deaf.store(true, Ordering::Relaxed);
            }
            cut.insert((a, b, *lan));
        }
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().clear();
    }

    /// Everything `server` has open goes dead: its power has failed. Later connections are not concerned.
    fn drop_all(&self, server: u64) {
        for (from, to, _, trouble) in &*self.open.lock() {
            if *from == server || *to == server {
                trouble.is_cut.store(true, Ordering::Relaxed);
            }
        }
    }

    async fn connect(
        &self,
        from: u64,
        to: u64,
        lan: usize,
        address: SocketAddr,
    ) -> io::Result<Wire> {
        if self.cut.lock().contains(&(from, to, lan)) {
            std::future::pending::<()>().await;
        }
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_u64(from).await?;
        let trouble = Arc::new(Trouble::default());
        self.open.lock().push((from, to, lan, trouble.clone()));
        Ok(Wire { stream, trouble })
    }
}

/// A connection that stays silent once it has been cut, as a wire does.
struct Wire {
    stream: TcpStream,
    trouble: Arc<Trouble>,
}

impl Wire {
    fn is_cut(&self) -> bool {
        self.trouble.is_cut.load(Ordering::Relaxed)
    }

    fn hears(&self) -> bool {
        !self.is_cut() && !self.trouble.is_deaf.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.hears() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The accepting end; the first eight bytes say who calls, as a certificate would.
struct Incoming {
    stream: TcpStream,
    peer: Peer,
}

impl Connected for Incoming {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Incoming {
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
}

struct PlainDialer {
    me: u64,
    wires: Arc<Wires>,
}

#[async_trait]
impl Dialer for PlainDialer {
    async fn dial(&self, peer: ServerId, lan: usize, address: SocketAddr) -> io::Result<BoxStream> {
        Ok(Box::new(
            self.wires.connect(self.me, peer.0, lan, address).await?,
        ))
    }
}

/// One member, with power or without.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) consensus: Option<Consensus>,
    addresses: Vec<SocketAddr>,
    incarnation: u64,
    directory: PathBuf,
    listeners: Vec<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn on(&self) -> &Consensus {
        self.consensus.as_ref().expect("the member has power")
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        self.on().state()
    }
}

pub(crate) struct Cluster {
    pub(crate) wires: Arc<Wires>,
    nodes: BTreeMap<u64, Node>,
    directory: TempDir,
    lease_ms: u64,
    /// Members that start from now on wait to be admitted.
    pub(crate) asks_first: bool,
}

impl Cluster {
    /// `servers` servers, and then perhaps a witness, all members and voting.
    pub(crate) async fn start(servers: u64, has_witness: bool) -> Cluster {
        Cluster::start_with_lease(servers, has_witness, LEASE_MS).await
    }

    pub(crate) async fn start_with_lease(
        servers: u64,
        has_witness: bool,
        lease_ms: u64,
    ) -> Cluster {
        // Shown for failed tests, with RUST_LOG set. Only the first test of a process can install it.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Cluster {
            wires: Arc::default(),
            nodes: BTreeMap::new(),
            directory,
            lease_ms,
            asks_first: false,
        };
        cluster.add(1, Origin::New, &BTreeMap::new()).await;
        let info = ClusterInfo {
            id: CLUSTER,
            name: "lab".parse().unwrap(),
            ca_fingerprint: [1; 32],
            lease_ms,
        };
        let first = cluster.introduction(1, MemberKind::Server);
        let init = proposal(Command::InitCluster { info, first });
        cluster.node(1).on().bootstrap(init).await.unwrap();
        for id in 2..=servers + u64::from(has_witness) {
            cluster.join(id, id > servers).await;
        }
        let all: BTreeSet<_> = cluster.nodes.keys().copied().map(ServerId).collect();
        let node = cluster.node(1);
        eventually("all vote", || {
            node.on().status().voters == all || all.len() < 3
        })
        .await;
        eventually("all know all", || {
            cluster
                .nodes
                .values()
                .all(|node| node.state().members.len() == all.len())
        })
        .await;
        cluster
    }

    pub(crate) async fn join(&mut self, id: u64, is_witness: bool) {
        let known = self
            .nodes
            .values()
            .map(|node| (ServerId(node.id), node.addresses.clone()))
            .collect();
        let addresses = self.listen().await;
        let kind = if is_witness {
            MemberKind::Witness
        } else {
            MemberKind::Server
        };
        let token = [u8::try_from(id).unwrap(); 32];
        let expires_at_unix_s = u64::MAX;
        let create = Command::CreateToken {
            token,
            witness: is_witness,
            expires_at_unix_s,
        };
        self.propose(1, create).await;
        self.nodes
            .insert(id, self.node_without_power(id, addresses));
        let member = self.introduction(id, kind);
        let added = self.propose(1, Command::AddMember { token, member }).await;
        assert_eq!(added, Accepted::MemberAdded(ServerId(id)));
        self.power_on(id, Origin::New, known).await.unwrap();
    }

    async fn add(&mut self, id: u64, origin: Origin, known: &BTreeMap<ServerId, Vec<SocketAddr>>) {
        let addresses = self.listen().await;
        self.nodes
            .insert(id, self.node_without_power(id, addresses));
        self.power_on(id, origin, known.clone()).await.unwrap();
    }

    /// Reserves an address on each LAN.
    async fn listen(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for _ in 0..LANS {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            listeners.push(listener);
        }
        addresses
    }

    fn node_without_power(&self, id: u64, addresses: Vec<SocketAddr>) -> Node {
        let directory = self.directory.path().join(format!("store-{id}"));
        Node {
            id,
            consensus: None,
            addresses,
            incarnation: 0,
            directory,
            listeners: Vec::new(),
        }
    }

    fn introduction(&self, id: u64, kind: MemberKind) -> NewMember {
        let name = match kind {
            MemberKind::Server => format!("server{id}"),
            MemberKind::Witness => "witness".to_owned(),
        };
        NewMember {
            name: name.parse().unwrap(),
            kind,
            addresses: self.node(id).addresses.clone(),
            certificate: [u8::try_from(id).unwrap(); 32],
            incarnation: Incarnation(1),
        }
    }

    async fn power_on(
        &mut self,
        id: u64,
        origin: Origin,
        known: BTreeMap<ServerId, Vec<SocketAddr>>,
    ) -> Result<(), StartError> {
        let dialer = Arc::new(PlainDialer {
            me: id,
            wires: self.wires.clone(),
        });
        let remembered = self.remembered(id);
        let lease_ms = self.lease_ms;
        let node = self.nodes.get_mut(&id).unwrap();
        node.incarnation += 1;
        let options = Options {
            me: ServerId(id),
            cluster: CLUSTER,
            origin,
            dir: node.directory.clone(),
            dialer,
            incarnation: Incarnation(node.incarnation),
            known,
            lease_ms,
            remembered,
            is_admitted: !self.asks_first,
        };
        let consensus = start_when_closed(options).await?;
        for address in &node.addresses {
            let listener = TcpListener::bind(address).await.unwrap();
            node.listeners
                .push(spawn(serve(listener, consensus.clone())));
        }
        node.consensus = Some(consensus);
        Ok(())
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.consensus.is_some())
    }

    /// Everything of the member ends at once; nobody is told.
    pub(crate) async fn power_off(&mut self, id: u64) {
        self.wires.drop_all(id);
        let node = self.nodes.get_mut(&id).unwrap();
        node.listeners
            .drain(..)
            .for_each(|listener| listener.abort());
        let consensus = node.consensus.take().unwrap();
        consensus.shutdown().await;
        self.closed(id).await;
    }

    /// Returns when nothing writes to the member's store any more: sled's threads end, and give its lock back, a moment after it
    /// was dropped.
    pub(crate) async fn closed(&self, id: u64) {
        let database = self.node(id).directory.join("db");
        eventually("the store is closed", || {
            std::fs::File::open(&database).unwrap().try_lock().is_ok()
        })
        .await;
    }

    /// The member starts again with the store it has, and announces its start as the node does.
    pub(crate) async fn power_back(&mut self, id: u64) {
        self.power_on(id, Origin::Existing, BTreeMap::new())
            .await
            .unwrap();
        let node = self.node(id);
        let started = Command::ServerStarted {
            server: ServerId(id),
            incarnation: Incarnation(node.incarnation),
        };
        let consensus = node.on().clone();
        // Nobody waits: when all members start, the first has no leader yet. What depends on it is waited for.
        spawn(async move { consensus.propose(proposal(started), PATIENCE).await });
    }

    /// What the others remember of the member's log, as the node asks them.
    fn remembered(&self, id: u64) -> LogPosition {
        let others = self.nodes().filter(|node| node.id != id);
        others
            .map(|node| node.on().remembered(ServerId(id)))
            .max()
            .unwrap_or_default()
    }

    /// Where the store of a member is.
    pub(crate) fn store_of(&self, id: u64) -> &std::path::Path {
        &self.node(id).directory
    }

    /// The member starts with another identity than its store has.
    pub(crate) async fn start_as(
        &self,
        id: u64,
        cluster: [u8; 16],
        origin: Origin,
    ) -> Result<Consensus, StartError> {
        let node = self.node(id);
        let options = Options {
            me: ServerId(id),
            cluster,
            origin,
            dir: node.directory.clone(),
            dialer: Arc::new(PlainDialer {
                me: id,
                wires: self.wires.clone(),
            }),
            incarnation: Incarnation(node.incarnation + 1),
            known: BTreeMap::new(),
            lease_ms: self.lease_ms,
            remembered: self.remembered(id),
            is_admitted: true,
        };
        start_when_closed(options).await
    }

    /// The member's store is gone.
    pub(crate) fn wipe(&self, id: u64) {
        std::fs::remove_dir_all(&self.node(id).directory).unwrap();
    }

    /// The leader that a majority agrees on.
    pub(crate) async fn leader(&self) -> u64 {
        let mut leader = None;
        eventually("a leader is agreed on", || {
            let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
            for status in self.nodes().map(|node| node.on().status()) {
                if let Some(ServerId(id)) = status
                    .leader
                    .filter(|id| self.node(id.0).consensus.is_some())
                {
                    *seen.entry(id).or_default() += 1;
                }
            }
            leader = seen
                .iter()
                .find(|(_, count)| **count > self.nodes.len() / 2)
                .map(|(id, _)| *id);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Proposes at member `at`, patiently.
    pub(crate) async fn propose(&self, at: u64, command: Command) -> Accepted {
        self.node(at)
            .on()
            .propose(proposal(command), PATIENCE)
            .await
            .unwrap()
    }

    /// Installs module `name` on servers 1 and 2, both started, with `primary` leading.
    pub(crate) async fn install(&self, name: &str, primary: u64) -> ModuleName {
        let name: ModuleName = name.parse().unwrap();
        let secondary = ServerId(3 - primary);
        let primary = ServerId(primary);
        let install = Command::InstallModule {
            name: name.clone(),
            servers: [ServerId(1), ServerId(2)],
            package: PackageHash([3; 32]),
            ack: AckMode::Disk,
            directories: vec!["/srv/data".into()],
            addresses: Vec::new(),
            heart_timeout_ms: None,
        };
        self.propose(1, install).await;
        for server in [primary, secondary] {
            let wanted = Command::SetWanted {
                module: name.clone(),
                server,
                wanted: Wanted::Started,
            };
            self.propose(1, wanted).await;
        }
        let epoch = async || {
            let state = self.node(1).on().read_index(PATIENCE).await.unwrap();
            state.modules[&name].epoch
        };
        let claim = Command::ClaimFirst {
            module: name.clone(),
            epoch: epoch().await,
            server: primary,
        };
        self.propose(1, claim).await;
        let add = Command::AddSecondary {
            module: name.clone(),
            epoch: epoch().await,
            primary,
            server: secondary,
        };
        self.propose(1, add).await;
        name
    }
}

/// Starts a member; in one process its former run may still be closing the store.
async fn start_when_closed(options: Options) -> Result<Consensus, StartError> {
    let started = Instant::now();
    loop {
        match Consensus::start(options.clone()).await {
            Err(StartError::Open(OpenError::InUse(_))) if started.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(10)).await;
            }
            outcome => return outcome,
        }
    }
}

async fn serve(listener: TcpListener, consensus: Consensus) {
    let incoming = TcpListenerStream::new(listener).then(async |stream: io::Result<TcpStream>| {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        let peer = Peer(ServerId(stream.read_u64().await?));
        io::Result::Ok(Incoming { stream, peer })
    });
    Server::builder()
        .add_routes(consensus.routes())
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

pub(crate) fn proposal(command: Command) -> Proposal {
    Proposal {
        command,
        author: "test".into(),
        evidence: String::new(),
        at_unix_ms: 1_000_000,
    }
}

/// Waits until `condition` holds, and returns how long that took.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
    started.elapsed()
}

//! The daemon: idle until it belongs to a cluster, then a member with one agent per module.

mod participation;
mod retry;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use consensus::state::{Command, Incarnation, MemberKind, ModuleName, ServerId};
use consensus::{Consensus, Options, Origin};
use fs_mirror::replication::link::LinkError;
use fs_mirror::{Link, RefusalReason};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use self::participation::{check_run, others_of};
use crate::agent::open_addition::replace_durably;
use crate::agent::{self, AgentHandle, Request};
use crate::leaving;
use crate::listener::{
    ControlSocket, Listener, ListenerError, MemberDialer, MirrorConnection, is_here,
};
use crate::member::Member;
use crate::paths::Paths;
use crate::recall::{Recalled, recall};
use crate::renewal::{keep_renewed, renew_alone};
use crate::security::{Identity, Security};
use crate::services::{ClusterService, ModuleService, PeerService};
use crate::shell::addresses::remove_leftovers;
use crate::shell::cgroup::Cgroup;
use crate::shell::watchdog::{Before, Watchdog};

/// Exit status of a daemon whose log cannot be written (`EX_IOERR`).
const LOG_FAILED: i32 = 74;
/// How long a primary that opened a stream may take to say what it wants.
const GREETING_MAX: Duration = Duration::from_secs(2);
/// How long the processes of an earlier daemon's applications may take to die.
const LEFTOVERS_DEADLINE: Duration = Duration::from_secs(10);
/// How long the applications may take to end when the daemon is asked to stop.
const LEAVE_DEADLINE: Duration = Duration::from_secs(300);
/// And how long then, when they are ended the hard way: more than a drain and all rungs of fencing, less than what the unit gives the
/// daemon beyond the first.
const LEAVE_AT_ONCE_DEADLINE: Duration = Duration::from_secs(50);
/// Between two looks whether this server has the addresses it should have.
const ADDRESS_RETRY: Duration = Duration::from_secs(2);
/// How long answers to operators may take when everything else has ended.
const LAST_ANSWERS_MAX: Duration = Duration::from_millis(500);

/// One daemon.
pub struct Daemon {
    /// Where things are on disk.
    pub paths: Paths,
    /// Started as a witness: joins with a witness token only, runs no module.
    pub is_witness: bool,
    watchdog: Watchdog,
    member: ArcSwapOption<Member>,
    agents: Mutex<BTreeMap<ModuleName, AgentHandle>>,
    stopping: watch::Sender<bool>,
    /// Why this server, which has an identity, takes part in nothing.
    unfit: ArcSwapOption<String>,
    /// This server is leaving its cluster: what it has of it is set aside when everything has ended.
    is_leaving_cluster: AtomicBool,
    /// Somebody asked here that it leaves: that the others say so is no surprise.
    asked_to_leave: AtomicBool,
    /// Set when this server, removed from its cluster, takes part in nothing any more.
    out: watch::Sender<bool>,
    /// Other daemons live in this process.
    is_one_of_many: AtomicBool,
    /// Set when this member cannot keep its log, and has ended for that.
    failed: watch::Sender<bool>,
    /// Set when every application has ended: until then the others must be able to reach this server.
    ended: watch::Sender<bool>,
    // Held for its lock.
    _lock: File,
}

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// It has left its cluster, and should start anew as one that belongs to none.
    LeftCluster,
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was removed while it was away.
    #[error("this server was removed from the cluster for good while it was away")]
    Removed,
    /// The others have seen later starts of this member.
    #[error(
        "start {next} of this daemon comes after start {known}, which the cluster has seen: its state directory was restored from an old copy, and a voter that forgot what it acknowledged must not vote again"
    )]
    RestoredRun {
        /// The number of this start.
        next: Incarnation,
        /// The newest that is committed.
        known: Incarnation,
    },
    /// The disk below the log, while this process serves others.
    #[error(
        "this member cannot keep its log: this cluster is not served any more; see to the disk of the state directory, then start this process again"
    )]
    LogFailed,
    /// Another daemon works on the same directory.
    #[error("another sknode runs on {0}: stop it, or choose another --root")]
    Running(String),
    /// Mounts, addresses and control groups need it.
    #[error("sknode must run as root: it mounts file systems and sets network addresses")]
    NotRoot,
}

impl Daemon {
    /// Prepares the directories and takes the lock.
    ///
    /// # Errors
    /// Not root, another daemon runs here, or the directories cannot be made.
    pub fn new(
        paths: Paths,
        is_witness: bool,
        watchdog: Option<PathBuf>,
    ) -> anyhow::Result<Arc<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Err(StartError::NotRoot.into());
        }
        make_state_dirs(&paths)?;
        let run = paths.root().join("run/sidekick");
        fs::create_dir_all(&run).with_context(|| format!("make {}", run.display()))?;
        let lock = File::create(paths.lock())
            .with_context(|| format!("write to {}", paths.state().display()))?;
        if rustix::fs::flock(
            lock.as_fd(),
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        )
        .is_err()
        {
            return Err(StartError::Running(paths.state().display().to_string()).into());
        }
        let watchdog = Watchdog::new(watchdog.filter(|_| !is_witness), &paths.state());
        Ok(Arc::new(Self {
            paths,
            is_witness,
            watchdog,
            member: ArcSwapOption::empty(),
            agents: Mutex::new(BTreeMap::new()),
            stopping: watch::Sender::new(false),
            unfit: ArcSwapOption::empty(),
            is_leaving_cluster: AtomicBool::new(false),
            asked_to_leave: AtomicBool::new(false),
            out: watch::Sender::new(false),
            is_one_of_many: AtomicBool::new(false),
            failed: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            _lock: lock,
        }))
    }

    /// Serves until told to stop, or to leave the cluster.
    ///
    /// # Errors
    /// The control socket cannot be bound, or this server's identity or log is damaged.
    pub async fn run(self: Arc<Self>) -> anyhow::Result<End> {
        let control = ControlSocket::bind(&self.paths.control_socket())?;
        if !self.is_witness {
            tokio::spawn(self.watchdog.clone().keep_beating());
        }
        if let Some(identity) = Identity::load(&self.paths.identity())? {
            let author = format!("{} {}", identity.kind, identity.server);
            self.become_member_again(identity, &author).await?;
        } else {
            leaving::finish(&self.paths)?;
            make_state_dirs(&self.paths)?;
            tracing::info!("in no cluster yet: skcli cluster init, or skcli cluster join");
        }
        let router = tonic::transport::Server::builder()
            .add_service(ClusterService::new(Arc::clone(&self)).server())
            .add_service(ModuleService::new(Arc::clone(&self)).server());
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "nobody waits for this daemon to be ready");
        }
        let ended = is_set(self.ended.subscribe());
        let mut serving =
            std::pin::pin!(router.serve_with_incoming_shutdown(control.incoming(), ended));
        let left = async {
            is_set(self.stopping.subscribe()).await;
            self.leave().await;
        };
        tokio::select! {
            served = &mut serving => served?,
            () = left => {}
            () = is_set(self.failed.subscribe()) => return Err(StartError::LogFailed.into()),
        }
        self.ended.send_replace(true);
        // An answer on its way to an operator gets a moment. A client that follows events, or hangs, keeps nobody here.
        match tokio::time::timeout(LAST_ANSWERS_MAX, serving).await {
            Ok(served) => served?,
            Err(_elapsed) => tracing::info!("calls that did not end were cut off"),
        }
        if self.is_leaving_cluster.load(Ordering::SeqCst) {
            self.forget_cluster().await?;
            return Ok(End::LeftCluster);
        }
        Ok(End::Stopped)
    }

    /// Why this server takes part in nothing although it has an identity.
    pub fn unfit(&self) -> Option<Arc<String>> {
        self.unfit.load_full()
    }

    /// Asks `run` to end everything, set aside what this server has of its cluster, and return.
    pub fn leave_cluster(&self) {
        self.is_leaving_cluster.store(true, Ordering::SeqCst);
        self.stop();
    }

    async fn forget_cluster(&self) -> anyhow::Result<()> {
        if let Some(member) = self.member() {
            member.consensus.clone().shutdown().await;
        }
        let label = match Identity::load(&self.paths.identity())? {
            Some(identity) => format!("{}-{}", identity.cluster, identity.server_id),
            None => "unknown".to_owned(),
        };
        let aside = leaving::set_aside(&self.paths, &label)?;
        tracing::info!(
            "left the cluster; what this server had of it is in {}",
            aside.display()
        );
        Ok(())
    }

    /// Ends every application in order, so that the other servers take over without waiting for a lease.
    ///
    /// What does not end in time is fenced: a daemon that just went would leave its watchdog armed, and this machine would be
    /// reset for an application that takes long to stop.
    async fn leave(&self) {
        let agents: Vec<AgentHandle> = self.agents.lock().values().cloned().collect();
        let in_order = ask_all(&agents, |done| Request::Leave { done });
        if tokio::time::timeout(LEAVE_DEADLINE, in_order).await.is_ok() {
            return;
        }
        tracing::warn!("some modules did not stop within {LEAVE_DEADLINE:?}");
        let at_once = ask_all(&agents, |done| Request::LeaveAtOnce { done });
        if tokio::time::timeout(LEAVE_AT_ONCE_DEADLINE, at_once)
            .await
            .is_err()
        {
            tracing::error!("some modules cannot be ended");
        }
    }

    /// Others live in the same process: a failure of this one must not end it.
    pub fn share_process(&self) {
        self.is_one_of_many.store(true, Ordering::SeqCst);
    }

    /// Asks `run` to return.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// This server as a member; `None` while it is in no cluster.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.load_full()
    }

    /// The agent of a module on this server.
    pub fn agent(&self, module: &ModuleName) -> Option<AgentHandle> {
        self.agents.lock().get(module).cloned()
    }

    /// Starts consensus, the listener and the agents with an identity that is on disk. `author` asked for it.
    ///
    /// # Errors
    /// The log does not belong to the identity, or the port is taken at every address.
    pub async fn become_member(
        self: &Arc<Self>,
        identity: Identity,
        author: &str,
    ) -> anyhow::Result<Arc<Member>> {
        let security = Arc::new(Security::load(&self.paths.identity(), &identity)?);
        let dialer = Arc::new(MemberDialer::new(
            Arc::clone(&security),
            identity.addresses.clone(),
        ));
        let incarnation = self.next_incarnation().with_context(|| {
            let state = self.paths.state();
            format!("note this start in {}", state.display())
        })?;
        renew_alone(&security, ServerId(identity.server_id), SystemTime::now());
        let Recalled { memories, answered } = recall(&dialer, &identity.known).await;
        check_run(memories, incarnation)?;
        let enrolled = self.paths.identity().join("enrolled");
        let is_new = !enrolled.exists();
        let consensus = Consensus::start(Options {
            me: ServerId(identity.server_id),
            cluster: identity.cluster_id,
            // R12: once this server has voted, an empty log under its number is a lost vote.
            origin: if is_new {
                Origin::New
            } else {
                Origin::Existing
            },
            dir: self.paths.raft(),
            dialer: dialer.clone(),
            incarnation,
            known: identity
                .known
                .iter()
                .map(|known| (ServerId(known.id), known.addresses.clone()))
                .collect(),
            lease_ms: identity.lease_ms,
            remembered: memories.log,
            // Who has never taken part has nothing to forget.
            is_admitted: is_new,
        })
        .await?;
        let member = Arc::new(Member::new(
            self.paths.clone(),
            identity,
            consensus,
            Arc::clone(&security),
            dialer,
            incarnation,
            self.watchdog.clone(),
        ));
        let (listens_at, how) = match self.begin(&member, &security, &enrolled, author).await {
            Ok(begun) => begun,
            Err(error) => {
                // Whoever tries again must find the log closed.
                member.consensus.clone().shutdown().await;
                return Err(error);
            }
        };
        self.member.store(Some(Arc::clone(&member)));
        tokio::spawn(Arc::clone(self).take_part(Arc::clone(&member), answered, how));
        tokio::spawn(end_when_failed(Arc::clone(self), member.consensus.clone()));
        tokio::spawn(Arc::clone(self).end_when_removed(Arc::clone(&member)));
        tokio::spawn(keep_renewed(Arc::clone(&member), Arc::clone(&security)));
        tokio::spawn(Arc::clone(self).follow_own_record(Arc::clone(&member), security, listens_at));
        if member.identity.kind == MemberKind::Server {
            tokio::spawn(Arc::clone(self).run_agents(Arc::clone(&member)));
        }
        tracing::info!(server = %member.identity.server, id = member.id().0, "member of cluster {}", member.identity.cluster);
        Ok(member)
    }

    /// What must succeed before a member whose log is open takes part: answers where it listens, and how it started.
    async fn begin(
        self: &Arc<Self>,
        member: &Arc<Member>,
        security: &Arc<Security>,
        enrolled: &Path,
        author: &str,
    ) -> anyhow::Result<(BTreeSet<SocketAddr>, String)> {
        replace_durably(enrolled, b"")?;
        let (listens_at, failures) = self
            .listen(member, security, &member.identity.addresses)
            .await?;
        for failure in failures {
            let error = format!("{:#}", anyhow::Error::new(failure));
            tracing::warn!(
                error,
                "this server does not listen at one of its addresses yet"
            );
        }
        self.found(member, author).await?;
        self.end_leftovers(member).await?;
        Ok((listens_at, self.how_started()?))
    }

    /// Ends what an earlier daemon left running, before its successor says that it has started: from then on another
    /// server may lead.
    async fn end_leftovers(&self, member: &Member) -> anyhow::Result<()> {
        if member.identity.kind == MemberKind::Witness {
            return Ok(());
        }
        Cgroup::of_root(self.paths.root())?
            .kill(LEFTOVERS_DEADLINE)
            .await?;
        let state = member.state();
        let addresses: Vec<_> = state
            .modules
            .values()
            .flat_map(|module| module.addresses.clone())
            .collect();
        remove_leftovers(&addresses)?;
        Ok(())
    }

    /// What is on record about this start. Nothing of an earlier daemon lives any more: what it armed is disarmed.
    fn how_started(&self) -> anyhow::Result<String> {
        Ok(match self.watchdog.settle()? {
            Before::Quiet => "daemon started".to_owned(),
            Before::Disarmed => "daemon started; the one before ended without a word".to_owned(),
            Before::Ticking => {
                "daemon started; the one before ended without a word, and its watchdog cannot be disarmed"
                    .to_owned()
            }
            Before::Reset(cause) => {
                tracing::warn!("this server was started anew: {cause}");
                format!("daemon started; this server was started anew: {cause}")
            }
        })
    }

    /// The founder commits the first entry; repeated after a crash in the middle of `cluster init`.
    async fn found(&self, member: &Arc<Member>, author: &str) -> anyhow::Result<()> {
        if let Some(founding) = member.identity.founding(member.incarnation)
            && member.state().cluster.is_none()
        {
            let command = Command::InitCluster {
                info: founding.info,
                first: founding.first,
            };
            member
                .consensus
                .bootstrap(member.proposal_by(command, author, "skcli cluster init"))
                .await?;
        }
        Ok(())
    }

    /// Listens at those of the addresses where that is possible; answers which these are, and why not at the others.
    ///
    /// # Errors
    /// It is possible at none.
    async fn listen(
        self: &Arc<Self>,
        member: &Arc<Member>,
        security: &Arc<Security>,
        addresses: &[SocketAddr],
    ) -> anyhow::Result<(BTreeSet<SocketAddr>, Vec<ListenerError>)> {
        let (listener, failures) = Listener::bind(addresses, security.server_config()?).await?;
        let mut bound: BTreeSet<SocketAddr> = addresses.iter().copied().collect();
        for failure in &failures {
            if let ListenerError::Bind { address, .. } = failure {
                bound.remove(address);
            }
        }
        let routes = member.consensus.routes().add_service(
            PeerService::new(Arc::clone(self), Arc::clone(member), Arc::clone(security)).server(),
        );
        let daemon = Arc::clone(self);
        let on_mirror = move |connection: MirrorConnection| daemon.on_mirror(connection);
        let (ended, out) = (self.ended.subscribe(), self.out.subscribe());
        tokio::spawn(async move {
            let served = listener.serve(routes, on_mirror);
            tokio::select! {
                ended = served => if let Err(error) = ended {
                    tracing::error!(%error, "the listener ended");
                },
                () = is_set(ended) => {}
                () = is_set(out) => {}
            }
        });
        Ok((bound, failures))
    }

    /// The cluster may call this server otherwise, or look for it elsewhere: it answers there as well, and knows it when it
    /// starts again. Where it listened before it listens until then. Addresses that this machine does not have are not taken for
    /// its own: they may be a slip, and what repairs it must reach this server where it was found before, also after a restart.
    /// It also notes who the others are, to ask them when it starts again.
    async fn follow_own_record(
        self: Arc<Self>,
        member: Arc<Member>,
        security: Arc<Security>,
        mut listens_at: BTreeSet<SocketAddr>,
    ) {
        // What is applied before that may be older than what was noted.
        if member.fresh().wait_for(|is_fresh| *is_fresh).await.is_err() {
            return;
        }
        let mut applied = member.consensus.watch();
        let mut identity = member.identity.clone();
        let mut doubted = Vec::new();
        loop {
            let state = Arc::clone(&applied.borrow_and_update().state);
            let before = identity.clone();
            let mut is_behind = false;
            if let Some(record) = state.members.get(&member.id()) {
                identity.server = record.name.clone();
                let wanted = [record.addresses.as_slice(), &identity.addresses].concat();
                let wanted: BTreeSet<SocketAddr> = wanted.into_iter().collect();
                let missing: Vec<SocketAddr> = wanted.difference(&listens_at).copied().collect();
                if !missing.is_empty() {
                    match self.listen(&member, &security, &missing).await {
                        Ok((bound, _)) => listens_at.extend(bound),
                        Err(error) => tracing::debug!(%error, "no new address yet"),
                    }
                    is_behind = missing.iter().any(|address| !listens_at.contains(address));
                }
                if record.addresses != identity.addresses {
                    let is_ours =
                        |address: &SocketAddr| listens_at.contains(address) && is_here(*address);
                    if record.addresses.iter().all(is_ours) {
                        identity.addresses.clone_from(&record.addresses);
                        member.dialer.set_own(identity.addresses.clone());
                    } else {
                        is_behind = true;
                        if doubted != record.addresses {
                            doubted.clone_from(&record.addresses);
                            tracing::error!(
                                addresses = ?record.addresses,
                                "the cluster looks for this server where it is not; give this machine these addresses, or type `skcli cluster set {} --address ...` on another member",
                                record.name
                            );
                        }
                    }
                }
            }
            if (&identity.server, &identity.addresses) != (&before.server, &before.addresses) {
                tracing::info!(name = %identity.server, addresses = ?identity.addresses, "this server is called and found so from now on");
            }
            let known = others_of(&state, member.id());
            if !state.members.is_empty() {
                identity.known = known;
            }
            if identity != before
                && let Err(error) = identity.save(&self.paths.identity())
            {
                tracing::error!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "what this server is called, where it is found and who the others are was not noted: it will be at the next change"
                );
            }
            let changed = if is_behind {
                let changed = tokio::time::timeout(ADDRESS_RETRY, applied.changed()).await;
                changed.unwrap_or(Ok(()))
            } else {
                applied.changed().await
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// A primary opened its stream: the hello says for which module.
    fn on_mirror(self: &Arc<Self>, connection: MirrorConnection) {
        let daemon = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let from = connection.peer;
            if let Err(error) = daemon.greet(connection) {
                tracing::warn!(%error, "server {from} opened a stream that came to nothing");
            }
        });
    }

    fn greet(&self, connection: MirrorConnection) -> Result<(), LinkError> {
        let from = connection.peer;
        let mut link = Link::server(connection.socket, connection.tls)?;
        let hello = link.read_hello(GREETING_MAX)?;
        let module = hello.module.parse::<ModuleName>().ok();
        match module.and_then(|module| self.agent(&module)) {
            None => link.refuse(RefusalReason::UnknownModule),
            Some(_) if hello.from != from.0 || !self.is_member(from) => {
                link.refuse(RefusalReason::NotSecondary)
            }
            Some(agent) => {
                if !agent.ask(Request::Session { link, hello }) {
                    tracing::info!("the agent was too busy to take a stream");
                }
                Ok(())
            }
        }
    }

    /// One agent for each installation of a module that has a copy here. An agent stays listed until its task has ended: a
    /// module that is installed again must not be prepared while the one before is being removed.
    async fn run_agents(self: Arc<Self>, member: Arc<Member>) {
        let mut applied = member.consensus.watch();
        let (ended, mut an_end) = mpsc::channel::<()>(1);
        loop {
            let state = Arc::clone(&applied.borrow_and_update().state);
            {
                let mut agents = self.agents.lock();
                // Whoever leaves asks the agents that are listed, after this flag: one that came later would lead again, and end
                // with the process, its watchdog armed.
                if *self.stopping.borrow() {
                    return;
                }
                agents.retain(|_, agent| !agent.has_ended());
                for record in state
                    .modules
                    .values()
                    .filter(|record| record.servers.contains(&member.id()))
                {
                    agents.entry(record.name.clone()).or_insert_with(|| {
                        agent::start(Arc::clone(&member), record.name.clone(), ended.clone())
                    });
                }
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                _ = an_end.recv() => {}
            }
        }
    }

    fn is_member(&self, server: ServerId) -> bool {
        self.member()
            .is_some_and(|member| member.state().members.contains_key(&server))
    }

    /// Numbers this start; durable before anything is said in its name.
    fn next_incarnation(&self) -> io::Result<Incarnation> {
        let path = self.paths.state().join("incarnation");
        let last: u64 = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is damaged", path.display()),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let next = Incarnation(last + 1);
        replace_durably(&path, next.0.to_string().as_bytes())?;
        Ok(next)
    }
}

/// Asks every agent, however busy, and waits for their answers. One that does not listen any more has nothing left.
async fn ask_all(agents: &[AgentHandle], request: impl Fn(oneshot::Sender<()>) -> Request) {
    let answers = agents.iter().map(|agent| {
        let (done, left) = oneshot::channel();
        let request = request(done);
        async move { agent.ask_when_free(request).await && left.await.is_ok() }
    });
    futures_util::future::join_all(answers).await;
}

/// Returns once the flag is set, or nobody is left to set it.
async fn is_set(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|is_set| *is_set).await.is_err() {
        tracing::debug!("the daemon is gone");
    }
}

/// A member that cannot write its log answers for nothing any more. It ends at once, so that its leases and addresses run out
/// and another server takes over; nothing it could still do in order would be committed. A witness that serves other clusters as
/// well ends for this one only.
async fn end_when_failed(daemon: Arc<Daemon>, consensus: Consensus) {
    let why = consensus.failed().await;
    if daemon.is_one_of_many.load(Ordering::SeqCst) {
        tracing::error!(why, "this member cannot keep its log");
        daemon.out.send_replace(true);
        consensus.shutdown().await;
        daemon.failed.send_replace(true);
        return;
    }
    tracing::error!(
        why,
        "this member cannot keep its log: the daemon ends, so that another server may take over; see to the disk of the state directory, then start it again"
    );
    std::process::exit(LOG_FAILED);
}

/// Makes what is missing below the state directory.
fn make_state_dirs(paths: &Paths) -> anyhow::Result<()> {
    // The scripts of a module may work as another user in their own directory: they may pass, not look.
    make_dir(&paths.state(), 0o711)?;
    make_dir(&paths.raft(), 0o700)?;
    make_dir(&paths.packages(), 0o700)?;
    make_dir(&paths.modules(), 0o711)
}

/// Makes a directory with exactly `mode`.
fn make_dir(dir: &Path, mode: u32) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(mode)));
    made.with_context(|| format!("make {}", dir.display()))
}

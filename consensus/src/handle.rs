//! The handle on consensus that the node holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::{EmptyNode, Instant as _};
use parking_lot::Mutex;
use store::{BindError, Identity, OpenError, Origin, Store};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn, spawn_blocking};
use tokio::time::{Instant, sleep};
use tonic::service::Routes;

use crate::admission::Admission;
use crate::heard::Heard;
use crate::liveness::Timing;
use crate::liveness_shell::{Beats, HeartbeatService, Lease, Liveness, LivenessThread, declare};
use crate::position::LogPosition;
use crate::proto::heartbeats_server::HeartbeatsServer;
use crate::proto::proposals_server::ProposalsServer;
use crate::proto::raft_server::RaftServer;
use crate::raft::config::{SILENCE_HEARTBEATS, raft_config};
use crate::raft::dial::{AddressBook, Dialer, Links};
use crate::raft::flusher::Flusher;
use crate::raft::guard::Guard;
use crate::raft::leadership::{hand_over, replace_lost_leader};
use crate::raft::log::{RaftLog, SnapshotStore};
use crate::raft::machine::{Applied, Machine};
use crate::raft::membership::maintain;
use crate::raft::network::{MESSAGE_BYTES_MAX, Network};
use crate::raft::proposals::{ProposalService, ProposeError, Proposer, ReadError};
use crate::raft::recent::Recent;
use crate::raft::service::RaftService;
use crate::raft::types::Raft;
use crate::state::{Accepted, ClusterState, Incarnation, Proposal, ServerId};

/// How long the first server waits to lead the group it alone forms.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks whether the others still count a vote that is to go.
const VOTE_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What consensus needs to know to start.
#[derive(Clone)]
pub struct Options {
    /// This member.
    pub me: ServerId,
    /// Random id of the cluster: the store is bound to it and to `me` (rule R12).
    pub cluster: [u8; 16],
    /// Whether this member has just been given its identity or has run before.
    pub origin: Origin,
    /// Directory of the store.
    pub dir: PathBuf,
    /// Opens connections to other members.
    pub dialer: Arc<dyn Dialer>,
    /// Number of this start, larger than any before.
    pub incarnation: Incarnation,
    /// Addresses of members known from joining, used until the cluster state has arrived.
    pub known: BTreeMap<ServerId, Vec<SocketAddr>>,
    /// The lease time `L` of the cluster's profile in milliseconds; modules lower it for their servers.
    pub lease_ms: u64,
    /// How much of the log other members remember this one to have held ([`Consensus::remembered`]); nothing when nobody does.
    pub remembered: LogPosition,
    /// It may take part at once. Otherwise it neither votes nor appends nor grants leases before [`Consensus::admit`].
    pub is_admitted: bool,
}

/// Why consensus did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("open consensus store")]
    Open(#[from] OpenError),
    /// The store is not this member's.
    #[error("bind consensus store")]
    Bind(#[from] BindError),
    /// The store is older than what this member has acknowledged: it was restored from a copy.
    #[error(
        "the log ends at {found}, but this member held it up to {remembered}: its state directory was \
         restored from an old copy, and a voter that forgot what it acknowledged must not vote again"
    )]
    Restored {
        /// Where the log ends.
        found: LogPosition,
        /// What others remember.
        remembered: LogPosition,
    },
    /// The log cannot be read.
    #[error("read raft log")]
    Log(#[source] io::Error),
    /// A thread could not be started.
    #[error("start thread")]
    Thread(#[source] io::Error),
    /// Raft could not recover.
    #[error("start raft")]
    Raft(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why the cluster could not be created.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// This server belongs to a cluster already.
    #[error("this server belongs to a cluster already")]
    AlreadyMember,
    /// Raft refused to start its group.
    #[error("form raft group")]
    Raft(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The group of one did not elect its only voter in time.
    #[error("this server did not become leader of its own group within {BOOTSTRAP_TIMEOUT:?}")]
    NoLeader,
    /// The first entry was not accepted.
    #[error("commit first entry")]
    Propose(#[from] ProposeError),
}

/// What people are shown. It is this member's view, not a decision.
#[derive(Debug, Clone)]
pub struct Status {
    /// Who is thought to lead. A leader that has lost its quorum goes on calling itself leader: see `last_quorum_age`.
    pub leader: Option<ServerId>,
    /// Raft term.
    pub term: u64,
    /// Index of the last entry applied here.
    pub applied_index: u64,
    /// The state after that entry.
    pub state: Arc<ClusterState>,
    /// On the leader: time since a quorum acknowledged it.
    pub last_quorum_age: Option<Duration>,
    /// Members that vote in Raft's configuration, as committed; while it changes, those that vote before and after. It follows
    /// the cluster state with some delay.
    pub voters: BTreeSet<ServerId>,
    /// The sets of which Raft needs a majority each: more than one while it changes its configuration.
    pub configurations: Vec<BTreeSet<ServerId>>,
    /// The newest configuration of Raft known here, committed or not, counts the vote of this member.
    pub votes: bool,
    /// Who says that this member was removed from the cluster for good.
    pub removed_by: BTreeSet<ServerId>,
    /// How often this member asked for an election because the leader was lost, since this start.
    pub elections_asked: u64,
    /// Time since each other member was heard, per LAN; `None`: never since this start.
    pub heard: BTreeMap<(ServerId, usize), Option<Duration>>,
}

/// Consensus, running. A cheap clone.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    me: ServerId,
    raft: Raft,
    applied: watch::Receiver<Applied>,
    proposer: Proposer,
    guard: Guard,
    liveness: Arc<Liveness>,
    lease: Lease,
    heard: Arc<Heard>,
    admission: Arc<Admission>,
    durable: Arc<Mutex<LogPosition>>,
    elections_asked: Arc<AtomicU64>,
    running: Mutex<Option<Running>>,
}

/// What shutting down ends.
struct Running {
    tasks: Vec<JoinHandle<()>>,
    thread: LivenessThread,
}

impl Running {
    /// Ends everything; blocks until the liveness thread has ended, at its next await.
    fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.thread.stop();
    }
}

impl Consensus {
    /// Opens the store, recovers the state and takes part.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(options: Options) -> Result<Consensus, StartError> {
        let Options {
            me,
            cluster,
            origin,
            dir,
            dialer,
            incarnation,
            known,
            lease_ms,
            remembered,
            is_admitted,
        } = options;
        let store = open_store(
            dir,
            Identity {
                cluster,
                server: me.0,
            },
            origin,
        )
        .await?;
        let timing = Timing::new(lease_ms);
        let heard = Arc::new(Heard::new(
            Duration::from_nanos(timing.heartbeat_ns) * SILENCE_HEARTBEATS,
        ));
        let flusher = Flusher::start().map_err(StartError::Thread)?;
        let log = RaftLog::new(&store, flusher.clone()).map_err(StartError::Log)?;
        let durable = log.durable();
        let found = *durable.lock();
        if found < remembered {
            return Err(StartError::Restored { found, remembered });
        }
        let recent = Recent::default();
        let (machine, applied) = Machine::new(SnapshotStore::new(&store, flusher), recent.clone());
        let book = AddressBook {
            applied: applied.clone(),
            known,
        };
        let links = Links::new(dialer.clone(), book, heard.clone());
        let config =
            Arc::new(raft_config(timing).map_err(|error| StartError::Raft(Box::new(error)))?);
        let admission = Arc::new(Admission::new(is_admitted));
        let network = Network {
            me,
            links: links.clone(),
            admission: admission.clone(),
        };
        let raft = Raft::new(me.0, config, network, log, machine).await;
        let raft = raft.map_err(|error| StartError::Raft(Box::new(error)))?;

        let proposer = Proposer {
            me,
            raft: raft.clone(),
            links,
            applied: applied.clone(),
            heard: heard.clone(),
            recent,
        };
        let (liveness, lease) =
            Liveness::new(timing, me, incarnation, applied.clone(), heard.clone());
        let beats = Beats {
            me,
            incarnation,
            profile: timing,
            dialer,
            applied: applied.clone(),
            durable: durable.clone(),
            heard: heard.clone(),
            liveness: liveness.clone(),
        };
        let (thread, actions) = LivenessThread::start(beats).map_err(StartError::Thread)?;
        let silence = Duration::from_nanos(timing.lease_ns / 2);
        let elections_asked = Arc::default();
        let replacing = replace_lost_leader(
            me,
            raft.clone(),
            heard.clone(),
            applied.clone(),
            timing,
            Arc::clone(&elections_asked),
        );
        let tasks = vec![
            spawn(maintain(raft.clone(), applied.clone())),
            spawn(hand_over(me, raft.clone(), heard.clone(), silence)),
            spawn(replacing),
            spawn(declare(me, proposer.clone(), actions)),
        ];
        let guard = Guard {
            me,
            applied: applied.clone(),
        };
        let running = Mutex::new(Some(Running { tasks, thread }));
        let inner = Inner {
            me,
            raft,
            applied,
            proposer,
            guard,
            liveness,
            lease,
            heard,
            admission,
            durable,
            elections_asked,
            running,
        };
        Ok(Consensus {
            inner: Arc::new(inner),
        })
    }

    /// Forms a group of this member alone and commits the first entry. Repeated after a crash in between, it goes on.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn bootstrap(&self, first: Proposal) -> Result<(), BootstrapError> {
        let raft_error = |error| BootstrapError::Raft(error);
        let Inner {
            me,
            raft,
            applied,
            proposer,
            ..
        } = &*self.inner;
        if applied.borrow().state.cluster.is_some() {
            return Err(BootstrapError::AlreadyMember);
        }
        if !raft
            .is_initialized()
            .await
            .map_err(|error| raft_error(Box::new(error)))?
        {
            let members = BTreeMap::from([(me.0, EmptyNode::new())]);
            raft.initialize(members)
                .await
                .map_err(|error| raft_error(Box::new(error)))?;
        }
        let until = Instant::now() + BOOTSTRAP_TIMEOUT;
        while proposer.leader() != Some(*me) {
            if Instant::now() >= until {
                return Err(BootstrapError::NoLeader);
            }
            sleep(Duration::from_millis(10)).await;
        }
        proposer.propose(first, BOOTSTRAP_TIMEOUT).await?;
        Ok(())
    }

    /// Proposes to the leader, wherever it is, and tries again until `deadline`. When it returns, this member may not have
    /// applied the entry yet unless it leads; [`Consensus::watch`] tells.
    ///
    /// # Errors
    /// [`ProposeError::Rejected`] is final, [`ProposeError::NoLeader`] and [`ProposeError::Removed`] left no trace,
    /// [`ProposeError::TimedOut`] may still be committed.
    pub async fn propose(
        &self,
        proposal: Proposal,
        deadline: Duration,
    ) -> Result<Accepted, ProposeError> {
        self.inner.proposer.propose(proposal, deadline).await
    }

    /// As [`Consensus::propose`], and then waits up to `patience` until this member has applied the entry too. The state contains
    /// the change, and perhaps later ones; `None`: it is committed, and has not come here yet.
    ///
    /// # Errors
    /// As [`Consensus::propose`].
    pub async fn propose_and_apply(
        &self,
        proposal: Proposal,
        deadline: Duration,
        patience: Duration,
    ) -> Result<(Accepted, Option<Arc<ClusterState>>), ProposeError> {
        let proposer = &self.inner.proposer;
        proposer
            .propose_and_apply(proposal, deadline, patience)
            .await
    }

    /// The state as applied here, however old.
    pub fn state(&self) -> Arc<ClusterState> {
        self.inner.applied.borrow().state.clone()
    }

    /// Every newly applied state; of several in a row a slow watcher sees the last.
    pub fn watch(&self) -> watch::Receiver<Applied> {
        self.inner.applied.clone()
    }

    /// The state, with everything in it that was committed when this was called (rule R13).
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index(&self, deadline: Duration) -> Result<Arc<ClusterState>, ReadError> {
        self.inner.proposer.read_index(deadline).await
    }

    /// Lets this member take part: what the others remember of it fits what it has.
    pub fn admit(&self) {
        self.inner.admission.open();
    }

    /// How much of the log this member holds for ever.
    pub fn held(&self) -> LogPosition {
        *self.inner.durable.lock()
    }

    /// How much of the log `server` said it holds, in any of its runs since this member started; nothing when it was not
    /// heard.
    pub fn remembered(&self, server: ServerId) -> LogPosition {
        self.inner.heard.durable(server)
    }

    /// The services that other members call. Each request must carry a [`crate::Peer`] extension.
    pub fn routes(&self) -> Routes {
        let Inner {
            raft,
            guard,
            liveness,
            heard,
            admission,
            ..
        } = &*self.inner;
        let raft = RaftServer::new(RaftService {
            raft: raft.clone(),
            guard: guard.clone(),
            admission: admission.clone(),
        })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let proposals = self.proposal_service();
        let heartbeats = HeartbeatService {
            liveness: liveness.clone(),
            heard: heard.clone(),
            guard: guard.clone(),
            admission: admission.clone(),
        };
        Routes::new(raft)
            .add_service(ProposalsServer::new(proposals))
            .add_service(HeartbeatsServer::new(heartbeats))
    }

    /// Answers what other members forward.
    pub(crate) fn proposal_service(&self) -> ProposalService {
        ProposalService {
            proposer: self.inner.proposer.clone(),
            guard: self.inner.guard.clone(),
        }
    }

    /// The lease of this server.
    pub fn lease(&self) -> Lease {
        self.inner.lease.clone()
    }

    /// This member's view, for display.
    pub fn status(&self) -> Status {
        let Inner {
            me,
            raft,
            applied,
            heard,
            elections_asked,
            ..
        } = &*self.inner;
        let metrics = raft.metrics().borrow_watched().clone();
        let applied = applied.borrow().clone();
        let others = applied.state.members.iter().filter(|(id, _)| *id != me);
        let lans =
            others.flat_map(|(id, member)| (0..member.addresses.len()).map(|lan| (*id, lan)));
        Status {
            leader: metrics.current_leader.map(ServerId),
            term: metrics.current_term,
            applied_index: applied.position.index,
            state: applied.state.clone(),
            last_quorum_age: metrics.last_quorum_acked.map(|at| at.elapsed()),
            voters: voters(metrics.committed_membership_config.get_joint_config()),
            configurations: metrics
                .membership_config
                .get_joint_config()
                .iter()
                .map(|set| set.iter().copied().map(ServerId).collect())
                .collect(),
            votes: metrics.membership_config.voter_ids().any(|id| id == me.0),
            removed_by: heard.removers(),
            elections_asked: elections_asked.load(Ordering::Relaxed),
            heard: lans
                .map(|(id, lan)| ((id, lan), heard.age(id, lan)))
                .collect(),
        }
    }

    /// Returns when another member says that this one was removed from the cluster for good, and who says so. The sayer has
    /// proved who it is, and a removal is never undone: one such word is enough.
    pub async fn removed(&self) -> ServerId {
        let mut removers = self.inner.heard.watch_removers();
        loop {
            if let Some(by) = removers.borrow_and_update().first() {
                return *by;
            }
            if removers.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when the others count without this member's vote, after it was removed: they have a configuration without it, or
    /// so many say that they have applied its removal that they are a majority by themselves. Until then the very change that
    /// takes the vote away may need it.
    pub async fn vote_gone(&self) {
        let mut removers = self.inner.heard.watch_removers();
        loop {
            let status = self.status();
            let others = status.removed_by.intersection(&status.voters).count();
            if !status.votes || others > status.voters.len() / 2 {
                return;
            }
            let said = tokio::time::timeout(VOTE_LOOK_INTERVAL, removers.changed());
            if let Ok(Err(_)) = said.await {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when this member cannot take part any more, and why: its log cannot be written, say. Its vote must not be
    /// counted on from then on, and what it has applied grows old. Never returns for a member that was shut down.
    pub async fn failed(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        loop {
            let running = metrics.borrow_watched().running_state.clone();
            match running {
                Ok(()) => {}
                Err(Fatal::Stopped) => std::future::pending().await,
                Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => {
                    return error.to_string();
                }
            }
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops taking part; further calls on clones fail. The store is closed when the last clone and the routes are gone.
    pub async fn shutdown(self) {
        let running = self.inner.running.lock().take();
        if let Some(running) = running
            && let Err(error) = spawn_blocking(move || running.stop()).await
        {
            log_join_error(&error);
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            log_join_error(&error);
        }
    }
}

/// Who votes in each of the configurations: between two of them a change needs the majority of both.
fn voters(configurations: &[BTreeSet<u64>]) -> BTreeSet<ServerId> {
    let common = configurations
        .iter()
        .cloned()
        .reduce(|common, other| &common & &other);
    common
        .unwrap_or_default()
        .into_iter()
        .map(ServerId)
        .collect()
}

fn log_join_error(error: &JoinError) {
    tracing::error!(%error, "consensus did not stop cleanly");
}

async fn open_store(dir: PathBuf, identity: Identity, origin: Origin) -> Result<Store, StartError> {
    let opening = spawn_blocking(move || {
        let store = Store::open(&dir)?;
        store.bind(identity, origin)?;
        Ok(store)
    });
    opening
        .await
        .map_err(|error| StartError::Thread(io::Error::other(error)))?
}

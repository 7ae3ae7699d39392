//! A daemon that belongs to a cluster: who it is, its consensus, and how it reaches the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consensus::liveness::{BootTime, Timing};
use consensus::state::{
    ClusterState, Command, Incarnation, MemberName, ModuleName, Proposal, Rejection, ServerId,
};
use consensus::{Consensus, ProposeError};
use fs_mirror::Link;
use fs_mirror::replication::link::LinkError;
use tokio::sync::watch;

use crate::listener::MemberDialer;
use crate::paths::Paths;
use crate::security::{Identity, Security};
use crate::shell::watchdog::Watchdog;

/// How long one attempt to commit this daemon's start looks for a leader.
const START_PROPOSAL_DEADLINE: Duration = Duration::from_secs(5);

/// This server as a member of its cluster.
pub struct Member {
    /// Where things are on disk.
    pub paths: Paths,
    /// Who this server is.
    pub identity: Identity,
    /// The cluster's state and its changes.
    pub consensus: Consensus,
    /// Its certificate and keys.
    pub security: Arc<Security>,
    /// Connections to the others.
    pub dialer: Arc<MemberDialer>,
    /// Number of this start of the daemon.
    pub incarnation: Incarnation,
    /// The last rung of fencing.
    pub watchdog: Watchdog,
    fresh: watch::Sender<bool>,
    out: watch::Sender<bool>,
    sessions: AtomicU64,
}

/// Why the mirror stream to a server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The cluster does not know the server.
    #[error("server {0} is not a member of this cluster")]
    Unknown(ServerId),
    /// The connection cannot carry the stream.
    #[error("set up the stream")]
    Link(#[source] LinkError),
    /// No address of the server answered.
    #[error("server {server} does not answer on any LAN")]
    Unreachable {
        /// The server.
        server: ServerId,
        /// What the last LAN said.
        source: std::io::Error,
    },
}

impl Member {
    /// Joins identity, consensus and connections.
    pub fn new(
        paths: Paths,
        identity: Identity,
        consensus: Consensus,
        security: Arc<Security>,
        dialer: Arc<MemberDialer>,
        incarnation: Incarnation,
        watchdog: Watchdog,
    ) -> Self {
        Self {
            paths,
            identity,
            consensus,
            security,
            dialer,
            incarnation,
            watchdog,
            fresh: watch::Sender::new(false),
            out: watch::Sender::new(false),
            sessions: AtomicU64::new(incarnation.0 << 32),
        }
    }

    /// This server.
    pub fn id(&self) -> ServerId {
        ServerId(self.identity.server_id)
    }

    /// What this server is called in the cluster; until it has applied that, what it called itself.
    pub fn name(&self) -> MemberName {
        let state = self.state();
        let member = state.members.get(&self.id());
        member.map_or_else(
            || self.identity.server.clone(),
            |member| member.name.clone(),
        )
    }

    /// The applied cluster state.
    pub fn state(&self) -> Arc<ClusterState> {
        self.consensus.state()
    }

    /// True once this daemon's start has been applied: what it reads is not from before its restart.
    pub fn fresh(&self) -> watch::Receiver<bool> {
        self.fresh.subscribe()
    }

    /// True once it is known that this member was removed from the cluster for good, or runs on an old copy of its state: from
    /// then on it has no right to serve anything.
    pub fn out(&self) -> watch::Receiver<bool> {
        self.out.subscribe()
    }

    /// This member takes part in nothing any more: every module is fenced here.
    pub fn set_out(&self) {
        self.out.send_replace(true);
    }

    /// A number for a mirror session: greater than all before, also those of earlier runs of this daemon.
    pub fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A proposal of this daemon itself.
    pub fn proposal(&self, command: Command, evidence: &str) -> Proposal {
        self.proposal_by(
            command,
            &format!("{} {}", self.identity.kind, self.name()),
            evidence,
        )
    }

    /// A proposal in the name of `author`.
    pub fn proposal_by(&self, command: Command, author: &str, evidence: &str) -> Proposal {
        Proposal {
            command,
            author: author.to_owned(),
            evidence: evidence.to_owned(),
            at_unix_ms: unix_ms(),
        }
    }

    /// Opens a connection for the mirror stream to `peer`, trying its LANs in turn.
    ///
    /// # Errors
    /// The peer is unknown, or no LAN answers.
    pub async fn dial_mirror(&self, peer: ServerId) -> Result<Link, DialError> {
        let state = self.state();
        let member = state.members.get(&peer).ok_or(DialError::Unknown(peer))?;
        let (socket, tls) = self
            .dialer
            .dial_mirror(peer, &member.addresses)
            .await
            .map_err(|source| DialError::Unreachable {
                server: peer,
                source,
            })?;
        Link::client(socket, tls).map_err(DialError::Link)
    }

    /// The lengths that follow from the cluster's profile.
    pub fn profile(&self) -> Timing {
        Timing::new(self.identity.lease_ms)
    }

    /// The longest lease of the cluster, that of its profile.
    pub fn lease_length_max(&self) -> Duration {
        Duration::from_millis(self.identity.lease_ms)
    }

    /// The length of this server's lease: that of the profile, or what a module asks for.
    pub fn lease_length(&self) -> Duration {
        self.consensus.lease().length()
    }

    /// What is left of this server's lease; `None` when it has run out.
    pub fn lease_remaining(&self) -> Option<Duration> {
        let left = self
            .consensus
            .lease()
            .valid_until()
            .ns_since(consensus::boot_time());
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// How old the newest word from a majority of voters is: what is shown here may be that old (R13). `None`: never.
    pub fn majority_age(&self) -> Option<Duration> {
        let heard_at = self.consensus.lease().heard_at();
        let age_ns = consensus::boot_time().ns_since(heard_at);
        (heard_at != BootTime::default()).then(|| Duration::from_nanos(age_ns))
    }

    /// The present name of a member, for people. Beside anything else of a state, take the name from that same state.
    pub fn name_of(&self, server: ServerId) -> String {
        self.state().name_of(server)
    }

    /// Commits that this daemon has started, and how that came about: every session with its predecessor is over. Repeats
    /// until applied.
    ///
    /// # Errors
    /// The cluster has seen a later run of this member, or has removed it: asking again is useless.
    pub async fn announce_start(&self, evidence: String) -> Result<(), Rejection> {
        let mut applied = self.consensus.watch();
        loop {
            let is_known = |state: &ClusterState| {
                state
                    .members
                    .get(&self.id())
                    .is_some_and(|member| member.incarnation >= self.incarnation)
            };
            if is_known(&applied.borrow_and_update().state) {
                tracing::info!(
                    incarnation = self.incarnation.0,
                    "the start of this daemon is applied"
                );
                self.fresh.send_replace(true);
                return Ok(());
            }
            let command = Command::ServerStarted {
                server: self.id(),
                incarnation: self.incarnation,
            };
            match self
                .consensus
                .propose(self.proposal(command, &evidence), START_PROPOSAL_DEADLINE)
                .await
            {
                Ok(_) => self.wait_applied(&mut applied, is_known).await,
                Err(ProposeError::Rejected(
                    rejection
                    @ (Rejection::OldIncarnation { .. } | Rejection::RemovedServer { .. }),
                )) => return Err(rejection),
                Err(ProposeError::Rejected(rejection)) => {
                    tracing::error!(%rejection, "the cluster refuses this server");
                    tokio::time::sleep(START_PROPOSAL_DEADLINE).await;
                }
                Err(error) => tracing::info!(%error, "no quorum yet"),
            }
        }
    }

    async fn wait_applied(
        &self,
        applied: &mut watch::Receiver<consensus::Applied>,
        is_known: impl Fn(&ClusterState) -> bool,
    ) {
        let known = applied.wait_for(|applied| is_known(&applied.state));
        if tokio::time::timeout(START_PROPOSAL_DEADLINE, known)
            .await
            .is_err()
        {
            tracing::warn!("the start of this daemon is committed but not applied here yet");
        }
    }

    /// The directory of a module on this server, made if missing.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn module_dir(&self, module: &ModuleName) -> std::io::Result<std::path::PathBuf> {
        let dir = self.paths.module(module);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// Wall-clock milliseconds, for people only.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

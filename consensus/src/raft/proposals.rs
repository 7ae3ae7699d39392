//! Proposals and linearizable reads: done here when this member leads, otherwise forwarded to the leader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Request, Response, Status};

use super::codec::{decode, encode};
use super::dial::{Links, Purpose};
use super::guard::Guard;
use super::machine::Applied;
use super::types::{Outcome, Raft, Record};
use crate::proto::proposals_client::ProposalsClient;
use crate::proto::proposals_server;
use crate::proto::{ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest};
use crate::state::{Accepted, ClusterState, Proposal, Rejection, ServerId};

/// Pause before the next attempt. A new leader refuses writes for about 10 ms, until a quorum has acknowledged it.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Longest a forwarded call may keep this member busy, whatever its caller says.
const FORWARDED_DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Why a proposal was not accepted.
#[derive(Debug, Error)]
pub enum ProposeError {
    /// The cluster decided against it: nothing was changed, and asking again is useless.
    #[error("refused")]
    Rejected(#[source] Rejection),
    /// No leader could be found in time; the proposal was never in anybody's log.
    #[error(
        "no leader within {waited:?}: fewer than a majority of the voters can talk, last leader seen: {last_leader:?}"
    )]
    NoLeader {
        /// How long it was tried.
        waited: Duration,
        /// Who was thought to lead.
        last_leader: Option<ServerId>,
    },
    /// It may or may not be committed, now or later: look at the applied state before proposing again.
    #[error("outcome unknown after {waited:?}")]
    TimedOut {
        /// How long it was tried.
        waited: Duration,
    },
    /// Raft has stopped on this member: its store failed, or it is shutting down.
    #[error("consensus has stopped on this server")]
    Stopped,
}

/// Why a linearizable read failed.
#[derive(Debug, Error)]
pub enum ReadError {
    /// No leader confirmed in time that it leads.
    #[error("no leader confirmed the state within {waited:?}")]
    NoLeader {
        /// How long it was tried.
        waited: Duration,
    },
    /// Raft has stopped on this member.
    #[error("consensus has stopped on this server")]
    Stopped,
}

/// What became of one attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Attempt {
    /// Committed and applied.
    Decided(Outcome),
    /// Whoever was asked does not lead, and kept nothing.
    NotLeader,
    /// Never left this member.
    NotSent,
    /// It may be in a log.
    Unknown,
    /// Raft has stopped here.
    Stopped,
}

/// Proposes to the leader, wherever it is.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(crate) me: ServerId,
    pub(crate) raft: Raft,
    pub(crate) links: Arc<Links>,
    pub(crate) applied: watch::Receiver<Applied>,
}

impl Proposer {
    /// Whom this member takes for the leader.
    pub(crate) fn leader(&self) -> Option<ServerId> {
        self.raft
            .server_metrics()
            .borrow_watched()
            .current_leader
            .map(ServerId)
    }

    pub(crate) async fn propose(
        &self,
        proposal: Proposal,
        deadline: Duration,
    ) -> Result<Accepted, ProposeError> {
        let started = Instant::now();
        let until = started + deadline;
        let mut may_be_in_a_log = false;
        loop {
            let leader = self.leader();
            let attempt = match leader {
                Some(leader) if leader == self.me => {
                    timeout_at(until, self.attempt_here(&proposal)).await
                }
                Some(leader) => timeout_at(until, self.attempt_at(leader, &proposal, until)).await,
                None => Ok(Attempt::NotSent),
            };
            match attempt.unwrap_or(Attempt::Unknown) {
                Attempt::Decided(Outcome(Ok(accepted))) => return Ok(accepted),
                // After an attempt of unknown outcome the refusal may be due to that very attempt.
                Attempt::Decided(Outcome(Err(_))) if may_be_in_a_log => {
                    return Err(ProposeError::TimedOut {
                        waited: started.elapsed(),
                    });
                }
                Attempt::Decided(Outcome(Err(rejection))) => {
                    return Err(ProposeError::Rejected(rejection));
                }
                Attempt::NotLeader | Attempt::NotSent => {}
                Attempt::Unknown => may_be_in_a_log = true,
                Attempt::Stopped => return Err(ProposeError::Stopped),
            }
            let waited = started.elapsed();
            match (waited >= deadline, may_be_in_a_log) {
                (false, _) => sleep(RETRY_PAUSE.min(deadline - waited)).await,
                (true, true) => return Err(ProposeError::TimedOut { waited }),
                (true, false) => {
                    return Err(ProposeError::NoLeader {
                        waited,
                        last_leader: leader,
                    });
                }
            }
        }
    }

    /// Writes to the local Raft, which refuses unless it leads.
    async fn attempt_here(&self, proposal: &Proposal) -> Attempt {
        match self.raft.client_write(Record(proposal.clone())).await {
            Ok(response) => Attempt::Decided(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Attempt::NotLeader,
            Err(RaftError::APIError(
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_),
            )) => Attempt::Unknown,
            Err(RaftError::Fatal(_)) => Attempt::Stopped,
        }
    }

    /// Asks `leader` to write. Gives up waiting when somebody else leads or its LAN falls silent: without power nobody answers.
    async fn attempt_at(&self, leader: ServerId, proposal: &Proposal, until: Instant) -> Attempt {
        let (Ok(body), Ok(channel)) = (
            encode(proposal),
            self.links.channel(leader, Purpose::Proposals).await,
        ) else {
            return Attempt::NotSent;
        };
        let request = ProposeRequest {
            from: self.me.0,
            to: leader.0,
            proposal: Bytes::from(body),
            deadline_ms: milliseconds_until(until),
        };
        let mut client = ProposalsClient::new(channel);
        let answer = tokio::select! {
            answer = client.propose(request) => answer,
            () = self.until_hopeless(leader) => {
                self.links.forget(leader, Purpose::Proposals);
                return Attempt::Unknown;
            }
        };
        match answer {
            Ok(reply) => decode(&reply.into_inner().outcome).unwrap_or(Attempt::Unknown),
            // The guard refused: nothing was looked at.
            Err(status)
                if matches!(
                    status.code(),
                    Code::PermissionDenied | Code::FailedPrecondition
                ) =>
            {
                Attempt::NotSent
            }
            Err(_) => {
                self.links.forget(leader, Purpose::Proposals);
                Attempt::Unknown
            }
        }
    }

    /// Returns when an answer of `leader` on the present connection is not worth waiting for.
    async fn until_hopeless(&self, leader: ServerId) {
        tokio::select! {
            () = self.until_another_leads(leader) => {}
            () = self.links.until_left(leader, Purpose::Proposals) => {}
        }
    }

    async fn until_another_leads(&self, leader: ServerId) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().current_leader == Some(leader.0) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the state once this member has applied everything that was committed when this was called (rule R13).
    pub(crate) async fn read_index(
        &self,
        deadline: Duration,
    ) -> Result<Arc<ClusterState>, ReadError> {
        let started = Instant::now();
        let until = started + deadline;
        let reading = async {
            loop {
                let confirmed = match self.leader() {
                    Some(leader) if leader == self.me => self.confirmed_here().await?,
                    Some(leader) => self.confirmed_by(leader, until).await,
                    None => None,
                };
                if let Some(index) = confirmed {
                    let mut applied = self.applied.clone();
                    let applied = applied.wait_for(|applied| applied.index >= index).await;
                    return applied
                        .map(|applied| applied.state.clone())
                        .map_err(|_| ReadError::Stopped);
                }
                sleep(RETRY_PAUSE).await;
            }
        };
        let outcome = timeout_at(until, reading).await;
        outcome.unwrap_or_else(|_| {
            Err(ReadError::NoLeader {
                waited: started.elapsed(),
            })
        })
    }

    /// The index a read must have applied, when this member leads and a quorum says so.
    async fn confirmed_here(&self) -> Result<Option<u64>, ReadError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(Some(linearizer.read_log_id().index())),
            Err(RaftError::APIError(_)) => Ok(None),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }

    async fn confirmed_by(&self, leader: ServerId, until: Instant) -> Option<u64> {
        let channel = self.links.channel(leader, Purpose::Proposals).await.ok()?;
        let deadline_ms = milliseconds_until(until);
        let request = ReadIndexRequest {
            from: self.me.0,
            to: leader.0,
            deadline_ms,
        };
        let mut client = ProposalsClient::new(channel);
        let answer = tokio::select! {
            answer = client.read_index(request) => answer,
            () = self.until_hopeless(leader) => Err(Status::aborted("another member leads, or on another LAN")),
        };
        match answer.map(Response::into_inner) {
            Ok(ReadIndexReply { confirmed, index }) => confirmed.then_some(index),
            Err(_) => {
                self.links.forget(leader, Purpose::Proposals);
                None
            }
        }
    }
}

fn milliseconds_until(until: Instant) -> u64 {
    u64::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX)
}

/// Answers what other members forward.
pub(crate) struct ProposalService {
    pub(crate) proposer: Proposer,
    pub(crate) guard: Guard,
}

impl ProposalService {
    fn deadline(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds).min(FORWARDED_DEADLINE_MAX)
    }
}

#[tonic::async_trait]
impl proposals_server::Proposals for ProposalService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        self.guard.check(
            request.extensions(),
            request.get_ref().from,
            request.get_ref().to,
        )?;
        let request = request.into_inner();
        let proposal: Proposal = decode(&request.proposal)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        let attempt = timeout(
            Self::deadline(request.deadline_ms),
            self.proposer.attempt_here(&proposal),
        )
        .await;
        let attempt = match attempt.unwrap_or(Attempt::Unknown) {
            // Stopped here is no reason for the caller to stop.
            Attempt::Stopped => Attempt::NotLeader,
            attempt @ (Attempt::Decided(_)
            | Attempt::NotLeader
            | Attempt::NotSent
            | Attempt::Unknown) => attempt,
        };
        let outcome = encode(&attempt).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ProposeReply {
            outcome: Bytes::from(outcome),
        }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.guard.check(
            request.extensions(),
            request.get_ref().from,
            request.get_ref().to,
        )?;
        let deadline = Self::deadline(request.get_ref().deadline_ms);
        let confirmed = timeout(deadline, self.proposer.confirmed_here()).await;
        let index = confirmed.ok().and_then(Result::ok).flatten();
        Ok(Response::new(ReadIndexReply {
            confirmed: index.is_some(),
            index: index.unwrap_or(0),
        }))
    }
}

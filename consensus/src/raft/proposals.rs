//! Proposals and linearizable reads: done here when this member leads, otherwise forwarded to the leader.

use std::pin::pin;
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
use super::recent::{Known, Recent};
use super::types::{Outcome, Raft, Record};
use crate::heard::Heard;
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
    /// This member belongs to the cluster no more, and nobody took its proposal.
    #[error("server {by} says that this server was removed from the cluster for good")]
    Removed {
        /// Who said so, to this member or to one that passed the proposal on.
        by: ServerId,
    },
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
    /// This member belongs to the cluster no more: what is committed does not come to it.
    #[error("server {by} says that this server was removed from the cluster for good")]
    Removed {
        /// Who says so.
        by: ServerId,
    },
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
    /// Refused now; an earlier attempt may have been accepted before the leader's memory begins.
    Forgotten,
    /// `by` says that whoever asks, itself or through another member, was removed from the cluster for good, and kept nothing. To a
    /// release that does not know this answer the outcome is unknown.
    Removed { by: ServerId },
}

/// Whom to ask next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// This member leads.
    Here,
    /// The leader.
    Leader(ServerId),
    /// A voter that may reach the leader, which this member does not hear.
    Relay(ServerId),
    /// Nobody is known who could help.
    Nowhere,
}

/// `near`: the voters that this member hears. `turn` grows with every attempt that came to nothing, so that one way that does
/// not work is not tried for ever.
fn route(me: ServerId, leader: Option<ServerId>, near: &[ServerId], turn: usize) -> Route {
    if leader == Some(me) {
        return Route::Here;
    }
    let relays: Vec<ServerId> = near
        .iter()
        .copied()
        .filter(|voter| *voter != me && Some(*voter) != leader)
        .collect();
    let hears_leader = leader.filter(|leader| near.contains(leader));
    match (hears_leader, relays.get(turn / 2 % relays.len().max(1))) {
        (Some(leader), _) if turn.is_multiple_of(2) => Route::Leader(leader),
        (_, Some(relay)) => Route::Relay(*relay),
        (Some(leader), None) => Route::Leader(leader),
        (None, None) => leader.map_or(Route::Nowhere, Route::Leader),
    }
}

/// Proposes to the leader, wherever it is.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(crate) me: ServerId,
    pub(crate) raft: Raft,
    pub(crate) links: Arc<Links>,
    pub(crate) applied: watch::Receiver<Applied>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) recent: Recent,
}

/// Why an answer is not worth waiting for any longer.
enum Hopeless {
    /// Whoever was asked is not the one to decide.
    AnotherLeads,
    /// Its LAN fell silent: the connection is of no use.
    Silent,
}

/// One attempt at a proposal; the fields as in `ProposeRequest`.
#[derive(Clone, Copy)]
struct Asked<'a> {
    proposal: &'a Proposal,
    since: Option<u64>,
    is_repeated: bool,
    /// `None`: for this member itself.
    origin: Option<ServerId>,
    until: Instant,
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

    fn route(&self, leader: Option<ServerId>, turn: usize) -> Route {
        let voters = self.applied.borrow().state.voters();
        let near: Vec<ServerId> = voters
            .into_iter()
            .filter(|voter| self.heard.is_fresh_any(*voter))
            .collect();
        route(self.me, leader, &near, turn)
    }

    pub(crate) async fn propose(
        &self,
        proposal: Proposal,
        deadline: Duration,
    ) -> Result<Accepted, ProposeError> {
        let started = Instant::now();
        let until = started + deadline;
        let begun_at = self.applied.borrow().position.index;
        let mut may_be_in_a_log = false;
        let mut removed_by = None;
        let mut turn = 0;
        loop {
            let leader = self.leader();
            let asked = Asked {
                proposal: &proposal,
                since: Some(begun_at),
                is_repeated: may_be_in_a_log,
                origin: None,
                until,
            };
            let attempt = match self.route(leader, turn) {
                Route::Here => timeout_at(until, self.attempt_here(asked)).await,
                Route::Leader(leader) => timeout_at(until, self.attempt_at(leader, asked)).await,
                Route::Relay(voter) => timeout_at(until, self.attempt_through(voter, asked)).await,
                Route::Nowhere => Ok(Attempt::NotSent),
            };
            turn += 1;
            match attempt.unwrap_or(Attempt::Unknown) {
                Attempt::Decided(Outcome(Ok(accepted))) => return Ok(accepted),
                // The refusal may be due to an earlier attempt that was accepted.
                Attempt::Forgotten => {
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
                // Not the end yet: a proposal whose answer was lost may be this member's own removal, and heartbeats end the rest.
                Attempt::Removed { by } => removed_by = Some(by),
            }
            let left = deadline.saturating_sub(started.elapsed());
            sleep(RETRY_PAUSE.min(left)).await;
            // After the pause: an attempt begun at the deadline could only be cut off, and its outcome unknown.
            let waited = started.elapsed();
            match (waited >= deadline, may_be_in_a_log, removed_by) {
                (false, _, _) => {}
                (true, true, _) => return Err(ProposeError::TimedOut { waited }),
                (true, false, Some(by)) => return Err(ProposeError::Removed { by }),
                (true, false, None) => {
                    return Err(ProposeError::NoLeader {
                        waited,
                        last_leader: leader,
                    });
                }
            }
        }
    }

    /// As [`Proposer::propose`]; then waits, up to `patience`, until this member has applied the entry too. The state contains the
    /// change, and perhaps later ones; `None`: it has not come here yet.
    pub(crate) async fn propose_and_apply(
        &self,
        proposal: Proposal,
        deadline: Duration,
        patience: Duration,
    ) -> Result<(Accepted, Option<Arc<ClusterState>>), ProposeError> {
        let mut applied = self.applied.clone();
        let begun_at = applied.borrow().position.index;
        let accepted = self.propose(proposal.clone(), deadline).await?;
        // What is accepted is noted before the state with it is published.
        let has_it = applied.wait_for(|applied| {
            let entry = self.recent.entry_since(begun_at, &proposal);
            entry.is_some_and(|index| applied.position.index >= index)
        });
        let state = match timeout(patience, has_it).await {
            Ok(Ok(applied)) => Some(applied.state.clone()),
            Ok(Err(_)) | Err(_) => None,
        };
        Ok((accepted, state))
    }

    /// Writes to the local Raft, which refuses unless it leads; what an earlier attempt has come to counts.
    async fn attempt_here(&self, asked: Asked<'_>) -> Attempt {
        let known = || match asked.since {
            Some(since) => self.recent.since(since, asked.proposal),
            None => Known::NotAccepted,
        };
        match known() {
            Known::Accepted(accepted) => return Attempt::Decided(Outcome(Ok(accepted))),
            // Written again it could be done twice.
            Known::Forgotten if asked.is_repeated => return Attempt::Forgotten,
            Known::NotAccepted | Known::Forgotten => {}
        }
        let written = self.write_here(asked.proposal).await;
        match (&written, known()) {
            // Another attempt was applied meanwhile, and is why this one was refused.
            (Attempt::Decided(Outcome(Err(_))), Known::Accepted(accepted)) => {
                Attempt::Decided(Outcome(Ok(accepted)))
            }
            (Attempt::Decided(Outcome(Err(_))), Known::Forgotten) if asked.is_repeated => {
                Attempt::Forgotten
            }
            (_, Known::Accepted(_) | Known::NotAccepted | Known::Forgotten) => written,
        }
    }

    async fn write_here(&self, proposal: &Proposal) -> Attempt {
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

    /// Has `voter` ask the leader it knows. Gives up waiting when this member learns of another one, which is not `voter` itself:
    /// that one has the proposal.
    async fn attempt_through(&self, voter: ServerId, asked: Asked<'_>) -> Attempt {
        let known = self.leader();
        let hopeless = async {
            tokio::select! {
                () = self.while_leader(|leader| {
                    leader.is_none() || leader == known || leader == Some(voter)
                }) => Hopeless::AnotherLeads,
                () = self.links.until_left(voter, Purpose::Proposals) => Hopeless::Silent,
            }
        };
        self.ask(voter, asked, true, hopeless).await
    }

    /// Asks `leader` to write. Gives up waiting when somebody else leads or its LAN falls silent: without power nobody answers.
    async fn attempt_at(&self, leader: ServerId, asked: Asked<'_>) -> Attempt {
        let hopeless = self.until_hopeless(leader);
        self.ask(leader, asked, false, hopeless).await
    }

    /// Asks `member`; `hopeless` returns when its answer is not worth waiting for any longer.
    async fn ask(
        &self,
        member: ServerId,
        asked: Asked<'_>,
        relay: bool,
        hopeless: impl Future<Output = Hopeless>,
    ) -> Attempt {
        let mut hopeless = pin!(hopeless);
        let dialled = tokio::select! {
            dialled = self.links.channel(member, Purpose::Proposals) => dialled,
            _ = &mut hopeless => return Attempt::NotSent,
        };
        let (Ok(body), Ok(channel)) = (encode(asked.proposal), dialled) else {
            return Attempt::NotSent;
        };
        let request = ProposeRequest {
            from: self.me.0,
            to: member.0,
            proposal: Bytes::from(body),
            deadline_ms: milliseconds_until(asked.until),
            relay,
            asked_since: asked.since,
            origin: asked.origin.map_or(0, |origin| origin.0),
            repeated: asked.is_repeated,
        };
        let mut client = ProposalsClient::new(channel);
        let answer = tokio::select! {
            answer = client.propose(request) => answer,
            why = hopeless => {
                match why {
                    Hopeless::Silent => self.links.forget(member, Purpose::Proposals),
                    Hopeless::AnotherLeads => {}
                }
                return Attempt::Unknown;
            }
        };
        match answer {
            Ok(reply) => decode(&reply.into_inner().outcome).unwrap_or(Attempt::Unknown),
            // Of whoever sent this: one that asked it to pass something on is told by an answer.
            Err(status) if status.code() == Code::NotFound && asked.origin.is_none() => {
                Attempt::Removed { by: member }
            }
            // The guard refused: nothing was looked at.
            Err(status)
                if matches!(
                    status.code(),
                    Code::PermissionDenied | Code::FailedPrecondition | Code::NotFound
                ) =>
            {
                Attempt::NotSent
            }
            Err(_) => {
                self.links.forget(member, Purpose::Proposals);
                Attempt::Unknown
            }
        }
    }

    /// Returns when an answer of `leader` on the present connection is not worth waiting for.
    async fn until_hopeless(&self, leader: ServerId) -> Hopeless {
        tokio::select! {
            () = self.while_leader(|known| known == Some(leader)) => Hopeless::AnotherLeads,
            () = self.links.until_left(leader, Purpose::Proposals) => Hopeless::Silent,
        }
    }

    /// Returns when what this member knows of the leader does not fit any more.
    async fn while_leader(&self, fits: impl Fn(Option<ServerId>) -> bool) {
        let mut metrics = self.raft.server_metrics();
        while fits(metrics.borrow_watched().current_leader.map(ServerId)) {
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
            let mut turn = 0;
            loop {
                let confirmed = match self.route(self.leader(), turn) {
                    Route::Here => self.confirmed_here().await?,
                    Route::Leader(leader) => self.confirmed_by(leader, until, false).await,
                    Route::Relay(voter) => self.confirmed_by(voter, until, true).await,
                    Route::Nowhere => None,
                };
                turn += 1;
                if let Some(index) = confirmed {
                    let mut applied = self.applied.clone();
                    let applied = applied
                        .wait_for(|applied| applied.position.index >= index)
                        .await;
                    return applied
                        .map(|applied| applied.state.clone())
                        .map_err(|_| ReadError::Stopped);
                }
                sleep(RETRY_PAUSE).await;
            }
        };
        let outcome = timeout_at(until, reading).await;
        outcome.unwrap_or_else(|_| {
            let removers = self.heard.removers();
            Err(match removers.first() {
                Some(by) => ReadError::Removed { by: *by },
                None => ReadError::NoLeader {
                    waited: started.elapsed(),
                },
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

    /// What `member` says: as the leader, or with `relay` as one that may reach the leader.
    async fn confirmed_by(&self, member: ServerId, until: Instant, relay: bool) -> Option<u64> {
        let channel = self.links.channel(member, Purpose::Proposals).await.ok()?;
        let deadline_ms = milliseconds_until(until);
        let request = ReadIndexRequest {
            from: self.me.0,
            to: member.0,
            deadline_ms,
            relay,
        };
        let mut client = ProposalsClient::new(channel);
        let hopeless = async {
            if relay {
                self.links.until_left(member, Purpose::Proposals).await;
            } else {
                self.until_hopeless(member).await;
            }
        };
        let answer = tokio::select! {
            answer = client.read_index(request) => answer,
            () = hopeless => Err(Status::aborted("another member leads, or on another LAN")),
        };
        match answer.map(Response::into_inner) {
            Ok(ReadIndexReply { confirmed, index }) => confirmed.then_some(index),
            Err(_) => {
                self.links.forget(member, Purpose::Proposals);
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

    /// The leader to pass on to, when this member does not lead itself. Passed on once only: no request goes in circles.
    fn leader_elsewhere(&self, from: u64, relay: bool) -> Option<ServerId> {
        let leader = self.proposer.leader()?;
        let is_elsewhere = leader != self.proposer.me && leader.0 != from;
        (relay && is_elsewhere).then_some(leader)
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
        match self.guard.check_origin(request.get_ref().origin) {
            Ok(()) => {}
            // Whoever passes it on must know that this is not about itself, to tell the one that asked.
            Err(status) if status.code() == Code::NotFound => {
                return answer(&Attempt::Removed { by: self.guard.me });
            }
            Err(status) => return Err(status),
        }
        let request = request.into_inner();
        let proposal: Proposal = decode(&request.proposal)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        let deadline = Self::deadline(request.deadline_ms);
        let until = Instant::now() + deadline;
        let asked = Asked {
            proposal: &proposal,
            since: request.asked_since,
            is_repeated: request.repeated,
            origin: Some(ServerId(request.from)),
            until,
        };
        let attempting = async {
            match self.leader_elsewhere(request.from, request.relay) {
                Some(leader) => self.proposer.attempt_at(leader, asked).await,
                None => self.proposer.attempt_here(asked).await,
            }
        };
        let attempt = timeout(deadline, attempting).await;
        let attempt = match attempt.unwrap_or(Attempt::Unknown) {
            // No reason for the caller to stop; and Raft may have ended after it had written the entry.
            Attempt::Stopped => Attempt::Unknown,
            attempt @ (Attempt::Decided(_)
            | Attempt::NotLeader
            | Attempt::NotSent
            | Attempt::Unknown
            | Attempt::Forgotten
            | Attempt::Removed { .. }) => attempt,
        };
        answer(&attempt)
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
        let request = request.into_inner();
        let deadline = Self::deadline(request.deadline_ms);
        let until = Instant::now() + deadline;
        let confirming = async {
            match self.leader_elsewhere(request.from, request.relay) {
                Some(leader) => self.proposer.confirmed_by(leader, until, false).await,
                None => self.proposer.confirmed_here().await.ok().flatten(),
            }
        };
        let index = timeout(deadline, confirming).await.ok().flatten();
        Ok(Response::new(ReadIndexReply {
            confirmed: index.is_some(),
            index: index.unwrap_or(0),
        }))
    }
}

fn answer(attempt: &Attempt) -> Result<Response<ProposeReply>, Status> {
    let outcome = encode(attempt).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::new(ProposeReply {
        outcome: Bytes::from(outcome),
    }))
}

#[cfg(test)]
mod tests;

//! Cluster verbs: init, tokens, joining, state, events.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::peer::v1::EnrolRequest;
use api::v1::cluster_server::{Cluster, ClusterServer};
use api::v1::{
    ChangeReply, ClusterStateReply, ClusterStateRequest, CreateTokenReply, CreateTokenRequest,
    EventReply, EventsRequest, InitReply, InitRequest, JoinReply, JoinRequest, LanReply,
    LeaseProfile, LeaveRequest, MemberReply, RemoveRequest, RenewCertificateRequest,
    SetMemberRequest,
};
use consensus::state::{ClusterState, Command, Event, EventId, MemberKind, MemberName, ModuleName};
use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::change::{CHANGE_DEADLINE, require_member};
use super::members;
use super::refusal::{Refusal, chain, not_proposed};
use crate::core::voter_change::{OpenChange, advice};
use crate::daemon::Daemon;
use crate::member::{Member, unix_ms};
use crate::security::{Identity, JoinToken};

/// How long a token is good for when the caller does not say.
const TOKEN_VALID_FOR: Duration = Duration::from_secs(15 * 60);
/// The longest a token may be good for.
const TOKEN_VALID_FOR_MAX: Duration = Duration::from_secs(24 * 3600);
/// Events sent at once when the caller does not say.
const EVENTS_DEFAULT: usize = 50;

/// The `Cluster` service of the administration API.
pub struct ClusterService {
    daemon: Arc<Daemon>,
}

impl ClusterService {
    /// Serves for `daemon`.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    /// As tonic wants it.
    pub fn server(self) -> ClusterServer<Self> {
        ClusterServer::new(self)
    }

    fn refuse_if_member(&self, what: &str) -> Result<(), Refusal> {
        match self.daemon.member() {
            _ if self.daemon.unfit().is_some() => {
                super::change::require_member(&self.daemon, what).map(|_member| ())
            }
            None => Ok(()),
            Some(member) => {
                let why = format!(
                    "this server already belongs to cluster {} as {}",
                    member.identity.cluster,
                    member.name()
                );
                Err(Refusal::not_now(what, why).next("skcli cluster state"))
            }
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        const WHAT: &str = "no cluster was made";
        let request = request.into_inner();
        self.refuse_if_member(WHAT)?;
        if self.daemon.is_witness {
            let why = "this daemon was started as a witness";
            return Err(Refusal::not_now(WHAT, why)
                .next("skcli cluster join ADDRESS TOKEN")
                .into());
        }
        let lease_ms = lease_of(request.lease());
        let cluster: MemberName = parse(WHAT, "cluster name", &request.cluster)?;
        let server: MemberName = parse(WHAT, "server name", &request.server)?;
        let addresses = parse_addresses(WHAT, &request.addresses)?;
        let identity = Identity::found(
            &self.daemon.paths.identity(),
            &cluster,
            &server,
            addresses,
            lease_ms,
        )
        .map_err(|error| Refusal::failed(WHAT, chain(error)))?;
        let fingerprint = identity.ca_fingerprint_text();
        let author = author_or(&request.author, &server);
        let became = self.daemon.become_member(identity, &author).await;
        let member = became.map_err(|error| {
            Refusal::failed(
                "the cluster was made, but this server did not start in it",
                chain(error),
            )
        })?;
        Ok(Response::new(InitReply {
            server_id: member.id().0,
            ca_fingerprint: fingerprint,
        }))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        const WHAT: &str = "no token was made";
        let request = request.into_inner();
        let member = require_member(&self.daemon, WHAT)?;
        let valid_for = match request.valid_for_s {
            0 => TOKEN_VALID_FOR,
            seconds => Duration::from_secs(seconds),
        };
        if valid_for > TOKEN_VALID_FOR_MAX {
            return Err(Refusal::invalid(WHAT, "a token is good for 24 hours at most").into());
        }
        let token = JoinToken::generate(member.identity.ca_fingerprint)
            .map_err(|error| Refusal::failed(WHAT, chain(error)))?;
        let expires_at_unix_s = unix_ms() / 1000 + valid_for.as_secs();
        let command = Command::CreateToken {
            token: token.hash(),
            witness: request.witness,
            expires_at_unix_s,
        };
        let proposal = member.proposal_by(command, &request.author, "skcli cluster token");
        member
            .consensus
            .propose(proposal, CHANGE_DEADLINE)
            .await
            .map_err(|error| not_proposed(WHAT, &error))?;
        Ok(Response::new(CreateTokenReply {
            token: token.to_string(),
            expires_at_unix_s,
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        const WHAT: &str = "this server did not join";
        let request = request.into_inner();
        self.refuse_if_member(WHAT)?;
        let token: JoinToken =
            request
                .token
                .parse()
                .map_err(|error: crate::security::TokenError| {
                    Refusal::invalid(WHAT, error.to_string())
                        .next("skcli cluster token    (on a member)")
                })?;
        let server: MemberName = parse(WHAT, "server name", &request.server)?;
        let addresses = parse_addresses(WHAT, &request.addresses)?;
        let contact: SocketAddr = parse(WHAT, "address to join", &request.address)?;
        let author = author_or(&request.author, &server);
        let enrol = EnrolRequest {
            token: token.to_string(),
            server: server.to_string(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            certificate_request_pem: String::new(),
            witness: self.daemon.is_witness,
            replaces: request.replaces,
            accept_loss: request.accept_loss,
            author: author.clone(),
        };
        let identity =
            super::peer::enrol(&self.daemon, contact, &token, &server, addresses, enrol).await?;
        let cluster = identity.cluster.to_string();
        let became = self.daemon.become_member(identity, &author).await;
        let member = became.map_err(|error| {
            Refusal::failed(
                "this server was added, but did not start in the cluster",
                chain(error),
            )
        })?;
        Ok(Response::new(JoinReply {
            server_id: member.id().0,
            cluster,
        }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<ChangeReply>, Status> {
        Ok(Response::new(
            members::leave(&self.daemon, request.into_inner()).await?,
        ))
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        Ok(Response::new(
            members::remove(&self.daemon, request.into_inner()).await?,
        ))
    }

    async fn set(
        &self,
        request: Request<SetMemberRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        Ok(Response::new(
            members::set(&self.daemon, request.into_inner()).await?,
        ))
    }

    async fn renew(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        Ok(Response::new(
            members::renew(&self.daemon, request.into_inner()).await?,
        ))
    }

    async fn state(
        &self,
        _: Request<ClusterStateRequest>,
    ) -> Result<Response<ClusterStateReply>, Status> {
        let member = require_member(&self.daemon, "there is no cluster state to show")?;
        Ok(Response::new(cluster_state(&member)))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<EventReply, Status>> + Send>>;

    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        const WHAT: &str = "there are no events to show";
        let request = request.into_inner();
        let member = require_member(&self.daemon, WHAT)?;
        let module = match request.module.as_str() {
            "" => None,
            name => Some(parse::<ModuleName>(WHAT, "module name", name)?),
        };
        let newest = match request.newest {
            0 => EVENTS_DEFAULT,
            newest => usize::try_from(newest).unwrap_or(usize::MAX),
        };
        let stream = events(member, module, newest, request.follow);
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Who typed a command on `server`; a tool that does not say is called by the server's name.
fn author_or(author: &str, server: &MemberName) -> String {
    match author {
        "" => format!("server {server}"),
        author => author.to_owned(),
    }
}

/// Length of the lease in milliseconds.
fn lease_of(profile: LeaseProfile) -> u64 {
    match profile {
        LeaseProfile::Fast => 500,
        LeaseProfile::Default => 1_500,
        LeaseProfile::Wide => 10_000,
    }
}

/// What people call a lease of this length.
pub(super) fn profile_of(lease: Duration) -> &'static str {
    match u64::try_from(lease.as_millis()) {
        Ok(500) => " (profile fast)",
        Ok(1_500) => " (profile default)",
        Ok(10_000) => " (profile wide)",
        Ok(_) | Err(_) => "",
    }
}

/// Parses a value of the caller; the refusal names it.
pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    what: &str,
    name: &str,
    value: &str,
) -> Result<T, Refusal> {
    value
        .parse()
        .map_err(|error| Refusal::invalid(what, format!("{name} \"{value}\": {error}")))
}

fn parse_addresses(what: &str, addresses: &[String]) -> Result<Vec<SocketAddr>, Refusal> {
    if addresses.is_empty() {
        return Err(
            Refusal::invalid(what, "give this server's address, once per LAN")
                .next("--address HOST:9453"),
        );
    }
    addresses
        .iter()
        .map(|address| parse(what, "address", address))
        .collect()
}

fn cluster_state(member: &Member) -> ClusterStateReply {
    let state = member.state();
    let status = member.consensus.status();
    let lease_left = member.lease_remaining();
    let voters = state.voters();
    let members = state.members.values().map(|each| MemberReply {
        id: each.id.0,
        name: each.name.to_string(),
        is_witness: each.kind == MemberKind::Witness,
        is_voter: voters.contains(&each.id),
        is_down: each.is_down,
        lans: each
            .addresses
            .iter()
            .enumerate()
            .map(|(lan, address)| LanReply {
                address: address.to_string(),
                heard_age_ms: match status.heard.get(&(each.id, lan)) {
                    Some(Some(age)) => millis(*age),
                    Some(None) | None => u64::MAX,
                },
            })
            .collect(),
    });
    ClusterStateReply {
        cluster: member.identity.cluster.to_string(),
        answered_by: member.id().0,
        leader: status.leader.map_or(0, |leader| leader.0),
        term: status.term,
        applied_index: status.applied_index,
        applied_age_ms: member.majority_age().map_or(u64::MAX, millis),
        has_quorum: lease_left.is_some(),
        lease_remaining_ms: lease_left.map_or(0, millis),
        members: members.collect(),
        notices: notices(member, &state),
    }
}

/// What a person must know who looks at this server.
fn notices(member: &Member, state: &ClusterState) -> Vec<String> {
    let mut notices = Vec::new();
    if member
        .security
        .validity()
        .over_for(SystemTime::now())
        .is_some()
    {
        let why = "the certificate of this member has run out, so the others refuse it; compare the clocks, else type `skcli cluster leave --alone` here and let it join again";
        notices.push(why.to_owned());
    }
    notices.extend(open_change(member, state));
    let voters = state.voters();
    let has_quorum = member.lease_remaining().is_some();
    if let (false, [voter]) = (has_quorum, voters.iter().collect::<Vec<_>>().as_slice()) {
        notices.push(format!(
            "{} is the only voter of this pair and is not heard: nothing can be decided without it; bring it back, or add a witness next time with `skcli cluster token --witness`",
            member.name_of(**voter)
        ));
    }
    notices
}

/// What an open change of the voters needs, from what this member hears.
fn open_change(member: &Member, state: &ClusterState) -> Option<String> {
    let status = member.consensus.status();
    let mut electorates: BTreeSet<_> = state.electorates().collect();
    if let [_, _, ..] = status.configurations.as_slice() {
        electorates.extend(status.configurations);
    }
    let fresh = status
        .heard
        .into_iter()
        .filter(|(_, age)| age.is_some_and(|age| age <= member.lease_length()))
        .map(|((server, _), _)| server);
    advice(&OpenChange {
        electorates: electorates.into_iter().collect(),
        heard: fresh.chain([member.id()]).collect(),
        name: &|server| state.members.get(&server).map(|each| each.name.to_string()),
    })
}

/// Milliseconds as the API carries them.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The newest events, oldest first; with `follow` the stream goes on as entries are applied.
fn events(
    member: Arc<Member>,
    module: Option<ModuleName>,
    newest: usize,
    follow: bool,
) -> impl Stream<Item = Result<EventReply, Status>> + Send {
    let applied = member.consensus.watch();
    let first = select(&member.state(), module.as_ref(), None);
    let skipped = first.len().saturating_sub(newest);
    let first: Vec<Event> = first.into_iter().skip(skipped).collect();
    let last = member.state().events.back().map(|event| event.id);
    let start = (applied, first.into_iter(), last, member);
    futures_util::stream::unfold(start, move |(mut applied, mut batch, mut last, member)| {
        let module = module.clone();
        async move {
            loop {
                if let Some(event) = batch.next() {
                    return Some((Ok(reply(&event)), (applied, batch, last, member)));
                }
                if !follow || applied.changed().await.is_err() {
                    return None;
                }
                let state = Arc::clone(&applied.borrow_and_update().state);
                batch = select(&state, module.as_ref(), last).into_iter();
                last = state.events.back().map(|event| event.id).or(last);
            }
        }
    })
}

fn select(state: &ClusterState, module: Option<&ModuleName>, after: Option<EventId>) -> Vec<Event> {
    state
        .events
        .iter()
        .filter(|event| after.is_none_or(|after| event.id > after))
        .filter(|event| module.is_none() || event.module.as_ref() == module)
        .cloned()
        .collect()
}

fn reply(event: &Event) -> EventReply {
    EventReply {
        id: event.id.0,
        at_unix_ms: event.at_unix_ms,
        module: event
            .module
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        epoch: event.epoch.map_or(0, |epoch| epoch.0),
        text: event.kind.to_string(),
        author: event.author.clone(),
        evidence: event.evidence.clone(),
        cause: event.cause.map_or(0, |cause| cause.0),
        entry: event.entry,
    }
}

//! Cluster verbs: init, tokens, joining, state, events.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::v1::cluster_server::{Cluster, ClusterServer};
use api::v1::{
    ChangeReply, ClusterStateReply, ClusterStateRequest, CreateTokenReply, CreateTokenRequest,
    EventReply, EventsRequest, InitReply, InitRequest, JoinReply, JoinRequest, LanReply,
    LeaveRequest, MemberReply, RemoveRequest, RenewCertificateRequest, SetMemberRequest,
};
use consensus::Applied;
use consensus::state::{ClusterState, Command, Event, EventId, MemberKind, ModuleName};
use futures_util::Stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::change::require_member;
use super::plan::Change;
use super::refusal::{Refusal, chain};
use super::{joining, members};
use crate::core::voter_change::{OpenChange, advice, not_voting_yet};
use crate::daemon::Daemon;
use crate::member::{Member, unix_ms};
use crate::security::JoinToken;

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
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        Ok(Response::new(
            joining::init(&self.daemon, request.into_inner()).await?,
        ))
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
        let mut change = Change::new(&member, WHAT, &request.author, request.dry_run)
            .because("skcli cluster token");
        change.make(command).await?;
        // What was only shown is no token.
        let text = if change.is_dry_run() {
            String::new()
        } else {
            token.to_string()
        };
        Ok(Response::new(CreateTokenReply {
            token: text,
            expires_at_unix_s,
            plan: change.lines(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        Ok(Response::new(
            joining::join(&self.daemon, request.into_inner()).await?,
        ))
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
        let applied = member.consensus.watch();
        let stream = events(applied, module, newest, request.follow);
        Ok(Response::new(Box::pin(stream)))
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

fn cluster_state(member: &Member) -> ClusterStateReply {
    // What is told is at least as new as what is said of its age.
    let applied_age = member.majority_age();
    let lease_left = member.lease_remaining();
    let status = member.consensus.status();
    let members = status.state.members.values().map(|each| MemberReply {
        id: each.id.0,
        name: each.name.to_string(),
        is_witness: each.kind == MemberKind::Witness,
        is_voter: status.voters.contains(&each.id),
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
        applied_age_ms: applied_age.map_or(u64::MAX, millis),
        has_quorum: lease_left.is_some(),
        lease_remaining_ms: lease_left.map_or(0, millis),
        members: members.collect(),
        notices: notices(member, &status, lease_left.is_some()),
    }
}

/// What a person must know who looks at this server, which says this of itself.
fn notices(member: &Member, status: &consensus::Status, has_quorum: bool) -> Vec<String> {
    let state = &status.state;
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
    notices.extend(open_change(member, status));
    let voters = state.voters();
    let voting = &status.voters;
    notices.extend(not_voting_yet(&voters, voting, &|id| state.name_of(id)));
    if let (false, [voter]) = (has_quorum, voters.iter().collect::<Vec<_>>().as_slice()) {
        notices.push(format!(
            "{} is the only voter of this pair and is not heard: nothing can be decided without it; bring it back; when it is lost for good, type `skcli cluster leave --alone` here (the replicated files stay), then `skcli cluster init`, let another server join, install the module and type `skcli module prim` here; a witness (`skcli cluster token --witness`) spares you this",
            state.name_of(**voter)
        ));
    }
    notices
}

/// What an open change of the voters needs, from what this member hears.
fn open_change(member: &Member, status: &consensus::Status) -> Option<String> {
    let state = &status.state;
    let mut electorates: BTreeSet<_> = state.electorates().collect();
    if let [_, _, ..] = status.configurations.as_slice() {
        electorates.extend(status.configurations.iter().cloned());
    }
    let fresh = status
        .heard
        .iter()
        .filter(|(_, age)| age.is_some_and(|age| age <= member.lease_length_max()))
        .map(|((server, _), _)| *server);
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
    applied: watch::Receiver<Applied>,
    module: Option<ModuleName>,
    newest: usize,
    follow: bool,
) -> impl Stream<Item = Result<EventReply, Status>> + Send {
    // One state for both: what is applied between two looks would be in neither.
    let state = Arc::clone(&applied.borrow().state);
    let first = select(&state, module.as_ref(), None);
    let skipped = first.len().saturating_sub(newest);
    let first: Vec<Event> = first.into_iter().skip(skipped).collect();
    let last = state.events.back().map(|event| event.id);
    let start = (applied, first.into_iter(), last);
    futures_util::stream::unfold(start, move |(mut applied, mut batch, mut last)| {
        let module = module.clone();
        async move {
            loop {
                if let Some(event) = batch.next() {
                    return Some((Ok(reply(&event)), (applied, batch, last)));
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

#[cfg(test)]
mod tests {
    use consensus::LogPosition;
    use consensus::state::Wanted;
    use futures_util::StreamExt as _;

    use super::super::story::{S2, Story};
    use super::*;

    /// Changes while somebody begins to follow; far fewer than are kept.
    const CHANGES: u64 = 300;
    const FOLLOWERS: usize = 2000;

    fn applied(story: &Story) -> Applied {
        Applied {
            position: LogPosition {
                term: 1,
                index: story.index,
            },
            state: Arc::new(story.state.clone()),
        }
    }

    /// An event applied between the two looks at the state with which a follower began was told to him never.
    #[tokio::test]
    async fn regression_who_follows_misses_no_event() {
        let mut story = Story::mirrored();
        let (sender, receiver) = watch::channel(applied(&story));
        let changing = std::thread::spawn(move || {
            for turn in 0..CHANGES {
                story.want(
                    S2,
                    match turn % 2 {
                        0 => Wanted::Stopped,
                        _ => Wanted::Started,
                    },
                );
                sender.send_replace(applied(&story));
                std::thread::sleep(Duration::from_micros(50));
            }
            story.state.last_event.0
        });
        let following: Vec<_> = (0..FOLLOWERS)
            .map(|_| events(receiver.clone(), None, usize::MAX, true))
            .collect();
        let newest = changing.join().expect("the changes are accepted");
        // The stream ends with its sender.
        for stream in following {
            let told: Vec<u64> = stream
                .map(|event| event.expect("an event").id)
                .collect()
                .await;
            assert_eq!(told, (1..=newest).collect::<Vec<_>>());
        }
    }
}

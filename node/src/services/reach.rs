//! Asking another member, directly or over a third one.
//!
//! An operator types a command wherever he is. The member that has to do it may be out of reach from there and not from
//! elsewhere, so the others, witnesses too, pass calls on. What is passed on is the plain call to the member that is meant:
//! whoever gets it answers it himself, so nothing goes in circles.

use std::sync::Arc;

use api::peer::v1::peer_client::PeerClient;
use api::peer::v1::relay_reply::Outcome;
use api::peer::v1::relay_request::Call;
use api::peer::v1::{NotReached, Refused, RelayRequest};
use api::v1::Explained;
use consensus::state::ServerId;
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::caller;
use super::refusal::{Refusal, chain};
use crate::member::Member;

/// How to get to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Directly,
    Over(ServerId),
}

/// Asks `to` over every way there is, the most promising first, until an answer comes back.
///
/// # Errors
/// Its refusal, with its name; or that no way led there, and which were tried.
pub(super) async fn ask(
    member: &Arc<Member>,
    to: ServerId,
    call: Call,
    what: &str,
) -> Result<Outcome, Refusal> {
    let name = member.name_of(to);
    let mut tried = Vec::new();
    let mut may_be_under_way = false;
    for way in ways_to(member, to) {
        let (outcome, by) = match way {
            Way::Directly => (
                directly(member, to, call.clone(), None).await,
                "directly".to_owned(),
            ),
            Way::Over(via) => (
                over(member, via, to, call.clone()).await,
                format!("over {}", member.name_of(via)),
            ),
        };
        match outcome {
            Outcome::NotReached(missed) => {
                may_be_under_way |= missed.may_be_under_way;
                tried.push(format!("{by}: {}", missed.why));
            }
            Outcome::Refused(refused) => {
                return Err(Refusal::passed_on(what, &name, &status(refused)));
            }
            answer @ (Outcome::Changed(_)
            | Outcome::Checked(_)
            | Outcome::Report(_)
            | Outcome::Diverged(_)) => return Ok(answer),
        }
    }
    let refusal = Refusal::unavailable(
        what,
        format!("{name} was not reached ({})", tried.join("; ")),
    );
    let refusal = if may_be_under_way {
        refusal.also("it was asked, and may still do it")
    } else {
        refusal
    };
    Err(refusal.next("skcli cluster state"))
}

/// An answer to another question than was asked.
pub(super) fn nonsense(what: &str, name: &str) -> Refusal {
    Refusal::failed(what, format!("{name} answered something else"))
}

fn ways_to(member: &Member, to: ServerId) -> Vec<Way> {
    let state = member.state();
    let status = member.consensus.status();
    let hears = |server: ServerId| {
        status.heard.iter().any(|((from, _), age)| {
            *from == server && age.is_some_and(|age| age <= member.lease_length_max())
        })
    };
    let others = state.members.keys().copied();
    let others = others.filter(|other| *other != to && *other != member.id());
    ways(hears(to), others.map(|other| (other, hears(other))))
}

/// Whoever is heard comes first, and of those the member itself.
fn ways(hears_it: bool, others: impl Iterator<Item = (ServerId, bool)>) -> Vec<Way> {
    let over = others.map(|(other, is_heard)| (!is_heard, Way::Over(other)));
    let mut ways: Vec<(bool, Way)> = std::iter::once((!hears_it, Way::Directly))
        .chain(over)
        .collect();
    ways.sort_by_key(|(is_unheard, _)| *is_unheard);
    ways.into_iter().map(|(_, way)| way).collect()
}

/// Asks `to` itself, for this server or for `origin`.
pub(super) async fn directly(
    member: &Member,
    to: ServerId,
    call: Call,
    origin: Option<ServerId>,
) -> Outcome {
    let channel = match dial(member, to).await {
        Ok(channel) => channel,
        Err(missed) => return missed,
    };
    let mut client = PeerClient::new(channel);
    let answered = match call {
        Call::Control(request) => client
            .control(caller::request(request, origin))
            .await
            .map(|reply| Outcome::Changed(reply.into_inner())),
        Call::CheckModule(request) => client
            .check_module(caller::request(request, origin))
            .await
            .map(|reply| Outcome::Checked(reply.into_inner())),
        Call::Report(request) => client
            .report(caller::request(request, origin))
            .await
            .map(|reply| Outcome::Report(reply.into_inner())),
        Call::Diverged(request) => client
            .diverged(caller::request(request, origin))
            .await
            .map(|reply| Outcome::Diverged(reply.into_inner())),
        Call::DiscardDiverged(request) => client
            .discard_diverged(caller::request(request, origin))
            .await
            .map(|reply| Outcome::Changed(reply.into_inner())),
    };
    answered.unwrap_or_else(|status| missed_or_refused(&status))
}

/// Has `via` ask it.
async fn over(member: &Member, via: ServerId, to: ServerId, call: Call) -> Outcome {
    let channel = match dial(member, via).await {
        Ok(channel) => channel,
        Err(missed) => return missed,
    };
    let request = RelayRequest {
        to: to.0,
        call: Some(call),
    };
    match PeerClient::new(channel)
        .relay(request)
        .await
        .map(Response::into_inner)
    {
        Ok(reply) => reply
            .outcome
            .unwrap_or_else(|| missed("it answered something else".to_owned(), true)),
        // It passed nothing on: an earlier release, or one that does not know this member yet.
        Err(status) if is_refusal(&status) => missed(status.message().to_owned(), false),
        Err(status) => missed(status.message().to_owned(), true),
    }
}

async fn dial(member: &Member, to: ServerId) -> Result<Channel, Outcome> {
    let state = member.state();
    let addresses = state
        .members
        .get(&to)
        .map(|each| each.addresses.clone())
        .unwrap_or_default();
    let dialled = member.dialer.channel(to, &addresses).await;
    dialled.map_err(|error| missed(chain(error), false))
}

fn missed(why: String, may_be_under_way: bool) -> Outcome {
    Outcome::NotReached(NotReached {
        why,
        may_be_under_way,
    })
}

fn missed_or_refused(status: &Status) -> Outcome {
    if is_refusal(status) {
        Outcome::Refused(Refused {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: status.details().to_vec().into(),
        })
    } else {
        missed(status.message().to_owned(), true)
    }
}

/// Somebody looked at the call and refused it; otherwise the connection was lost.
fn is_refusal(status: &Status) -> bool {
    let is_explained =
        Explained::decode(status.details()).is_ok_and(|explained| !explained.what.is_empty());
    let is_transport = matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
    );
    is_explained || !is_transport
}

fn status(refused: Refused) -> Status {
    Status::with_details(
        Code::from_i32(refused.code),
        refused.message,
        refused.details,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_heard_is_asked_first() {
        let others = |heard: &[(u64, bool)]| {
            heard
                .iter()
                .map(|(id, is_heard)| (ServerId(*id), *is_heard))
                .collect::<Vec<_>>()
        };
        let over = |id| Way::Over(ServerId(id));
        assert_eq!(
            ways(true, others(&[(3, true)]).into_iter()),
            [Way::Directly, over(3)]
        );
        assert_eq!(
            ways(
                false,
                others(&[(3, true), (4, false), (5, true)]).into_iter()
            ),
            [over(3), over(5), Way::Directly, over(4)]
        );
        assert_eq!(ways(false, std::iter::empty()), [Way::Directly]);
    }

    #[test]
    fn a_refusal_comes_through_word_for_word_and_a_lost_connection_is_none() {
        let refusal = Refusal::unavailable("nothing was done", "the agent is busy").next("wait");
        let Outcome::Refused(refused) = missed_or_refused(&Status::from(refusal.clone())) else {
            panic!("a refusal");
        };
        let (before, after) = (Status::from(refusal), status(refused));
        assert_eq!(before.code(), after.code());
        assert_eq!(before.details(), after.details());
        let lost = missed_or_refused(&Status::unavailable("connection reset"));
        assert_eq!(lost, missed("connection reset".to_owned(), true));
        let old = missed_or_refused(&Status::unimplemented(""));
        assert!(matches!(old, Outcome::Refused(_)), "{old:?}");
    }
}

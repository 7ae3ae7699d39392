//! Members that leave, are gone for good, or are called and found otherwise.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::v1::{
    ChangeReply, LeaveRequest, ModuleRequest, RemoveRequest, RenewCertificateRequest,
    SetMemberRequest,
};
use consensus::state::{ClusterState, Command, MemberName, Proposal, ServerId};

use super::change::{CHANGE_DEADLINE, require_member, require_module};
use super::cluster::parse;
use super::plan::{Change, NO_RISK};
use super::refusal::{Refusal, chain, not_proposed, not_read};
use crate::daemon::Daemon;
use crate::member::Member;
use crate::renewal;

/// How long a member that leaves waits until the others no longer need its vote.
const VOTE_GOES_DEADLINE: Duration = Duration::from_secs(20);
/// What leaving does on this server.
const SET_ASIDE: &str = "the keys, the log and the module directories of this server are set aside; replicated files stay where they are";

/// What it costs to leave without asking.
const STAYS_MEMBER: &str =
    "the others go on counting this server as a member, and its vote as one that is missing";

/// What is asked for, by whom.
struct Asked<'a> {
    what: &'a str,
    command: Command,
    author: &'a str,
    verb: &'a str,
}

/// A state with everything in it that was committed when this was called: what is applied here may be older than what a proposal
/// will meet, and not know a member that has just joined, or its new name (R13).
pub(super) async fn newest_state(
    member: &Member,
    what: &str,
) -> Result<Arc<ClusterState>, Refusal> {
    let newest = member.consensus.read_index(CHANGE_DEADLINE).await;
    newest.map_err(|error| not_read(what, &error))
}

/// Does it, or says what it would do to the newest state and risks: the very rules that would decide are asked.
async fn change(
    member: &Arc<Member>,
    before: &ClusterState,
    asked: Asked<'_>,
    dry_run: bool,
) -> Result<ChangeReply, Refusal> {
    let Asked {
        what,
        command,
        author,
        verb,
    } = asked;
    let lines = if dry_run {
        let mut change = Change::new(member, what, author, true).because(verb);
        change.make(command).await?;
        change.lines()
    } else {
        let proposal = member.proposal_by(command, author, verb);
        let lines = outcome_on(before, &proposal).map_err(|why| Refusal::not_now(what, why))?;
        let proposed = member.consensus.propose(proposal, CHANGE_DEADLINE).await;
        proposed.map_err(|error| not_proposed(what, &error))?;
        lines
    };
    Ok(ChangeReply { lines, epoch: 0 })
}

/// What a proposal would do to this state, as events tell it.
fn outcome_on(state: &ClusterState, proposal: &Proposal) -> Result<Vec<String>, String> {
    let mut trial = state.clone();
    let last = trial.last_event;
    trial
        .apply(u64::MAX, proposal)
        .map_err(|rejection| rejection.to_string())?;
    let lines: Vec<String> = trial
        .events
        .iter()
        .filter(|event| event.id > last)
        .map(ToString::to_string)
        .collect();
    Ok(if lines.is_empty() {
        vec!["nothing changes: it is so already".to_owned()]
    } else {
        lines
    })
}

/// The member with this name.
pub(super) fn named(state: &ClusterState, what: &str, name: &str) -> Result<ServerId, Refusal> {
    let found = state.members.values().find(|m| m.name.as_str() == name);
    found.map(|found| found.id).ok_or_else(|| {
        Refusal::unknown(what, format!("there is no member \"{name}\"")).next("skcli cluster state")
    })
}

pub(super) async fn remove(
    daemon: &Arc<Daemon>,
    request: RemoveRequest,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "the member was not removed";
    let member = require_member(daemon, WHAT)?;
    let state = newest_state(&member, WHAT).await?;
    let command = Command::ForgetMember {
        server: named(&state, WHAT, &request.member)?,
        accept_loss: request.accept_loss,
    };
    let asked = Asked {
        what: WHAT,
        command,
        author: &request.author,
        verb: "skcli cluster remove",
    };
    change(&member, &state, asked, request.dry_run).await
}

pub(super) async fn set(
    daemon: &Arc<Daemon>,
    request: SetMemberRequest,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "the member was not changed";
    let member = require_member(daemon, WHAT)?;
    let state = newest_state(&member, WHAT).await?;
    let server = named(&state, WHAT, &request.member)?;
    let Some(now) = state.members.get(&server) else {
        return Err(Refusal::unknown(WHAT, "the member has just left"));
    };
    let name = match request.name.as_str() {
        "" => now.name.clone(),
        name => parse::<MemberName>(WHAT, "server name", name)?,
    };
    let addresses = match request.addresses.as_slice() {
        [] => now.addresses.clone(),
        addresses => addresses
            .iter()
            .map(|address| parse::<SocketAddr>(WHAT, "address", address))
            .collect::<Result<_, _>>()?,
    };
    let command = Command::ChangeMember {
        server,
        name,
        addresses,
    };
    let asked = Asked {
        what: WHAT,
        command,
        author: &request.author,
        verb: "skcli cluster set",
    };
    change(&member, &state, asked, request.dry_run).await
}

/// A second copy for a module that has a vacant place.
pub(super) async fn place(
    daemon: &Arc<Daemon>,
    request: ModuleRequest,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "no copy was placed";
    let member = require_member(daemon, WHAT)?;
    let record = require_module(&member, WHAT, &request.module).await?;
    let state = newest_state(&member, WHAT).await?;
    let server = match request.server.as_str() {
        "" => member.id(),
        name => named(&state, WHAT, name)?,
    };
    let command = Command::PlaceCopy {
        module: record.name,
        server,
    };
    let asked = Asked {
        what: WHAT,
        command,
        author: &request.author,
        verb: "skcli module place",
    };
    change(&member, &state, asked, request.dry_run).await
}

/// A new certificate before its time, to see that it works. The key stays the same and the former certificate is not revoked:
/// against a stolen key only taking the member out helps (`join --replaces`).
pub(super) async fn renew(
    daemon: &Arc<Daemon>,
    request: RenewCertificateRequest,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "the certificate was not renewed";
    let member = require_member(daemon, WHAT)?;
    let name = member.name();
    let lines = if request.dry_run {
        vec![
            format!("would be: {name} has a new certificate, for the key it has"),
            format!(
                "{NO_RISK}; connections go on, and the former certificate stays good until it runs out"
            ),
        ]
    } else {
        let why = format!("asked for by {}", request.author);
        renewal::renew(&member, &member.security, &why)
            .await
            .map_err(|error| Refusal::failed(WHAT, chain(error)))?;
        vec![format!(
            "{name} has a new certificate; existing connections go on"
        )]
    };
    Ok(ChangeReply { lines, epoch: 0 })
}

pub(super) async fn leave(
    daemon: &Arc<Daemon>,
    request: LeaveRequest,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "this server did not leave the cluster";
    if let (Some(why), true) = (daemon.unfit(), request.alone) {
        return Ok(forget_unfit(daemon, &why, request.dry_run));
    }
    if request.alone && request.dry_run {
        return Ok(alone_plan(&*require_member(daemon, WHAT)?));
    }
    let member = require_member(daemon, WHAT)?;
    let command = Command::RemoveMember {
        server: member.id(),
    };
    let asked = Asked {
        what: WHAT,
        command,
        author: &request.author,
        verb: "skcli cluster leave",
    };
    let (name, cluster) = (member.name(), member.identity.cluster.clone());
    let mut reply = if request.alone {
        let line = format!(
            "{name} forgets cluster {cluster} without asking anybody; the others go on counting it as a member until they are told with `skcli cluster remove {name}`"
        );
        ChangeReply {
            lines: vec![line],
            epoch: 0,
        }
    } else if request.dry_run {
        let state = newest_state(&member, WHAT).await?;
        change(&member, &state, asked, true).await?
    } else {
        daemon.set_asked_to_leave(true);
        let left = async {
            let state = newest_state(&member, WHAT).await?;
            change(&member, &state, asked, false).await
        };
        match left.await {
            Ok(reply) => reply,
            // The others' word that it is a member no more came before the answer.
            Err(_) if daemon.unfit().is_some() => ChangeReply {
                lines: vec![format!("{name} is a member of cluster {cluster} no more")],
                epoch: 0,
            },
            Err(status) => {
                daemon.set_asked_to_leave(false);
                return Err(status);
            }
        }
    };
    if request.dry_run {
        reply.lines.insert(0, format!("would be: {SET_ASIDE}"));
        return Ok(reply);
    }
    reply.lines.push(SET_ASIDE.to_owned());
    if !request.alone {
        wait_vote_gone(&member).await;
    }
    daemon.leave_cluster();
    Ok(reply)
}

/// What leaving without asking anybody would do and risk.
fn alone_plan(member: &Member) -> ChangeReply {
    let (name, cluster) = (member.name(), &member.identity.cluster);
    let mut lines = vec![
        format!("would be: {name} forgets cluster {cluster} without asking anybody"),
        format!("would be: {SET_ASIDE}"),
        format!("risk: {STAYS_MEMBER}: tell them with `skcli cluster remove {name}`"),
    ];
    let state = member.state();
    let led = state
        .modules
        .values()
        .filter(|module| module.servers.contains(&member.id()));
    lines.extend(led.map(|module| {
        format!(
            "risk: {} stops here, and its files here are a copy no more",
            module.name
        )
    }));
    ChangeReply { lines, epoch: 0 }
}

/// A server that takes part in nothing cannot ask anybody.
fn forget_unfit(daemon: &Daemon, why: &str, dry_run: bool) -> ChangeReply {
    let mut lines = vec![format!("this server takes part in nothing: {why}")];
    if dry_run {
        lines.push(format!("would be: {SET_ASIDE}"));
        lines.push(format!("risk: {STAYS_MEMBER}"));
    } else {
        lines.push(SET_ASIDE.to_owned());
        daemon.leave_cluster();
    }
    ChangeReply { lines, epoch: 0 }
}

/// The others may need this member's vote for the very change that takes it away.
async fn wait_vote_gone(member: &Member) {
    if tokio::time::timeout(VOTE_GOES_DEADLINE, member.consensus.vote_gone())
        .await
        .is_err()
    {
        tracing::warn!(
            "the others did not say within {VOTE_GOES_DEADLINE:?} that they need this vote no more"
        );
    }
}

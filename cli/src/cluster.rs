//! The verbs of `skcli cluster`.

use crate::args::{Args, ClusterVerb, Lease, Sure};
use crate::author::author;
use crate::confirm::confirm;
use crate::connection::{answer, connect};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{cluster as text, json};
use api::v1::cluster_client::ClusterClient;
use api::v1::{
    ChangeReply, ClusterStateRequest, CreateTokenRequest, EventsRequest, InitRequest, JoinRequest,
    LeaseProfile, LeaveRequest, RemoveRequest, RenewCertificateRequest, SetMemberRequest,
};
use serde_json::json;
use std::fs;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

/// Joining ends when the new member has caught up; that may take a while.
const JOIN_WAIT_S: u64 = 60;

/// A change may wait for a leader, and a server that leaves for the end of its vote.
const CHANGE_WAIT_S: u64 = 60;

/// Does one verb; the answer is the exit code.
pub(crate) async fn run(verb: &ClusterVerb, args: &Args, output: &Output) -> Result<u8, Failure> {
    match verb {
        ClusterVerb::Init {
            name,
            me,
            lease,
            dry_run,
        } => {
            let request = InitRequest {
                cluster: name.clone(),
                server: server_name(me.server.as_deref())?,
                addresses: addresses(&me.addresses)?,
                lease: profile(*lease).into(),
                author: author(),
                dry_run: *dry_run,
            };
            init(request, args, output).await
        }
        ClusterVerb::Token {
            witness,
            valid,
            dry_run,
        } => {
            let request = CreateTokenRequest {
                witness: *witness,
                valid_for_s: *valid,
                author: author(),
                dry_run: *dry_run,
            };
            token(request, args, output).await
        }
        ClusterVerb::Join {
            address,
            token,
            me,
            replaces,
            accept_loss,
            dry_run,
        } => {
            let request = JoinRequest {
                address: checked(address)?,
                token: token.clone(),
                server: server_name(me.server.as_deref())?,
                addresses: addresses(&me.addresses)?,
                replaces: replaces.clone().unwrap_or_default(),
                accept_loss: *accept_loss,
                author: author(),
                dry_run: *dry_run,
            };
            join(request, args, output).await
        }
        ClusterVerb::Leave { alone, sure } => {
            let request = LeaveRequest {
                alone: *alone,
                dry_run: true,
                author: author(),
            };
            leave(request, sure, args, output).await
        }
        ClusterVerb::Remove {
            member,
            accept_loss,
            sure,
        } => {
            let request = RemoveRequest {
                member: member.clone(),
                accept_loss: *accept_loss,
                dry_run: true,
                author: author(),
            };
            remove(request, sure, args, output).await
        }
        ClusterVerb::Renew { dry_run } => {
            let request = RenewCertificateRequest {
                dry_run: *dry_run,
                author: author(),
            };
            let reply = answer(CHANGE_WAIT_S, client(args).await?.renew(request)).await?;
            changed(&reply, *dry_run, output)
        }
        ClusterVerb::Set {
            member,
            name,
            addresses: given,
            dry_run,
        } => {
            let request = SetMemberRequest {
                member: member.clone(),
                name: name.clone().unwrap_or_default(),
                addresses: addresses(given)?,
                dry_run: *dry_run,
                author: author(),
            };
            let reply = answer(CHANGE_WAIT_S, client(args).await?.set(request)).await?;
            changed(&reply, *dry_run, output)
        }
        ClusterVerb::State => {
            let reply = answer(0, client(args).await?.state(ClusterStateRequest {})).await?;
            output.answer(|| json::cluster(&reply), || text::state(&reply))
        }
        ClusterVerb::Events {
            module,
            newest,
            follow,
        } => {
            let module = module.clone().unwrap_or_default();
            events(
                EventsRequest {
                    module,
                    newest: *newest,
                    follow: *follow,
                },
                args,
                output,
            )
            .await
        }
    }
}

/// What was only shown.
fn planned(plan: &[String], output: &Output) -> Result<u8, Failure> {
    output.answer(|| json::planned(plan), || text::planned(plan))
}

async fn init(request: InitRequest, args: &Args, output: &Output) -> Result<u8, Failure> {
    let reply = answer(JOIN_WAIT_S, client(args).await?.init(request.clone())).await?;
    if request.dry_run {
        return planned(&reply.plan, output);
    }
    output.answer(
        || json::init(&request, &reply),
        || text::init(&request, &reply),
    )
}

async fn token(request: CreateTokenRequest, args: &Args, output: &Output) -> Result<u8, Failure> {
    let (is_witness, is_dry_run) = (request.witness, request.dry_run);
    let mut reply = answer(0, client(args).await?.create_token(request)).await?;
    if is_dry_run {
        reply.plan.insert(0, text::good_until(&reply));
        return planned(&reply.plan, output);
    }
    output.answer(|| json::token(&reply), || text::token(&reply, is_witness))
}

async fn join(request: JoinRequest, args: &Args, output: &Output) -> Result<u8, Failure> {
    let reply = answer(JOIN_WAIT_S, client(args).await?.join(request.clone())).await?;
    if request.dry_run {
        return planned(&reply.plan, output);
    }
    output.answer(
        || json::join(&request, &reply),
        || text::join(&request, &reply),
    )
}

/// Shows what it would cost, asks, does it.
async fn leave(
    mut request: LeaveRequest,
    sure: &Sure,
    args: &Args,
    output: &Output,
) -> Result<u8, Failure> {
    let plan = answer(CHANGE_WAIT_S, client(args).await?.leave(request.clone())).await?;
    if sure.dry_run {
        return changed(&plan, true, output);
    }
    confirm(&plan.lines, sure)?;
    request.dry_run = false;
    let reply = answer(CHANGE_WAIT_S, client(args).await?.leave(request)).await?;
    changed(&reply, false, output)
}

async fn remove(
    mut request: RemoveRequest,
    sure: &Sure,
    args: &Args,
    output: &Output,
) -> Result<u8, Failure> {
    let plan = answer(CHANGE_WAIT_S, client(args).await?.remove(request.clone())).await?;
    if sure.dry_run {
        return changed(&plan, true, output);
    }
    confirm(&plan.lines, sure)?;
    request.dry_run = false;
    let reply = answer(CHANGE_WAIT_S, client(args).await?.remove(request)).await?;
    changed(&reply, false, output)
}

fn changed(reply: &ChangeReply, dry_run: bool, output: &Output) -> Result<u8, Failure> {
    if dry_run {
        return planned(&reply.lines, output);
    }
    output.answer(
        || json!({ "dry_run": false, "lines": reply.lines }),
        || reply.lines.iter().map(|line| format!("{line}\n")).collect(),
    )
}

async fn events(request: EventsRequest, args: &Args, output: &Output) -> Result<u8, Failure> {
    let mut events = answer(0, client(args).await?.events(request)).await?;
    while let Some(event) = events.next().await {
        let event = event.map_err(Failure::from_status)?;
        output.line(|| json::event(&event), || text::event(&event))?;
    }
    Ok(0)
}

async fn client(args: &Args) -> Result<ClusterClient<Channel>, Failure> {
    Ok(ClusterClient::new(connect(&args.socket()).await?))
}

fn profile(lease: Lease) -> LeaseProfile {
    match lease {
        Lease::Default => LeaseProfile::Default,
        Lease::Fast => LeaseProfile::Fast,
        Lease::Wide => LeaseProfile::Wide,
    }
}

/// The name given, else the first part of the host name, which must then be usable.
fn server_name(given: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = given {
        return Ok(name.to_owned());
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .to_lowercase();
    let name = host.trim().split('.').next().unwrap_or_default();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 32
        && name.chars().all(fits)
    {
        return Ok(name.to_owned());
    }
    Err(Failure::Usage {
        what: format!(
            "the host name \"{}\" cannot serve as the name of the server",
            host.trim()
        ),
        next: "repeat the command with --server NAME".to_owned(),
    })
}

fn addresses(given: &[String]) -> Result<Vec<String>, Failure> {
    given.iter().map(|address| checked(address)).collect()
}

/// HOST:PORT with a port that is one; the daemon resolves and checks the rest.
fn checked(address: &str) -> Result<String, Failure> {
    let parts = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty());
    let port = parts
        .and_then(|(_, port)| port.parse::<u16>().ok())
        .filter(|port| *port > 0);
    if port.is_some() {
        return Ok(address.to_owned());
    }
    Err(Failure::Usage {
        what: format!(
            "\"{address}\" is not an address: expected HOST:PORT, such as 10.0.0.1:9453 or [fd00::1]:9453"
        ),
        next: String::new(),
    })
}

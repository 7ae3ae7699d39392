//! `skcli cluster init` and `join`: how a server comes to belong to a cluster, or what would come of it.

use std::net::SocketAddr;
use std::sync::Arc;

use api::peer::v1::EnrolRequest;
use api::v1::{InitReply, InitRequest, JoinReply, JoinRequest, LeaseProfile};
use consensus::state::MemberName;

use super::change::require_member;
use super::cluster::parse;
use super::peer::{Contact, ask_in};
use super::plan::NO_RISK;
use super::refusal::{Refusal, chain};
use crate::daemon::Daemon;
use crate::leaving;
use crate::listener::{is_here, try_listen};
use crate::security::{Enrolment, Identity, JoinToken};

/// Makes this server the first member of a new cluster.
pub(super) async fn init(daemon: &Arc<Daemon>, request: InitRequest) -> Result<InitReply, Refusal> {
    const WHAT: &str = "no cluster was made";
    refuse_if_member(daemon, WHAT)?;
    if daemon.is_witness {
        let why = "this daemon was started as a witness";
        return Err(Refusal::not_now(WHAT, why).next("skcli cluster join ADDRESS TOKEN"));
    }
    let lease_ms = lease_of(request.lease());
    let cluster: MemberName = parse(WHAT, "cluster name", &request.cluster)?;
    let server: MemberName = parse(WHAT, "server name", &request.server)?;
    let addresses = parse_addresses(WHAT, &request.addresses)?;
    let mut doubts = look_at(WHAT, &addresses)?;
    if request.dry_run {
        if !leaving::is_clean(&daemon.paths) {
            doubts.push(format!(
                "{} holds something of a former cluster; start sknode again, which sets it aside",
                daemon.paths.state().display()
            ));
        }
        return Ok(InitReply {
            plan: init_plan(daemon, &request, lease_ms, &doubts),
            ..InitReply::default()
        });
    }
    let identity = Identity::found(
        &daemon.paths.identity(),
        &cluster,
        &server,
        addresses,
        lease_ms,
    )
    .map_err(|error| Refusal::failed(WHAT, chain(error)))?;
    let fingerprint = identity.ca_fingerprint_text();
    let author = author_or(&request.author, &server);
    let became = daemon.become_member(identity, &author).await;
    let member = became.map_err(|error| {
        Refusal::failed(
            "the cluster was made, but this server did not start in it",
            chain(error),
        )
    })?;
    Ok(InitReply {
        server_id: member.id().0,
        ca_fingerprint: fingerprint,
        plan: Vec::new(),
    })
}

fn init_plan(
    daemon: &Daemon,
    request: &InitRequest,
    lease_ms: u64,
    doubts: &[String],
) -> Vec<String> {
    let mut lines = vec![
        format!(
            "would be: cluster {} with this server, {}, as its first member and only voter; lease {lease_ms} ms",
            request.cluster, request.server
        ),
        format!(
            "would be: keys, certificates and the log of the cluster in {}",
            daemon.paths.state().display()
        ),
        format!(
            "would be: this server listens at {}",
            request.addresses.join(", ")
        ),
        "risk: until a second server and a witness have joined, nothing survives the loss of this one"
            .to_owned(),
    ];
    lines.extend(doubts.iter().map(|doubt| format!("risk: {doubt}")));
    lines
}

/// Lets this server join the cluster of the member that is asked.
pub(super) async fn join(daemon: &Arc<Daemon>, request: JoinRequest) -> Result<JoinReply, Refusal> {
    const WHAT: &str = "this server did not join";
    refuse_if_member(daemon, WHAT)?;
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
    let contact = Contact {
        address: parse(WHAT, "address to join", &request.address)?,
        token: &token,
    };
    let doubts = look_at(WHAT, &addresses)?;
    let author = author_or(&request.author, &server);
    let enrol = EnrolRequest {
        token: token.to_string(),
        server: server.to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        certificate_request_pem: String::new(),
        witness: daemon.is_witness,
        replaces: request.replaces,
        accept_loss: request.accept_loss,
        author: author.clone(),
        dry_run: request.dry_run,
    };
    let enrolment = Enrolment::prepare().map_err(|error| Refusal::failed(WHAT, chain(error)))?;
    let reply = ask_in(&contact, enrol, &enrolment).await?;
    if request.dry_run {
        return Ok(JoinReply {
            plan: join_plan(&reply.plan, &request.address, &doubts),
            cluster: reply.cluster,
            ..JoinReply::default()
        });
    }
    let folder = daemon.paths.identity();
    let identity = Identity::join(&folder, &enrolment, &server, addresses, &reply)
        .map_err(|error| Refusal::failed(WHAT, chain(error)))?;
    let cluster = identity.cluster.to_string();
    let became = daemon.become_member(identity, &author).await;
    let member = became.map_err(|error| {
        Refusal::failed(
            "this server was added, but did not start in the cluster",
            chain(error),
        )
    })?;
    Ok(JoinReply {
        server_id: member.id().0,
        cluster,
        plan: Vec::new(),
    })
}

/// What the member that was asked says, and what is seen here.
fn join_plan(its: &[String], address: &str, doubts: &[String]) -> Vec<String> {
    let mut lines = vec![format!(
        "{address} answers, belongs to the cluster of the token, and knows the token as unused"
    )];
    let is_said = |line: &&String| doubts.is_empty() || line.as_str() != NO_RISK;
    lines.extend(its.iter().filter(is_said).cloned());
    lines.extend(doubts.iter().map(|doubt| format!("risk: {doubt}")));
    lines
}

fn refuse_if_member(daemon: &Daemon, what: &str) -> Result<(), Refusal> {
    match daemon.member() {
        _ if daemon.unfit().is_some() => require_member(daemon, what).map(|_member| ()),
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

/// What speaks against these addresses of this server; the others would look for it there.
///
/// # Errors
/// It could listen at none of them.
fn look_at(what: &str, addresses: &[SocketAddr]) -> Result<Vec<String>, Refusal> {
    let mut doubts = Vec::new();
    let mut possible = 0;
    for address in addresses {
        match try_listen(*address) {
            Err(error) => doubts.push(format!("this server cannot listen at {address}: {error}")),
            Ok(()) => {
                possible += 1;
                if !is_here(*address) {
                    doubts.push(format!(
                        "this machine does not have the address of {address}: the others do not reach it there"
                    ));
                }
            }
        }
    }
    if possible == 0 {
        return Err(Refusal::not_now(what, doubts.join("; ")).next("--address HOST:PORT"));
    }
    Ok(doubts)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_looked_at_before_anything_is_made() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
        let refused = look_at("nothing was made", &[taken.1]).unwrap_err();
        let status = tonic::Status::from(refused);
        assert!(status.message().contains("cannot listen"), "{status}");
        // One that is taken is a doubt when another one is free.
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert_eq!(look_at("", &[free]).unwrap(), Vec::<String>::new());
        assert_eq!(look_at("", &[free, taken.1]).unwrap().len(), 1);
        let elsewhere: SocketAddr = "192.0.2.7:9453".parse().unwrap();
        let doubts = look_at("", &[elsewhere]).unwrap();
        assert!(doubts[0].contains("does not have"), "{doubts:?}");
    }

    #[test]
    fn what_is_seen_here_adds_to_what_the_contact_says() {
        let its = ["would be: s2 added".to_owned(), NO_RISK.to_owned()];
        let lines = join_plan(&its, "10.0.0.1:9453", &[]);
        assert_eq!(lines.last().map(String::as_str), Some(NO_RISK));
        let lines = join_plan(&its, "10.0.0.1:9453", &["the port is taken".to_owned()]);
        assert!(!lines.contains(&NO_RISK.to_owned()));
        assert_eq!(lines.last().unwrap(), "risk: the port is taken");
    }
}

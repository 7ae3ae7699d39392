//! Replies about the cluster, for people.

use super::table::table;
use super::time::{age, duration, moment, old};
use api::v1::{
    ClusterStateReply, CreateTokenReply, EventReply, InitReply, InitRequest, JoinReply,
    JoinRequest, MemberReply,
};

/// What was only shown: the plan and what it risks.
pub(crate) fn planned(plan: &[String]) -> String {
    let lines: String = plan.iter().map(|line| format!("{line}\n")).collect();
    format!("{lines}nothing was done\n")
}

pub(crate) fn init(request: &InitRequest, reply: &InitReply) -> String {
    format!(
        "cluster {} exists; this server is {} (id {})\n\
         fingerprint of its certificate authority: {}\n\
         next: skcli cluster token    (once per server that shall join)\n",
        request.cluster, request.server, reply.server_id, reply.ca_fingerprint
    )
}

/// Until when a token that is only planned would be good.
pub(crate) fn good_until(reply: &CreateTokenReply) -> String {
    format!(
        "would be: a token, good once, until {}",
        moment(reply.expires_at_unix_s.saturating_mul(1000))
    )
}

pub(crate) fn token(reply: &CreateTokenReply, witness: bool) -> String {
    let who = if witness { "witness" } else { "new server" };
    format!(
        "{}\ngood once, until {}\nnext, on the {who}: skcli cluster join ADDRESS TOKEN --address HOST:PORT\n",
        reply.token,
        moment(reply.expires_at_unix_s.saturating_mul(1000))
    )
}

pub(crate) fn join(request: &JoinRequest, reply: &JoinReply) -> String {
    format!(
        "this server is {} (id {}) of cluster {}\nnext: skcli cluster state\n",
        request.server, reply.server_id, reply.cluster
    )
}

/// The name of a member, or how it is unknown.
fn name_of(reply: &ClusterStateReply, id: u64) -> String {
    let member = reply.members.iter().find(|member| member.id == id);
    match (member, id) {
        (Some(member), _) => member.name.clone(),
        (None, 0) => "unknown".to_owned(),
        (None, id) => format!("id {id}"),
    }
}

pub(crate) fn state(reply: &ClusterStateReply) -> String {
    let quorum = if reply.has_quorum {
        format!(
            "yes, lease for another {}",
            duration(reply.lease_remaining_ms)
        )
    } else {
        "NO: this server does not hear a majority; it starts nothing and cannot change anything"
            .to_owned()
    };
    format!(
        "cluster {}, as {} sees it ({})\nleader   {} (term {}, entry {})\nmajority {quorum}\n\n{}",
        reply.cluster,
        name_of(reply, reply.answered_by),
        old(reply.applied_age_ms),
        name_of(reply, reply.leader),
        reply.term,
        reply.applied_index,
        members(reply)
    ) + &notices(reply)
}

/// Below everything else, where the eye ends.
fn notices(reply: &ClusterStateReply) -> String {
    let lines = reply.notices.iter().map(|notice| format!("\n! {notice}\n"));
    lines.collect()
}

fn members(reply: &ClusterStateReply) -> String {
    let rows = reply
        .members
        .iter()
        .flat_map(|member| member_rows(member, reply.answered_by))
        .collect();
    table(
        &["MEMBER", "ROLE", "STATE", "LAN", "ADDRESS", "HEARD"],
        rows,
    )
}

/// One row per LAN; the first tells about the member.
fn member_rows(member: &MemberReply, me: u64) -> Vec<Vec<String>> {
    let kind = if member.is_witness {
        "witness"
    } else {
        "server"
    };
    let role = if member.is_voter {
        format!("{kind}, voter")
    } else {
        kind.to_owned()
    };
    let state = if member.is_down { "DOWN" } else { "up" };
    let head = [member.name.clone(), role, state.to_owned()];
    let blank = [String::new(), String::new(), String::new()];
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (index, lan) in member.lans.iter().enumerate() {
        let heard = if member.id == me {
            "itself".to_owned()
        } else {
            age(lan.heard_age_ms)
        };
        let first = if index == 0 { &head } else { &blank };
        rows.push(
            first
                .iter()
                .cloned()
                .chain([(index + 1).to_string(), lan.address.clone(), heard])
                .collect(),
        );
    }
    if rows.is_empty() {
        rows.push(
            head.into_iter()
                .chain([String::new(), String::new(), "never".to_owned()])
                .collect(),
        );
    }
    rows
}

pub(crate) fn event(event: &EventReply) -> String {
    let mut text = format!("{}  #{}  ", moment(event.at_unix_ms), event.id);
    if !event.module.is_empty() {
        text.push_str(&format!("{} (epoch {}): ", event.module, event.epoch));
    }
    text.push_str(&event.text.replace('\n', " "));
    text.push('\n');
    let mut details = Vec::new();
    if !event.author.is_empty() {
        details.push(format!("by {}", event.author));
    }
    if !event.evidence.is_empty() {
        details.push(event.evidence.replace('\n', " "));
    }
    if event.cause != 0 {
        details.push(format!("because of #{}", event.cause));
    }
    if !details.is_empty() {
        text.push_str(&format!("    {}\n", details.join("; ")));
    }
    text
}

//! The state of a module as people see it: the record, and what each server itself says.

use std::sync::Arc;
use std::time::Duration;

use api::peer::v1::ReportRequest;
use api::peer::v1::relay_reply::Outcome;
use api::peer::v1::relay_request::Call;
use api::v1::{ModuleState, ModuleStateReply, Quality, ServerModuleReply};
use consensus::state::{ClusterState, MirrorRecord, ModuleName, ServerId, Wanted};

use super::cluster::millis;
use super::reach;
use super::refusal::Refusal;
use crate::daemon::Daemon;
use crate::member::Member;

/// How long another server may take to say how its copy is.
const REPORT_DEADLINE: Duration = Duration::from_millis(800);
/// How often a waiting call looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The state of a module of `state`, asked of all its servers at once.
pub(super) async fn of_module(
    daemon: &Daemon,
    member: &Arc<Member>,
    state: &ClusterState,
    record: &MirrorRecord,
) -> ModuleStateReply {
    let asked = record
        .hosts()
        .map(|server| of_server(daemon, member, state, record, server));
    let mut servers = futures_util::future::join_all(asked).await;
    let mut reply = of_record(state, record);
    show_resync_on_secondary(&reply.primary, &mut servers);
    reply.applied_age_ms = member.majority_age().map_or(u64::MAX, millis);
    reply.servers = servers;
    reply
}

/// What is on record.
fn of_record(state: &ClusterState, record: &MirrorRecord) -> ModuleStateReply {
    let cause = state
        .events
        .iter()
        .rev()
        .find(|event| event.id == record.last_cause);
    ModuleStateReply {
        module: record.name.to_string(),
        epoch: record.epoch.0,
        primary: record
            .primary
            .map(|primary| state.name_of(primary))
            .unwrap_or_default(),
        primary_id: record.primary.map_or(0, |primary| primary.0),
        in_sync: record
            .in_sync
            .iter()
            .map(|server| state.name_of(*server))
            .collect(),
        in_sync_ids: record.in_sync.iter().map(|server| server.0).collect(),
        mode: "mirror".to_owned(),
        ack: record.ack.to_string(),
        last_cause: cause
            .map(|event| event.kind.to_string())
            .unwrap_or_default(),
        ..ModuleStateReply::default()
    }
}

/// The primary knows how far its peer's reintegration is; people look for it where the copy is brought up to date.
fn show_resync_on_secondary(primary: &str, servers: &mut [ServerModuleReply]) {
    let is_primary = |reply: &ServerModuleReply| reply.server == primary;
    let Some(known) = servers.iter().find(|reply| is_primary(reply)).cloned() else {
        return;
    };
    for reply in servers {
        let moved = if is_primary(reply) {
            ServerModuleReply::default()
        } else {
            known.clone()
        };
        reply.resync_bytes_total = moved.resync_bytes_total;
        reply.resync_bytes_done = moved.resync_bytes_done;
        reply.resync_bytes_sent = moved.resync_bytes_sent;
        let is_catching_up =
            reply.state() == ModuleState::Second && reply.quality() == Quality::Transient;
        if let Some(percent) = (100 * reply.resync_bytes_done).checked_div(reply.resync_bytes_total)
            && is_catching_up
        {
            reply.detail = format!("reintegrating, {percent} %");
        }
    }
}

async fn of_server(
    daemon: &Daemon,
    member: &Arc<Member>,
    state: &ClusterState,
    record: &MirrorRecord,
    server: ServerId,
) -> ServerModuleReply {
    if server == member.id() {
        return own(daemon, member, state, record);
    }
    match tokio::time::timeout(REPORT_DEADLINE, ask(member, record, server)).await {
        Ok(Some(reply)) => reply,
        Ok(None) | Err(_) => ServerModuleReply {
            server: state.name_of(server),
            state: ModuleState::Unknown.into(),
            quality: Quality::NotReady.into(),
            wanted: record.wanted_on(server).to_string(),
            detail: "does not answer".to_owned(),
            report_age_ms: u64::MAX,
            ..ServerModuleReply::default()
        },
    }
}

async fn ask(
    member: &Arc<Member>,
    record: &MirrorRecord,
    server: ServerId,
) -> Option<ServerModuleReply> {
    let request = ReportRequest {
        module: record.name.to_string(),
    };
    let asked = reach::ask(member, server, Call::Report(request), "there is no report").await;
    match asked.ok()? {
        Outcome::Report(reply) => Some(reply),
        Outcome::NotReached(_)
        | Outcome::Refused(_)
        | Outcome::Changed(_)
        | Outcome::Checked(_)
        | Outcome::Diverged(_) => None,
    }
}

/// What this server says of the module.
pub(super) fn own(
    daemon: &Daemon,
    member: &Member,
    state: &ClusterState,
    record: &MirrorRecord,
) -> ServerModuleReply {
    let report = daemon
        .agent(&record.name)
        .map(|agent| agent.report().borrow().clone())
        .unwrap_or_default();
    let is_down = |server| state.members.get(&server).is_some_and(|each| each.is_down);
    let shown = report.shown(
        Some(record),
        member.id(),
        |server| state.name_of(server),
        is_down,
    );
    let resync = report.resync.unwrap_or_default();
    ServerModuleReply {
        server: state.name_of(member.id()),
        state: shown.state.into(),
        quality: shown.quality.into(),
        wanted: record.wanted_on(member.id()).to_string(),
        detail: shown.detail,
        report_age_ms: millis(report.at.elapsed()),
        resync_bytes_total: resync.bytes_total,
        resync_bytes_done: resync.bytes_done,
        resync_bytes_sent: resync.bytes_sent,
    }
}

/// Waits until the module has settled on `servers` as it is wanted.
///
/// # Errors
/// The deadline passed; the refusal says what is still missing.
pub(super) async fn wait_until(
    daemon: &Daemon,
    member: &Arc<Member>,
    module: &ModuleName,
    servers: &[ServerId],
    wanted: Wanted,
    deadline: Duration,
) -> Result<Vec<String>, Refusal> {
    let mut missing = Vec::new();
    let settled = async {
        loop {
            let state = member.state();
            let Some(record) = state.modules.get(module) else {
                return Vec::new();
            };
            let mut lines = Vec::new();
            missing.clear();
            for server in servers {
                let reply = of_server(daemon, member, &state, record, *server).await;
                let line = format!(
                    "{}: {} ({})",
                    reply.server,
                    word(reply.state()),
                    reply.detail
                );
                // Whoever stopped leading has not stopped before that is on record: only then can others go on.
                let has_left = wanted == Wanted::Started || record.primary != Some(*server);
                if is_settled(&reply, wanted) && has_left {
                    lines.push(line)
                } else {
                    missing.push(line)
                }
            }
            if missing.is_empty() {
                return lines;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(deadline, settled).await {
        Ok(lines) => Ok(lines),
        Err(_) => {
            let what = format!(
                "wanted {wanted} is committed, but not reached within {} s",
                deadline.as_secs()
            );
            Err(Refusal::unavailable(what, missing.join("; "))
                .next(format!("skcli module state -m {module}")))
        }
    }
}

fn is_settled(reply: &ServerModuleReply, wanted: Wanted) -> bool {
    match (wanted, reply.state()) {
        (Wanted::Stopped, state) => state == ModuleState::Stop,
        (Wanted::Started, ModuleState::Alone | ModuleState::Prim | ModuleState::Second) => {
            reply.quality() == Quality::Ready
        }
        (Wanted::Started, ModuleState::Stop | ModuleState::Wait | ModuleState::Unknown) => false,
    }
}

fn word(state: ModuleState) -> &'static str {
    match state {
        ModuleState::Stop => "STOP",
        ModuleState::Wait => "WAIT",
        ModuleState::Alone => "ALONE",
        ModuleState::Prim => "PRIM",
        ModuleState::Second => "SECOND",
        ModuleState::Unknown => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{S1, S2, Story};
    use super::of_record;

    /// A reply told the record of one state with the names of a later one, where the server was no member any more.
    #[test]
    fn regression_names_are_of_the_state_of_the_record() {
        let mut story = Story::mirrored();
        let before = story.state.clone();
        story.rename(S1, "other");
        for (state, name) in [(&before, "s1"), (&story.state, "other")] {
            let record = state.modules.values().next().expect("a module");
            let reply = of_record(state, record);
            assert_eq!((reply.primary.as_str(), reply.primary_id), (name, S1.0));
            assert_eq!(reply.in_sync, [name, "s2"]);
            assert_eq!(reply.in_sync_ids, [S1.0, S2.0]);
        }
    }
}

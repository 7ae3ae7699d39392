//! `skcli module prim --force`: leads with a copy that lacks acknowledged writes (R6).

use std::sync::Arc;

use api::v1::{ChangeReply, ForceRequest, ModuleRequest};
use consensus::ReadError;
use consensus::state::{ClusterState, Command, Epoch, MirrorRecord, ServerId, Wanted};

use super::change::{CHANGE_DEADLINE, require_member, require_module, servers_named};
use super::module::{Settling, settled};
use super::plan::Change;
use super::refusal::{Refusal, not_read};
use crate::daemon::Daemon;
use crate::member::Member;

const WHAT: &str = "nobody was made primary by force";

/// Checks what was typed, then commits it, or shows what it would do.
pub(super) async fn force(
    daemon: &Arc<Daemon>,
    request: &ForceRequest,
) -> Result<ChangeReply, Refusal> {
    let member = require_member(daemon, WHAT)?;
    let record = require_module(&member, WHAT, &request.module).await?;
    // The epoch on record here may be old: what the majority knows is what is typed back.
    let newest = member.consensus.read_index(CHANGE_DEADLINE).await;
    let state = newest.map_err(|error| match error {
        ReadError::NoLeader { .. } => no_majority(&member, &record),
        error @ (ReadError::Stopped | ReadError::Removed { .. }) => not_read(WHAT, &error),
    })?;
    let record = state.modules.get(&record.name).cloned().unwrap_or(record);
    let servers = servers_named(member.id(), &state, WHAT, &record, &request.server)?;
    let &[server] = servers.as_slice() else {
        let why = "one server leads: name it";
        return Err(Refusal::invalid(WHAT, why).next("--server NAME"));
    };
    let epoch = match request.epoch {
        0 if request.dry_run => record.epoch,
        typed => Epoch(typed),
    };
    let name = state.name_of(server);
    let reason = match request.reason.trim() {
        // Not typed yet: it is asked for after the plan was read.
        "" if request.dry_run => "...",
        typed => typed,
    };
    let mut change = Change::new(&member, WHAT, &request.author, request.dry_run)
        .because(reason)
        .awaited();
    change
        .make(Command::Force {
            module: record.name.clone(),
            epoch,
            server,
            reason: reason.to_owned(),
        })
        .await
        .map_err(|refusal| match next_without_copy(&state, &record, server) {
            Some(next) if epoch == record.epoch => refusal.next(next),
            Some(_) | None => refusal,
        })?;
    let mut lines = change.lines();
    if change.is_dry_run() {
        lines.push(format!(
            "to do it: skcli module prim -m {} --server {name} --force --epoch {epoch} --reason TEXT",
            record.name
        ));
    } else {
        lines.push(format!(
            "module {}: {name} is primary by force",
            record.name
        ));
    }
    let waited = ModuleRequest {
        module: request.module.clone(),
        server: request.server.clone(),
        dry_run: request.dry_run,
        author: request.author.clone(),
        wait_s: request.wait_s,
    };
    let goal = Settling {
        module: &record.name,
        servers: &servers,
        wanted: Wanted::Started,
    };
    settled(daemon, &member, &waited, &change, goal, lines).await
}

/// What to type when the server has nothing that could lead: how the copy that is whole comes back, and how to give it up.
fn next_without_copy(
    state: &ClusterState,
    record: &MirrorRecord,
    server: ServerId,
) -> Option<String> {
    if !record.unfilled.contains(&server) {
        return None;
    }
    let module = &record.name;
    let holders = record.in_sync.iter().filter_map(|id| state.members.get(id));
    let lost = holders.clone().find(|holder| holder.is_down);
    Some(match (lost, state.members.get(&server)) {
        (Some(lost), Some(here)) => format!(
            "start sknode on {lost}; if that server is gone for good: skcli cluster remove {lost} --accept-loss    then    skcli module prim -m {module} --server {here}",
            lost = lost.name,
            here = here.name
        ),
        (Some(_) | None, Some(_) | None) => format!("skcli module state -m {module}"),
    })
}

/// A force is itself an entry of the log. Whoever could lead without one would not be the only one.
fn no_majority(member: &Arc<Member>, record: &MirrorRecord) -> Refusal {
    let state = member.state();
    let status = member.consensus.status();
    let me = member.id();
    let voters: Vec<String> = state
        .voters()
        .iter()
        .map(|voter| {
            let heard = status
                .heard
                .iter()
                .filter(|((server, _), _)| server == voter)
                .filter_map(|(_, age)| *age)
                .min();
            let how = match heard {
                _ if *voter == me => "this server".to_owned(),
                Some(age) => format!("heard {:.1} s ago", age.as_secs_f64()),
                None => "not heard".to_owned(),
            };
            format!("{} ({how})", state.name_of(*voter))
        })
        .collect();
    let why = format!(
        "a force counts only when a majority of the voters has it on record, or two servers could lead {}: {}",
        record.name,
        voters.join(", ")
    );
    Refusal::unavailable(WHAT, why)
        .next("start sknode on the missing voters, then: skcli cluster state")
}

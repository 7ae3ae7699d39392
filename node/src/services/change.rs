//! What all changing calls share: who is asked, who does it, what is said.

use std::sync::Arc;
use std::time::Duration;

use consensus::state::{ClusterState, MirrorRecord, ModuleName, ServerId};

use super::refusal::{REJOIN, Refusal};
use crate::daemon::Daemon;
use crate::member::Member;

/// How long a change looks for a leader before the caller is told.
pub(super) const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a server that knows nothing of a module, or of a member, looks for a majority that may.
pub(super) const CATCH_UP_MAX: Duration = Duration::from_secs(3);

/// This daemon as a member.
pub(super) fn require_member(daemon: &Daemon, what: &str) -> Result<Arc<Member>, Refusal> {
    if let Some(why) = daemon.unfit() {
        return Err(
            Refusal::not_now(what, format!("this server takes part in nothing: {why}"))
                .next(REJOIN),
        );
    }
    daemon.member().ok_or_else(|| {
        Refusal::not_now(what, "this server belongs to no cluster")
            .next("skcli cluster init ...    or    skcli cluster join ADDRESS TOKEN ...")
    })
}

/// The committed record of the module that the caller named.
pub(super) async fn require_module(
    member: &Member,
    what: &str,
    name: &str,
) -> Result<MirrorRecord, Refusal> {
    let (_, record) = require_module_in_state(member, what, name).await?;
    Ok(record)
}

/// The committed record of the module that the caller named, and the state that it is a part of: what is said beside it, names
/// above all, is of the same moment. What was installed a moment ago on another server may not be applied here yet: before a
/// module counts as unknown the majority is asked (R13).
pub(super) async fn require_module_in_state(
    member: &Member,
    what: &str,
    name: &str,
) -> Result<(Arc<ClusterState>, MirrorRecord), Refusal> {
    let unknown = |why: String| Refusal::unknown(what, why).next("skcli module list");
    let Ok(parsed) = name.parse::<ModuleName>() else {
        return Err(unknown(format!("there is no module \"{name}\"")));
    };
    let in_state = |state: Arc<ClusterState>| {
        let record = state.modules.get(&parsed).cloned()?;
        Some((state, record))
    };
    if let Some(found) = in_state(member.state()) {
        return Ok(found);
    }
    match member.consensus.read_index(CATCH_UP_MAX).await {
        Ok(state) => {
            in_state(state).ok_or_else(|| unknown(format!("there is no module \"{name}\"")))
        }
        Err(error) => Err(unknown(format!(
            "this server knows no module \"{name}\", and may not have heard of the newest: {error}"
        ))),
    }
}

/// The servers a call is about: empty = this one, `*` = all of the module, else the named one.
pub(super) fn servers_named(
    member: &Member,
    what: &str,
    record: &MirrorRecord,
    name: &str,
) -> Result<Vec<ServerId>, Refusal> {
    match name {
        "*" => Ok(record.hosts().collect()),
        "" if record.servers.contains(&member.id()) => Ok(vec![member.id()]),
        "" => {
            let why = format!("module {} has no copy on this server", record.name);
            Err(Refusal::invalid(what, why).next(servers_of(member, record)))
        }
        name => {
            let found = record
                .hosts()
                .find(|server| member.name_of(*server) == name);
            found.map(|server| vec![server]).ok_or_else(|| {
                let why = format!("module {} has no copy on \"{name}\"", record.name);
                Refusal::unknown(what, why).next(servers_of(member, record))
            })
        }
    }
}

/// How to name a server that has a copy.
fn servers_of(member: &Member, record: &MirrorRecord) -> String {
    let names: Vec<String> = record
        .hosts()
        .map(|server| member.name_of(server))
        .collect();
    format!("--server {}", names.join("    or    --server "))
}

//! What all changing calls share: who is asked, who does it, what is said.

use std::sync::Arc;
use std::time::Duration;

use consensus::state::{ClusterState, MirrorRecord, ModuleName, ServerId};
use consensus::{ProposeError, ReadError};

use super::refusal::{NO_MAJORITY, REJOIN, Refusal, not_proposed, not_read};
use crate::daemon::Daemon;
use crate::member::Member;

/// How long a change looks for a leader before the caller is told.
pub(super) const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a change that is committed may take until it is applied here too, before the caller is answered without that. A server
/// that the leader does not reach still tells the outcome soon.
pub(super) const APPLIED_HERE_MAX: Duration = Duration::from_secs(1);

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
    let Ok(parsed) = name.parse::<ModuleName>() else {
        return Err(no_module(what, name));
    };
    if let Ok(found) = module_in(member.state(), what, &parsed) {
        return Ok(found);
    }
    match member.consensus.read_index(CATCH_UP_MAX).await {
        Ok(newest) => module_in(newest, what, &parsed),
        Err(error) => {
            let why = format!(
                "this server knows no module \"{name}\", and may not have heard of the newest: {error}"
            );
            Err(Refusal::unknown(what, why).next("skcli module list"))
        }
    }
}

/// As [`require_module_in_state`], of a state that has everything in it that was committed when this was called: for what is decided
/// on the record. The change before may have been typed here and not be applied here yet, for only the leader applies it before
/// the answer (R13).
pub(super) async fn newest_module(
    member: &Member,
    what: &str,
    name: &str,
) -> Result<(Arc<ClusterState>, MirrorRecord), Refusal> {
    let (_, known) = require_module_in_state(member, what, name).await?;
    match member.consensus.read_index(CHANGE_DEADLINE).await {
        Ok(newest) => module_in(newest, what, &known.name),
        Err(ReadError::NoLeader { waited }) if member.lease_remaining().is_none() => {
            let last_leader = member.consensus.status().leader;
            let no_leader = ProposeError::NoLeader {
                waited,
                last_leader,
            };
            Err(not_proposed(what, &no_leader).also(NO_MAJORITY))
        }
        Err(error) => Err(not_read(what, &error)),
    }
}

/// As [`newest_module`]; where no majority says what is newest, what is known here, for those who decide by themselves whether it
/// still counts: a primary alone needs nobody (R6).
pub(super) async fn newest_module_heard_of(
    member: &Member,
    what: &str,
    name: &str,
) -> Result<(Arc<ClusterState>, MirrorRecord), Refusal> {
    let known = require_module_in_state(member, what, name).await?;
    if member.lease_remaining().is_none() {
        return Ok(known);
    }
    match member.consensus.read_index(CATCH_UP_MAX).await {
        Ok(newest) => module_in(newest, what, &known.1.name),
        Err(_) => Ok(known),
    }
}

fn module_in(
    state: Arc<ClusterState>,
    what: &str,
    name: &ModuleName,
) -> Result<(Arc<ClusterState>, MirrorRecord), Refusal> {
    let record = state.modules.get(name).cloned();
    record
        .map(|record| (state, record))
        .ok_or_else(|| no_module(what, name.as_ref()))
}

fn no_module(what: &str, name: &str) -> Refusal {
    Refusal::unknown(what, format!("there is no module \"{name}\"")).next("skcli module list")
}

/// The servers of `record`, a part of `state`, that a call typed on `me` is about: empty = `me`, `*` = all of the module, else
/// the named one.
pub(super) fn servers_named(
    me: ServerId,
    state: &ClusterState,
    what: &str,
    record: &MirrorRecord,
    name: &str,
) -> Result<Vec<ServerId>, Refusal> {
    match name {
        "*" => Ok(record.hosts().collect()),
        "" if record.servers.contains(&me) => Ok(vec![me]),
        "" => {
            let why = format!("module {} has no copy on this server", record.name);
            Err(Refusal::invalid(what, why).next(servers_of(state, record)))
        }
        name => {
            let found = record.hosts().find(|server| state.name_of(*server) == name);
            found.map(|server| vec![server]).ok_or_else(|| {
                let why = format!("module {} has no copy on \"{name}\"", record.name);
                Refusal::unknown(what, why).next(servers_of(state, record))
            })
        }
    }
}

/// How to name a server that has a copy.
fn servers_of(state: &ClusterState, record: &MirrorRecord) -> String {
    let names: Vec<String> = record.hosts().map(|server| state.name_of(server)).collect();
    format!("--server {}", names.join("    or    --server "))
}

#[cfg(test)]
mod tests {
    use super::super::story::{S1, S2, Story};
    use super::*;

    /// Servers were looked for under the names of a later state than the record's.
    #[test]
    fn regression_servers_have_the_names_of_the_state_of_the_record() {
        let mut story = Story::mirrored();
        let before = story.state.clone();
        story.rename(S1, "other");
        for (state, known, unknown) in [(&before, "s1", "other"), (&story.state, "other", "s1")] {
            let record = state.modules.values().next().expect("a module");
            let named = |name| servers_named(S2, state, "nothing was done", record, name);
            assert_eq!(named(known).expect("a server"), [S1]);
            assert!(named(unknown).is_err());
            assert_eq!(named("").expect("this one"), [S2]);
            assert_eq!(named("*").expect("all"), [S1, S2]);
        }
    }
}

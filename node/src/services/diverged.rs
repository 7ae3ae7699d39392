//! `skcli module diverged`: what was set aside of copies that a force left behind.

use std::sync::Arc;
use std::time::Duration;

use api::peer::v1::relay_reply::Outcome;
use api::peer::v1::relay_request::Call;
use api::v1::{
    ChangeReply, DiscardDivergedRequest, DivergedFile, DivergedReply, DivergedRequest,
    DivergedServer, DivergedSet,
};
use consensus::state::{ClusterState, Command, Epoch, EventKind, MirrorRecord, ServerId};
use fs_mirror::{Aside, AsideFile, AsideSet};

use super::change::{require_member, require_module_in_state, servers_named};
use super::plan::Change;
use super::reach;
use super::refusal::{Refusal, chain};
use crate::daemon::Daemon;
use crate::member::Member;

/// Files of a set that are named.
const FILES_MAX: usize = 1000;
/// How long another server may take to look through what it keeps.
const LOOK_DEADLINE: Duration = Duration::from_secs(20);
/// How long another server may take to remove it.
const DISCARD_DEADLINE: Duration = Duration::from_secs(60);

/// What the servers of the module keep.
pub(super) async fn everywhere(
    daemon: &Arc<Daemon>,
    request: &DivergedRequest,
) -> Result<DivergedReply, Refusal> {
    const WHAT: &str = "there is nothing to list";
    let member = require_member(daemon, WHAT)?;
    let (state, record) = require_module_in_state(&member, WHAT, &request.module).await?;
    let mut servers = Vec::new();
    for server in record.hosts() {
        servers.push(if server == member.id() {
            here(daemon, server, &state, &record).await?
        } else {
            ask(&member, &state, &record, server).await
        });
    }
    Ok(DivergedReply { servers })
}

/// What `server` says that it keeps of a module of `state`.
async fn ask(
    member: &Arc<Member>,
    state: &ClusterState,
    record: &MirrorRecord,
    server: ServerId,
) -> DivergedServer {
    let asked = async {
        let call = Call::Diverged(DivergedRequest {
            module: record.name.to_string(),
        });
        match reach::ask(member, server, call, "there is nothing to list")
            .await
            .ok()?
        {
            Outcome::Diverged(reply) => Some(reply),
            Outcome::NotReached(_)
            | Outcome::Refused(_)
            | Outcome::Changed(_)
            | Outcome::Checked(_)
            | Outcome::Report(_) => None,
        }
    };
    match tokio::time::timeout(LOOK_DEADLINE, asked).await {
        Ok(Some(reply)) => reply,
        Ok(None) | Err(_) => DivergedServer {
            server: state.name_of(server),
            answers: false,
            pending: pending(record, server),
            sets: Vec::new(),
        },
    }
}

/// What this server, `me`, keeps of a module of `state`.
pub(super) async fn here(
    daemon: &Daemon,
    me: ServerId,
    state: &ClusterState,
    record: &MirrorRecord,
) -> Result<DivergedServer, Refusal> {
    const WHAT: &str = "what is set aside cannot be listed";
    let sets = match aside_of(daemon, record) {
        None => Vec::new(),
        Some(aside) => tokio::task::spawn_blocking(move || aside.sets(FILES_MAX))
            .await
            .map_err(|error| Refusal::failed(WHAT, chain(error)))?
            .map_err(|error| Refusal::failed(WHAT, chain(error)))?,
    };
    Ok(DivergedServer {
        server: state.name_of(me),
        answers: true,
        pending: pending(record, me),
        sets: sets
            .into_iter()
            .map(|set| shown(state, record, set))
            .collect(),
    })
}

fn aside_of(daemon: &Daemon, record: &MirrorRecord) -> Option<Aside> {
    daemon
        .agent(&record.name)
        .and_then(|agent| agent.report().borrow().aside.clone())
}

fn pending(record: &MirrorRecord, server: ServerId) -> u64 {
    record.diverged.get(&server).map_or(0, |since| since.0)
}

fn shown(state: &ClusterState, record: &MirrorRecord, set: AsideSet) -> DivergedSet {
    let force = state.events.iter().find(|event| {
        event.module.as_ref() == Some(&record.name)
            && event.epoch == Some(Epoch(set.since.0))
            && matches!(event.kind, EventKind::PrimaryForced { .. })
    });
    DivergedSet {
        id: set.since.0,
        directory: set.directory.display().to_string(),
        why: force
            .map(|event| format!("{} (by {})", event.kind, event.author))
            .unwrap_or_default(),
        files_total: set.files_total,
        bytes_total: set.bytes_total,
        files: set.files.into_iter().map(file).collect(),
    }
}

fn file(file: AsideFile) -> DivergedFile {
    DivergedFile {
        path: file.path.display().to_string(),
        size: file.size,
        kept_at_unix_ms: file.at_unix_ms,
        why: if file.is_removed {
            "removed".to_owned()
        } else {
            "overwritten".to_owned()
        },
    }
}

/// Commits that a set is given up, then has its server remove it.
pub(super) async fn discard(
    daemon: &Arc<Daemon>,
    request: DiscardDivergedRequest,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "nothing was discarded";
    let member = require_member(daemon, WHAT)?;
    let (state, record) = require_module_in_state(&member, WHAT, &request.module).await?;
    let list = format!("skcli module diverged -m {}", record.name);
    let named = servers_named(member.id(), &state, WHAT, &record, &request.server)?;
    let server = match named.as_slice() {
        &[server] => server,
        _ => return Err(Refusal::invalid(WHAT, "name one server").next("--server NAME")),
    };
    let known = if server == member.id() {
        here(daemon, server, &state, &record).await?
    } else {
        ask(&member, &state, &record, server).await
    };
    if !known.answers {
        let why = format!("{} does not answer", known.server);
        return Err(Refusal::unavailable(WHAT, why).next("skcli cluster state"));
    }
    if known.pending != request.id && !known.sets.iter().any(|set| set.id == request.id) {
        let why = format!("{} keeps no set {}", known.server, request.id);
        return Err(Refusal::unknown(WHAT, why).next(list));
    }
    let mut change = Change::new(&member, WHAT, &request.author, request.dry_run);
    change
        .make(Command::DiscardDiverged {
            module: record.name.clone(),
            server,
            since: Epoch(request.id),
        })
        .await?;
    if change.is_dry_run() {
        return Ok(ChangeReply {
            lines: change.lines(),
            epoch: record.epoch.0,
        });
    }
    if server == member.id() {
        discard_here(daemon, &known.server, &record, request.id).await
    } else {
        discard_at(&member, request, server, &known.server).await
    }
}

async fn discard_at(
    member: &Arc<Member>,
    request: DiscardDivergedRequest,
    server: ServerId,
    name: &str,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "the set is given up, but not removed";
    let asked = async {
        match reach::ask(member, server, Call::DiscardDiverged(request), WHAT).await? {
            Outcome::Changed(reply) => Ok(reply),
            Outcome::NotReached(_)
            | Outcome::Refused(_)
            | Outcome::Checked(_)
            | Outcome::Report(_)
            | Outcome::Diverged(_) => Err(reach::nonsense(WHAT, name)),
        }
    };
    match tokio::time::timeout(DISCARD_DEADLINE, asked).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refusal::unavailable(WHAT, format!("{name} is still at it"))),
    }
}

/// Removes a set of this server, which is called `name`.
pub(super) async fn discard_here(
    daemon: &Daemon,
    name: &str,
    record: &MirrorRecord,
    id: u64,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "the set is given up, but not removed";
    let was_there = match aside_of(daemon, record) {
        None => false,
        Some(aside) => tokio::task::spawn_blocking(move || aside.discard(fs_mirror::Epoch(id)))
            .await
            .map_err(|error| Refusal::failed(WHAT, chain(error)))?
            .map_err(|error| Refusal::failed(WHAT, chain(error)))?,
    };
    let line = if was_there {
        format!("module {}: set {id} on {name} is removed", record.name)
    } else {
        // Never made, or removed by the same command, whose first answer got lost: both are true of it.
        format!(
            "module {}: of set {id} nothing is on {name}, and nothing will be set aside",
            record.name
        )
    };
    tracing::info!(module = %record.name, id, was_there, "discarded what was set aside");
    Ok(ChangeReply {
        lines: vec![line],
        epoch: record.epoch.0,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use consensus::state::Wanted;

    use super::super::story::{S2, Story};
    use super::*;

    /// The reason of a set was looked for in a later state than its record, where the event was not kept any more.
    #[test]
    fn regression_a_set_is_told_with_the_reason_of_its_state() {
        let mut story = Story::mirrored();
        story.want(S2, Wanted::Stopped);
        story.apply(Command::Force {
            module: story.record().name.clone(),
            epoch: story.record().epoch,
            server: S2,
            reason: "drill".to_owned(),
        });
        let state = story.state.clone();
        for turn in 0..=consensus::state::EVENTS_MAX {
            let wanted = match turn % 2 {
                0 => Wanted::Stopped,
                _ => Wanted::Started,
            };
            story.want(super::super::story::S1, wanted);
        }
        for (state, is_told) in [(&state, true), (&story.state, false)] {
            let record = state.modules.values().next().expect("a module");
            let set = AsideSet {
                since: fs_mirror::Epoch(pending_of_any(record)),
                directory: PathBuf::from("/srv/db"),
                files_total: 0,
                bytes_total: 0,
                files: Vec::new(),
            };
            let shown = shown(state, record, set);
            assert_eq!(shown.why.contains("drill"), is_told, "{}", shown.why);
        }
    }

    fn pending_of_any(record: &MirrorRecord) -> u64 {
        record.diverged.values().next().expect("diverged").0
    }
}

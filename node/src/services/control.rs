//! `swap` and `restart`: verbs that the primary of a module does, wherever they are typed.

use std::sync::Arc;
use std::time::Duration;

use api::peer::v1::relay_reply::Outcome;
use api::peer::v1::relay_request::Call;
use api::peer::v1::{ControlRequest, Verb};
use api::v1::{ChangeReply, ModuleRequest};
use consensus::state::{ClusterState, Command, Epoch, ModuleName, VACANT};
use tokio::sync::oneshot;

use super::change::{newest_module_heard_of, require_member, require_module};
use super::plan::Change;
use super::reach;
use super::refusal::Refusal;
use crate::agent::{self, RestartRefused, SwapRefused};
use crate::daemon::Daemon;

/// Enough that no two commands ever have the same number.
const ERRAND_BYTES: usize = 16;
/// How long a switchover or restart may take: the scripts' own deadlines end it earlier.
const CONTROL_DEADLINE: Duration = Duration::from_secs(900);

/// Has the primary of the module do `verb`, wherever it is.
pub(super) async fn at_primary(
    daemon: &Arc<Daemon>,
    request: ModuleRequest,
    verb: Verb,
    what: &str,
) -> Result<ChangeReply, Refusal> {
    let member = require_member(daemon, what)?;
    let (state, record) = newest_module_heard_of(&member, what, &request.module).await?;
    let Some(primary) = record.primary else {
        return Err(Refusal::not_now(what, "the module has no primary")
            .next(format!("skcli module state -m {}", record.name)));
    };
    let request = ControlRequest {
        verb: verb.into(),
        module: request.module,
        author: request.author,
        wait_s: request.wait_s,
        dry_run: request.dry_run,
        errand: rand::random::<[u8; ERRAND_BYTES]>().to_vec().into(),
    };
    if primary == member.id() {
        return control_here(daemon, &request).await;
    }
    match reach::ask(&member, primary, Call::Control(request), what).await? {
        Outcome::Changed(reply) => Ok(reply),
        Outcome::NotReached(_)
        | Outcome::Refused(_)
        | Outcome::Checked(_)
        | Outcome::Report(_)
        | Outcome::Diverged(_) => Err(reach::nonsense(what, &state.name_of(primary))),
    }
}

/// Does `verb` here.
pub(super) async fn control_here(
    daemon: &Arc<Daemon>,
    request: &ControlRequest,
) -> Result<ChangeReply, Refusal> {
    match request.verb() {
        Verb::Swap => swap_here(daemon, request).await,
        Verb::Restart => restart_here(daemon, request).await,
        Verb::Unspecified => Err(Refusal::invalid(
            "nothing was done",
            "this version does not know the verb",
        )),
    }
}

async fn swap_here(daemon: &Arc<Daemon>, request: &ControlRequest) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "the roles were not exchanged";
    let member = require_member(daemon, WHAT)?;
    let (_, record) = newest_module_heard_of(&member, WHAT, &request.module).await?;
    let state_command = format!("skcli module state -m {}", record.name);
    if record.in_sync.len() < 2 {
        return Err(
            Refusal::not_now(WHAT, SwapRefused::NoSecondary.to_string()).next(state_command)
        );
    }
    if request.dry_run {
        let mut change = Change::new(&member, WHAT, &request.author, true);
        change
            .make(Command::Switchover {
                module: record.name.clone(),
                epoch: record.epoch,
                from: member.id(),
                to: record.peer_of(member.id()).unwrap_or(VACANT),
            })
            .await?;
        return Ok(ChangeReply {
            lines: change.lines(),
            epoch: record.epoch.0,
        });
    }
    let (done, answer) = oneshot::channel();
    ask_agent(daemon, &record.name, agent::Request::Swap { done }, WHAT)?;
    match tokio::time::timeout(CONTROL_DEADLINE, answer).await {
        Ok(Ok(Ok(epoch))) => Ok(ChangeReply {
            lines: vec![swapped(&member.state(), &record.name, epoch)],
            epoch: epoch.0,
        }),
        Ok(Ok(Err(refused))) => {
            Err(Refusal::not_now(WHAT, refused.to_string()).next(state_command))
        }
        Ok(Err(_)) | Err(_) => {
            Err(Refusal::unavailable(WHAT, "the agent did not finish").next(state_command))
        }
    }
}

/// Who leads by the record of `epoch`, which is the one of `state` or of before it.
fn swapped(state: &ClusterState, module: &ModuleName, epoch: Epoch) -> String {
    let record = state.modules.get(module);
    if let Some(record) = record.filter(|record| record.epoch == epoch) {
        return match record.primary {
            Some(primary) => format!("module {module}: {} is primary", state.name_of(primary)),
            None => format!("module {module}: nobody is primary"),
        };
    }
    // The roles have changed again since.
    let event = state.events.iter().find(|event| {
        event.module.as_ref() == Some(module)
            && event.epoch == Some(epoch)
            && event.kind.moves_primary()
    });
    match event {
        Some(event) => format!("module {module}: {}", event.kind),
        None => format!("module {module}: the roles have changed"),
    }
}

async fn restart_here(
    daemon: &Arc<Daemon>,
    request: &ControlRequest,
) -> Result<ChangeReply, Refusal> {
    const WHAT: &str = "the application was not restarted";
    let member = require_member(daemon, WHAT)?;
    let record = require_module(&member, WHAT, &request.module).await?;
    let reply = |line: String| ChangeReply {
        lines: vec![line],
        epoch: record.epoch.0,
    };
    if request.dry_run {
        return Ok(ChangeReply {
            lines: vec![
                format!(
                    "would be: {} stopped and started again on {}; no role changes",
                    record.name,
                    member.name()
                ),
                format!(
                    "risk: clients of {} wait as long as that takes",
                    record.name
                ),
            ],
            epoch: record.epoch.0,
        });
    }
    let (done, answer) = oneshot::channel();
    ask_agent(daemon, &record.name, agent::Request::Restart { done }, WHAT)?;
    let log_command = format!("skcli module log -m {}", record.name);
    match tokio::time::timeout(CONTROL_DEADLINE, answer).await {
        Ok(Ok(Ok(()))) => Ok(reply(format!(
            "module {}: restarted on {}",
            record.name,
            member.name()
        ))),
        Ok(Ok(Err(refused @ (RestartRefused::NotServing | RestartRefused::Failed)))) => {
            Err(Refusal::not_now(WHAT, refused.to_string()).next(log_command))
        }
        Ok(Err(_)) | Err(_) => {
            Err(Refusal::unavailable(WHAT, "the agent did not finish").next(log_command))
        }
    }
}

fn ask_agent(
    daemon: &Daemon,
    module: &consensus::state::ModuleName,
    request: agent::Request,
    what: &str,
) -> Result<(), Refusal> {
    match daemon.agent(module) {
        Some(agent) if agent.ask(request) => Ok(()),
        Some(_) => Err(Refusal::unavailable(
            what,
            "the agent of the module is busy",
        )),
        None => Err(Refusal::not_now(
            what,
            "the module has no agent on this server",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{S1, S2, Story};
    use super::*;

    /// The epoch of the switchover was told with the name of whoever led when the answer was made.
    #[test]
    fn regression_a_switchover_is_told_with_the_primary_of_its_epoch() {
        let mut story = Story::mirrored();
        let (module, asked_at) = (story.record().name.clone(), story.record().epoch);
        let mut switch = |from, to| {
            let epoch = story.record().epoch;
            let module = module.clone();
            story.apply(Command::Switchover {
                module,
                epoch,
                from,
                to,
            });
            (story.state.clone(), story.record().epoch)
        };
        let (state, epoch) = switch(S1, S2);
        assert!(epoch > asked_at);
        assert_eq!(swapped(&state, &module, epoch), "module db: s2 is primary");
        let (later, _) = switch(S2, S1);
        assert_eq!(
            swapped(&later, &module, epoch),
            "module db: planned switchover: s2 is primary, s1 secondary"
        );
    }
}

//! `swap` and `restart`: verbs that the primary of a module does, wherever they are typed.

use std::sync::Arc;
use std::time::Duration;

use api::peer::v1::relay_reply::Outcome;
use api::peer::v1::relay_request::Call;
use api::peer::v1::{ControlRequest, Verb};
use api::v1::{ChangeReply, ModuleRequest};
use consensus::state::{Command, VACANT};
use tokio::sync::oneshot;

use super::change::{require_member, require_module};
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
    let record = require_module(&member, what, &request.module).await?;
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
        | Outcome::Diverged(_) => Err(reach::nonsense(what, &member.name_of(primary))),
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
    let record = require_module(&member, WHAT, &request.module).await?;
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
        Ok(Ok(Ok(epoch))) => {
            let state = member.state();
            let name = state
                .modules
                .get(&record.name)
                .and_then(|record| record.primary)
                .map(|primary| state.name_of(primary))
                .unwrap_or_default();
            Ok(ChangeReply {
                lines: vec![format!("module {}: {name} is primary", record.name)],
                epoch: epoch.0,
            })
        }
        Ok(Ok(Err(refused))) => {
            Err(Refusal::not_now(WHAT, refused.to_string()).next(state_command))
        }
        Ok(Err(_)) | Err(_) => {
            Err(Refusal::unavailable(WHAT, "the agent did not finish").next(state_command))
        }
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

//! The verbs of `skcli module`.

use crate::args::{Args, Change, ModuleVerb, Prim};
use crate::author::author;
use crate::connection::{answer, connect};
use crate::failure::{Failure, REFUSED};
use crate::local;
use crate::output::Output;
use crate::render::{json, module as text};
use api::v1::cluster_client::ClusterClient;
use api::v1::module_client::ModuleClient;
use api::v1::{
    ClusterStateRequest, DiscardDivergedRequest, DivergedRequest, ForceRequest, InstallRequest,
    LogRequest, ModuleListRequest, ModuleRequest, ModuleState, ModuleStateReply,
    ModuleStateRequest,
};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

/// A list of modules may be long; a reply is never larger than this.
const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Installing sends the package to every server.
const INSTALL_WAIT_S: u64 = 60;
/// Looking through, or removing, what is set aside may take a while.
const DISCARD_WAIT_S: u64 = 60;
/// `module state -q` when the state is not known.
const STATE_UNKNOWN: u8 = 255;

type Client = ModuleClient<Channel>;

/// Does one verb; the answer is the exit code.
pub(crate) async fn run(verb: &ModuleVerb, args: &Args, output: &Output) -> Result<u8, Failure> {
    match verb {
        ModuleVerb::Check { file } => local::check(file, output),
        ModuleVerb::Pack {
            directory,
            output: to,
            dry_run,
        } => local::pack(directory, to.as_deref(), *dry_run, output),
        ModuleVerb::Install {
            file,
            module,
            servers,
            dry_run,
        } => {
            let request = local::install(file, module.as_deref(), servers, *dry_run)?;
            install(request, args, output).await
        }
        ModuleVerb::State {
            name,
            quiet: true,
            server,
        } => Ok(quiet_state(name.get(), server.as_deref(), args, output)
            .await
            .unwrap_or_else(|failure| {
                output.failure(&failure);
                STATE_UNKNOWN
            })),
        ModuleVerb::State {
            name, quiet: false, ..
        } => state(name.get(), args, output).await,
        ModuleVerb::List => {
            let reply = answer(0, client(args).await?.list(ModuleListRequest {})).await?;
            output.answer(
                || json::modules(&reply.modules),
                || text::list(&reply.modules),
            )
        }
        ModuleVerb::Log {
            name,
            newest,
            follow,
        } => {
            let request = LogRequest {
                module: name.get(),
                newest: *newest,
                follow: *follow,
            };
            let mut lines = answer(0, client(args).await?.log(request)).await?;
            while let Some(line) = lines.next().await {
                let line = line.map_err(Failure::from_status)?;
                output.line(|| json::log_line(&line), || text::log_line(&line))?;
            }
            Ok(0)
        }
        ModuleVerb::Explain(name) => {
            let request = ModuleRequest {
                module: name.get(),
                ..ModuleRequest::default()
            };
            let reply = answer(0, client(args).await?.explain(request)).await?;
            output.answer(
                || json::explain(&name.get(), &reply),
                || text::explain(&name.get(), &reply),
            )
        }
        ModuleVerb::Prim(prim) if prim.force => force(prim, args, output).await,
        ModuleVerb::Diverged {
            name,
            discard: Some(id),
            server,
            dry_run,
        } => {
            let request = DiscardDivergedRequest {
                module: name.get(),
                server: server.clone().unwrap_or_default(),
                id: *id,
                dry_run: *dry_run,
                author: author(),
            };
            let reply = answer(
                DISCARD_WAIT_S,
                client(args).await?.discard_diverged(request),
            )
            .await?;
            output.answer(
                || json::change(&name.get(), *dry_run, &reply),
                || text::change(*dry_run, &reply),
            )
        }
        ModuleVerb::Diverged {
            name,
            discard: None,
            ..
        } => {
            let request = DivergedRequest { module: name.get() };
            let reply = answer(DISCARD_WAIT_S, client(args).await?.diverged(request)).await?;
            output.answer(
                || json::diverged(&name.get(), &reply),
                || text::diverged(&name.get(), &reply),
            )
        }
        ModuleVerb::Uninstall(_)
        | ModuleVerb::Start(_)
        | ModuleVerb::Stop(_)
        | ModuleVerb::Restart(_)
        | ModuleVerb::Swap(_)
        | ModuleVerb::Prim(_)
        | ModuleVerb::Second(_)
        | ModuleVerb::Place(_) => change(verb, args, output).await,
    }
}

async fn client(args: &Args) -> Result<Client, Failure> {
    Ok(
        ModuleClient::new(connect(&args.socket()).await?)
            .max_decoding_message_size(REPLY_BYTES_MAX),
    )
}

async fn install(request: InstallRequest, args: &Args, output: &Output) -> Result<u8, Failure> {
    let (name, is_dry_run) = (request.module.clone(), request.dry_run);
    let reply = answer(INSTALL_WAIT_S, client(args).await?.install(request)).await?;
    output.answer(
        || json::install(&name, is_dry_run, &reply),
        || text::install(&name, is_dry_run, &reply),
    )
}

/// Without epoch and reason nothing is done: what it means is shown, with the command that does it.
async fn force(prim: &Prim, args: &Args, output: &Output) -> Result<u8, Failure> {
    let waited = &prim.placed.waited;
    let is_complete = prim.epoch.is_some() && prim.reason.is_some();
    let is_dry_run = waited.change.dry_run || !is_complete;
    let name = waited.change.name.get();
    if prim.placed.all {
        return Err(Failure::Usage {
            what: "one server leads, not all".to_owned(),
            next: format!("skcli module prim -m {name} --server NAME --force"),
        });
    }
    let request = ForceRequest {
        module: name.clone(),
        server: prim.placed.server.clone().unwrap_or_default(),
        epoch: prim.epoch.unwrap_or(0),
        reason: prim.reason.clone().unwrap_or_default(),
        dry_run: is_dry_run,
        author: author(),
        wait_s: waited.wait,
    };
    let reply = answer(waited.wait, client(args).await?.force(request)).await?;
    output.answer(
        || json::change(&name, is_dry_run, &reply),
        || text::change(is_dry_run, &reply),
    )?;
    // Asked for, and not done.
    let is_refused = is_dry_run && !waited.change.dry_run;
    Ok(if is_refused { REFUSED } else { 0 })
}

fn request(change: &Change, server: &str, wait_s: u64) -> ModuleRequest {
    ModuleRequest {
        module: change.name.get(),
        server: server.to_owned(),
        dry_run: change.dry_run,
        author: author(),
        wait_s,
    }
}

/// What a verb asks for.
fn asked(verb: &ModuleVerb) -> Option<ModuleRequest> {
    match verb {
        ModuleVerb::Uninstall(change) => Some(request(change, "", 0)),
        ModuleVerb::Restart(waited) | ModuleVerb::Swap(waited) => {
            Some(request(&waited.change, "", waited.wait))
        }
        ModuleVerb::Start(placed)
        | ModuleVerb::Stop(placed)
        | ModuleVerb::Prim(Prim { placed, .. })
        | ModuleVerb::Second(placed)
        | ModuleVerb::Place(placed) => {
            let server = if placed.all {
                "*"
            } else {
                placed.server.as_deref().unwrap_or_default()
            };
            Some(request(&placed.waited.change, server, placed.waited.wait))
        }
        ModuleVerb::Install { .. }
        | ModuleVerb::List
        | ModuleVerb::State { .. }
        | ModuleVerb::Log { .. }
        | ModuleVerb::Explain(_)
        | ModuleVerb::Diverged { .. }
        | ModuleVerb::Check { .. }
        | ModuleVerb::Pack { .. } => None,
    }
}

async fn change(verb: &ModuleVerb, args: &Args, output: &Output) -> Result<u8, Failure> {
    let Some(request) = asked(verb) else {
        return Ok(0);
    };
    let mut client = client(args).await?;
    let (name, is_dry_run, wait_s) = (request.module.clone(), request.dry_run, request.wait_s);
    let reply = match verb {
        ModuleVerb::Uninstall(_) => answer(wait_s, client.uninstall(request)).await?,
        ModuleVerb::Start(_) => answer(wait_s, client.start(request)).await?,
        ModuleVerb::Stop(_) => answer(wait_s, client.stop(request)).await?,
        ModuleVerb::Restart(_) => answer(wait_s, client.restart(request)).await?,
        ModuleVerb::Swap(_) => answer(wait_s, client.swap(request)).await?,
        ModuleVerb::Prim(_) => answer(wait_s, client.prim(request)).await?,
        ModuleVerb::Second(_) => answer(wait_s, client.second(request)).await?,
        ModuleVerb::Place(_) => answer(wait_s, client.place(request)).await?,
        ModuleVerb::Install { .. }
        | ModuleVerb::List
        | ModuleVerb::State { .. }
        | ModuleVerb::Log { .. }
        | ModuleVerb::Explain(_)
        | ModuleVerb::Diverged { .. }
        | ModuleVerb::Check { .. }
        | ModuleVerb::Pack { .. } => return Ok(0),
    };
    output.answer(
        || json::change(&name, is_dry_run, &reply),
        || text::change(is_dry_run, &reply),
    )
}

async fn state(name: Option<String>, args: &Args, output: &Output) -> Result<u8, Failure> {
    match name {
        Some(module) => {
            let reply = answer(0, client(args).await?.state(ModuleStateRequest { module })).await?;
            output.answer(|| json::module(&reply), || text::state(&reply))
        }
        None => {
            let reply = answer(0, client(args).await?.list(ModuleListRequest {})).await?;
            output.answer(
                || json::modules(&reply.modules),
                || text::states(&reply.modules),
            )
        }
    }
}

/// One word, and its number as the exit code.
async fn quiet_state(
    name: Option<String>,
    server: Option<&str>,
    args: &Args,
    output: &Output,
) -> Result<u8, Failure> {
    let module = name.ok_or_else(|| Failure::Usage {
        what: "-q needs the name of one module".to_owned(),
        next: "skcli module state -q NAME".to_owned(),
    })?;
    let server = match server {
        Some(server) => server.to_owned(),
        None => answering_server(args).await?,
    };
    let reply = answer(0, client(args).await?.state(ModuleStateRequest { module })).await?;
    let state = state_of(&reply, &server)?;
    output.answer(
        || json::word(state),
        || format!("{}\n", text::state_word(state)),
    )?;
    Ok(match state {
        ModuleState::Stop => 0,
        ModuleState::Wait => 1,
        ModuleState::Alone => 2,
        ModuleState::Prim => 3,
        ModuleState::Second => 4,
        ModuleState::Unknown => STATE_UNKNOWN,
    })
}

async fn answering_server(args: &Args) -> Result<String, Failure> {
    let mut cluster = ClusterClient::new(connect(&args.socket()).await?);
    let reply = answer(0, cluster.state(ClusterStateRequest {})).await?;
    let me = reply
        .members
        .into_iter()
        .find(|member| member.id == reply.answered_by);
    Ok(me.map(|member| member.name).unwrap_or_default())
}

fn state_of(reply: &ModuleStateReply, server: &str) -> Result<ModuleState, Failure> {
    let found = reply.servers.iter().find(|one| one.server == server);
    found.map(|one| one.state()).ok_or_else(|| Failure::Usage {
        what: format!("module {} is not on server {server}", reply.module),
        next: format!("skcli module state {}", reply.module),
    })
}

//! Module verbs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::v1::module_server::{Module, ModuleServer};
use api::v1::{
    ChangeReply, DiscardDivergedRequest, DivergedReply, DivergedRequest, ExplainReply,
    ForceRequest, InstallReply, InstallRequest, LogLine, LogRequest, ModuleListReply,
    ModuleListRequest, ModuleRequest, ModuleStateReply, ModuleStateRequest,
};
use consensus::state::{AckMode, Command, MemberKind, ModuleName, ServerId, Wanted};
use futures_util::Stream;
use module::Package;
use tonic::{Request, Response, Status};

use super::change::{
    CHANGE_DEADLINE, newest_module, require_member, require_module, require_module_in_state,
    servers_named,
};
use super::cluster::parse;
use super::plan::Change;
use super::refusal::{Refusal, chain, not_proposed};
use super::{control, diverged, explain, fitness, force, hearts, log, state};
use crate::daemon::Daemon;
use crate::member::Member;
use crate::packages;

/// The `Module` service of the administration API.
pub struct ModuleService {
    daemon: Arc<Daemon>,
}

impl ModuleService {
    /// Serves for `daemon`.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    /// As tonic wants it.
    pub fn server(self) -> ModuleServer<Self> {
        ModuleServer::new(self).max_decoding_message_size(packages::PACKAGE_BYTES_MAX + (1 << 20))
    }

    /// Commits what people want of the module on the named servers, and waits for it when asked to.
    async fn set_wanted(
        &self,
        request: ModuleRequest,
        wanted: Wanted,
        what: &str,
    ) -> Result<ChangeReply, Refusal> {
        let member = require_member(&self.daemon, what)?;
        let (state, record) = require_module_in_state(&member, what, &request.module).await?;
        let servers = servers_named(member.id(), &state, what, &record, &request.server)?;
        let mut change = Change::new(&member, what, &request.author, request.dry_run).awaited();
        let mut done = Vec::new();
        for server in &servers {
            let command = Command::SetWanted {
                module: record.name.clone(),
                server: *server,
                wanted,
            };
            change.make(command).await?;
            let name = state.name_of(*server);
            done.push(format!("module {} on {name}: wanted {wanted}", record.name));
        }
        let lines = change.lines_or(done);
        let goal = Settling {
            module: &record.name,
            servers: &servers,
            wanted,
        };
        settled(&self.daemon, &member, &request, &change, goal, lines).await
    }

    async fn claim_first(
        &self,
        request: ModuleRequest,
        what: &str,
    ) -> Result<ChangeReply, Refusal> {
        let member = require_member(&self.daemon, what)?;
        let (state, record) = newest_module(&member, what, &request.module).await?;
        let servers = servers_named(member.id(), &state, what, &record, &request.server)?;
        let &[server] = servers.as_slice() else {
            return Err(
                Refusal::invalid(what, "one server's copy is the good one: name it")
                    .next("--server NAME"),
            );
        };
        let name = state.name_of(server);
        let claim = Command::ClaimFirst {
            module: record.name.clone(),
            epoch: record.epoch,
            server,
        };
        let mut change = Change::new(&member, what, &request.author, request.dry_run).awaited();
        let lacks_writes = !record.in_sync.is_empty() && !record.in_sync.contains(&server);
        change.make(claim).await.map_err(|refusal| {
            if lacks_writes {
                refusal.next(format!(
                    "wait for the other copy; to give its writes up instead (this shows what is lost): skcli module prim -m {} --server {name} --force",
                    record.name
                ))
            } else {
                refusal
            }
        })?;
        let lines = change.lines_or(vec![format!("module {}: {name} is primary", record.name)]);
        let goal = Settling {
            module: &record.name,
            servers: &servers,
            wanted: Wanted::Started,
        };
        settled(&self.daemon, &member, &request, &change, goal, lines).await
    }
}

#[tonic::async_trait]
impl Module for ModuleService {
    async fn install(
        &self,
        request: Request<InstallRequest>,
    ) -> Result<Response<InstallReply>, Status> {
        const WHAT: &str = "the module was not installed";
        let request = request.into_inner();
        let member = require_member(&self.daemon, WHAT)?;
        let name: ModuleName = parse(WHAT, "module name", &request.module)?;
        let package = Package::read(&request.package)
            .map_err(|error| Refusal::invalid(WHAT, chain(error)))?;
        let servers = pair_of(&member, WHAT, &request.servers)?;
        let configuration = package.configuration();
        fitness::check_everywhere(&member, WHAT, configuration, &servers).await?;
        let notices = package.notices().iter().map(ToString::to_string);
        let notices = notices
            .chain(hearts::notice(&member, &configuration.heart, &servers))
            .collect();
        let mut change = Change::new(&member, WHAT, &request.author, request.dry_run);
        if !change.is_dry_run() {
            packages::keep(&member, request.package)
                .await
                .map_err(|error| Refusal::failed(WHAT, chain(error)))?;
        }
        let hash = consensus::state::PackageHash(package.hash());
        change
            .make(Command::InstallModule {
                name,
                servers,
                package: hash,
                ack: match configuration.rfs.ack {
                    module::AckMode::Disk => AckMode::Disk,
                    module::AckMode::Receipt => AckMode::Receipt,
                },
                directories: configuration
                    .rfs
                    .directories
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect(),
                addresses: configuration.addresses(),
                heart_timeout_ms: hearts::asked_ms(&configuration.heart),
            })
            .await?;
        Ok(Response::new(InstallReply {
            package_hash: hash.to_string(),
            notices,
            plan: change.lines(),
        }))
    }

    async fn place(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        Ok(Response::new(
            super::members::place(&self.daemon, request.into_inner()).await?,
        ))
    }

    async fn uninstall(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        const WHAT: &str = "the module was not uninstalled";
        let request = request.into_inner();
        let member = require_member(&self.daemon, WHAT)?;
        let record = require_module(&member, WHAT, &request.module).await?;
        let name = record.name;
        let mut change = Change::new(&member, WHAT, &request.author, request.dry_run);
        change
            .make(Command::UninstallModule { name: name.clone() })
            .await?;
        let done = format!("module {name} removed; the replicated files stay");
        Ok(Response::new(ChangeReply {
            lines: change.lines_or(vec![done]),
            epoch: record.epoch.0,
        }))
    }

    async fn list(
        &self,
        _: Request<ModuleListRequest>,
    ) -> Result<Response<ModuleListReply>, Status> {
        let member = require_member(&self.daemon, "there are no modules to show")?;
        let mut modules = Vec::new();
        let state = member.state();
        for record in state.modules.values() {
            modules.push(state::of_module(&self.daemon, &member, &state, record).await);
        }
        Ok(Response::new(ModuleListReply { modules }))
    }

    async fn state(
        &self,
        request: Request<ModuleStateRequest>,
    ) -> Result<Response<ModuleStateReply>, Status> {
        const WHAT: &str = "there is no state to show";
        let request = request.into_inner();
        let member = require_member(&self.daemon, WHAT)?;
        let (state, record) = require_module_in_state(&member, WHAT, &request.module).await?;
        Ok(Response::new(
            state::of_module(&self.daemon, &member, &state, &record).await,
        ))
    }

    async fn start(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let reply = self
            .set_wanted(
                request.into_inner(),
                Wanted::Started,
                "the module was not started",
            )
            .await?;
        Ok(Response::new(reply))
    }

    async fn stop(&self, request: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        let reply = self
            .set_wanted(
                request.into_inner(),
                Wanted::Stopped,
                "the module was not stopped",
            )
            .await?;
        Ok(Response::new(reply))
    }

    async fn restart(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        const WHAT: &str = "the application was not restarted";
        let verb = api::peer::v1::Verb::Restart;
        let reply = control::at_primary(&self.daemon, request.into_inner(), verb, WHAT).await?;
        Ok(Response::new(reply))
    }

    async fn swap(&self, request: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        const WHAT: &str = "the roles were not exchanged";
        let verb = api::peer::v1::Verb::Swap;
        let reply = control::at_primary(&self.daemon, request.into_inner(), verb, WHAT).await?;
        Ok(Response::new(reply))
    }

    async fn prim(&self, request: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        let reply = self
            .claim_first(request.into_inner(), "no primary was made")
            .await?;
        Ok(Response::new(reply))
    }

    async fn force(&self, request: Request<ForceRequest>) -> Result<Response<ChangeReply>, Status> {
        let reply = force::force(&self.daemon, &request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn diverged(
        &self,
        request: Request<DivergedRequest>,
    ) -> Result<Response<DivergedReply>, Status> {
        let reply = diverged::everywhere(&self.daemon, &request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn discard_diverged(
        &self,
        request: Request<DiscardDivergedRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let reply = diverged::discard(&self.daemon, request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn second(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        const WHAT: &str = "no secondary was made";
        let request = request.into_inner();
        let member = require_member(&self.daemon, WHAT)?;
        let (state, record) = newest_module(&member, WHAT, &request.module).await?;
        let servers = servers_named(member.id(), &state, WHAT, &record, &request.server)?;
        if record.primary.is_none() {
            let why = "the module has no primary to copy from";
            return Err(Refusal::not_now(WHAT, why)
                .next(format!("skcli module prim -m {}", record.name))
                .into());
        }
        if servers.iter().any(|server| record.primary == Some(*server)) {
            let why = "this server is the primary";
            return Err(Refusal::not_now(WHAT, why)
                .next(format!("skcli module swap -m {}", record.name))
                .into());
        }
        let reply = self.set_wanted(request, Wanted::Started, WHAT).await?;
        Ok(Response::new(reply))
    }

    type LogStream = Pin<Box<dyn Stream<Item = Result<LogLine, Status>> + Send>>;

    async fn log(&self, request: Request<LogRequest>) -> Result<Response<Self::LogStream>, Status> {
        const WHAT: &str = "there is no log to show";
        let request = request.into_inner();
        let member = require_member(&self.daemon, WHAT)?;
        let record = require_module(&member, WHAT, &request.module).await?;
        let dir = member.paths.scripts(&record.name);
        // Before the lines are read: one written meanwhile is told twice rather than never.
        let following = log::Following::from_now(&dir);
        let newest = usize::try_from(request.newest).unwrap_or(usize::MAX);
        let lines =
            log::lines(&dir, newest).map_err(|error| Refusal::failed(WHAT, chain(error)))?;
        Ok(Response::new(if request.follow {
            Box::pin(log::follow(following, lines))
        } else {
            Box::pin(futures_util::stream::iter(lines.into_iter().map(Ok)))
        }))
    }

    async fn explain(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ExplainReply>, Status> {
        const WHAT: &str = "there is nothing to explain";
        let member = require_member(&self.daemon, WHAT)?;
        let module = request.into_inner().module;
        let (state, record) = require_module_in_state(&member, WHAT, &module).await?;
        Ok(Response::new(ExplainReply {
            steps: explain::steps(&state, &record.name),
        }))
    }
}

/// What a caller may wait for.
#[derive(Clone, Copy)]
pub(super) struct Settling<'a> {
    pub(super) module: &'a ModuleName,
    pub(super) servers: &'a [ServerId],
    pub(super) wanted: Wanted,
}

/// The answer to `change`, once it has come about when the caller wants to wait for that.
pub(super) async fn settled(
    daemon: &Arc<Daemon>,
    member: &Arc<Member>,
    request: &ModuleRequest,
    change: &Change<'_>,
    goal: Settling<'_>,
    mut lines: Vec<String>,
) -> Result<ChangeReply, Refusal> {
    let Settling {
        module,
        servers,
        wanted,
    } = goal;
    let mut epoch = change.epoch_of(module);
    if request.wait_s > 0 && !request.dry_run {
        let deadline = Duration::from_secs(request.wait_s);
        lines.extend(state::wait_until(daemon, member, module, servers, wanted, deadline).await?);
        // What came about may have changed the roles again.
        let now = member.state();
        let now = now.modules.get(module).map_or(0, |record| record.epoch.0);
        epoch = if epoch == 0 { 0 } else { now };
    }
    Ok(ChangeReply { lines, epoch })
}

/// Commits a command in the name of `author`.
pub(super) async fn commit(
    member: &Arc<Member>,
    command: Command,
    author: &str,
    what: &str,
) -> Result<(), Refusal> {
    let author = if author.is_empty() { "unknown" } else { author };
    let proposal = member.proposal_by(command, author, "command");
    member
        .consensus
        .propose(proposal, CHANGE_DEADLINE)
        .await
        .map(|_| ())
        .map_err(|error| not_proposed(what, &error))
}

/// The two servers of a new module: the named ones, or all servers of the cluster when they are two.
fn pair_of(member: &Member, what: &str, names: &[String]) -> Result<[ServerId; 2], Refusal> {
    let state = member.state();
    let servers = || {
        state
            .members
            .values()
            .filter(|each| each.kind == MemberKind::Server)
    };
    let known: Vec<String> = servers().map(|each| each.name.to_string()).collect();
    let hint = format!(
        "--servers {}",
        known.iter().take(2).cloned().collect::<Vec<_>>().join(",")
    );
    let mut pair = Vec::new();
    for name in if names.is_empty() { &known } else { names } {
        let found = servers().find(|each| each.name.to_string() == *name);
        let found = found.ok_or_else(|| {
            let is_witness = state
                .members
                .values()
                .any(|each| each.name.to_string() == *name);
            let trouble = if is_witness {
                "is a witness: it holds no files"
            } else {
                "is no server of this cluster"
            };
            Refusal::unknown(
                what,
                format!("\"{name}\" {trouble}; servers: {}", known.join(", ")),
            )
            .next(&hint)
        })?;
        pair.push(found.id);
    }
    match pair.as_slice() {
        &[first, second] if first != second => Ok([first, second]),
        _ => {
            let why = format!("a mirror module has two servers, here are {}", pair.len());
            Err(Refusal::invalid(what, why).next(hint))
        }
    }
}

//! A daemon that answers by rote: what it was asked, or a fixed state.

use api::v1::cluster_server::{Cluster, ClusterServer};
use api::v1::module_server::{Module, ModuleServer};
use api::v1::{
    ChangeReply, ClusterStateReply, ClusterStateRequest, CreateTokenReply, CreateTokenRequest,
    DiscardDivergedRequest, DivergedFile, DivergedReply, DivergedRequest, DivergedServer,
    DivergedSet, EventReply, EventsRequest, ExplainReply, Explained, ForceRequest, InitReply,
    InitRequest, InstallReply, InstallRequest, JoinReply, JoinRequest, LeaveRequest, LogLine,
    LogRequest, MemberReply, ModuleListReply, ModuleListRequest, ModuleRequest, ModuleState,
    ModuleStateReply, ModuleStateRequest, RemoveRequest, RenewCertificateRequest,
    ServerModuleReply, SetMemberRequest,
};
use prost::Message;
use std::path::Path;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

/// The daemon; it ends when dropped.
pub(crate) struct Rote {
    root: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Rote {
    pub(crate) fn start() -> Rote {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("run/sidekick");
        std::fs::create_dir_all(&directory).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // Bound before anybody connects: nothing to wait for.
        let listener = runtime
            .block_on(async { UnixListener::bind(directory.join("control.sock")) })
            .unwrap();
        let modules = ModuleServer::new(ModuleRote).max_decoding_message_size(17 << 20);
        let server = tonic::transport::Server::builder()
            .add_service(ClusterServer::new(ClusterRote))
            .add_service(modules);
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Rote {
            root,
            _runtime: runtime,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }
}

type Stream<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

fn stream<T>(items: Vec<T>) -> Response<Stream<T>> {
    Response::new(tokio_stream::iter(
        items.into_iter().map(Ok).collect::<Vec<_>>(),
    ))
}

struct ClusterRote;

#[tonic::async_trait]
impl Cluster for ClusterRote {
    type EventsStream = Stream<EventReply>;

    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        let request = request.into_inner();
        let ca_fingerprint = format!("{} lease {}", request.addresses.join(" "), request.lease);
        let plan = format!("init {} dry {}", request.cluster, request.dry_run);
        Ok(Response::new(InitReply {
            server_id: 1,
            ca_fingerprint,
            plan: vec![plan],
        }))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        let request = request.into_inner();
        let kind = if request.witness { "witness" } else { "server" };
        let token = format!("{kind} {} {}", request.valid_for_s, request.author);
        Ok(Response::new(CreateTokenReply {
            token,
            expires_at_unix_s: 1000,
            plan: vec![format!("token dry {}", request.dry_run)],
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        Ok(Response::new(JoinReply {
            server_id: 2,
            cluster: "demo".into(),
            plan: vec![format!("join {} dry {}", request.address, request.dry_run)],
        }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<ChangeReply>, Status> {
        let request = request.into_inner();
        said(format!(
            "leave alone {} dry {} by {}",
            request.alone, request.dry_run, request.author
        ))
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let request = request.into_inner();
        said(format!(
            "remove {} loss {} dry {} by {}",
            request.member, request.accept_loss, request.dry_run, request.author
        ))
    }

    async fn renew(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        said(format!("renew dry {}", request.into_inner().dry_run))
    }

    async fn set(
        &self,
        request: Request<SetMemberRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let request = request.into_inner();
        said(format!(
            "set {} name {} at {} dry {}",
            request.member,
            request.name,
            request.addresses.join(" "),
            request.dry_run
        ))
    }

    async fn state(
        &self,
        _: Request<ClusterStateRequest>,
    ) -> Result<Response<ClusterStateReply>, Status> {
        let member = MemberReply {
            id: 1,
            name: "s1".into(),
            ..MemberReply::default()
        };
        Ok(Response::new(ClusterStateReply {
            answered_by: 1,
            members: vec![member],
            ..ClusterStateReply::default()
        }))
    }

    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let event = |id| EventReply {
            id,
            text: format!("event {id} of {}", request.module),
            ..EventReply::default()
        };
        Ok(stream((0..request.newest).map(event).collect()))
    }
}

fn said(line: String) -> Result<Response<ChangeReply>, Status> {
    Ok(Response::new(ChangeReply {
        lines: vec![line],
        epoch: 0,
    }))
}

struct ModuleRote;

fn refuse(code: Code, what: &str, why: String) -> Status {
    let explained = Explained {
        what: what.into(),
        why,
        next_command: "skcli module list".into(),
    };
    Status::with_details(code, "not shown", explained.encode_to_vec().into())
}

fn echo(verb: &str, request: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
    let ModuleRequest {
        module,
        server,
        dry_run,
        author,
        wait_s,
    } = request.into_inner();
    let line =
        format!("{verb} {module} on ({server}) by {author}, wait {wait_s}, dry run {dry_run}");
    Ok(Response::new(ChangeReply {
        lines: vec![line],
        epoch: 7,
    }))
}

fn module_state(module: &str) -> ModuleStateReply {
    let server = |name: &str, state: ModuleState| ServerModuleReply {
        server: name.into(),
        state: state.into(),
        ..ServerModuleReply::default()
    };
    let servers = vec![
        server("s1", ModuleState::Prim),
        server("s2", ModuleState::Second),
    ];
    ModuleStateReply {
        module: module.into(),
        servers,
        ..ModuleStateReply::default()
    }
}

#[tonic::async_trait]
impl Module for ModuleRote {
    type LogStream = Stream<LogLine>;

    async fn install(
        &self,
        request: Request<InstallRequest>,
    ) -> Result<Response<InstallReply>, Status> {
        let request = request.into_inner();
        let package = module::Package::read(&request.package)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let package_hash = package
            .hash()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let notices = vec![format!(
            "for {} by {}",
            request.servers.join(" "),
            request.author
        )];
        Ok(Response::new(InstallReply {
            package_hash,
            notices,
            plan: Vec::new(),
        }))
    }

    async fn uninstall(&self, _: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        Err(Status::internal("the disk is full"))
    }

    async fn list(
        &self,
        _: Request<ModuleListRequest>,
    ) -> Result<Response<ModuleListReply>, Status> {
        Ok(Response::new(ModuleListReply {
            modules: vec![module_state("pg")],
        }))
    }

    async fn state(
        &self,
        request: Request<ModuleStateRequest>,
    ) -> Result<Response<ModuleStateReply>, Status> {
        Ok(Response::new(module_state(&request.into_inner().module)))
    }

    async fn start(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        echo("start", request)
    }

    async fn stop(&self, request: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        echo("stop", request)
    }

    async fn restart(&self, _: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        Err(Status::unavailable("no leader"))
    }

    async fn swap(&self, request: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        let why = format!("there is no module {}", request.into_inner().module);
        Err(refuse(Code::NotFound, "nothing was swapped", why))
    }

    async fn prim(&self, request: Request<ModuleRequest>) -> Result<Response<ChangeReply>, Status> {
        echo("prim", request)
    }

    async fn force(&self, request: Request<ForceRequest>) -> Result<Response<ChangeReply>, Status> {
        let ForceRequest {
            module,
            server,
            epoch,
            reason,
            dry_run,
            author,
            wait_s,
        } = request.into_inner();
        let line = format!(
            "force {module} on ({server}) at {epoch} by {author} ({reason}), wait {wait_s}, dry run {dry_run}"
        );
        Ok(Response::new(ChangeReply {
            lines: vec![line],
            epoch: 8,
        }))
    }

    async fn diverged(
        &self,
        request: Request<DivergedRequest>,
    ) -> Result<Response<DivergedReply>, Status> {
        let file = DivergedFile {
            path: format!("{}/a", request.into_inner().module),
            size: 2048,
            kept_at_unix_ms: 1000,
            why: "removed".into(),
        };
        let set = DivergedSet {
            id: 5,
            directory: "/srv/.pg.sidekick-diverged/5".into(),
            why: "s2 is primary by force (by ann)".into(),
            files_total: 2,
            bytes_total: 8192,
            files: vec![file],
        };
        let server = |server: &str, answers, pending, sets| DivergedServer {
            server: server.into(),
            answers,
            pending,
            sets,
        };
        Ok(Response::new(DivergedReply {
            servers: vec![
                server("s1", true, 0, vec![set]),
                server("s2", false, 7, Vec::new()),
            ],
        }))
    }

    async fn discard_diverged(
        &self,
        request: Request<DiscardDivergedRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let DiscardDivergedRequest {
            module,
            server,
            id,
            dry_run,
            author,
        } = request.into_inner();
        Ok(Response::new(ChangeReply {
            lines: vec![format!(
                "discard {id} of {module} on ({server}) by {author}, dry run {dry_run}"
            )],
            epoch: 8,
        }))
    }

    async fn place(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        echo("place", request)
    }

    async fn second(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        echo("second", request)
    }

    async fn log(&self, request: Request<LogRequest>) -> Result<Response<Self::LogStream>, Status> {
        let line = LogLine {
            level: "info".into(),
            text: format!("line of \u{1b}{}", request.into_inner().module),
            script: "start_prim".into(),
            ..LogLine::default()
        };
        Ok(stream(vec![line]))
    }

    async fn explain(&self, _: Request<ModuleRequest>) -> Result<Response<ExplainReply>, Status> {
        Ok(Response::new(ExplainReply::default()))
    }
}

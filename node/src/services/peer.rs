//! What servers of one cluster ask of each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::peer::v1::peer_client::PeerClient;
use api::peer::v1::peer_server::{Peer, PeerServer};
use api::peer::v1::{
    ControlRequest, EnrolReply, EnrolRequest, FetchPackageReply, FetchPackageRequest, KnownMember,
    RecallReply, RecallRequest, RenewReply, RenewRequest, ReportRequest, Verb,
};
use api::v1::{
    ChangeReply, DiscardDivergedRequest, DivergedRequest, DivergedServer, ModuleRequest,
    ServerModuleReply,
};
use consensus::state::{
    Accepted, Command, LANS_MAX, MemberKind, MemberName, NewMember, PackageHash, Rejection,
    ServerId, VACANT,
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::change::{CHANGE_DEADLINE, require_member, require_module};
use super::cluster::parse;
use super::members;
use super::module::commit;
use super::plan::Change;
use super::refusal::{Refusal, chain, not_proposed};
use crate::agent::{self, RestartRefused, SwapRefused};
use crate::daemon::Daemon;
use crate::member::Member;
use crate::packages;
use crate::security::{Enrolment, Identity, JoinToken, Security};

/// How long a switchover or restart may take: the scripts' own deadlines end it earlier.
const CONTROL_DEADLINE: Duration = Duration::from_secs(900);

/// Longest name of whoever asks to be let in.
const AUTHOR_MAX: usize = 200;

/// The `Peer` service, on the common port.
pub struct PeerService {
    daemon: Arc<Daemon>,
    member: Arc<Member>,
    security: Arc<Security>,
}

impl PeerService {
    /// Serves for `member`.
    pub fn new(daemon: Arc<Daemon>, member: Arc<Member>, security: Arc<Security>) -> Self {
        Self {
            daemon,
            member,
            security,
        }
    }

    /// As tonic wants it.
    pub fn server(self) -> PeerServer<Self> {
        PeerServer::new(self).max_encoding_message_size(packages::PACKAGE_BYTES_MAX + (1 << 20))
    }

    /// Everything but joining is for members only.
    fn require_peer<T>(&self, request: &Request<T>) -> Result<ServerId, Refusal> {
        let peer = request.extensions().get::<consensus::Peer>();
        let state = self.member.state();
        if let Some(peer) = peer.filter(|peer| state.removed.contains(&peer.0)) {
            let why = format!("server {} was removed from the cluster for good", peer.0);
            return Err(Refusal::unknown("not answered", why));
        }
        let known = peer.filter(|peer| state.members.contains_key(&peer.0));
        known.map(|peer| peer.0).ok_or_else(|| {
            Refusal::forbidden(
                "not answered",
                "the caller shows no certificate of a member",
            )
        })
    }

    async fn add_member(&self, request: &EnrolRequest) -> Result<EnrolReply, Refusal> {
        const WHAT: &str = "the server was not added";
        let token: JoinToken =
            request
                .token
                .parse()
                .map_err(|error: crate::security::TokenError| {
                    Refusal::invalid(WHAT, error.to_string())
                })?;
        // Whoever has no token writes nothing into the log, and nothing of any length.
        if request.author.chars().count() > AUTHOR_MAX {
            let why = format!("the author has more than {AUTHOR_MAX} characters");
            return Err(Refusal::invalid(WHAT, why));
        }
        if request.addresses.len() > LANS_MAX {
            let why = format!("a member has at most {LANS_MAX} addresses, one per LAN");
            return Err(Refusal::invalid(WHAT, why));
        }
        self.require_token(WHAT, token.hash()).await?;
        let name: MemberName = parse(WHAT, "server name", &request.server)?;
        let addresses = request
            .addresses
            .iter()
            .map(|address| parse::<SocketAddr>(WHAT, "address", address))
            .collect::<Result<Vec<_>, _>>()?;
        let signing_request = self
            .security
            .check_request(&request.certificate_request_pem)
            .map_err(|error| Refusal::invalid(WHAT, chain(error)))?;
        let kind = if request.witness {
            MemberKind::Witness
        } else {
            MemberKind::Server
        };
        let member = NewMember {
            name: name.clone(),
            kind,
            addresses,
            certificate: signing_request.key_fingerprint(),
            incarnation: consensus::state::Incarnation(0),
        };
        let command = match request.replaces.as_str() {
            "" => Command::AddMember {
                token: token.hash(),
                member,
            },
            gone => Command::ReplaceMember {
                token: token.hash(),
                member,
                replaces: members::named(&self.member, WHAT, gone)?,
                accept_loss: request.accept_loss,
            },
        };
        let author = match request.author.as_str() {
            "" => name.as_ref(),
            author => author,
        };
        let proposal = self
            .member
            .proposal_by(command, author, "joined with a token");
        let id = match self
            .member
            .consensus
            .propose(proposal, CHANGE_DEADLINE)
            .await
        {
            Ok(Accepted::MemberAdded(id)) => id,
            Ok(Accepted::Done | Accepted::Unchanged) => {
                return Err(Refusal::failed(WHAT, "the cluster gave it no number"));
            }
            Err(error) => {
                return Err(not_proposed(WHAT, &error).next("skcli cluster token    (on a member)"));
            }
        };
        let signed = self
            .security
            .sign(&signing_request, id.0, kind)
            .map_err(|error| Refusal::failed(WHAT, chain(error)))?;
        let certificate = Command::SetCertificate {
            server: id,
            certificate: signed.fingerprint,
        };
        commit(&self.member, certificate, author, WHAT).await?;
        Ok(self.welcome(id, kind, signed.pem))
    }

    /// The cluster knows the token. It may have been made a moment ago and not be applied here yet.
    async fn require_token(&self, what: &str, hash: [u8; 32]) -> Result<(), Refusal> {
        if self.member.state().tokens.contains_key(&hash) {
            return Ok(());
        }
        let newest = self.member.consensus.read_index(CHANGE_DEADLINE).await;
        let newest = newest.map_err(|error| {
            Refusal::unavailable(what, error.to_string()).next("skcli cluster state")
        })?;
        if newest.tokens.contains_key(&hash) {
            return Ok(());
        }
        Err(Refusal::not_now(what, Rejection::TokenUnknown.to_string())
            .next("skcli cluster token    (on a member)"))
    }

    fn welcome(&self, id: ServerId, kind: MemberKind, certificate_pem: String) -> EnrolReply {
        let identity = &self.member.identity;
        let state = self.member.state();
        EnrolReply {
            server_id: id.0,
            cluster: identity.cluster.to_string(),
            cluster_id: identity.cluster_id.to_vec().into(),
            witness: kind == MemberKind::Witness,
            lease_ms: identity.lease_ms,
            certificate_pem,
            ca_certificate_pem: self.security.ca_certificate_pem().to_owned(),
            ca_key_pem: match kind {
                MemberKind::Server => self.security.ca_key_pem().unwrap_or_default().to_owned(),
                MemberKind::Witness => String::new(),
            },
            members: state
                .members
                .values()
                .map(|each| KnownMember {
                    id: each.id.0,
                    addresses: each.addresses.iter().map(ToString::to_string).collect(),
                })
                .collect(),
        }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let request = request.into_inner();
        if !self.security.can_sign() {
            let why = format!(
                "{} is a witness and signs no certificates",
                self.member.name()
            );
            return Err(Refusal::not_now("the server was not added", why)
                .next("skcli cluster join ADDRESS-OF-A-SERVER TOKEN ...")
                .into());
        }
        Ok(Response::new(self.add_member(&request).await?))
    }

    async fn recall(
        &self,
        request: Request<RecallRequest>,
    ) -> Result<Response<RecallReply>, Status> {
        let state = self.member.state();
        let peer = match request.extensions().get::<consensus::Peer>() {
            // Whoever has applied nothing yet, and so knows nobody, remembers nothing. That is an answer: when it is so with
            // everybody after a blackout, all wait for each other.
            Some(peer) if state.members.is_empty() => peer.0,
            Some(_) | None => self.require_peer(&request)?,
        };
        let record = state.members.get(&peer);
        let log = self.member.consensus.remembered(peer);
        Ok(Response::new(RecallReply {
            incarnation: record.map_or(0, |record| record.incarnation.0),
            log_index: log.index,
            log_term: log.term,
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        const WHAT: &str = "the certificate was not renewed";
        let peer = self.require_peer(&request)?;
        let state = self.member.state();
        let Some(record) = state.members.get(&peer) else {
            return Err(Refusal::forbidden(WHAT, "the caller is no member").into());
        };
        let signing_request = self
            .security
            .check_request(&request.get_ref().certificate_request_pem)
            .map_err(|error| Refusal::invalid(WHAT, chain(error)))?;
        let signed = self
            .security
            .sign(&signing_request, peer.0, record.kind)
            .map_err(|error| Refusal::not_now(WHAT, chain(error)))?;
        Ok(Response::new(RenewReply {
            certificate_pem: signed.pem,
        }))
    }

    async fn fetch_package(
        &self,
        request: Request<FetchPackageRequest>,
    ) -> Result<Response<FetchPackageReply>, Status> {
        const WHAT: &str = "no package was sent";
        self.require_peer(&request)?;
        let hash: [u8; 32] = request
            .into_inner()
            .hash
            .as_ref()
            .try_into()
            .map_err(|_| Refusal::invalid(WHAT, "a package is named by 32 bytes"))?;
        let package = packages::read(&self.member, &PackageHash(hash))
            .map_err(|error| Refusal::unknown(WHAT, error.to_string()))?;
        Ok(Response::new(FetchPackageReply {
            package: package.into(),
        }))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ServerModuleReply>, Status> {
        const WHAT: &str = "there is no report";
        self.require_peer(&request)?;
        let record = require_module(&self.member, WHAT, &request.into_inner().module).await?;
        Ok(Response::new(super::state::own(
            &self.daemon,
            &self.member,
            &record,
        )))
    }

    async fn diverged(
        &self,
        request: Request<DivergedRequest>,
    ) -> Result<Response<DivergedServer>, Status> {
        const WHAT: &str = "there is nothing to list";
        self.require_peer(&request)?;
        let record = require_module(&self.member, WHAT, &request.into_inner().module).await?;
        let reply = super::diverged::here(&self.daemon, &self.member, &record).await?;
        Ok(Response::new(reply))
    }

    async fn discard_diverged(
        &self,
        request: Request<DiscardDivergedRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        const WHAT: &str = "nothing was discarded";
        self.require_peer(&request)?;
        let request = request.into_inner();
        let record = require_module(&self.member, WHAT, &request.module).await?;
        let reply =
            super::diverged::discard_here(&self.daemon, &self.member, &record, request.id).await?;
        Ok(Response::new(reply))
    }

    async fn control(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        self.require_peer(&request)?;
        Ok(Response::new(
            control_here(&self.daemon, &request.into_inner()).await?,
        ))
    }
}

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
    };
    if primary == member.id() {
        return control_here(daemon, &request).await;
    }
    let state = member.state();
    let addresses = state
        .members
        .get(&primary)
        .map(|each| each.addresses.clone())
        .unwrap_or_default();
    let name = member.name_of(primary);
    let channel = member
        .dialer
        .channel(primary, &addresses)
        .await
        .map_err(|error| Refusal::unavailable(what, format!("{name} does not answer: {error}")))?;
    match PeerClient::new(channel).control(request).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => Err(Refusal::passed_on(what, &name, &status)),
    }
}

async fn control_here(
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
            let primary = member
                .state()
                .modules
                .get(&record.name)
                .and_then(|record| record.primary);
            let name = primary
                .map(|primary| member.name_of(primary))
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

/// Asks the member at `contact` to let this server in, and keeps the identity it gets.
pub(super) async fn enrol(
    daemon: &Arc<Daemon>,
    contact: SocketAddr,
    token: &JoinToken,
    server: &MemberName,
    addresses: Vec<SocketAddr>,
    mut request: EnrolRequest,
) -> Result<Identity, Refusal> {
    const WHAT: &str = "this server did not join";
    let enrolment = Enrolment::prepare().map_err(|error| Refusal::failed(WHAT, chain(error)))?;
    let channel = crate::listener::join_channel(contact, token)
        .await
        .map_err(|error| Refusal::unavailable(WHAT, format!("{contact}: {}", chain(error))))?;
    request.certificate_request_pem = enrolment.request_pem().to_owned();
    let reply = PeerClient::new(channel)
        .enrol(request)
        .await
        .map_err(|status| Refusal::passed_on(WHAT, &contact.to_string(), &status))?
        .into_inner();
    Identity::join(
        &daemon.paths.identity(),
        &enrolment,
        server,
        addresses,
        &reply,
    )
    .map_err(|error| Refusal::failed(WHAT, chain(error)))
}

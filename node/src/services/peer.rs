//! What servers of one cluster ask of each other.

use std::net::SocketAddr;
use std::sync::Arc;

use api::peer::v1::peer_client::PeerClient;
use api::peer::v1::peer_server::{Peer, PeerServer};
use api::peer::v1::{
    CheckModuleReply, CheckModuleRequest, ControlRequest, EnrolReply, EnrolRequest,
    FetchPackageReply, FetchPackageRequest, KnownMember, RecallReply, RecallRequest, RelayReply,
    RelayRequest, RenewReply, RenewRequest, ReportRequest,
};
use api::v1::{
    ChangeReply, DiscardDivergedRequest, DivergedRequest, DivergedServer, ServerModuleReply,
};
use consensus::state::{
    Accepted, Command, LANS_MAX, MemberKind, MemberName, NewMember, PackageHash, Rejection,
    ServerId,
};
use tonic::{Request, Response, Status};

use super::caller::{Caller, Standing};
use super::change::{CATCH_UP_MAX, CHANGE_DEADLINE, require_module_in_state};
use super::cluster::parse;
use super::errands::Errands;
use super::module::commit;
use super::plan::Change;
use super::refusal::{Refusal, chain, not_proposed};
use super::{control, fitness, members, reach};
use crate::daemon::Daemon;
use crate::member::Member;
use crate::packages;
use crate::security::{Enrolment, JoinToken, Security};

/// Longest name of whoever asks to be let in.
const AUTHOR_MAX: usize = 200;
const NOT_ANSWERED: &str = "not answered";

/// The `Peer` service, on the common port.
pub struct PeerService {
    daemon: Arc<Daemon>,
    member: Arc<Member>,
    security: Arc<Security>,
    errands: Errands,
}

impl PeerService {
    /// Serves for `member`.
    pub fn new(daemon: Arc<Daemon>, member: Arc<Member>, security: Arc<Security>) -> Self {
        Self {
            daemon,
            member,
            security,
            errands: Errands::default(),
        }
    }

    /// As tonic wants it.
    pub fn server(self) -> PeerServer<Self> {
        PeerServer::new(self).max_encoding_message_size(packages::PACKAGE_BYTES_MAX + (1 << 20))
    }

    /// Everything but joining is for members only, and for members who ask over others.
    async fn require_peer(&self, caller: Caller) -> Result<ServerId, Refusal> {
        let peer = caller.shown().ok_or_else(nobody)?;
        self.require_member(peer).await?;
        if let Some(origin) = caller.origin() {
            self.require_member(origin).await?;
        }
        Ok(peer)
    }

    /// Whoever joined a moment ago may not be applied here yet: before a certificate of the cluster counts as nobody's the
    /// majority is asked (R13).
    async fn require_member(&self, server: ServerId) -> Result<(), Refusal> {
        match Standing::of(server, &self.member.state()) {
            Standing::Member => return Ok(()),
            Standing::Removed => return Err(removed(server)),
            Standing::Unknown => {}
        }
        let newest = self.member.consensus.read_index(CATCH_UP_MAX).await;
        let newest = newest.map_err(|error| {
            nobody().also(&format!(
                "this server may not have heard of the newest: {error}"
            ))
        })?;
        match Standing::of(server, &newest) {
            Standing::Member => Ok(()),
            Standing::Removed => Err(removed(server)),
            Standing::Unknown => Err(nobody()),
        }
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
                replaces: members::named(
                    &*members::newest_state(&self.member, WHAT).await?,
                    WHAT,
                    gone,
                )?,
                accept_loss: request.accept_loss,
            },
        };
        let author = match request.author.as_str() {
            "" => name.as_ref(),
            author => author,
        };
        if request.dry_run {
            return self.would_add(WHAT, command, author).await;
        }
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

    /// What would come of it: the newest state decides, as it would.
    async fn would_add(
        &self,
        what: &str,
        command: Command,
        author: &str,
    ) -> Result<EnrolReply, Refusal> {
        members::newest_state(&self.member, what).await?;
        let mut change = Change::new(&self.member, what, author, true);
        let made = change.make(command).await;
        made.map_err(|refusal| refusal.next("skcli cluster token    (on a member)"))?;
        Ok(EnrolReply {
            cluster: self.member.identity.cluster.to_string(),
            plan: change.lines(),
            ..EnrolReply::default()
        })
    }

    /// The cluster knows the token. It may have been made a moment ago and not be applied here yet.
    async fn require_token(&self, what: &str, hash: [u8; 32]) -> Result<(), Refusal> {
        if self.member.state().tokens.contains_key(&hash) {
            return Ok(());
        }
        let newest = members::newest_state(&self.member, what).await?;
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
            plan: Vec::new(),
        }
    }
}

fn nobody() -> Refusal {
    Refusal::forbidden(NOT_ANSWERED, "the caller shows no certificate of a member")
}

fn removed(server: ServerId) -> Refusal {
    let why = format!("server {server} was removed from the cluster for good");
    Refusal::unknown(NOT_ANSWERED, why)
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
        let peer = match Caller::of(&request).shown() {
            // Whoever has applied nothing yet, and so knows nobody, remembers nothing. That is an answer: when it is so with
            // everybody after a blackout, all wait for each other.
            Some(peer) if state.members.is_empty() => peer,
            Some(_) | None => self.require_peer(Caller::of(&request)).await?,
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
        let peer = self.require_peer(Caller::of(&request)).await?;
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
        self.require_peer(Caller::of(&request)).await?;
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
        self.require_peer(Caller::of(&request)).await?;
        let module = request.into_inner().module;
        let (state, record) = require_module_in_state(&self.member, WHAT, &module).await?;
        Ok(Response::new(super::state::own(
            &self.daemon,
            &self.member,
            &state,
            &record,
        )))
    }

    async fn diverged(
        &self,
        request: Request<DivergedRequest>,
    ) -> Result<Response<DivergedServer>, Status> {
        const WHAT: &str = "there is nothing to list";
        self.require_peer(Caller::of(&request)).await?;
        let module = request.into_inner().module;
        let (state, record) = require_module_in_state(&self.member, WHAT, &module).await?;
        let me = self.member.id();
        let reply = super::diverged::here(&self.daemon, me, &state, &record).await?;
        Ok(Response::new(reply))
    }

    async fn discard_diverged(
        &self,
        request: Request<DiscardDivergedRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        const WHAT: &str = "nothing was discarded";
        self.require_peer(Caller::of(&request)).await?;
        let request = request.into_inner();
        let (state, record) = require_module_in_state(&self.member, WHAT, &request.module).await?;
        let name = state.name_of(self.member.id());
        let reply = super::diverged::discard_here(&self.daemon, &name, &record, request.id).await?;
        Ok(Response::new(reply))
    }

    async fn control(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        self.require_peer(Caller::of(&request)).await?;
        let request = request.into_inner();
        let (daemon, errand) = (Arc::clone(&self.daemon), request.errand.clone());
        let work = async move { control::control_here(&daemon, &request).await };
        Ok(Response::new(self.errands.once(errand, work).await?))
    }

    async fn check_module(
        &self,
        request: Request<CheckModuleRequest>,
    ) -> Result<Response<CheckModuleReply>, Status> {
        const WHAT: &str = "the module was not installed";
        self.require_peer(Caller::of(&request)).await?;
        fitness::check_here(&self.member, WHAT, &request.into_inner()).await?;
        Ok(Response::new(CheckModuleReply {}))
    }

    async fn relay(&self, request: Request<RelayRequest>) -> Result<Response<RelayReply>, Status> {
        const WHAT: &str = "nothing was passed on";
        let origin = self.require_peer(Caller::of(&request)).await?;
        let RelayRequest { to, call } = request.into_inner();
        let call =
            call.ok_or_else(|| Refusal::invalid(WHAT, "this version does not know what is asked"))?;
        let outcome = reach::directly(&self.member, ServerId(to), call, Some(origin)).await;
        Ok(Response::new(RelayReply {
            outcome: Some(outcome),
        }))
    }
}

/// Whom to ask to be let in.
pub(super) struct Contact<'a> {
    pub(super) address: SocketAddr,
    pub(super) token: &'a JoinToken,
}

/// Asks the member at `contact` to let this server in, or with `dry_run` what would come of that.
pub(super) async fn ask_in(
    contact: &Contact<'_>,
    mut request: EnrolRequest,
    enrolment: &Enrolment,
) -> Result<EnrolReply, Refusal> {
    const WHAT: &str = "this server did not join";
    let address = contact.address;
    let channel = crate::listener::join_channel(address, contact.token)
        .await
        .map_err(|error| Refusal::unavailable(WHAT, format!("{address}: {}", chain(error))))?;
    request.certificate_request_pem = enrolment.request_pem().to_owned();
    PeerClient::new(channel)
        .enrol(request)
        .await
        .map(Response::into_inner)
        .map_err(|status| Refusal::passed_on(WHAT, &address.to_string(), &status))
}

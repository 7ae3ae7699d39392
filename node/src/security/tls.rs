//! The TLS configurations of a member: TLS 1.3 only, ring only, the cluster's authority only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use consensus::state::{MemberKind, ServerId};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::authority::{self, Authority};
use super::enrolment::{Enrolment, Signed, SigningRequest};
use super::peer::{PeerIdentity, server_name};
use super::pinned::PinnedVerifier;
use super::shown::{Material, Showing, Shown, Validity};
use super::{Identity, JoinToken, SecurityError, files, sha256};

/// gRPC: consensus, and what servers and tools ask.
pub const ALPN_GRPC: &[u8] = b"h2";
/// The stream of a mirror.
pub const ALPN_MIRROR: &[u8] = b"sidekick-mirror/1";

/// The certificates and keys of this member, ready for use. The certificate may be replaced at any time: connections made
/// from then on show the new one, those that exist go on.
pub struct Security {
    folder: PathBuf,
    server: ServerId,
    kind: MemberKind,
    cluster_id: [u8; 16],
    ca_certificate_pem: String,
    authority: Option<Authority>,
    key_pem: String,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    shown: Arc<ArcSwap<Shown>>,
}

impl Security {
    /// Reads what [`Identity`] keeps in `folder`.
    ///
    /// # Errors
    /// A file is missing or unreadable, or certificate, key and authority do not belong together.
    pub fn load(folder: &Path, identity: &Identity) -> Result<Security, SecurityError> {
        let ca_certificate_pem = files::require(folder, files::AUTHORITY_CERTIFICATE)?;
        let authority = match identity.kind {
            MemberKind::Server => {
                let key_pem = files::require(folder, files::AUTHORITY_KEY)?;
                let loaded = Authority::load(&ca_certificate_pem, &key_pem, identity.cluster_id)?;
                Some(loaded)
            }
            MemberKind::Witness => None,
        };
        let ca = authority::der("the authority's certificate", &ca_certificate_pem)?;
        if sha256(&ca) != identity.ca_fingerprint {
            return Err(SecurityError::NotOurs("its authority is another one"));
        }
        let certificate_pem = files::require(folder, files::CERTIFICATE)?;
        let key_pem = files::require(folder, files::KEY)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(ca)
            .map_err(SecurityError::tls("trust the cluster's authority"))?;
        let roots = Arc::new(roots);
        let provider = provider();
        let material = Material {
            ca_certificate_pem: &ca_certificate_pem,
            certificate_pem: &certificate_pem,
            key_pem: &key_pem,
        };
        let shown = Shown::new(&provider, &roots, material)?;
        Ok(Security {
            folder: folder.to_owned(),
            server: ServerId(identity.server_id),
            kind: identity.kind,
            cluster_id: identity.cluster_id,
            ca_certificate_pem,
            authority,
            key_pem,
            roots,
            provider,
            shown: Arc::new(ArcSwap::from_pointee(shown)),
        })
    }

    /// The span in which this member's certificate is good.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.shown.load().validity
    }

    /// SHA-256 of this member's certificate.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.shown.load().fingerprint
    }

    /// A request for another certificate for the key this member has.
    ///
    /// # Errors
    /// `Certificate`.
    pub fn renewal_request(&self) -> Result<String, SecurityError> {
        let enrolment = Enrolment::of_key(&self.key_pem)?;
        Ok(enrolment.request_pem().to_owned())
    }

    /// Shows another certificate from now on, also after a restart. One that others would refuse, or that would have to be
    /// renewed at once, is refused here.
    ///
    /// # Errors
    /// `NotOurs`, `Tls`, `Pem`, `Io`: the former one is still shown.
    pub fn renew(&self, certificate_pem: &str) -> Result<(), SecurityError> {
        let material = Material {
            ca_certificate_pem: &self.ca_certificate_pem,
            certificate_pem,
            key_pem: &self.key_pem,
        };
        let shown = Shown::new(&self.provider, &self.roots, material)?;
        if shown.validity.is_due(SystemTime::now()) {
            // The clocks differ by months. It would be renewed again and again.
            return Err(SecurityError::NotOurs(
                "by the clock of this machine its time is over or has not come",
            ));
        }
        self.check(&shown, self.server, self.kind)?;
        files::write(&self.folder, files::CERTIFICATE, certificate_pem.as_bytes())?;
        self.shown.store(Arc::new(shown));
        Ok(())
    }

    /// For the common port. A certificate is not demanded, since a joiner has none, but one that is
    /// shown must be the cluster's.
    ///
    /// # Errors
    /// `Tls`, `Verifier`.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, SecurityError> {
        let provider = Arc::clone(&self.provider);
        let roots = Arc::clone(&self.roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(SecurityError::tls("set up TLS 1.3"))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Showing(Arc::clone(&self.shown))));
        config.alpn_protocols = vec![ALPN_GRPC.to_vec(), ALPN_MIRROR.to_vec()];
        // Connections are few and long: every one of them proves again who it is.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For dialing a member: verifies it, and shows this member's certificate. With
    /// [`member_name`](Security::member_name) only that very member passes.
    #[must_use]
    pub fn client_config(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let shown = self.shown.load();
        if protocol == ALPN_MIRROR {
            Arc::clone(&shown.mirror)
        } else {
            Arc::clone(&shown.grpc)
        }
    }

    /// The name the certificate of a member must have.
    #[must_use]
    pub fn member_name(&self, server: ServerId) -> ServerName<'static> {
        server_name(self.cluster_id, server)
    }

    /// Whether this member can let others in.
    #[must_use]
    pub fn can_sign(&self) -> bool {
        self.authority.is_some()
    }

    /// Reads a request for a certificate and checks that it was made by the holder of its key.
    ///
    /// # Errors
    /// `Certificate`.
    pub fn check_request(&self, pem: &str) -> Result<SigningRequest, SecurityError> {
        SigningRequest::check(pem)
    }

    /// Signs a certificate for a member.
    ///
    /// # Errors
    /// `CannotSign` on a witness; `Certificate`.
    pub fn sign(
        &self,
        request: &SigningRequest,
        server: u64,
        kind: MemberKind,
    ) -> Result<Signed, SecurityError> {
        let authority = self.authority.as_ref().ok_or(SecurityError::CannotSign)?;
        authority.sign(request, ServerId(server), kind)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca_certificate_pem(&self) -> &str {
        &self.ca_certificate_pem
    }

    /// The authority's key; a witness has none.
    #[must_use]
    pub fn ca_key_pem(&self) -> Option<&str> {
        self.authority.as_ref().map(Authority::key_pem)
    }

    /// Whether other members will take this server's certificate for what it should be.
    pub(super) fn check_self(
        &self,
        server: ServerId,
        kind: MemberKind,
    ) -> Result<(), SecurityError> {
        self.check(&self.shown.load(), server, kind)
    }

    fn check(
        &self,
        shown: &Shown,
        server: ServerId,
        kind: MemberKind,
    ) -> Result<(), SecurityError> {
        let [certificate, ..] = shown.certified.cert.as_slice() else {
            return Err(SecurityError::NotOurs("there is none"));
        };
        let shown = PeerIdentity::of(certificate)
            .ok_or(SecurityError::NotOurs("it names no member of a cluster"))?;
        if shown.kind != kind {
            return Err(SecurityError::NotOurs("it is for another role"));
        }
        let provider = Arc::clone(&self.provider);
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider)
                .build()?;
        verifier
            .verify_server_cert(
                certificate,
                &[],
                &self.member_name(server),
                &[],
                UnixTime::now(),
            )
            .map_err(SecurityError::tls("verify this server's own certificate"))?;
        Ok(())
    }
}

/// For a joiner: accepts the cluster of the token and shows no certificate.
///
/// # Errors
/// `Tls`.
pub fn join_config(token: &JoinToken) -> Result<Arc<ClientConfig>, SecurityError> {
    let provider = provider();
    let verifier = PinnedVerifier::new(token.clone(), Arc::clone(&provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(SecurityError::tls("set up TLS 1.3"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_GRPC.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Named everywhere, never installed as the process's default: libraries cannot disagree about it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

//! The TLS configurations of a member: TLS 1.3 only, ring only, the cluster's authority only.

use std::path::Path;
use std::sync::Arc;

use consensus::state::{MemberKind, ServerId};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::authority::{self, Authority};
use super::enrolment::{Signed, SigningRequest};
use super::peer::{PeerIdentity, server_name};
use super::pinned::PinnedVerifier;
use super::{Identity, JoinToken, SecurityError, files, sha256};

/// gRPC: consensus, and what servers and tools ask.
pub const ALPN_GRPC: &[u8] = b"h2";
/// The stream of a mirror.
pub const ALPN_MIRROR: &[u8] = b"sidekick-mirror/1";

/// The certificates and keys of this member, ready for use.
pub struct Security {
    cluster_id: [u8; 16],
    ca_certificate_pem: String,
    authority: Option<Authority>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    grpc: Arc<ClientConfig>,
    mirror: Arc<ClientConfig>,
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
        let certificate = authority::der("this server's certificate", &certificate_pem)?;
        let key_pem = files::require(folder, files::KEY)?;
        let what = "this server's key";
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|source| SecurityError::Pem { what, source })?;
        let mut roots = RootCertStore::empty();
        roots
            .add(ca.clone())
            .map_err(SecurityError::tls("trust the cluster's authority"))?;
        let roots = Arc::new(roots);
        let provider = provider();
        // The authority is shown too: a joiner knows it by its fingerprint only.
        let chain = vec![certificate, ca];
        let client = |protocol| member_client(&provider, &roots, &chain, &key, protocol);
        Ok(Security {
            cluster_id: identity.cluster_id,
            ca_certificate_pem,
            authority,
            grpc: client(ALPN_GRPC)?,
            mirror: client(ALPN_MIRROR)?,
            chain,
            key,
            roots,
            provider,
        })
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
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(SecurityError::tls("use this server's certificate"))?;
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
        if protocol == ALPN_MIRROR {
            Arc::clone(&self.mirror)
        } else {
            Arc::clone(&self.grpc)
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
        let [certificate, ..] = self.chain.as_slice() else {
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

fn member_client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, SecurityError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(SecurityError::tls("set up TLS 1.3"))?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain.to_vec(), key.clone_key())
        .map_err(SecurityError::tls("use this server's certificate"))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Named everywhere, never installed as the process's default: libraries cannot disagree about it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

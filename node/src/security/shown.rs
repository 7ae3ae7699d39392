//! What a member shows to others: its certificate and key, ready for TLS. Replaced as a whole.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls::{ALPN_GRPC, ALPN_MIRROR};
use super::{SecurityError, authority, sha256};

/// The span in which a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub from: SystemTime,
    /// Its last second.
    pub until: SystemTime,
}

impl Validity {
    /// When it is time for the next one: two thirds of its life are over, so that a month of trouble costs nothing.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.until.duration_since(self.from).unwrap_or_default();
        self.from + life * 2 / 3
    }

    /// Whether it is time for the next one at `now`. Also when it is not good yet: this clock was put back, and the others may
    /// refuse it.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        now < self.from || now >= self.renew_at()
    }

    /// How long it has been over at `now`; `None` while it is good.
    #[must_use]
    pub fn over_for(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.until).ok()
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Copy)]
pub(super) struct Material<'a> {
    pub(super) ca_certificate_pem: &'a str,
    pub(super) certificate_pem: &'a str,
    pub(super) key_pem: &'a str,
}

pub(super) struct Shown {
    pub(super) validity: Validity,
    pub(super) fingerprint: [u8; 32],
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) grpc: Arc<ClientConfig>,
    pub(super) mirror: Arc<ClientConfig>,
}

impl Shown {
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: &Arc<RootCertStore>,
        material: Material<'_>,
    ) -> Result<Shown, SecurityError> {
        let ca = authority::der("the authority's certificate", material.ca_certificate_pem)?;
        let certificate = authority::der("this server's certificate", material.certificate_pem)?;
        let what = "this server's key";
        let key = PrivateKeyDer::from_pem_slice(material.key_pem.as_bytes())
            .map_err(|source| SecurityError::Pem { what, source })?;
        let validity = validity_of(&certificate)
            .ok_or(SecurityError::NotOurs("it says not how long it is good"))?;
        let fingerprint = sha256(&certificate);
        // The authority is shown too: a joiner knows it by its fingerprint only.
        let chain = vec![certificate, ca];
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(SecurityError::tls("use this server's certificate"))?;
        let certified = Arc::new(certified);
        let client = |protocol: &[u8]| member_client(provider, roots, &certified, protocol);
        Ok(Shown {
            validity,
            fingerprint,
            grpc: client(ALPN_GRPC)?,
            mirror: client(ALPN_MIRROR)?,
            certified,
        })
    }
}

fn validity_of(certificate: &[u8]) -> Option<Validity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    Some(Validity {
        from: at(parsed.validity().not_before)?,
        until: at(parsed.validity().not_after)?,
    })
}

fn member_client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    certified: &Arc<CertifiedKey>,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, SecurityError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(SecurityError::tls("set up TLS 1.3"))?
        .with_root_certificates(Arc::clone(roots))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(
            certified,
        ))));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Shows whatever certificate is the newest at the moment of each handshake.
pub(super) struct Showing(pub(super) Arc<ArcSwap<Shown>>);

impl std::fmt::Debug for Showing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Showing").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Showing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

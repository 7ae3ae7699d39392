//! How a joiner knows the cluster: by the fingerprint of its authority, from the token.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};

use super::JoinToken;
use super::peer::{PeerIdentity, server_name};

/// The other end belongs to another cluster than the token.
#[derive(Debug, thiserror::Error)]
#[error("the certificate authority is not the one the token speaks of")]
struct OtherAuthority;

/// Whether a certificate was refused because its authority is not the token's.
pub(crate) fn is_other_authority(reason: &CertificateError) -> bool {
    matches!(reason, CertificateError::Other(OtherError(inner)) if inner.is::<OtherAuthority>())
}

/// Accepts any member of the cluster whose authority the token names.
#[derive(Debug)]
pub(super) struct PinnedVerifier {
    token: JoinToken,
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    pub(super) fn new(token: JoinToken, provider: Arc<CryptoProvider>) -> PinnedVerifier {
        PinnedVerifier { token, provider }
    }
}

impl ServerCertVerifier for PinnedVerifier {
    /// Finds the authority among the certificates shown, and has the shown one verified against it
    /// as if the authority had been known all along.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| self.token.names_authority(certificate))
            .ok_or_else(|| {
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(
                    OtherAuthority,
                ))))
            })?;
        let peer = PeerIdentity::of(end_entity)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(
                end_entity,
                intermediates,
                &server_name(peer.cluster_id, peer.server),
                ocsp_response,
                now,
            )
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Only TLS 1.3 is spoken here.
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

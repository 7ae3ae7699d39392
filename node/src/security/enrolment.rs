//! A new member's key and its request for a certificate, and how a member answers it.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PublicKey,
    PublicKeyData,
};

use super::{SecurityError, sha256};

/// Longer requests are not looked at.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// A fresh key and the request for its certificate.
pub struct Enrolment {
    key: KeyPair,
    request_pem: String,
}

impl Enrolment {
    /// Makes the key. It stays here.
    ///
    /// # Errors
    /// `Certificate` when there are no random numbers.
    pub fn prepare() -> Result<Enrolment, SecurityError> {
        let key = KeyPair::generate().map_err(SecurityError::making("make this server's key"))?;
        Enrolment::request(key)
    }

    /// A request for the key that is there.
    ///
    /// # Errors
    /// `Certificate` when it is none.
    pub(super) fn of_key(key_pem: &str) -> Result<Enrolment, SecurityError> {
        let key =
            KeyPair::from_pem(key_pem).map_err(SecurityError::making("read this server's key"))?;
        Enrolment::request(key)
    }

    fn request(key: KeyPair) -> Result<Enrolment, SecurityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request_pem = params
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(SecurityError::making("make a request for a certificate"))?;
        Ok(Enrolment { key, request_pem })
    }

    /// What is sent to the cluster (PKCS #10, PEM). It is signed by the key: a proof of having it.
    #[must_use]
    pub fn request_pem(&self) -> &str {
        &self.request_pem
    }

    pub(super) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// A request for a certificate whose signature has been checked.
pub struct SigningRequest {
    pem: String,
    key_fingerprint: [u8; 32],
}

impl SigningRequest {
    pub(super) fn check(pem: &str) -> Result<SigningRequest, SecurityError> {
        let action = "read the request for a certificate";
        if pem.len() > REQUEST_BYTES_MAX {
            let source = rcgen::Error::CouldNotParseCertificationRequest;
            return Err(SecurityError::Certificate { action, source });
        }
        let request = CertificateSigningRequestParams::from_pem(pem)
            .map_err(SecurityError::making(action))?;
        Ok(SigningRequest {
            pem: pem.to_owned(),
            key_fingerprint: sha256(&request.public_key.subject_public_key_info()),
        })
    }

    /// SHA-256 of the public key.
    #[must_use]
    pub fn key_fingerprint(&self) -> [u8; 32] {
        self.key_fingerprint
    }

    pub(super) fn public_key(&self) -> Result<PublicKey, SecurityError> {
        let request = CertificateSigningRequestParams::from_pem(&self.pem)
            .map_err(SecurityError::making("read the request for a certificate"))?;
        Ok(request.public_key)
    }
}

/// A certificate just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// SHA-256 of its DER.
    pub fingerprint: [u8; 32],
    /// The certificate.
    pub pem: String,
}

//! The cluster's certificate authority: made once, held by every server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consensus::state::{MemberKind, ServerId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::enrolment::{Signed, SigningRequest};
use super::peer::{dns_name, role};
use super::{SecurityError, random, sha256};

/// A certificate of a member is good for this long.
const MEMBER_VALID: Duration = days(90);
/// The authority outlives the machines.
const AUTHORITY_VALID: Duration = days(20 * 365);
/// Certificates are valid from a while ago: the clocks of two servers differ.
const CLOCK_TOLERANCE: Duration = days(1);

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

/// Signs the certificates of members.
pub(super) struct Authority {
    certificate_pem: String,
    key_pem: String,
    cluster_id: [u8; 16],
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the authority of a new cluster.
    pub(super) fn generate(
        cluster: &str,
        cluster_id: [u8; 16],
    ) -> Result<Authority, SecurityError> {
        let making = SecurityError::making;
        let key = KeyPair::generate().map_err(making("make the authority's key"))?;
        let mut params = valid_for(AUTHORITY_VALID, SystemTime::now())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // The cluster's id keeps the authorities of two clusters of one name apart.
        let name = format!("Sidekick cluster {cluster} {}", hex::encode(cluster_id));
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params
            .self_signed(&key)
            .map_err(making("sign the authority's certificate"))?;
        let (certificate_pem, key_pem) = (certificate.pem(), key.serialize_pem());
        Ok(Authority {
            certificate_pem,
            key_pem,
            cluster_id,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority from its files.
    pub(super) fn load(
        certificate_pem: &str,
        key_pem: &str,
        cluster_id: [u8; 16],
    ) -> Result<Authority, SecurityError> {
        let key = KeyPair::from_pem(key_pem)
            .map_err(SecurityError::making("read the authority's key"))?;
        let certificate = der("the authority's certificate", certificate_pem)?;
        if !belong_together(&certificate, &key) {
            return Err(SecurityError::NotOurs("its authority has another key"));
        }
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)
            .map_err(SecurityError::making("read the authority's certificate"))?;
        Ok(Authority {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            cluster_id,
            issuer,
        })
    }

    pub(super) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Signs a certificate for the key of the request. Whatever else the request asks for is
    /// ignored: the name and the role are the cluster's decision.
    pub(super) fn sign(
        &self,
        request: &SigningRequest,
        server: ServerId,
        kind: MemberKind,
    ) -> Result<Signed, SecurityError> {
        self.sign_at(request, server, kind, SystemTime::now())
    }

    /// `sign`, with the time given.
    pub(super) fn sign_at(
        &self,
        request: &SigningRequest,
        server: ServerId,
        kind: MemberKind,
        now: SystemTime,
    ) -> Result<Signed, SecurityError> {
        let making = SecurityError::making;
        let mut params = valid_for(MEMBER_VALID, now)?;
        let name = dns_name(self.cluster_id, server)
            .try_into()
            .map_err(making("name the certificate"))?;
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("server-{server}"));
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role(kind));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let public_key = request.public_key()?;
        let certificate = CertificateSigningRequestParams { params, public_key }
            .signed_by(&self.issuer)
            .map_err(making("sign the certificate"))?;
        Ok(Signed {
            fingerprint: sha256(certificate.der()),
            pem: certificate.pem(),
        })
    }
}

fn belong_together(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

/// Parameters with nothing in them but a random serial number and a validity that starts a little
/// before `now`.
fn valid_for(length: Duration, now: SystemTime) -> Result<CertificateParams, SecurityError> {
    let since_1970 = now
        .duration_since(UNIX_EPOCH)
        .map_err(|_| SecurityError::NoClock)?;
    let now = date_time_ymd(1970, 1, 1) + since_1970;
    let mut serial: [u8; 16] = random()?;
    // Serial numbers are positive (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + length;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

/// The DER of a certificate in PEM.
pub(super) fn der(what: &'static str, pem: &str) -> Result<CertificateDer<'static>, SecurityError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|source| SecurityError::Pem { what, source })
}

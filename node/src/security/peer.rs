//! What a certificate says about who shows it.

use consensus::state::{MemberKind, ServerId};
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::sha256;

const DOMAIN: &str = "sidekick";

/// The member at the other end of a connection, as its verified certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Which member.
    pub server: ServerId,
    /// Of which cluster.
    pub cluster_id: [u8; 16],
    /// Server or witness.
    pub kind: MemberKind,
    /// SHA-256 of the certificate.
    pub certificate: [u8; 32],
}

impl PeerIdentity {
    /// Reads a certificate. It must have been verified: anybody can write a name into one.
    /// `None` when it is none of ours.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let (server, cluster_id) = names.value.general_names.iter().find_map(|name| {
            if let GeneralName::DNSName(name) = name {
                parse_name(name)
            } else {
                None
            }
        })?;
        let role = parsed.subject().iter_organizational_unit().next()?;
        let kind = kind_of(role.as_str().ok()?)?;
        Some(PeerIdentity {
            server,
            cluster_id,
            kind,
            certificate: sha256(certificate),
        })
    }
}

/// The one name in the certificate of a member.
pub(super) fn dns_name(cluster_id: [u8; 16], server: ServerId) -> String {
    format!("server-{}.{}.{DOMAIN}", server.0, hex::encode(cluster_id))
}

/// The same, as TLS wants it.
pub(super) fn server_name(cluster_id: [u8; 16], server: ServerId) -> ServerName<'static> {
    ServerName::try_from(dns_name(cluster_id, server))
        .expect("digits, hexadecimals and fixed words make a DNS name")
}

/// The role as it is written into a certificate.
pub(super) fn role(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Server => "server",
        MemberKind::Witness => "witness",
    }
}

fn kind_of(text: &str) -> Option<MemberKind> {
    [MemberKind::Server, MemberKind::Witness]
        .into_iter()
        .find(|kind| role(*kind) == text)
}

fn parse_name(name: &str) -> Option<(ServerId, [u8; 16])> {
    let mut labels = name.split('.');
    let server = labels.next()?.strip_prefix("server-")?.parse().ok()?;
    let mut cluster_id = [0; 16];
    hex::decode_to_slice(labels.next()?, &mut cluster_id).ok()?;
    let is_ours = labels.next() == Some(DOMAIN) && labels.next().is_none();
    is_ours.then_some((ServerId(server), cluster_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not_ours() {
        let id = [0xab; 16];
        let name = dns_name(id, ServerId(12));
        assert_eq!(name, format!("server-12.{}.sidekick", "ab".repeat(16)));
        assert_eq!(parse_name(&name), Some((ServerId(12), id)));
        let _ = server_name(id, ServerId(u64::MAX));
        for other in [
            "",
            "server-12",
            "server-12.abab.sidekick",
            "server-x.abababababababababababababababab.sidekick",
            "server-12.abababababababababababababababab.example",
            "server-12.abababababababababababababababab.sidekick.example",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}

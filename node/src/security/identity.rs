//! Who this server is, on disk: `identity.json` beside its certificates and keys.
//!
//! `identity.json` is written last: while it is missing this server belongs to no cluster, whatever
//! else a crash in the middle of joining left in the folder.

use std::net::SocketAddr;
use std::path::Path;

use api::peer::v1::EnrolReply;
use consensus::state::{ClusterInfo, Incarnation, MemberKind, MemberName, NewMember, ServerId};
use serde::{Deserialize, Serialize};

use super::authority::{self, Authority};
use super::enrolment::{Enrolment, SigningRequest};
use super::tls::Security;
use super::{SecurityError, files, random, sha256};

/// The format this version writes, and the newest it reads.
const FORMAT: u32 = 1;
/// The number of the server that makes a cluster.
const FOUNDER: ServerId = ServerId(1);

/// A member known from the start: enough to find the cluster with an empty log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its number.
    pub id: u64,
    /// Where it listens; the position is the number of the LAN.
    pub addresses: Vec<SocketAddr>,
}

/// Who this server is. Only its name and addresses change while it is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    /// The cluster's number: two clusters of one name are two clusters.
    #[serde(with = "hexadecimal")]
    pub cluster_id: [u8; 16],
    /// The cluster's name.
    pub cluster: MemberName,
    /// This server's number, never given to another.
    pub server_id: u64,
    /// This server's name.
    pub server: MemberName,
    /// Server or witness.
    pub kind: MemberKind,
    /// Where it listens; the position is the number of the LAN.
    pub addresses: Vec<SocketAddr>,
    /// The others, when it joined.
    pub known: Vec<Known>,
    /// The cluster's lease in milliseconds.
    pub lease_ms: u64,
    /// SHA-256 of the authority's certificate.
    #[serde(with = "hexadecimal")]
    pub ca_fingerprint: [u8; 32],
    /// SHA-256 of this server's first certificate.
    #[serde(with = "hexadecimal")]
    certificate: [u8; 32],
    is_founder: bool,
}

/// What the first entry of a cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster.
    pub info: ClusterInfo,
    /// Its first server.
    pub first: NewMember,
}

impl Identity {
    /// Makes a cluster: its number, its authority, the first server's certificate; all on disk when
    /// this returns.
    ///
    /// # Errors
    /// Nothing was made that counts: `Io`, `Certificate`, `NoRandomness`.
    pub fn found(
        folder: &Path,
        cluster: &MemberName,
        server: &MemberName,
        addresses: Vec<SocketAddr>,
        lease_ms: u64,
    ) -> Result<Identity, SecurityError> {
        let cluster_id = random()?;
        let authority = Authority::generate(cluster.as_ref(), cluster_id)?;
        let enrolment = Enrolment::prepare()?;
        let request = SigningRequest::check(enrolment.request_pem())?;
        let signed = authority.sign(&request, FOUNDER, MemberKind::Server)?;
        let ca = authority::der("the authority's certificate", authority.certificate_pem())?;
        let identity = Identity {
            format: FORMAT,
            cluster_id,
            cluster: cluster.clone(),
            server_id: FOUNDER.0,
            server: server.clone(),
            kind: MemberKind::Server,
            addresses,
            known: Vec::new(),
            lease_ms,
            ca_fingerprint: sha256(&ca),
            certificate: signed.fingerprint,
            is_founder: true,
        };
        let material = Material {
            ca_certificate_pem: authority.certificate_pem(),
            ca_key_pem: Some(authority.key_pem()),
            certificate_pem: &signed.pem,
            key_pem: &enrolment.key_pem(),
        };
        identity.keep(folder, &material)?;
        Ok(identity)
    }

    /// Becomes a member with what a member answered; all on disk when this returns.
    ///
    /// # Errors
    /// Nothing was kept that counts: `BadReply`, `NotOurs`, `Pem`, `Tls`, `Io`.
    pub fn join(
        folder: &Path,
        enrolment: &Enrolment,
        server: &MemberName,
        addresses: Vec<SocketAddr>,
        reply: &EnrolReply,
    ) -> Result<Identity, SecurityError> {
        let bad = SecurityError::BadReply;
        let ca = authority::der("the authority's certificate", &reply.ca_certificate_pem)?;
        let certificate = authority::der("the certificate", &reply.certificate_pem)?;
        let identity = Identity {
            format: FORMAT,
            cluster_id: <[u8; 16]>::try_from(reply.cluster_id.as_ref())
                .map_err(|_| bad("cluster id"))?,
            cluster: reply.cluster.parse().map_err(|_| bad("cluster name"))?,
            server_id: reply.server_id,
            server: server.clone(),
            kind: if reply.witness {
                MemberKind::Witness
            } else {
                MemberKind::Server
            },
            addresses,
            known: known(reply)?,
            lease_ms: reply.lease_ms,
            ca_fingerprint: sha256(&ca),
            certificate: sha256(&certificate),
            is_founder: false,
        };
        let material = Material {
            ca_certificate_pem: &reply.ca_certificate_pem,
            ca_key_pem: Some(reply.ca_key_pem.as_str()).filter(|key| !key.is_empty()),
            certificate_pem: &reply.certificate_pem,
            key_pem: &enrolment.key_pem(),
        };
        identity.keep(folder, &material)?;
        Ok(identity)
    }

    /// The identity in `folder`; `None` when this server belongs to no cluster.
    ///
    /// # Errors
    /// `DamagedIdentity`, `NewerIdentity`, `Io`.
    pub fn load(folder: &Path) -> Result<Option<Identity>, SecurityError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Some(text) = files::read(folder, files::IDENTITY)? else {
            return Ok(None);
        };
        let path = || folder.join(files::IDENTITY);
        let damaged = |source| SecurityError::DamagedIdentity {
            path: path(),
            source,
        };
        // First the format alone: a newer file may differ in everything else.
        let found: Format = serde_json::from_str(&text).map_err(damaged)?;
        if found.format != FORMAT {
            return Err(SecurityError::NewerIdentity {
                path: path(),
                found: found.format,
                supported: FORMAT,
            });
        }
        serde_json::from_str(&text).map(Some).map_err(damaged)
    }

    /// What the founder commits first; `None` for everybody else.
    #[must_use]
    pub fn founding(&self, incarnation: Incarnation) -> Option<Founding> {
        self.is_founder.then(|| Founding {
            info: ClusterInfo {
                id: self.cluster_id,
                name: self.cluster.clone(),
                ca_fingerprint: self.ca_fingerprint,
                lease_ms: self.lease_ms,
            },
            first: NewMember {
                name: self.server.clone(),
                kind: self.kind,
                addresses: self.addresses.clone(),
                certificate: self.certificate,
                incarnation,
            },
        })
    }

    /// The authority's fingerprint as people compare it.
    #[must_use]
    pub fn ca_fingerprint_text(&self) -> String {
        let pairs: Vec<String> = self
            .ca_fingerprint
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        pairs.join(":")
    }

    /// Notes what has changed in it: the name or the addresses.
    ///
    /// # Errors
    /// `Io`: the former identity is still there.
    pub fn save(&self, folder: &Path) -> Result<(), SecurityError> {
        let mut text = serde_json::to_string_pretty(self)
            .expect("an identity has only strings and numbers in it");
        text.push('\n');
        files::write(folder, files::IDENTITY, text.as_bytes())
    }

    fn keep(&self, folder: &Path, material: &Material<'_>) -> Result<(), SecurityError> {
        files::make_folder(folder)?;
        files::write(
            folder,
            files::AUTHORITY_CERTIFICATE,
            material.ca_certificate_pem.as_bytes(),
        )?;
        if let Some(key) = material.ca_key_pem {
            files::write(folder, files::AUTHORITY_KEY, key.as_bytes())?;
        }
        files::write(
            folder,
            files::CERTIFICATE,
            material.certificate_pem.as_bytes(),
        )?;
        files::write(folder, files::KEY, material.key_pem.as_bytes())?;
        // What was written is what will be used: try it before it counts.
        Security::load(folder, self)?.check_self(ServerId(self.server_id), self.kind)?;
        self.save(folder)
    }
}

/// The certificates and keys of an identity, in PEM.
struct Material<'a> {
    ca_certificate_pem: &'a str,
    ca_key_pem: Option<&'a str>,
    certificate_pem: &'a str,
    key_pem: &'a str,
}

fn known(reply: &EnrolReply) -> Result<Vec<Known>, SecurityError> {
    let one = |member: &api::peer::v1::KnownMember| {
        let addresses = member
            .addresses
            .iter()
            .map(|address| address.parse())
            .collect::<Result<_, _>>()
            .map_err(|_| SecurityError::BadReply("address of a member"))?;
        Ok(Known {
            id: member.id,
            addresses,
        })
    };
    reply.members.iter().map(one).collect()
}

/// Bytes as hexadecimal text.
mod hexadecimal {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).map_err(D::Error::custom)?;
        Ok(bytes)
    }
}

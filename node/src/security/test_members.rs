//! Members of clusters made for a test, each with a folder of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::peer::v1::{EnrolReply, KnownMember};
use consensus::state::{MemberKind, ServerId};

use super::authority::Authority;
use super::{Enrolment, Identity, Security, SecurityError, files};

/// A member with its identity on disk.
pub(crate) struct TestMember {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) identity: Identity,
    pub(crate) security: Arc<Security>,
}

impl TestMember {
    fn load(folder: tempfile::TempDir) -> TestMember {
        let identity = Identity::load(folder.path()).unwrap().unwrap();
        let security = Arc::new(Security::load(folder.path(), &identity).unwrap());
        TestMember {
            folder,
            identity,
            security,
        }
    }

    /// The first server of a new cluster.
    pub(crate) fn founder() -> TestMember {
        let folder = tempfile::tempdir().unwrap();
        let addresses = vec!["127.0.0.1:9453".parse().unwrap()];
        let (cluster, server) = ("paris".parse().unwrap(), "one".parse().unwrap());
        Identity::found(folder.path(), &cluster, &server, addresses, 1500).unwrap();
        TestMember::load(folder)
    }

    /// A further member.
    pub(crate) fn joined(founder: &TestMember, id: u64, kind: MemberKind) -> TestMember {
        let folder = tempfile::tempdir().unwrap();
        let enrolment = Enrolment::prepare().unwrap();
        let reply = answer(founder, &enrolment, id, kind);
        join(folder.path(), &enrolment, &reply).unwrap();
        TestMember::load(folder)
    }

    /// A further server whose certificate has run out meanwhile.
    pub(crate) fn expired(founder: &TestMember, id: u64) -> TestMember {
        let folder = tempfile::tempdir().unwrap();
        let enrolment = Enrolment::prepare().unwrap();
        let reply = answer(founder, &enrolment, id, MemberKind::Server);
        join(folder.path(), &enrolment, &reply).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(100 * 24 * 3600);
        let (request, kind) = (enrolment.request_pem(), MemberKind::Server);
        let request = founder.security.check_request(request).unwrap();
        let signed = authority(founder)
            .sign_at(&request, ServerId(id), kind, long_ago)
            .unwrap();
        files::write(folder.path(), files::CERTIFICATE, signed.pem.as_bytes()).unwrap();
        TestMember::load(folder)
    }
}

fn authority(founder: &TestMember) -> Authority {
    let certificate = founder.security.ca_certificate_pem();
    let key = founder.security.ca_key_pem().unwrap();
    Authority::load(certificate, key, founder.identity.cluster_id).unwrap()
}

pub(super) fn join(
    folder: &Path,
    enrolment: &Enrolment,
    reply: &EnrolReply,
) -> Result<Identity, SecurityError> {
    let addresses = vec!["127.0.0.1:9454".parse().unwrap()];
    Identity::join(folder, enrolment, &"two".parse().unwrap(), addresses, reply)
}

/// What a member answers to a joiner.
pub(super) fn answer(
    founder: &TestMember,
    enrolment: &Enrolment,
    id: u64,
    kind: MemberKind,
) -> EnrolReply {
    let security = &founder.security;
    let request = security.check_request(enrolment.request_pem()).unwrap();
    let is_witness = kind == MemberKind::Witness;
    let key = security.ca_key_pem().unwrap();
    EnrolReply {
        server_id: id,
        cluster: founder.identity.cluster.to_string(),
        cluster_id: founder.identity.cluster_id.to_vec().into(),
        witness: is_witness,
        lease_ms: 1500,
        certificate_pem: security.sign(&request, id, kind).unwrap().pem,
        ca_certificate_pem: security.ca_certificate_pem().to_owned(),
        ca_key_pem: if is_witness { "" } else { key }.to_owned(),
        members: vec![KnownMember {
            id: 1,
            addresses: vec!["127.0.0.1:9453".to_owned()],
        }],
        plan: Vec::new(),
    }
}

//! Identities on disk: made, joined, read back, damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use consensus::state::{Incarnation, MemberKind, ServerId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::test_members::{TestMember, answer, join};
use super::*;

fn peer_in(certificate_pem: &str) -> PeerIdentity {
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
    PeerIdentity::of(&certificate).unwrap()
}

#[test]
fn founder_is_read_back_and_its_files_are_private() {
    let founder = TestMember::founder();
    let mode = |name: &str| {
        let path = founder.folder.path().join(name);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    for entry in fs::read_dir(founder.folder.path()).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(mode(name.to_str().unwrap()), 0o600, "{name:?}");
    }
    let founding = founder.identity.founding(Incarnation(7)).unwrap();
    assert_eq!(founding.info.id, founder.identity.cluster_id);
    assert_eq!(
        founding.info.ca_fingerprint,
        founder.identity.ca_fingerprint
    );
    assert_eq!(founding.first.incarnation, Incarnation(7));
    let own = files::require(founder.folder.path(), files::CERTIFICATE).unwrap();
    assert_eq!(founding.first.certificate, peer_in(&own).certificate);
    assert!(founder.security.can_sign());
    assert_eq!(founder.identity.ca_fingerprint_text().len(), 32 * 3 - 1);
}

#[test]
fn certificate_says_who_in_which_cluster_and_in_which_role() {
    let founder = TestMember::founder();
    let request = Enrolment::prepare().unwrap();
    let request = founder
        .security
        .check_request(request.request_pem())
        .unwrap();
    for kind in [MemberKind::Server, MemberKind::Witness] {
        let signed = founder.security.sign(&request, 9, kind).unwrap();
        let expected = PeerIdentity {
            server: ServerId(9),
            cluster_id: founder.identity.cluster_id,
            kind,
            certificate: signed.fingerprint,
        };
        assert_eq!(peer_in(&signed.pem), expected);
    }
}

#[test]
fn joining_server_gets_the_authority_and_a_witness_does_not() {
    let founder = TestMember::founder();
    let server = TestMember::joined(&founder, 2, MemberKind::Server);
    assert!(server.security.can_sign());
    assert_eq!(server.identity.cluster_id, founder.identity.cluster_id);
    assert_eq!(server.identity.known[0].id, 1);
    assert_eq!(server.identity.founding(Incarnation(1)), None);
    let witness = TestMember::joined(&founder, 3, MemberKind::Witness);
    assert!(!witness.security.can_sign());
    assert!(!witness.folder.path().join(files::AUTHORITY_KEY).exists());
    let request = Enrolment::prepare().unwrap();
    let request = witness
        .security
        .check_request(request.request_pem())
        .unwrap();
    let refused = witness.security.sign(&request, 4, MemberKind::Server);
    assert!(matches!(refused, Err(SecurityError::CannotSign)));
    // A server that was let in can let others in, and they are the cluster's too.
    TestMember::joined(&server, 4, MemberKind::Server);
}

#[test]
fn wrong_answer_to_a_joiner_makes_no_member() {
    let founder = TestMember::founder();
    let other = TestMember::founder();
    let enrolment = Enrolment::prepare().unwrap();
    let good = answer(&founder, &enrolment, 2, MemberKind::Server);
    let elsewhere = answer(&other, &enrolment, 2, MemberKind::Server);
    let stranger = Enrolment::prepare().unwrap();
    let with = |change: &dyn Fn(&mut api::peer::v1::EnrolReply)| {
        let mut reply = good.clone();
        change(&mut reply);
        reply
    };
    let wrong = [
        with(&|reply| reply.server_id = 5),
        with(&|reply| reply.witness = true),
        with(&|reply| reply.cluster_id = vec![1; 16].into()),
        with(&|reply| reply.cluster_id = vec![1; 3].into()),
        with(&|reply| reply.cluster = "Not A Name".to_owned()),
        with(&|reply| reply.members[0].addresses = vec!["nowhere".to_owned()]),
        with(&|reply| reply.certificate_pem = "nonsense".to_owned()),
        with(&|reply| reply.certificate_pem.clone_from(&elsewhere.certificate_pem)),
        with(&|reply| {
            reply
                .ca_certificate_pem
                .clone_from(&elsewhere.ca_certificate_pem)
        }),
        with(&|reply| reply.ca_key_pem = "nonsense".to_owned()),
        answer(&founder, &stranger, 2, MemberKind::Server),
    ];
    for (number, reply) in wrong.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = join(folder.path(), &enrolment, reply);
        assert!(outcome.is_err(), "{number}: {outcome:?}");
        assert_eq!(Identity::load(folder.path()).unwrap(), None, "{number}");
    }
}

#[test]
fn authority_with_the_key_of_another_is_refused() {
    // A server with it would sign certificates that nobody accepts.
    let founder = TestMember::founder();
    let other = TestMember::founder();
    let enrolment = Enrolment::prepare().unwrap();
    let mut reply = answer(&founder, &enrolment, 2, MemberKind::Server);
    reply.ca_key_pem = other.security.ca_key_pem().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let outcome = join(folder.path(), &enrolment, &reply);
    assert!(
        matches!(outcome, Err(SecurityError::NotOurs(_))),
        "{outcome:?}"
    );
}

#[test]
fn nonsense_is_no_request_for_a_certificate() {
    let founder = TestMember::founder();
    let good = Enrolment::prepare().unwrap().request_pem().to_owned();
    let tampered = good.replacen("MI", "MJ", 1);
    let long = format!("{good}{}", "\n".repeat(20_000));
    for text in ["", "hello", &good[..good.len() / 2], &tampered, &long] {
        assert!(founder.security.check_request(text).is_err(), "{text:.80}");
    }
}

#[test]
fn identity_missing_damaged_or_newer_says_what_to_do() {
    let founder = TestMember::founder();
    let folder = founder.folder.path();
    let path = folder.join(files::IDENTITY);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let damaged = Identity::load(folder);
    assert!(matches!(
        damaged,
        Err(SecurityError::DamagedIdentity { .. })
    ));
    fs::write(
        &path,
        text.replace("\"format\": 1", "\"format\": 2, \"more\": 3"),
    )
    .unwrap();
    let newer = Identity::load(folder);
    assert!(
        matches!(newer, Err(SecurityError::NewerIdentity { found: 2, .. })),
        "{newer:?}"
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(Identity::load(folder).unwrap(), None);
}

#[test]
fn lost_or_foreign_key_is_noticed_when_the_daemon_starts() {
    let founder = TestMember::founder();
    let folder = founder.folder.path();
    let foreign = Enrolment::prepare().unwrap().key_pem();
    fs::write(folder.join(files::KEY), foreign).unwrap();
    let loaded = Security::load(folder, &founder.identity);
    assert!(matches!(loaded, Err(SecurityError::Tls { .. })));
    fs::remove_file(folder.join(files::KEY)).unwrap();
    let loaded = Security::load(folder, &founder.identity);
    assert!(matches!(loaded, Err(SecurityError::Io { .. })));
}

#[test]
fn a_renewed_certificate_is_shown_at_once_and_after_a_restart() {
    let founder = TestMember::founder();
    let server = TestMember::joined(&founder, 2, MemberKind::Server);
    let before = (server.security.fingerprint(), server.security.validity());
    let request = server.security.renewal_request().unwrap();
    let request = founder.security.check_request(&request).unwrap();
    let signed = founder
        .security
        .sign(&request, 2, MemberKind::Server)
        .unwrap();
    server.security.renew(&signed.pem).unwrap();
    assert_eq!(server.security.fingerprint(), signed.fingerprint);
    assert_ne!(server.security.fingerprint(), before.0);
    let again = Security::load(server.folder.path(), &server.identity).unwrap();
    assert_eq!(again.fingerprint(), signed.fingerprint);
    // A certificate for another member, or for another key, is not taken.
    let other = founder
        .security
        .sign(&request, 3, MemberKind::Server)
        .unwrap();
    assert!(server.security.renew(&other.pem).is_err());
    let stranger = Enrolment::prepare().unwrap();
    let stranger = founder
        .security
        .check_request(stranger.request_pem())
        .unwrap();
    let other = founder
        .security
        .sign(&stranger, 2, MemberKind::Server)
        .unwrap();
    assert!(server.security.renew(&other.pem).is_err());
    assert_eq!(server.security.fingerprint(), signed.fingerprint);
}

#[test]
fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_over() {
    let founder = TestMember::founder();
    let validity = founder.security.validity();
    let day = std::time::Duration::from_secs(24 * 3600);
    let life = validity.until.duration_since(validity.from).unwrap();
    assert_eq!(life, 91 * day, "90 days, and one for clocks that differ");
    let left = validity.until.duration_since(validity.renew_at()).unwrap();
    assert!(left > 30 * day && left < 31 * day, "{left:?}");
    assert_eq!(validity.over_for(validity.until - day), None);
    assert_eq!(validity.over_for(validity.until + day), Some(day));
}

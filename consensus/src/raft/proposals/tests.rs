use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use store::Origin;
use tempfile::TempDir;

use super::proposals_server::Proposals as _;
use super::*;
use crate::handle::{Consensus, Options};
use crate::position::LogPosition;
use crate::raft::dial::{BoxStream, Dialer};
use crate::raft::guard::Peer;
use crate::state::{ClusterInfo, Command, Incarnation, MemberKind, NewMember};

const PATIENCE: Duration = Duration::from_secs(20);

fn ways(leader: Option<u64>, near: &[u64]) -> Vec<Route> {
    let near: Vec<ServerId> = near.iter().copied().map(ServerId).collect();
    (0..4)
        .map(|turn| route(ServerId(2), leader.map(ServerId), &near, turn))
        .collect()
}

#[test]
fn whoever_does_not_hear_the_leader_goes_through_a_voter() {
    let (leader, relay) = (
        |id| Route::Leader(ServerId(id)),
        |id| Route::Relay(ServerId(id)),
    );
    assert_eq!(ways(Some(2), &[1, 3]), [Route::Here; 4]);
    assert_eq!(
        ways(Some(1), &[1, 3]),
        [leader(1), relay(3), leader(1), relay(3)],
        "a leader that is heard is asked first"
    );
    assert_eq!(ways(Some(1), &[1]), [leader(1); 4]);
    assert_eq!(
        ways(Some(1), &[3, 4]),
        [relay(3), relay(3), relay(4), relay(4)],
        "the leader is not heard"
    );
    assert_eq!(ways(None, &[3]), [relay(3); 4], "no leader is known here");
    assert_eq!(ways(Some(1), &[]), [leader(1); 4], "just started");
    assert_eq!(ways(None, &[]), [Route::Nowhere; 4]);
}

/// Nobody else runs.
struct NoDialer;

#[async_trait]
impl Dialer for NoDialer {
    async fn dial(&self, _: ServerId, _: usize, _: SocketAddr) -> io::Result<BoxStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

fn member(number: u8) -> NewMember {
    NewMember {
        name: format!("server{number}").parse().unwrap(),
        kind: MemberKind::Server,
        addresses: vec![SocketAddr::from(([127, 0, 0, number], 9453))],
        certificate: [number; 32],
        incarnation: Incarnation(1),
    }
}

fn proposal(command: Command) -> Proposal {
    Proposal {
        command,
        author: "test".into(),
        evidence: String::new(),
        at_unix_ms: 1_000_000,
    }
}

fn token(number: u8) -> Command {
    Command::CreateToken {
        token: [number; 32],
        witness: false,
        expires_at_unix_s: u64::MAX,
    }
}

/// Server 1 leads and is the only voter, server 2 was removed, server 3 is a member.
async fn lone_voter() -> (Consensus, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        me: ServerId(1),
        cluster: [9; 16],
        origin: Origin::New,
        dir: directory.path().join("store"),
        dialer: Arc::new(NoDialer),
        incarnation: Incarnation(1),
        known: BTreeMap::new(),
        lease_ms: 1500,
        remembered: LogPosition::default(),
        is_admitted: true,
    };
    let consensus = Consensus::start(options).await.unwrap();
    let info = ClusterInfo {
        id: [9; 16],
        name: "lab".parse().unwrap(),
        ca_fingerprint: [1; 32],
        lease_ms: 1500,
    };
    let init = Command::InitCluster {
        info,
        first: member(1),
    };
    consensus.bootstrap(proposal(init)).await.unwrap();
    let add = |number| Command::AddMember {
        token: [number; 32],
        member: member(number),
    };
    let server = ServerId(2);
    let remove = Command::RemoveMember { server };
    for command in [token(2), add(2), remove, token(3), add(3)] {
        let proposed = consensus.propose(proposal(command), PATIENCE).await;
        proposed.unwrap();
    }
    (consensus, directory)
}

/// What server 3 sends for `origin`.
fn passed_on(command: Command, origin: u64, since: u64) -> Request<ProposeRequest> {
    let mut request = Request::new(ProposeRequest {
        from: 3,
        to: 1,
        proposal: Bytes::from(encode(&proposal(command)).unwrap()),
        deadline_ms: 10_000,
        relay: false,
        asked_since: Some(since),
        origin,
        repeated: false,
    });
    request.extensions_mut().insert(Peer(ServerId(3)));
    request
}

async fn outcome(service: &ProposalService, request: Request<ProposeRequest>) -> Attempt {
    let reply = service.propose(request).await.unwrap();
    decode(&reply.into_inner().outcome).unwrap()
}

/// Goal: the rule about who lends its name to whom is asked for every proposal, and whoever was removed hears why nobody takes
/// what it proposes.
#[tokio::test]
async fn regression_what_is_passed_on_for_a_removed_member_is_refused() {
    let (consensus, _directory) = lone_voter().await;
    let service = consensus.proposal_service();
    let since = consensus.status().applied_index;
    let refused = outcome(&service, passed_on(token(7), 2, since)).await;
    let by = ServerId(1);
    assert!(
        matches!(refused, Attempt::Removed { by: who } if who == by),
        "{refused:?}"
    );
    assert!(!consensus.state().tokens.contains_key(&[7; 32]));
    let done = outcome(&service, passed_on(token(7), 3, since)).await;
    assert!(matches!(done, Attempt::Decided(Outcome(Ok(_)))), "{done:?}");
    assert!(consensus.state().tokens.contains_key(&[7; 32]));
    consensus.shutdown().await;
}

/// The leader has taken the second attempt when the first one comes, which its author does not know to have arrived.
#[tokio::test]
async fn regression_a_first_attempt_that_comes_late_is_not_written_again() {
    let (consensus, _directory) = lone_voter().await;
    let service = consensus.proposal_service();
    let since = consensus.status().applied_index;
    // The second time it would be accepted, too, and change nothing.
    let rename = Command::ChangeMember {
        server: ServerId(3),
        name: "other".parse().unwrap(),
        addresses: member(3).addresses,
    };
    let written_in = |recent: &Recent| recent.entry_since(since, &proposal(rename.clone()));
    let mut entries = Vec::new();
    for attempt in ["the second, which is there first", "the first"] {
        let done = outcome(&service, passed_on(rename.clone(), 0, since)).await;
        assert!(
            matches!(done, Attempt::Decided(Outcome(Ok(_)))),
            "{attempt}: {done:?}"
        );
        entries.push(written_in(&service.proposer.recent));
    }
    assert!(entries[0].is_some());
    assert_eq!(entries[0], entries[1], "written once");
    consensus.shutdown().await;
}

//! What other members send, decoded as the services decode it, for tests that send nonsense: every kind of message, a real
//! encoding of each, and a check that whatever can be decoded can also be shown and encoded again.

use openraft::entry::RaftEntry as _;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::proto;
use crate::raft::codec::{self, DecodeError};
use crate::raft::network::SnapshotMessage;
use crate::raft::types::{Entry, LogId, Record, SnapshotMeta, TypeConfig, Vote};
use crate::state::{
    AckMode, ClusterState, Command, Epoch, Incarnation, ModuleName, PackageHash, Proposal, Round,
    ServerId, StepDownReason, Wanted,
};

/// A kind of message from another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Log entries.
    AppendEntries,
    /// A candidate asks for a vote; also before it really stands.
    Vote,
    /// A whole state.
    Snapshot,
    /// The leader asks this member to stand.
    TransferLeader,
    /// A forwarded proposal.
    Propose,
    /// A forwarded read.
    ReadIndex,
    /// A heartbeat.
    Heartbeat,
    /// Its answer.
    HeartbeatAnswer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::AppendEntries,
        Kind::Vote,
        Kind::Snapshot,
        Kind::TransferLeader,
        Kind::Propose,
        Kind::ReadIndex,
        Kind::Heartbeat,
        Kind::HeartbeatAnswer,
    ];
}

/// Why a message is refused.
#[derive(Debug, Error)]
pub enum UntrustedError {
    /// No message of this kind.
    #[error("decode the message")]
    Message(#[from] prost::DecodeError),
    /// Its body is none of ours.
    #[error("decode the body: {0}")]
    Body(String),
}

impl From<DecodeError> for UntrustedError {
    fn from(error: DecodeError) -> UntrustedError {
        UntrustedError::Body(error.to_string())
    }
}

/// Decodes a message as the service for `kind` does.
///
/// # Errors
/// It is no such message.
///
/// # Panics
/// When what was decoded cannot be shown or encoded again: a bug.
pub fn decode(kind: Kind, bytes: &[u8]) -> Result<(), UntrustedError> {
    match kind {
        Kind::AppendEntries => body::<AppendEntriesRequest<TypeConfig>>(bytes),
        Kind::Vote => body::<VoteRequest<TypeConfig>>(bytes),
        Kind::Snapshot => body::<SnapshotMessage>(bytes),
        Kind::TransferLeader => body::<TransferLeaderRequest<TypeConfig>>(bytes),
        Kind::Propose => {
            let request = proto::ProposeRequest::decode(bytes)?;
            let proposal: Proposal = codec::decode(&request.proposal)?;
            let shown = format!("{proposal:?}");
            assert!(!shown.is_empty() && codec::encode(&proposal).is_ok());
            Ok(())
        }
        Kind::ReadIndex => Ok(proto::ReadIndexRequest::decode(bytes).map(drop)?),
        Kind::Heartbeat => Ok(proto::Heartbeat::decode(bytes).map(drop)?),
        Kind::HeartbeatAnswer => Ok(proto::HeartbeatAnswer::decode(bytes).map(drop)?),
    }
}

fn body<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<(), UntrustedError> {
    let envelope = proto::Envelope::decode(bytes)?;
    let message: T = codec::decode(&envelope.body)?;
    assert!(codec::encode(&message).is_ok());
    Ok(())
}

/// The bytes of a message around a body that was made by hand.
pub fn wrap(kind: Kind, from: u64, to: u64, body: Vec<u8>) -> Vec<u8> {
    match kind {
        Kind::AppendEntries | Kind::Vote | Kind::Snapshot | Kind::TransferLeader => {
            let body = body.into();
            proto::Envelope { from, to, body }.encode_to_vec()
        }
        Kind::Propose => proto::ProposeRequest {
            from,
            to,
            proposal: body.into(),
            deadline_ms: 200,
            relay: false,
            asked_since: None,
            origin: 0,
            repeated: false,
        }
        .encode_to_vec(),
        Kind::ReadIndex | Kind::Heartbeat | Kind::HeartbeatAnswer => body,
    }
}

/// Real messages from member 3 to member 1, each as the part that [`wrap`] takes.
pub fn samples() -> Vec<(Kind, Vec<u8>)> {
    let vote = Vote::new_committed(7, 3);
    let last = LogId::new_term_index(7, 41);
    let candidate = VoteRequest::<TypeConfig> {
        vote,
        last_log_id: Some(last),
        leadership_transfer: false,
    };
    let state = ClusterState::default();
    let snapshot = SnapshotMessage {
        vote,
        meta: SnapshotMeta::default(),
        data: encoded(&state),
    };
    let stand = TransferLeaderRequest::<TypeConfig>::new(vote, 1, Some(last));
    let mut samples = vec![
        (Kind::Vote, encoded(&candidate)),
        (Kind::TransferLeader, encoded(&stand)),
        (Kind::Snapshot, encoded(&snapshot)),
        (Kind::Heartbeat, heartbeat().encode_to_vec()),
        (Kind::HeartbeatAnswer, answer().encode_to_vec()),
        (Kind::ReadIndex, read().encode_to_vec()),
    ];
    for command in commands() {
        let proposal = Proposal {
            command,
            author: "server w".to_owned(),
            evidence: "s1 not heard by w for 1.9 s on any LAN".to_owned(),
            at_unix_ms: 1_795_679_622_405,
        };
        let entries = AppendEntriesRequest::<TypeConfig> {
            vote,
            prev_log_id: Some(last),
            entries: vec![
                Entry::new_normal(LogId::new_term_index(7, 42), Record(proposal.clone())),
                Entry::new_blank(LogId::new_term_index(7, 43)),
            ],
            leader_commit: Some(last),
        };
        samples.push((Kind::AppendEntries, encoded(&entries)));
        samples.push((Kind::Propose, encoded(&proposal)));
    }
    samples
}

fn encoded<T: Serialize>(message: &T) -> Vec<u8> {
    codec::encode(message).expect("our own messages can be encoded")
}

fn heartbeat() -> proto::Heartbeat {
    proto::Heartbeat {
        from: 3,
        to: 1,
        lan: 1,
        incarnation: 4,
        sent_at: 123_456_789_012,
        applied: 41,
        hears: vec![1, 2],
        durable: 40,
        durable_term: 2,
    }
}

fn answer() -> proto::HeartbeatAnswer {
    proto::HeartbeatAnswer {
        sent_at: 123_456_789_012,
        lease_ns: 1_500_000_000,
    }
}

fn read() -> proto::ReadIndexRequest {
    proto::ReadIndexRequest {
        from: 3,
        to: 1,
        deadline_ms: 500,
        relay: true,
    }
}

/// One command of each shape: numbers alone, names, texts, lists.
fn commands() -> Vec<Command> {
    let module: ModuleName = "app".parse().expect("a name");
    let (server, epoch) = (ServerId(2), Epoch(9));
    let incarnation = Incarnation(4);
    let round = Round {
        incarnation,
        number: 2,
    };
    vec![
        Command::ServerStarted {
            server,
            incarnation,
        },
        Command::Declare {
            voter: ServerId(3),
            round,
            server,
            incarnation,
            evidence: "s2 not heard by w for 1.9 s".to_owned(),
        },
        Command::CreateToken {
            token: [7; 32],
            witness: true,
            expires_at_unix_s: 1_795_679_622,
        },
        Command::InstallModule {
            name: module.clone(),
            servers: [ServerId(1), server],
            package: PackageHash([9; 32]),
            ack: AckMode::Disk,
            directories: vec!["/srv/data".to_owned()],
            addresses: vec![std::net::Ipv4Addr::new(10, 0, 1, 100).into()],
            heart_timeout_ms: Some(500),
        },
        Command::SetWanted {
            module: module.clone(),
            server,
            wanted: Wanted::Started,
        },
        Command::StepDown {
            module,
            epoch,
            server,
            reason: StepDownReason::DiskFailed,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_messages_are_understood_and_shorter_ones_are_not() {
        for (kind, body) in samples() {
            let whole = wrap(kind, 3, 1, body.clone());
            decode(kind, &whole).expect("a real message");
            let cut = wrap(kind, 3, 1, body[..body.len() - 1].to_vec());
            decode(kind, &cut).expect_err("the last byte is missing");
        }
    }
}

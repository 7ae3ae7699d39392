//! What is attacked, and by which real messages.

use consensus::untrusted::{self, Kind};
use fs_mirror::Epoch;
use fs_mirror::replication::change::{
    AttributeChange, Attributes, Change, FileId, Kind as FileKind, Time,
};
use fs_mirror::replication::wire::{
    self, Acks, Block, Hello, HelloReply, Message, RefusalReason, Start,
};
use prost::Message as _;

/// A door that other members use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Raft: log entries, votes, snapshots, proposals
    Raft,
    /// Heartbeats and their answers
    Heartbeat,
    /// Calls between servers: enrolment, packages, reports, verbs
    Control,
    /// The stream of the mirror
    Mirror,
}

/// One message.
#[derive(Debug, Clone, Default)]
pub(super) struct Input {
    /// Which message of the target.
    pub(super) kind: &'static str,
    /// What mutations work on.
    pub(super) body: Vec<u8>,
    /// What is sent.
    pub(super) bytes: Vec<u8>,
}

impl Input {
    pub(super) fn new(target: Target, kind: &str, body: Vec<u8>) -> Input {
        let kind = target.kinds().iter().find(|known| **known == kind);
        let kind = kind.copied().unwrap_or_default();
        Input {
            bytes: target.wrap(kind, &body),
            kind,
            body,
        }
    }
}

/// Names of the kinds of consensus, as the files of the corpus are called.
const RAFT: [(&str, Kind); 6] = [
    ("append", Kind::AppendEntries),
    ("vote", Kind::Vote),
    ("snapshot", Kind::Snapshot),
    ("transfer", Kind::TransferLeader),
    ("propose", Kind::Propose),
    ("read", Kind::ReadIndex),
];
const HEARTBEAT: [(&str, Kind); 2] = [("beat", Kind::Heartbeat), ("answer", Kind::HeartbeatAnswer)];
/// Epoch of the frames in the corpus.
pub(super) const CORPUS_EPOCH: Epoch = Epoch(9);
/// The member that speaks and the one that is spoken to.
const FROM: u64 = 3;
const TO: u64 = 1;

impl Target {
    /// All of them.
    pub const ALL: [Target; 4] = [
        Target::Raft,
        Target::Heartbeat,
        Target::Control,
        Target::Mirror,
    ];

    /// Its name on the command line and in the corpus.
    pub fn name(self) -> &'static str {
        match self {
            Target::Raft => "raft",
            Target::Heartbeat => "heartbeat",
            Target::Control => "control",
            Target::Mirror => "mirror",
        }
    }

    /// The messages it understands.
    pub(super) fn kinds(self) -> &'static [&'static str] {
        match self {
            Target::Raft => &["append", "vote", "snapshot", "transfer", "propose", "read"],
            Target::Heartbeat => &["beat", "answer"],
            Target::Control => &["enrol", "fetch", "report", "verb", "check", "relay"],
            Target::Mirror => &["frames"],
        }
    }

    fn of_consensus(self, kind: &str) -> Option<Kind> {
        let named = |table: &[(&str, Kind)]| {
            let found = table.iter().find(|(name, _)| *name == kind);
            found.map(|(_, kind)| *kind)
        };
        match self {
            Target::Raft => named(&RAFT),
            Target::Heartbeat => named(&HEARTBEAT),
            Target::Control | Target::Mirror => None,
        }
    }

    /// Puts a body into what surrounds it on the wire.
    pub(super) fn wrap(self, kind: &str, body: &[u8]) -> Vec<u8> {
        match self.of_consensus(kind) {
            Some(kind) => untrusted::wrap(kind, FROM, TO, body.to_vec()),
            None if self == Target::Mirror => with_right_lengths(body),
            None => body.to_vec(),
        }
    }

    /// Gives the bytes to the decoder; true when it understood them.
    pub(super) fn decode(self, input: &Input) -> bool {
        if let Some(kind) = self.of_consensus(input.kind) {
            return untrusted::decode(kind, &input.bytes).is_ok();
        }
        let bytes = input.bytes.as_slice();
        match input.kind {
            "enrol" => api::peer::v1::EnrolRequest::decode(bytes).is_ok(),
            "fetch" => api::peer::v1::FetchPackageRequest::decode(bytes).is_ok(),
            "report" => api::peer::v1::ReportRequest::decode(bytes).is_ok(),
            "verb" => api::peer::v1::ControlRequest::decode(bytes).is_ok(),
            "check" => api::peer::v1::CheckModuleRequest::decode(bytes).is_ok(),
            "relay" => api::peer::v1::RelayRequest::decode(bytes).is_ok(),
            _ => frames(bytes),
        }
    }

    /// Real messages of every kind.
    pub(super) fn samples(self) -> Vec<Input> {
        match self {
            Target::Raft | Target::Heartbeat => untrusted::samples()
                .into_iter()
                .filter_map(|(kind, body)| {
                    let tables = RAFT.iter().chain(&HEARTBEAT);
                    let name = tables.into_iter().find(|(_, known)| *known == kind)?.0;
                    let is_ours = self.kinds().contains(&name);
                    is_ours.then(|| Input::new(self, name, body))
                })
                .collect(),
            Target::Control => control()
                .into_iter()
                .map(|(kind, body)| Input::new(self, kind, body))
                .collect(),
            Target::Mirror => mirror()
                .into_iter()
                .map(|body| Input::new(self, "frames", body))
                .collect(),
        }
    }
}

fn control() -> Vec<(&'static str, Vec<u8>)> {
    let enrol = api::peer::v1::EnrolRequest {
        token: "sk1-abcdefgh".to_owned(),
        server: "s2".to_owned(),
        addresses: vec!["10.0.1.2:9453".to_owned(), "10.0.2.2:9453".to_owned()],
        certificate_request_pem: "-----BEGIN CERTIFICATE REQUEST-----\nMIH0\n".to_owned(),
        witness: false,
        replaces: "s2".to_owned(),
        accept_loss: false,
        author: "root".to_owned(),
        dry_run: false,
    };
    let fetch = api::peer::v1::FetchPackageRequest {
        hash: vec![7; 32].into(),
    };
    let report = api::peer::v1::ReportRequest {
        module: "app".to_owned(),
    };
    let verb = api::peer::v1::ControlRequest {
        module: "app".to_owned(),
        author: "root".to_owned(),
        wait_s: 10,
        dry_run: true,
        ..api::peer::v1::ControlRequest::default()
    };
    let check = api::peer::v1::CheckModuleRequest {
        directories: vec!["/srv/data".to_owned()],
        addresses: vec![api::peer::v1::CheckedAddress {
            ip: "10.0.1.9".to_owned(),
            interface: "lan1".to_owned(),
        }],
    };
    let relay = api::peer::v1::RelayRequest {
        to: 2,
        call: Some(api::peer::v1::relay_request::Call::Report(report.clone())),
    };
    vec![
        ("enrol", enrol.encode_to_vec()),
        ("fetch", fetch.encode_to_vec()),
        ("report", report.encode_to_vec()),
        ("verb", verb.encode_to_vec()),
        ("check", check.encode_to_vec()),
        ("relay", relay.encode_to_vec()),
    ]
}

/// Frames one after the other, as a link receives them.
fn frames(mut bytes: &[u8]) -> bool {
    let mut understood = false;
    while let Ok(Some(length)) = wire::whole_frame_length(bytes) {
        let (frame, rest) = bytes.split_at(length);
        let Ok(decoded) = wire::decode(frame) else {
            return false;
        };
        if let Message::Ack(acks) = decoded.message {
            assert!(acks.iter().count() <= wire::ACK_SEQS_MAX);
        }
        let mut again = Vec::new();
        wire::encode(&mut again, decoded.epoch, decoded.seq, &decoded.message);
        assert_eq!(again.len(), length, "what was decoded is encoded otherwise");
        understood = true;
        bytes = rest;
    }
    understood
}

/// The length field of a frame that would be refused for it covers everything: what was mutated is looked at.
fn with_right_lengths(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    if let Ok(Some(_)) = wire::whole_frame_length(&bytes) {
        return bytes;
    }
    let counted = bytes.len().saturating_sub(4);
    if let (Some(field), Ok(length)) = (bytes.first_chunk_mut::<4>(), u32::try_from(counted)) {
        *field = length.to_le_bytes();
    }
    bytes
}

/// One frame of each message, and a session's beginning as it arrives: several frames in one piece.
fn mirror() -> Vec<Vec<u8>> {
    let hello = Hello {
        module: "app".to_owned(),
        from: FROM,
        to: TO,
        epoch: CORPUS_EPOCH,
        session: 7,
        start: Start::Resume { received: 5 },
    };
    let block = Block {
        file: FileId(12),
        offset: 1 << 20,
        length: 1 << 17,
    };
    let reason = RefusalReason::Version { supported: 1 };
    let mut messages = vec![
        Message::Hello(hello),
        Message::HelloReply(HelloReply::Accepted),
        Message::HelloReply(HelloReply::Resumed { received: 9 }),
        Message::HelloReply(HelloReply::Refused { reason }),
        Message::Received { bytes: 9 },
        Message::Ping,
        Message::Pong,
        Message::Ack(Acks::new(&[1, 2, 3])),
        Message::NeedBlock(block),
        Message::Refused { seq: 4, errno: 28 },
        Message::EpochChange,
    ];
    messages.extend(changes().into_iter().map(Message::Change));
    let mut all = Vec::new();
    let mut together = Vec::new();
    for (seq, message) in (0..).zip(&messages) {
        let mut frame = Vec::new();
        wire::encode(&mut frame, CORPUS_EPOCH, seq, message);
        together.extend_from_slice(&frame);
        all.push(frame);
    }
    all.push(together);
    all
}

fn changes() -> Vec<Change<'static>> {
    let (parent, file, name) = (FileId::ROOT, FileId(12), b"ledger.sqlite-wal".as_slice());
    let time = Time {
        seconds: 1_795_679_622,
        nanoseconds: 405_000_000,
    };
    let attributes = Attributes {
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        size: 4096,
        mtime: time,
    };
    let change = AttributeChange {
        mode: Some(0o600),
        size: Some(100),
        mtime: Some(time),
        ..AttributeChange::default()
    };
    vec![
        Change::Create {
            parent,
            name,
            file,
            kind: FileKind::File,
            attributes,
        },
        Change::Create {
            parent,
            name: b"link",
            file: FileId(13),
            kind: FileKind::Symlink(b"../elsewhere"),
            attributes,
        },
        Change::Link {
            file,
            parent,
            name: b"second name",
        },
        Change::Unlink { parent, name },
        Change::Rmdir { parent, name },
        Change::Rename {
            parent,
            name,
            new_parent: FileId(14),
            new_name: b"new",
            flags: 1,
        },
        Change::Write {
            file,
            offset: 8192,
            data: b"some bytes of a file",
        },
        Change::SetAttributes { file, change },
        Change::SetXattr {
            file,
            name: b"user.colour",
            value: b"blue",
        },
        Change::RemoveXattr {
            file,
            name: b"user.colour",
        },
        Change::Allocate {
            file,
            mode: 1,
            offset: 0,
            length: 1 << 20,
        },
        Change::Sync {
            file,
            data_only: true,
        },
        Change::Forget { file },
        Change::Bind { parent, name, file },
        Change::DirectoryBegin {
            directory: parent,
            attributes,
        },
        Change::Entry {
            parent,
            name,
            file,
            kind: FileKind::CharDevice { rdev: 0x0103 },
            attributes,
            xattrs: b"user.colour\0",
        },
        Change::DirectoryEnd {
            directory: parent,
            attributes,
        },
        Change::BlockDigest {
            file,
            offset: 0,
            length: 1 << 17,
            digest: 0x0123_4567_89ab_cdef,
        },
        Change::Barrier,
    ]
}

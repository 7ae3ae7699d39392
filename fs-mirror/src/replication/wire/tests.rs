use proptest::prelude::*;

use super::*;
use crate::replication::change::{AttributeChange, Attributes, Kind, Time};

fn round_trip(message: Message<'_>, epoch: u64, seq: u64) {
    let mut out = vec![0xAA; 3];
    encode(&mut out, Epoch(epoch), seq, &message);
    let bytes = &out[3..];
    assert_eq!(whole_frame_length(bytes).unwrap(), Some(bytes.len()));
    assert_eq!(
        decode(bytes).unwrap(),
        Frame {
            epoch: Epoch(epoch),
            seq,
            message
        }
    );
    assert_eq!(whole_frame_length(&bytes[..bytes.len() - 1]).unwrap(), None);
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = ((COUNTED_HEADER_BYTES + payload.len()) as u32)
        .to_le_bytes()
        .to_vec();
    out.push(kind);
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(payload);
    out
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Time {
        seconds,
        nanoseconds,
    })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    (
        0..=0o7777u32,
        any::<u32>(),
        any::<u32>(),
        0..=i64::MAX as u64,
        time(),
    )
        .prop_map(|(mode, uid, gid, size, mtime)| Attributes {
            mode,
            uid,
            gid,
            size,
            mtime,
        })
}

fn attribute_change() -> impl Strategy<Value = AttributeChange> {
    use proptest::option::of;
    (
        of(0..=0o7777u32),
        of(any::<u32>()),
        of(any::<u32>()),
        of(0..=i64::MAX as u64),
        of(time()),
        of(time()),
    )
        .prop_map(|(mode, uid, gid, size, atime, mtime)| AttributeChange {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(
        any::<u8>().prop_filter("legal", |byte| !matches!(byte, 0 | b'/')),
        1..=255,
    )
    .prop_filter("not a dot name", |name| name != b"." && name != b"..")
}

fn kinds(symlink: &[u8]) -> [Kind<'_>; 7] {
    [
        Kind::File,
        Kind::Directory,
        Kind::Symlink(symlink),
        Kind::Fifo,
        Kind::Socket,
        Kind::CharDevice { rdev: 259 },
        Kind::BlockDevice { rdev: u64::MAX },
    ]
}

proptest! {
    #[test]
    fn every_change_round_trips(
        (file, parent) in (1..=u64::MAX, 1..=u64::MAX),
        (name, other) in (name(), name()),
        data in proptest::collection::vec(any::<u8>(), 0..3000),
        attributes in attributes(),
        change in attribute_change(),
        offset in 0..=i64::MAX as u64 - 4000,
        digest in any::<u128>(),
        (epoch, seq) in any::<(u64, u64)>(),
    ) {
        let (file, parent) = (FileId(file), FileId(parent));
        let (name, new_name, data) = (name.as_slice(), other.as_slice(), data.as_slice());
        let mut changes = vec![
            Change::Link { file, parent, name },
            Change::Unlink { parent, name },
            Change::Rmdir { parent, name },
            Change::Rename { parent, name, new_parent: file, new_name, flags: 2 },
            Change::Write { file, offset, data },
            Change::SetAttributes { file, change },
            Change::SetXattr { file, name, value: data },
            Change::RemoveXattr { file, name },
            Change::Allocate { file, mode: 3, offset, length: 1 },
            Change::Sync { file, data_only: offset % 2 == 0 },
            Change::Forget { file },
            Change::Bind { parent, name, file },
            Change::DirectoryBegin { directory: file, attributes },
            Change::DirectoryEnd { directory: file, attributes },
            Change::BlockDigest { file, offset, length: 4096, digest },
            Change::Barrier,
        ];
        for kind in kinds(name) {
            changes.push(Change::Create { parent, name, file, kind, attributes });
            changes.push(Change::Entry { parent, name, file, kind, attributes, xattrs: b"user.a\0trusted.b\0" });
        }
        for change in changes {
            round_trip(Message::Change(change), epoch, seq);
        }
    }

    #[test]
    fn every_control_message_round_trips(seqs in proptest::collection::vec(any::<u64>(), 0..40), value in any::<u64>(), errno in any::<i32>()) {
        let reasons = [
            RefusalReason::StaleEpoch { persisted: Epoch(value) },
            RefusalReason::Version { supported: 7 },
            RefusalReason::UnknownModule,
            RefusalReason::WrongServer { server: value },
            RefusalReason::NotSecondary,
            RefusalReason::Busy { session: value },
            RefusalReason::NotDurable,
        ];
        for reason in reasons {
            round_trip(Message::HelloReply(HelloReply::Refused { reason }), 1, 0);
        }
        round_trip(Message::HelloReply(HelloReply::Accepted), 1, 0);
        for message in [Message::Ping, Message::Pong, Message::EpochChange, Message::Refused { seq: value, errno }] {
            round_trip(message, value, 4);
        }
        round_trip(Message::NeedBlock(Block { file: FileId(value), offset: 5, length: 1 }), 1, 0);
        let mut out = Vec::new();
        encode(&mut out, Epoch(3), 0, &Message::Ack(Acks::new(&seqs)));
        let Message::Ack(acks) = decode(&out).unwrap().message else { panic!("not an acknowledgement") };
        prop_assert_eq!(acks.iter().collect::<Vec<_>>(), seqs);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..40) {
        if let Ok(Some(length)) = whole_frame_length(&bytes) {
            let _ = decode(&bytes[..length]);
        }
        let _ = decode(&bytes);
        let _ = decode(&frame(kind, &bytes));
    }

    #[test]
    fn damaged_frames_never_panic(name in name(), position in 0usize..200, value in any::<u8>(), cut in 0usize..200) {
        let mut out = Vec::new();
        let attributes = Attributes { mode: 1, uid: 2, gid: 3, size: 4, mtime: Time { seconds: 5, nanoseconds: 6 } };
        let change = Change::Entry { parent: FileId(1), name: &name, file: FileId(2), kind: Kind::Symlink(b"x"), attributes, xattrs: b"a\0" };
        encode(&mut out, Epoch(1), 1, &Message::Change(change));
        let position = position % out.len();
        out[position] = value;
        let _ = frame_length(&out);
        let _ = decode(&out);
        out.truncate(cut);
        let _ = decode(&out);
    }
}

#[test]
fn hello_round_trips() {
    for start in [
        Start::Compare,
        Start::Identical,
        Start::Resume { received: 0 },
        Start::Resume { received: u64::MAX },
    ] {
        let hello = Hello {
            module: "pg".into(),
            from: 1,
            to: 2,
            epoch: Epoch(9),
            session: 4,
            start,
        };
        round_trip(Message::Hello(hello), 9, 0);
    }
    let reply = HelloReply::Resumed { received: 1 << 40 };
    round_trip(Message::HelloReply(reply), 9, 0);
    round_trip(Message::Received { bytes: 1 << 40 }, 9, 0);
}

#[test]
fn length_is_checked_before_the_frame_is_there() {
    for length in [
        0,
        16,
        (COUNTED_HEADER_BYTES + PAYLOAD_BYTES_MAX) as u32 + 1,
        u32::MAX,
    ] {
        assert_eq!(
            frame_length(&length.to_le_bytes()),
            Err(WireError::Length { length })
        );
    }
    assert_eq!(frame_length(&[1, 2, 3]), Ok(None));
    assert_eq!(frame_length(&17u32.to_le_bytes()), Ok(Some(HEADER_BYTES)));
}

#[test]
fn hostile_names_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
        let mut payload = 1u64.to_le_bytes().to_vec();
        payload.push(name.len() as u8);
        payload.extend_from_slice(name);
        assert_eq!(
            decode(&frame(tag::UNLINK, &payload)),
            Err(WireError::Name),
            "{name:?}"
        );
    }
    let mut payload = 1u64.to_le_bytes().to_vec();
    payload.extend_from_slice(b"\x03...");
    assert!(decode(&frame(tag::UNLINK, &payload)).is_ok());
}

#[test]
fn nonsense_has_its_own_error() {
    let cases: [(Vec<u8>, WireError); 9] = [
        (frame(0, b""), WireError::UnknownType(0)),
        (frame(15, b""), WireError::UnknownType(15)),
        (frame(200, b""), WireError::UnknownType(200)),
        (
            frame(tag::PING, b"x"),
            WireError::TrailingBytes {
                kind: tag::PING,
                bytes: 1,
            },
        ),
        (
            frame(tag::FORGET, b"short"),
            WireError::Truncated(tag::FORGET),
        ),
        (
            frame(tag::FORGET, &[0; 8]),
            WireError::OutOfRange {
                field: "file",
                value: 0,
            },
        ),
        (frame(tag::HELLO, b"GET / HTTP/1.1"), WireError::Magic),
        (frame(tag::ACK, &[0; 9]), WireError::Truncated(tag::ACK)),
        (
            frame(tag::ACK, &vec![0; 8 * (ACK_SEQS_MAX + 1)]),
            WireError::OutOfRange {
                field: "acknowledged numbers",
                value: ACK_SEQS_MAX as u64 + 1,
            },
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(&bytes), Err(error));
    }
}

#[test]
fn frames_of_an_older_epoch_are_refused() {
    let frame = Frame {
        epoch: Epoch(4),
        seq: 1,
        message: Message::Ping,
    };
    assert!(frame.check_epoch(Epoch(4)).is_ok());
    assert!(frame.check_epoch(Epoch(3)).is_ok());
    assert_eq!(
        frame.check_epoch(Epoch(5)),
        Err(WireError::StaleEpoch {
            given: Epoch(4),
            current: Epoch(5)
        })
    );
}

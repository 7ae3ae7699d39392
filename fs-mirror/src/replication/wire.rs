//! How everything between two copies looks on the wire.
//!
//! A frame is `length: u32, type: u8, epoch: u64, seq: u64, payload`, little endian; `length` counts what follows it.
//! Decoding borrows from the receive buffer and allocates nothing; every limit is checked before anything is believed.
//! A peer that breaks a rule gets a [`WireError`], and the link is dropped.

mod change_codec;
mod cursor;
mod greeting;
#[cfg(test)]
mod tests;

pub use greeting::{Hello, HelloReply, RefusalReason, Start};

use self::cursor::Cursor;
use super::change::{Change, FileId};
use crate::Epoch;

/// Version of the frame format that this build speaks.
pub const WIRE_VERSION: u16 = 2;
/// Bytes of file content in one frame.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Bytes of one frame's payload: the data and whatever describes it.
pub const PAYLOAD_BYTES_MAX: usize = DATA_BYTES_MAX + (64 << 10);
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 21;
/// Bytes of one whole frame.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// Bytes of one name in a directory.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes that a symbolic link holds.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Bytes of the value of one extended attribute.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of all names of the extended attributes of one object.
pub const XATTR_LIST_BYTES_MAX: usize = 64 << 10;
/// Sequence numbers in one acknowledgement frame.
pub const ACK_SEQS_MAX: usize = 8192;

/// Bytes of the header that `length` counts.
const COUNTED_HEADER_BYTES: usize = HEADER_BYTES - 4;

/// The peer sent something that this version does not allow. The link is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// The length field is out of bounds.
    #[error("frame of {length} bytes: allowed are {COUNTED_HEADER_BYTES} to {}", COUNTED_HEADER_BYTES + PAYLOAD_BYTES_MAX)]
    Length {
        /// What the frame claimed.
        length: u32,
    },
    /// No message has this type.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// The payload is shorter than its type needs.
    #[error("frame of type {0} is cut short")]
    Truncated(u8),
    /// The payload is longer than its type allows.
    #[error("frame of type {kind} has {bytes} bytes too many")]
    TrailingBytes {
        /// Type of the frame.
        kind: u8,
        /// Bytes left over.
        bytes: usize,
    },
    /// A file name that no directory can hold, or that would lead out of it.
    #[error(
        "not a file name (empty, longer than {NAME_BYTES_MAX} bytes, `.`, `..`, or with `/` or NUL)"
    )]
    Name,
    /// The name of an extended attribute is empty, too long or contains NUL.
    #[error("not the name of an extended attribute")]
    XattrName,
    /// A field has a value outside its range.
    #[error("{field} out of range: {value}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// The first frame of a link does not begin with our magic number.
    #[error("peer does not speak the mirror protocol")]
    Magic,
    /// Bytes that must be text are not UTF-8.
    #[error("{field} is not UTF-8")]
    Text {
        /// Which field.
        field: &'static str,
    },
    /// A frame of an older tenure: its sender is not primary any more.
    #[error("frame of epoch {given}, ours is {current}")]
    StaleEpoch {
        /// Epoch in the frame.
        given: Epoch,
        /// Epoch that this copy has persisted.
        current: Epoch,
    },
    /// A frame that is legal, but not here (a greeting in the middle of a session, an acknowledgement to a secondary).
    #[error("frame of type {0} is not allowed here")]
    Unexpected(u8),
}

/// Type bytes. A number is never given a second meaning.
pub(super) mod tag {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const HELLO_ACCEPTED: u8 = 2;
    pub(crate) const HELLO_REFUSED: u8 = 3;
    pub(crate) const PING: u8 = 4;
    pub(crate) const PONG: u8 = 5;
    pub(crate) const ACK: u8 = 6;
    pub(crate) const NEED_BLOCK: u8 = 7;
    pub(crate) const REFUSED: u8 = 8;
    pub(crate) const EPOCH_CHANGE: u8 = 9;
    pub(crate) const HELLO_RESUMED: u8 = 10;
    pub(crate) const RECEIVED: u8 = 11;
    pub(crate) const CREATE: u8 = 16;
    pub(crate) const LINK: u8 = 17;
    pub(crate) const UNLINK: u8 = 18;
    pub(crate) const RMDIR: u8 = 19;
    pub(crate) const RENAME: u8 = 20;
    pub(crate) const WRITE: u8 = 21;
    pub(crate) const SET_ATTRIBUTES: u8 = 22;
    pub(crate) const SET_XATTR: u8 = 23;
    pub(crate) const REMOVE_XATTR: u8 = 24;
    pub(crate) const ALLOCATE: u8 = 25;
    pub(crate) const SYNC: u8 = 26;
    pub(crate) const FORGET: u8 = 27;
    pub(crate) const BIND: u8 = 28;
    pub(crate) const DIRECTORY_BEGIN: u8 = 29;
    pub(crate) const ENTRY: u8 = 30;
    pub(crate) const DIRECTORY_END: u8 = 31;
    pub(crate) const BLOCK_DIGEST: u8 = 32;
    pub(crate) const BARRIER: u8 = 33;
}

/// Part of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Block {
    /// The file.
    pub file: FileId,
    /// Bytes.
    pub offset: u64,
    /// Bytes; 1 to `DATA_BYTES_MAX`.
    pub length: u32,
}

/// Sequence numbers that are acknowledged together, in no particular order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acks<'a>(AckBytes<'a>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AckBytes<'a> {
    Native(&'a [u64]),
    Wire(&'a [u8]),
}

impl<'a> Acks<'a> {
    /// To be sent: at most [`ACK_SEQS_MAX`].
    pub fn new(seqs: &'a [u64]) -> Acks<'a> {
        Acks(AckBytes::Native(seqs))
    }

    /// The numbers.
    pub fn iter(&self) -> impl Iterator<Item = u64> + 'a {
        let (native, wire): (&'a [u64], &'a [u8]) = match self.0 {
            AckBytes::Native(seqs) => (seqs, &[]),
            AckBytes::Wire(bytes) => (&[], bytes),
        };
        let decoded = wire
            .as_chunks::<8>()
            .0
            .iter()
            .map(|chunk| u64::from_le_bytes(*chunk));
        native.iter().copied().chain(decoded)
    }
}

/// What one frame says.
#[derive(Clone, PartialEq, Debug)]
pub enum Message<'a> {
    /// Primary to secondary, first frame of a link.
    Hello(Hello),
    /// The answer to it.
    HelloReply(HelloReply),
    /// Keeps an idle link from looking dead.
    Ping,
    /// The answer to `Ping`; a busy secondary also sends it unasked.
    Pong,
    /// Secondary to primary: these changes are applied, or received where the record allows that. A `Sync`, a `Barrier` and what belongs to a
    /// comparison are always applied.
    Ack(Acks<'a>),
    /// Secondary to primary: the block differs, ship what it holds now.
    NeedBlock(Block),
    /// Secondary to primary: change `seq` could not be applied; the session is over and this copy leaves the in-sync set.
    Refused {
        /// The change.
        seq: u64,
        /// Why, as in `errno(3)`.
        errno: i32,
    },
    /// Either way: so many bytes of the session have arrived and need not be kept.
    Received {
        /// Bytes since the session began.
        bytes: u64,
    },
    /// Primary to secondary: the epoch of this frame is in force; acknowledged once it is persisted.
    EpochChange,
    /// Primary to secondary: apply this.
    Change(Change<'a>),
}

/// One frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame<'a> {
    /// Tenure of the sender.
    pub epoch: Epoch,
    /// Position in the session's order, from 1; 0 for frames that are not acknowledged.
    pub seq: u64,
    /// What it says.
    pub message: Message<'a>,
}

impl Frame<'_> {
    /// Refuses frames of an older tenure (R3).
    ///
    /// # Errors
    /// `StaleEpoch`.
    pub fn check_epoch(&self, current: Epoch) -> Result<(), WireError> {
        if self.epoch < current {
            return Err(WireError::StaleEpoch {
                given: self.epoch,
                current,
            });
        }
        Ok(())
    }
}

/// Appends one frame to `out`.
///
/// # Panics
/// When a message of ours is longer than a frame may be.
pub fn encode(out: &mut Vec<u8>, epoch: Epoch, seq: u64, message: &Message<'_>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(type_of(message));
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    encode_payload(out, message);
    let length = out.len() - start - 4;
    assert!(
        length <= COUNTED_HEADER_BYTES + PAYLOAD_BYTES_MAX,
        "frame of {length} bytes"
    );
    out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
}

/// Length of the frame at the beginning of `bytes`, once its length field is there.
///
/// # Errors
/// `Length`, before anything was allocated for it.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(field) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*field);
    let counted = length as usize;
    if !(COUNTED_HEADER_BYTES..=COUNTED_HEADER_BYTES + PAYLOAD_BYTES_MAX).contains(&counted) {
        return Err(WireError::Length { length });
    }
    Ok(Some(counted + 4))
}

/// Length of the frame at the beginning of `bytes`, when all of it is there.
///
/// # Errors
/// `Length`.
pub fn whole_frame_length(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    Ok(frame_length(bytes)?.filter(|length| *length <= bytes.len()))
}

/// Decodes one whole frame.
///
/// # Errors
/// Any `WireError` but `StaleEpoch`, which `Frame::check_epoch` finds.
pub fn decode(frame: &[u8]) -> Result<Frame<'_>, WireError> {
    let mut cursor = Cursor::of_frame(frame)?;
    let epoch = Epoch(cursor.u64()?);
    let seq = cursor.u64()?;
    let message = decode_payload(&mut cursor)?;
    cursor.end()?;
    Ok(Frame {
        epoch,
        seq,
        message,
    })
}

fn type_of(message: &Message<'_>) -> u8 {
    match message {
        Message::Hello(_) => tag::HELLO,
        Message::HelloReply(HelloReply::Accepted) => tag::HELLO_ACCEPTED,
        Message::HelloReply(HelloReply::Resumed { .. }) => tag::HELLO_RESUMED,
        Message::HelloReply(HelloReply::Refused { .. }) => tag::HELLO_REFUSED,
        Message::Received { .. } => tag::RECEIVED,
        Message::Ping => tag::PING,
        Message::Pong => tag::PONG,
        Message::Ack(_) => tag::ACK,
        Message::NeedBlock(_) => tag::NEED_BLOCK,
        Message::Refused { .. } => tag::REFUSED,
        Message::EpochChange => tag::EPOCH_CHANGE,
        Message::Change(change) => change_codec::type_of(change),
    }
}

impl Message<'_> {
    /// The error of a peer that sends this message where it is not allowed.
    pub fn unexpected(&self) -> WireError {
        WireError::Unexpected(type_of(self))
    }
}

fn encode_payload(out: &mut Vec<u8>, message: &Message<'_>) {
    match message {
        Message::Ping
        | Message::Pong
        | Message::EpochChange
        | Message::HelloReply(HelloReply::Accepted) => {}
        Message::Hello(hello) => hello.encode(out),
        Message::HelloReply(HelloReply::Resumed { received: bytes })
        | Message::Received { bytes } => out.extend_from_slice(&bytes.to_le_bytes()),
        Message::HelloReply(HelloReply::Refused { reason }) => reason.encode(out),
        Message::Ack(acks) => {
            for seq in acks.iter() {
                out.extend_from_slice(&seq.to_le_bytes());
            }
        }
        Message::NeedBlock(block) => {
            out.extend_from_slice(&block.file.0.to_le_bytes());
            out.extend_from_slice(&block.offset.to_le_bytes());
            out.extend_from_slice(&block.length.to_le_bytes());
        }
        Message::Refused { seq, errno } => {
            out.extend_from_slice(&seq.to_le_bytes());
            out.extend_from_slice(&errno.to_le_bytes());
        }
        Message::Change(change) => change_codec::encode(out, change),
    }
}

fn decode_payload<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, WireError> {
    Ok(match cursor.kind() {
        tag::HELLO => Message::Hello(Hello::decode(cursor)?),
        tag::HELLO_ACCEPTED => Message::HelloReply(HelloReply::Accepted),
        tag::HELLO_RESUMED => Message::HelloReply(HelloReply::Resumed {
            received: cursor.u64()?,
        }),
        tag::RECEIVED => Message::Received {
            bytes: cursor.u64()?,
        },
        tag::HELLO_REFUSED => Message::HelloReply(HelloReply::Refused {
            reason: RefusalReason::decode(cursor)?,
        }),
        tag::PING => Message::Ping,
        tag::PONG => Message::Pong,
        tag::ACK => Message::Ack(decode_acks(cursor)?),
        tag::NEED_BLOCK => Message::NeedBlock(decode_block(cursor)?),
        tag::REFUSED => Message::Refused {
            seq: cursor.u64()?,
            errno: cursor.i32()?,
        },
        tag::EPOCH_CHANGE => Message::EpochChange,
        tag::CREATE..=tag::BARRIER => Message::Change(change_codec::decode(cursor)?),
        unknown => return Err(WireError::UnknownType(unknown)),
    })
}

fn decode_acks<'a>(cursor: &mut Cursor<'a>) -> Result<Acks<'a>, WireError> {
    let bytes = cursor.rest();
    if !bytes.len().is_multiple_of(8) {
        return Err(WireError::Truncated(tag::ACK));
    }
    if bytes.len() / 8 > ACK_SEQS_MAX {
        return Err(WireError::OutOfRange {
            field: "acknowledged numbers",
            value: (bytes.len() / 8) as u64,
        });
    }
    Ok(Acks(AckBytes::Wire(bytes)))
}

fn decode_block(cursor: &mut Cursor<'_>) -> Result<Block, WireError> {
    Ok(Block {
        file: FileId(cursor.u64()?),
        offset: cursor.offset()?,
        length: cursor.block_length()?,
    })
}

//! The first frame in each direction: who wants a session with whom, and the answer.

use super::cursor::Cursor;
use super::{WIRE_VERSION, WireError};
use crate::Epoch;

const MAGIC: u32 = u32::from_le_bytes(*b"SKMR");

/// What the primary asks of the copy it dialled. Its epoch travels in the header of the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The module whose directory is mirrored.
    pub module: String,
    /// Server id of the primary.
    pub from: u64,
    /// Server id of the secondary it means to reach.
    pub to: u64,
    /// Tenure of the primary.
    pub epoch: Epoch,
    /// Number of the session, greater than all before of this primary, unless it is resumed; not 0.
    pub session: u64,
    /// From where.
    pub start: Start,
}

/// From where a session starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// The copies may differ: everything is listed and compared.
    Compare,
    /// Both copies are identical (first session after a switchover): nothing is listed or hashed.
    Identical,
    /// The session runs: this link takes the place of the one before, which has gone silent.
    Resume {
        /// Bytes that have arrived at the primary since the session began.
        received: u64,
    },
}

/// The answer of the copy that was dialled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HelloReply {
    /// The session runs; the epoch is persisted.
    Accepted,
    /// The session goes on over this link.
    Resumed {
        /// Bytes that have arrived at the secondary since the session began.
        received: u64,
    },
    /// It does not.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

/// Why a copy does not follow the primary that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RefusalReason {
    /// It has followed a later primary.
    #[error("it has already seen epoch {persisted}")]
    StaleEpoch {
        /// What it has persisted.
        persisted: Epoch,
    },
    /// It speaks another version of the protocol.
    #[error("it speaks version {supported} of the mirror protocol")]
    Version {
        /// What it speaks.
        supported: u16,
    },
    /// It does not know the module.
    #[error("it does not have this module")]
    UnknownModule,
    /// It is not the server that was meant.
    #[error("it is server {server}, not the one that was meant")]
    WrongServer {
        /// Who it is.
        server: u64,
    },
    /// The module is not running as secondary there (stopped, or it is primary itself).
    #[error("the module does not run as secondary there")]
    NotSecondary,
    /// It follows a newer session.
    #[error("it follows session {session}")]
    Busy {
        /// The session that runs.
        session: u64,
    },
    /// Its own state could not be read or persisted.
    #[error("it cannot persist its epoch")]
    NotDurable,
    /// The session that should be resumed does not run there.
    #[error("it does not follow that session")]
    UnknownSession,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&WIRE_VERSION.to_le_bytes());
        encode_text(out, &self.module);
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.session.to_le_bytes());
        self.start.encode(out);
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Hello, WireError> {
        if cursor.u32()? != MAGIC {
            return Err(WireError::Magic);
        }
        let version = cursor.u16()?;
        if version != WIRE_VERSION {
            return Err(WireError::OutOfRange {
                field: "protocol version",
                value: u64::from(version),
            });
        }
        let hello = Hello {
            module: cursor.text("module name")?.to_owned(),
            from: cursor.u64()?,
            to: cursor.u64()?,
            epoch: Epoch(cursor.u64()?),
            session: cursor.u64()?,
            start: Start::decode(cursor)?,
        };
        match hello.session {
            0 => Err(WireError::OutOfRange {
                field: "session",
                value: 0,
            }),
            _ => Ok(hello),
        }
    }
}

impl Start {
    fn encode(self, out: &mut Vec<u8>) {
        let (code, received) = match self {
            Start::Compare => (0, 0),
            Start::Identical => (1, 0),
            Start::Resume { received } => (2, received),
        };
        out.push(code);
        out.extend_from_slice(&received.to_le_bytes());
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Start, WireError> {
        let code = cursor.u8()?;
        let received = cursor.u64()?;
        match (code, received) {
            (0, 0) => Ok(Start::Compare),
            (1, 0) => Ok(Start::Identical),
            (2, received) => Ok(Start::Resume { received }),
            (0 | 1, value) => Err(WireError::OutOfRange {
                field: "bytes received before the session",
                value,
            }),
            (unknown, _) => Err(WireError::OutOfRange {
                field: "start of the session",
                value: u64::from(unknown),
            }),
        }
    }
}

impl RefusalReason {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let (code, value) = match self {
            RefusalReason::StaleEpoch { persisted } => (1, persisted.0),
            RefusalReason::Version { supported } => (2, u64::from(supported)),
            RefusalReason::UnknownModule => (3, 0),
            RefusalReason::WrongServer { server } => (4, server),
            RefusalReason::NotSecondary => (5, 0),
            RefusalReason::Busy { session } => (6, session),
            RefusalReason::NotDurable => (7, 0),
            RefusalReason::UnknownSession => (8, 0),
        };
        out.push(code);
        out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<RefusalReason, WireError> {
        let code = cursor.u8()?;
        let value = cursor.u64()?;
        Ok(match code {
            1 => RefusalReason::StaleEpoch {
                persisted: Epoch(value),
            },
            2 => RefusalReason::Version {
                supported: u16::try_from(value).unwrap_or(u16::MAX),
            },
            3 => RefusalReason::UnknownModule,
            4 => RefusalReason::WrongServer { server: value },
            5 => RefusalReason::NotSecondary,
            6 => RefusalReason::Busy { session: value },
            7 => RefusalReason::NotDurable,
            8 => RefusalReason::UnknownSession,
            unknown => {
                return Err(WireError::OutOfRange {
                    field: "refusal",
                    value: u64::from(unknown),
                });
            }
        })
    }
}

fn encode_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    assert!(bytes.len() <= 255, "text of {} bytes", bytes.len());
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

//! Reads fields of a frame, never beyond its end.

use super::{DATA_BYTES_MAX, NAME_BYTES_MAX, WireError, XATTR_LIST_BYTES_MAX};
use crate::replication::change::Time;

/// What is left of one frame.
pub(super) struct Cursor<'a> {
    kind: u8,
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts after the type byte of a whole frame.
    pub(super) fn of_frame(frame: &'a [u8]) -> Result<Cursor<'a>, WireError> {
        match frame {
            [_, _, _, _, kind, bytes @ ..] => Ok(Cursor { kind: *kind, bytes }),
            _ => Err(WireError::Length {
                length: frame.len() as u32,
            }),
        }
    }

    /// Type byte of the frame.
    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    /// Everything up to the end.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// The frame must be used up.
    pub(super) fn end(&self) -> Result<(), WireError> {
        match self.bytes.len() {
            0 => Ok(()),
            bytes => Err(WireError::TrailingBytes {
                kind: self.kind,
                bytes,
            }),
        }
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(WireError::Truncated(self.kind))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated(self.kind))?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, WireError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A number of at most `max`.
    pub(super) fn u32_up_to(&mut self, field: &'static str, max: u32) -> Result<u32, WireError> {
        match self.u32()? {
            value if value <= max => Ok(value),
            value => Err(WireError::OutOfRange {
                field,
                value: u64::from(value),
            }),
        }
    }

    /// A position in a file: what `off_t` can hold.
    pub(super) fn offset(&mut self) -> Result<u64, WireError> {
        match self.u64()? {
            value if i64::try_from(value).is_ok() => Ok(value),
            value => Err(WireError::OutOfRange {
                field: "offset",
                value,
            }),
        }
    }

    /// Length of a block of a file.
    pub(super) fn block_length(&mut self) -> Result<u32, WireError> {
        match self.u32_up_to("block length", DATA_BYTES_MAX as u32)? {
            0 => Err(WireError::OutOfRange {
                field: "block length",
                value: 0,
            }),
            length => Ok(length),
        }
    }

    pub(super) fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::OutOfRange {
                field: "truth value",
                value: u64::from(value),
            }),
        }
    }

    pub(super) fn time(&mut self) -> Result<Time, WireError> {
        Ok(Time {
            seconds: self.i64()?,
            nanoseconds: self.u32_up_to("nanoseconds", 999_999_999)?,
        })
    }

    /// Bytes with their length, at most `max`, in front.
    pub(super) fn bytes(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], WireError> {
        let length = self.u32_up_to(field, max as u32)?;
        self.take(length as usize)
    }

    /// One name in a directory; can never lead out of it.
    pub(super) fn name(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u8()?;
        let name = self.take(usize::from(length))?;
        if name.is_empty()
            || name == b"."
            || name == b".."
            || name.iter().any(|byte| matches!(byte, b'/' | 0))
        {
            return Err(WireError::Name);
        }
        Ok(name)
    }

    /// Name of an extended attribute with its namespace.
    pub(super) fn xattr_name(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u8()?;
        let name = self.take(usize::from(length))?;
        if name.is_empty() || name.contains(&0) {
            return Err(WireError::XattrName);
        }
        Ok(name)
    }

    /// Names of extended attributes, each followed by NUL.
    pub(super) fn xattr_names(&mut self) -> Result<&'a [u8], WireError> {
        let list = self.bytes("list of extended attributes", XATTR_LIST_BYTES_MAX)?;
        let Some(names) = list.strip_suffix(&[0]) else {
            return if list.is_empty() {
                Ok(list)
            } else {
                Err(WireError::XattrName)
            };
        };
        if names
            .split(|byte| *byte == 0)
            .any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX)
        {
            return Err(WireError::XattrName);
        }
        Ok(list)
    }

    /// Text with its length, at most 255 bytes, in front.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| WireError::Text { field })
    }
}

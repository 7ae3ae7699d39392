//! Encoding of what goes to disk and over the wire: one version byte, then postcard; large values cut into records.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Batch, Tree, VALUE_BYTES_MAX};
use thiserror::Error;

/// Version of the encoding. History: 1 = first; 2 = a module may ask for shorter leases.
const VERSION: u8 = 2;

/// Why bytes could not be decoded.
#[derive(Debug, Error)]
pub(crate) enum DecodeError {
    /// There is not even a version byte.
    #[error("empty message")]
    Empty,
    /// Written by a release that this one does not understand.
    #[error("encoding version {found}, known {VERSION}")]
    Version {
        /// Version in the message.
        found: u8,
    },
    /// The content makes no sense.
    #[error("malformed message")]
    Malformed(#[from] postcard::Error),
}

impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// # Errors
/// A value postcard cannot represent: none of our types is one.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(value, vec![VERSION])
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&VERSION, body)) => Ok(postcard::from_bytes(body)?),
        Some((&found, _)) => Err(DecodeError::Version { found }),
    }
}

/// Adds `bytes` to `batch` as records `prefix || number` of `tree`. Records left there by a longer value must be removed first
/// ([`delete_chunks`]).
pub(crate) fn put_chunks(batch: &mut Batch, tree: &Tree, prefix: &[u8], bytes: &[u8]) {
    for (number, chunk) in (0_u32..).zip(bytes.chunks(VALUE_BYTES_MAX)) {
        batch.put(tree, &chunk_key(prefix, number), chunk);
    }
}

/// Removes all chunks of `prefix`.
pub(crate) fn delete_chunks(batch: &mut Batch, tree: &Tree, prefix: &[u8]) -> io::Result<()> {
    for record in
        tree.range(chunk_key(prefix, 0).as_slice()..=chunk_key(prefix, u32::MAX).as_slice())
    {
        batch.delete(tree, &record.map_err(io::Error::other)?.0);
    }
    Ok(())
}

/// Joins the chunks of `prefix`; `None` when there are none.
pub(crate) fn get_chunks(tree: &Tree, prefix: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut joined = None;
    for record in
        tree.range(chunk_key(prefix, 0).as_slice()..=chunk_key(prefix, u32::MAX).as_slice())
    {
        let (_, chunk) = record.map_err(io::Error::other)?;
        joined
            .get_or_insert_with(Vec::new)
            .extend_from_slice(&chunk);
    }
    Ok(joined)
}

pub(crate) fn chunk_key(prefix: &[u8], number: u32) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

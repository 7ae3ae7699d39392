//! Errors of the store, one enum per boundary.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::identity::Identity;

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory or one of its files cannot be created, read or synced.
    #[error("open store {}", directory.display())]
    Io {
        /// Directory of the store.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("store {} is in use by another process: stop the other daemon first", .0.display())]
    InUse(PathBuf),
    /// The content is damaged. It has been set aside; the directory is free for a new store.
    #[error(
        "store {} is damaged and has been set aside as {}: this server must join again under a new id",
        directory.display(), quarantined.display()
    )]
    Damaged {
        /// Directory of the store.
        directory: PathBuf,
        /// Where the damaged files are now.
        quarantined: PathBuf,
    },
    /// The content is damaged and could not be moved away.
    #[error("store {} is damaged and cannot be set aside", directory.display())]
    DamagedInPlace {
        /// Directory of the store.
        directory: PathBuf,
        /// Why it could not be renamed.
        #[source]
        source: io::Error,
    },
    /// The store was written by a newer release.
    #[error(
        "store has format {found}, this release reads up to {known}: install the newer release again"
    )]
    FormatTooNew {
        /// Format on disk.
        found: u32,
        /// Newest format this code reads.
        known: u32,
    },
    /// The freshly opened store cannot be read or written.
    #[error("prepare store")]
    Store(#[from] StoreError),
}

/// Why a read or a commit failed.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The underlying database failed.
    #[error("database operation failed")]
    Database(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A flush or sync failed. From now on every commit fails: what reached the disk is unknown.
    #[error("store failed earlier and acknowledges nothing any more")]
    Failed(#[source] Arc<io::Error>),
    /// The key is longer than [`crate::KEY_BYTES_MAX`].
    #[error("key of {0} bytes is too long")]
    KeyTooLong(usize),
    /// The value is longer than [`crate::VALUE_BYTES_MAX`].
    #[error("value of {0} bytes is too long")]
    ValueTooLong(usize),
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        StoreError::Database(Arc::new(error))
    }
}

/// Why a store does not belong to the server that opened it (rule R12).
#[derive(Debug, Error)]
pub enum BindError {
    /// The store was written by another server or for another cluster.
    #[error(
        "store belongs to {found}, but this server is {expected}: put the right state directory back, \
         or remove this server from the cluster and join again under a new id"
    )]
    Mismatch {
        /// Owner recorded in the store.
        found: Identity,
        /// Owner that opened it.
        expected: Identity,
    },
    /// The server has an identity, but its store is empty: its vote and log are gone.
    #[error(
        "store of {expected} is empty although this server has been a member: a voter that forgot its vote must not \
         vote again; remove it from the cluster and join again under a new id"
    )]
    Emptied {
        /// Owner that opened it.
        expected: Identity,
    },
    /// A store was expected to be new and is not.
    #[error("store is not new: it belongs to {found}")]
    NotNew {
        /// Owner recorded in the store.
        found: Identity,
    },
    /// The identity record cannot be read: its content makes no sense.
    #[error("identity record of {0} bytes is malformed")]
    Malformed(usize),
    /// The store failed.
    #[error("access identity record")]
    Store(#[from] StoreError),
}

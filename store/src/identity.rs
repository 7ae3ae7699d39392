//! Whose store it is: the identity record and the format version (rule R12).

use std::fmt;

use crate::batch::Batch;
use crate::error::{BindError, StoreError};
use crate::store::Store;
use crate::tree::Tree;

/// Version of the layout written by this code. History: 1 = first.
pub const FORMAT_VERSION: u32 = 1;

/// Tree for the store's own records; callers cannot name it.
const OWN_TREE: &str = "";
const FORMAT_KEY: &[u8] = b"format";
const IDENTITY_KEY: &[u8] = b"identity";
const IDENTITY_BYTES: usize = 24;

/// The owner of a store: one server of one cluster. Server ids are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Random id of the cluster.
    pub cluster: [u8; 16],
    /// Id of the server in it.
    pub server: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {} of cluster ", self.server)?;
        self.cluster
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What the caller knows about the past of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The server has just been given its identity: the store must be empty or already bound to it.
    New,
    /// The server has run before under this identity: an empty store means that its vote is lost.
    Existing,
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[..16].copy_from_slice(&self.cluster);
        bytes[16..].copy_from_slice(&self.server.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, BindError> {
        let malformed = || BindError::Malformed(bytes.len());
        let (cluster, server) = bytes.split_at_checked(16).ok_or_else(malformed)?;
        Ok(Identity {
            cluster: cluster.try_into().map_err(|_| malformed())?,
            server: u64::from_be_bytes(server.try_into().map_err(|_| malformed())?),
        })
    }
}

impl Store {
    /// Binds the store to `identity`, durably, or checks that it is bound to it.
    ///
    /// # Errors
    /// [`BindError::Mismatch`], [`BindError::Emptied`], [`BindError::NotNew`] when it is somebody else's or does not have the
    /// past that `origin` says; nothing is changed then.
    pub fn bind(&self, identity: Identity, origin: Origin) -> Result<(), BindError> {
        match (self.identity()?, origin) {
            (Some(found), Origin::New | Origin::Existing) if found == identity => Ok(()),
            (Some(found), Origin::New) => Err(BindError::NotNew { found }),
            (Some(found), Origin::Existing) => Err(BindError::Mismatch {
                found,
                expected: identity,
            }),
            (None, Origin::Existing) => Err(BindError::Emptied { expected: identity }),
            (None, Origin::New) => {
                let mut batch = Batch::new();
                batch.put(&self.own_tree(), IDENTITY_KEY, &identity.encode());
                Ok(self.commit(batch)?)
            }
        }
    }

    /// The owner recorded in the store, if it has been bound.
    ///
    /// # Errors
    /// [`BindError::Malformed`], [`BindError::Store`].
    pub fn identity(&self) -> Result<Option<Identity>, BindError> {
        self.own_tree()
            .get(IDENTITY_KEY)?
            .map(|bytes| Identity::decode(&bytes))
            .transpose()
    }

    /// Format on disk; `None` for a store that has just been created. A malformed record counts as a format of the future.
    pub(crate) fn format(&self) -> Result<Option<u32>, StoreError> {
        let bytes = self.own_tree().get(FORMAT_KEY)?;
        Ok(bytes.map(|bytes| bytes.try_into().map_or(u32::MAX, u32::from_be_bytes)))
    }

    pub(crate) fn write_format(&self) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(&self.own_tree(), FORMAT_KEY, &FORMAT_VERSION.to_be_bytes());
        self.commit(batch)
    }

    fn own_tree(&self) -> Tree {
        self.tree(OWN_TREE)
    }
}

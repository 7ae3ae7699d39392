//! A set of changes that becomes visible and durable as one.

use crate::error::StoreError;
use crate::tree::{KEY_BYTES_MAX, Tree, VALUE_BYTES_MAX};

/// Changes of any number of trees, applied atomically. Of two changes of one key the later wins.
#[derive(Debug, Default)]
pub struct Batch {
    operations: sled::Batch,
    rejected: Option<StoreError>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Sets `key` of `tree` to `value`. A key or value over its limit is reported when the batch is applied.
    pub fn put(&mut self, tree: &Tree, key: &[u8], value: &[u8]) {
        if key.len() > KEY_BYTES_MAX {
            self.rejected
                .get_or_insert(StoreError::KeyTooLong(key.len()));
        } else if value.len() > VALUE_BYTES_MAX {
            self.rejected
                .get_or_insert(StoreError::ValueTooLong(value.len()));
        } else {
            self.operations.insert(tree.full_key(key), value);
        }
    }

    /// Removes `key` of `tree`; no effect when it does not exist.
    pub fn delete(&mut self, tree: &Tree, key: &[u8]) {
        self.operations.remove(tree.full_key(key));
    }

    pub(crate) fn into_operations(self) -> Result<sled::Batch, StoreError> {
        match self.rejected {
            Some(error) => Err(error),
            None => Ok(self.operations),
        }
    }
}

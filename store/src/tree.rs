//! Named trees: key ranges of the one underlying tree, so that a batch over several of them is atomic.

use std::ops::{Bound, RangeBounds};

use crate::error::StoreError;
use crate::store::Store;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Longest value, in bytes. sled puts a page that outgrows a quarter of its 512 KiB segment into a file of its own, and a
/// page holds about sixteen records: small values keep everything in the one file that commits sync.
pub const VALUE_BYTES_MAX: usize = 4096;

/// One record of a tree: key and value.
type Record = (Vec<u8>, Vec<u8>);

/// A named, ordered map inside a store. A cheap handle.
#[derive(Debug, Clone)]
pub struct Tree {
    store: Store,
    prefix: Vec<u8>,
}

impl Tree {
    /// # Panics
    /// When `name` is longer than 255 bytes: names are constants of the caller.
    pub(crate) fn new(store: Store, name: &'static str) -> Self {
        let length = u8::try_from(name.len()).expect("tree names are short constants");
        // The length first: no name's range can then contain another's.
        let prefix = [&[length], name.as_bytes()].concat();
        Tree { store, prefix }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .store
            .database()
            .get(self.full_key(key))?
            .map(|value| value.to_vec()))
    }

    /// The records whose keys lie in `range`, in order, from either end.
    pub fn range<'a, R: RangeBounds<&'a [u8]>>(&self, range: R) -> Records {
        let start = match range.start_bound() {
            Bound::Included(key) => Bound::Included(self.full_key(key)),
            Bound::Excluded(key) => Bound::Excluded(self.full_key(key)),
            Bound::Unbounded => Bound::Included(self.prefix.clone()),
        };
        let end = match range.end_bound() {
            Bound::Included(key) => Bound::Included(self.full_key(key)),
            Bound::Excluded(key) => Bound::Excluded(self.full_key(key)),
            Bound::Unbounded => Bound::Excluded(self.end()),
        };
        Records {
            records: self.store.database().range((start, end)),
            prefix_length: self.prefix.len(),
        }
    }

    /// The record with the greatest key.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn last(&self) -> Result<Option<Record>, StoreError> {
        self.range(..).next_back().transpose()
    }

    /// The record with the smallest key.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn first(&self) -> Result<Option<Record>, StoreError> {
        self.range(..).next().transpose()
    }

    pub(crate) fn full_key(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// The smallest key after all keys of this tree: the prefix with its last byte increased. The name is text, so that byte
    /// is below 0xff; an empty name leaves the length byte 0, which becomes 1.
    fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }
}

/// Iterator over records of a tree.
pub struct Records {
    records: sled::Iter,
    prefix_length: usize,
}

impl Records {
    fn strip(&self, record: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Record, StoreError> {
        let (key, value) = record?;
        Ok((key[self.prefix_length..].to_vec(), value.to_vec()))
    }
}

impl Iterator for Records {
    type Item = Result<Record, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next().map(|record| self.strip(record))
    }
}

impl DoubleEndedIterator for Records {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.records.next_back().map(|record| self.strip(record))
    }
}

//! The store: visible at once, durable when a commit returns.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::batch::Batch;
use crate::durability::Durability;
use crate::error::{OpenError, StoreError};
use crate::identity::FORMAT_VERSION;
use crate::open::open_database;
use crate::tree::Tree;

/// An open store. A cheap handle; the last one dropped closes it. All calls block: from async code call them on a thread
/// that may wait for the disk.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: sled::Db,
    durability: Durability,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `directory`, or creates it. When it returns, its files and directories are durable.
    ///
    /// # Errors
    /// [`OpenError`]; a damaged store has been set aside by then.
    pub fn open(directory: &Path) -> Result<Store, OpenError> {
        let database = open_database(directory)?;
        let io_error = |source| OpenError::Io {
            directory: directory.to_owned(),
            source,
        };
        let durability = Durability::establish(directory).map_err(io_error)?;
        let store = Store {
            inner: Arc::new(Inner {
                database,
                durability,
            }),
        };
        match store.format()? {
            None => store.write_format()?,
            Some(found) if found > FORMAT_VERSION => {
                return Err(OpenError::FormatTooNew {
                    found,
                    known: FORMAT_VERSION,
                });
            }
            Some(_) => {}
        }
        Ok(store)
    }

    /// The tree of that name; it exists as soon as it is named.
    pub fn tree(&self, name: &'static str) -> Tree {
        Tree::new(self.clone(), name)
    }

    /// Makes the changes and returns once they are durable.
    ///
    /// # Errors
    /// A limit was exceeded: nothing was changed. Otherwise the outcome is unknown and the store fails from now on.
    pub fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.apply(batch)?.wait()
    }

    /// Makes the changes visible to readers; [`Pending::wait`] makes them durable. Until then power loss may undo them, but
    /// never a part of them, and never without undoing all later ones.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    pub fn apply(&self, batch: Batch) -> Result<Pending, StoreError> {
        self.inner.durability.check()?;
        self.inner.database.apply_batch(batch.into_operations()?)?;
        Ok(Pending {
            store: self.clone(),
            ticket: self.inner.durability.ticket(),
        })
    }

    /// How often the disk was synced: with group commit less often than there were commits.
    pub fn syncs(&self) -> u64 {
        self.inner.durability.syncs()
    }

    pub(crate) fn database(&self) -> &sled::Db {
        &self.inner.database
    }
}

/// Changes that are visible but not yet durable.
#[must_use = "the changes are not durable before wait() has returned"]
#[derive(Debug)]
pub struct Pending {
    store: Store,
    ticket: u64,
}

impl Pending {
    /// Returns once the changes, and all that were applied before them, are durable.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: whether they reached the disk is unknown.
    pub fn wait(self) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        inner
            .durability
            .wait_durable(self.ticket, || inner.database.flush())
    }
}

//! `store`: a small ordered key-value store whose commits survive power loss.
//!
//! It owns sled, and nothing else in the workspace names it. sled's own `flush` is not durable on Linux (it ends
//! in `sync_file_range`, which neither flushes the disk's write cache nor writes file metadata), so this crate
//! adds what is missing:
//!
//! * after opening, every file and directory of the store is synced once, so that none can vanish;
//! * a commit is batch + flush + `fdatasync` of the data file, and commits that wait together share one sync;
//! * opening may panic on a damaged store: the damage is caught and the directory set aside ([`OpenError::Damaged`]);
//! * after a failed sync nothing is ever acknowledged again ([`StoreError::Failed`]): the kernel may have dropped the
//!   dirty pages, so a retry that succeeds proves nothing;
//! * a store is bound to one server of one cluster ([`Store::bind`]) and carries a format version.
//!
//! **Invariant:** there is no way to flush without syncing.

mod batch;
mod durability;
mod error;
mod identity;
mod open;
mod store;
mod tree;

pub use batch::Batch;
pub use error::{BindError, OpenError, StoreError};
pub use identity::{FORMAT_VERSION, Identity, Origin};
pub use store::{Pending, Store};
pub use tree::{KEY_BYTES_MAX, Records, Tree, VALUE_BYTES_MAX};

//! openraft's conformance suite on our storage.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use store::Store;
use tempfile::TempDir;

use super::flusher::Flusher;
use super::log::{RaftLog, SnapshotStore};
use super::machine::Machine;
use super::recent::Recent;
use super::types::TypeConfig;

struct Builder;

impl StoreBuilder<TypeConfig, RaftLog, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, RaftLog, Machine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let flusher = Flusher::start().unwrap();
        let (machine, _) = Machine::new(
            SnapshotStore::new(&store, flusher.clone()),
            Recent::default(),
        );
        Ok((directory, RaftLog::new(&store, flusher).unwrap(), machine))
    }
}

#[tokio::test]
async fn storage_conforms_to_openraft() {
    Suite::test_all(Builder).await.unwrap();
}

//! The store as its users see it: trees, batches, owners, damage, group commit.

use std::fs;
use std::sync::Barrier;
use std::thread;

use store::{
    Batch, BindError, FORMAT_VERSION, Identity, OpenError, Origin, Store, StoreError,
    VALUE_BYTES_MAX,
};

const OWNER: Identity = Identity {
    cluster: [7; 16],
    server: 2,
};
const OTHER: Identity = Identity {
    cluster: [7; 16],
    server: 3,
};

fn record(key: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    (key.into(), value.into())
}

#[test]
fn trees_are_separate_ordered_and_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = Store::open(directory.path()).unwrap();
        let (log, logs) = (store.tree("log"), store.tree("logs"));
        let mut batch = Batch::new();
        for (key, value) in [("b", "2"), ("a", "1"), ("c", "3")] {
            batch.put(&log, key.as_bytes(), value.as_bytes());
        }
        batch.put(&logs, b"a", b"other");
        batch.delete(&log, b"c");
        store.commit(batch).unwrap();
    }
    let store = Store::open(directory.path()).unwrap();
    let log = store.tree("log");
    let records: Vec<_> = log.range(..).map(Result::unwrap).collect();
    assert_eq!(records, [record("a", "1"), record("b", "2")]);
    assert_eq!(log.first().unwrap(), Some(record("a", "1")));
    assert_eq!(log.last().unwrap(), Some(record("b", "2")));
    assert_eq!(log.range(b"b".as_slice()..).count(), 1);
    assert_eq!(
        store.tree("logs").get(b"a").unwrap(),
        Some(b"other".to_vec())
    );
    assert_eq!(store.tree("nothing").last().unwrap(), None);
}

/// Goal: a store can be opened again as soon as it was dropped, although sled's threads give its lock back a moment later.
#[test]
fn regression_reopening_at_once_is_not_in_use() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..30_u8 {
        let store = Store::open(directory.path()).unwrap();
        let tree = store.tree("t");
        let mut batch = Batch::new();
        batch.put(&tree, &[round], b"1");
        store.commit(batch).unwrap();
    }
}

#[test]
fn oversized_records_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let tree = store.tree("t");
    let mut batch = Batch::new();
    batch.put(&tree, b"small", b"1");
    batch.put(&tree, b"large", &vec![0; VALUE_BYTES_MAX + 1]);
    assert!(matches!(
        store.commit(batch),
        Err(StoreError::ValueTooLong(_))
    ));
    assert_eq!(tree.get(b"small").unwrap(), None);
}

#[test]
fn store_of_another_server_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert!(matches!(
        store.bind(OWNER, Origin::Existing),
        Err(BindError::Emptied { .. })
    ));
    store.bind(OWNER, Origin::New).unwrap();
    store.bind(OWNER, Origin::New).unwrap();
    store.bind(OWNER, Origin::Existing).unwrap();
    assert!(matches!(
        store.bind(OTHER, Origin::Existing),
        Err(BindError::Mismatch { .. })
    ));
    assert!(matches!(
        store.bind(OTHER, Origin::New),
        Err(BindError::NotNew { .. })
    ));
    assert_eq!(store.identity().unwrap(), Some(OWNER));
}

#[test]
fn second_process_on_one_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path()).unwrap();
    assert!(matches!(
        Store::open(directory.path()),
        Err(OpenError::InUse(_))
    ));
}

#[test]
fn damaged_store_is_set_aside() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("store");
    drop(Store::open(&directory).unwrap());
    fs::write(
        directory.join("conf"),
        b"this is not a configuration of sled at all",
    )
    .unwrap();
    let Err(OpenError::Damaged { quarantined, .. }) = Store::open(&directory) else {
        panic!("a damaged store was opened");
    };
    assert_eq!(quarantined, parent.path().join("store.damaged-1"));
    assert!(quarantined.join("db").exists());
    assert!(!directory.exists());
}

#[test]
fn format_is_recorded_and_a_newer_one_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::open(directory.path()).unwrap());
    // What a newer release would leave: the first tree has the empty name, so its keys follow one zero byte.
    let database = sled::open(directory.path()).unwrap();
    database
        .insert(b"\0format", &(FORMAT_VERSION + 1).to_be_bytes())
        .unwrap();
    drop(database);
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::FormatTooNew { found, .. } if found == FORMAT_VERSION + 1));
}

#[test]
fn commits_that_wait_together_share_a_sync() {
    const WRITERS: usize = 16;
    const COMMITS: usize = 50;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let tree = store.tree("t");
    let syncs_before = store.syncs();
    let start = Barrier::new(WRITERS);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, tree, start) = (&store, &tree, &start);
            scope.spawn(move || {
                start.wait();
                for commit in 0..COMMITS {
                    let mut batch = Batch::new();
                    batch.put(tree, format!("{writer}/{commit}").as_bytes(), &[0; 256]);
                    store.commit(batch).unwrap();
                }
            });
        }
    });
    let syncs = store.syncs() - syncs_before;
    let commits = u64::try_from(WRITERS * COMMITS).unwrap();
    assert_eq!(tree.range(..).count(), WRITERS * COMMITS);
    assert!(syncs * 2 < commits, "{commits} commits took {syncs} syncs");
}

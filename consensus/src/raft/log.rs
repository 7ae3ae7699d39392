//! Raft's log and vote in the store.
//!
//! Records of tree `raft-log`: key = index, chunk number (big endian); an entry is one or more chunks. Tree `raft`: the vote, the
//! last purged log id and the last committed one. What is on disk is answered for only after it is durable (rule R12).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Batch, Store, Tree};

use super::codec::{decode, delete_chunks, encode, get_chunks, put_chunks};
use super::flusher::Flusher;
use super::types::{Entry, LogId, TypeConfig, Vote, position_of};
use crate::position::LogPosition;

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";
const INDEX_BYTES: usize = size_of::<u64>();

/// The log. A cheap handle; reading is done on the caller's thread since nearly all of it is in the store's cache.
#[derive(Clone)]
pub(crate) struct RaftLog {
    store: Store,
    entries: Tree,
    marks: Tree,
    flusher: Flusher,
    durable: Arc<Mutex<LogPosition>>,
}

impl RaftLog {
    /// # Errors
    /// The log cannot be read.
    pub(crate) fn new(store: &Store, flusher: Flusher) -> io::Result<RaftLog> {
        let log = RaftLog {
            store: store.clone(),
            entries: store.tree("raft-log"),
            marks: store.tree("raft"),
            flusher,
            durable: Arc::default(),
        };
        *log.durable.lock() = position_of(log.last_log_id()?);
        Ok(log)
    }

    /// Where the entries that are on the disk end. Those that are also applied are there for ever.
    pub(crate) fn durable(&self) -> Arc<Mutex<LogPosition>> {
        self.durable.clone()
    }

    fn last_log_id(&self) -> io::Result<Option<LogId>> {
        let last = self.last_entry()?.map(|entry| entry.log_id);
        match last {
            Some(log_id) => Ok(Some(log_id)),
            None => self.mark(PURGED),
        }
    }

    fn mark<T: DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        let bytes = self.marks.get(key).map_err(io::Error::other)?;
        Ok(bytes.map(|bytes| decode(&bytes)).transpose()?)
    }

    fn put_mark<T: Serialize>(&self, batch: &mut Batch, key: &[u8], value: &T) -> io::Result<()> {
        batch.put(&self.marks, key, &encode(value).map_err(io::Error::other)?);
        Ok(())
    }

    fn last_entry(&self) -> io::Result<Option<Entry>> {
        match self.entries.last().map_err(io::Error::other)? {
            Some((key, _)) => Ok(self.entries_from(index_of(&key)?, None)?.pop()),
            None => Ok(None),
        }
    }

    /// Entries with `start <= index < end`; to the end of the log when `end` is `None`.
    fn entries_from(&self, start: u64, end: Option<u64>) -> io::Result<Vec<Entry>> {
        let start = start.to_be_bytes();
        let end = end.map(u64::to_be_bytes);
        let upper = end
            .as_ref()
            .map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_slice()));
        let mut entries = Vec::new();
        let mut current: Option<(u64, Vec<u8>)> = None;
        for record in self
            .entries
            .range((Bound::Included(start.as_slice()), upper))
        {
            let (key, chunk) = record.map_err(io::Error::other)?;
            let index = index_of(&key)?;
            match &mut current {
                Some((of, bytes)) if *of == index => bytes.extend_from_slice(&chunk),
                Some(_) | None => {
                    if let Some((_, bytes)) = current.replace((index, chunk)) {
                        entries.push(decode(&bytes)?);
                    }
                }
            }
        }
        if let Some((_, bytes)) = current {
            entries.push(decode(&bytes)?);
        }
        Ok(entries)
    }

    /// Adds the removal of all entries in `range` to `batch`.
    fn delete_entries<'a>(
        &self,
        batch: &mut Batch,
        range: impl RangeBounds<&'a [u8]>,
    ) -> io::Result<()> {
        for record in self.entries.range(range) {
            batch.delete(&self.entries, &record.map_err(io::Error::other)?.0);
        }
        Ok(())
    }

    async fn commit(&self, batch: Batch) -> io::Result<()> {
        let pending = self.store.apply(batch).map_err(io::Error::other)?;
        self.flusher.flush(pending).await
    }
}

/// Flushes may be told of in another order than they were made in.
fn advance(durable: &Mutex<LogPosition>, to: LogPosition) {
    let mut durable = durable.lock();
    *durable = to.max(*durable);
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes = key.first_chunk::<INDEX_BYTES>();
    let bytes =
        bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "log key without index"))?;
    Ok(u64::from_be_bytes(*bytes))
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.checked_add(1),
            Bound::Excluded(index) => Some(*index),
            Bound::Unbounded => None,
        };
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        self.entries_from(start, end)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.mark(VOTE)
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = RaftLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id: Option<LogId> = self.mark(PURGED)?;
        let last_log_id = self.last_log_id()?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> RaftLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut batch = Batch::new();
        self.put_mark(&mut batch, VOTE, vote)?;
        self.commit(batch).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut batch = Batch::new();
        self.put_mark(&mut batch, COMMITTED, &committed)?;
        // Only a hint for the next start: an older one is as good, so nothing waits for the disk.
        drop(self.store.apply(batch).map_err(io::Error::other)?);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.mark::<Option<LogId>>(COMMITTED)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        let mut last = LogPosition::default();
        for entry in entries {
            last = position_of(Some(entry.log_id));
            let bytes = encode(&entry).map_err(io::Error::other)?;
            put_chunks(
                &mut batch,
                &self.entries,
                &entry.log_id.index.to_be_bytes(),
                &bytes,
            );
        }
        let pending = self.store.apply(batch).map_err(io::Error::other)?;
        let durable = self.durable.clone();
        self.flusher.submit(pending, move |outcome| {
            if outcome.is_ok() {
                advance(&durable, last);
            }
            callback.io_completed(outcome);
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let first = last_log_id
            .map_or(0, |log_id| log_id.index.saturating_add(1))
            .to_be_bytes();
        let mut batch = Batch::new();
        self.delete_entries(&mut batch, first.as_slice()..)?;
        self.commit(batch).await?;
        // The flushes before this one have said by now what they made durable.
        let mut durable = self.durable.lock();
        *durable = durable.earlier(position_of(last_log_id));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut batch = Batch::new();
        self.put_mark(&mut batch, PURGED, &log_id)?;
        let end = log_id.index.saturating_add(1).to_be_bytes();
        self.delete_entries(&mut batch, ..end.as_slice())?;
        self.commit(batch).await?;
        // With a snapshot of others the log begins after it, whatever was in it before.
        let purged = position_of(Some(log_id));
        let mut durable = self.durable.lock();
        if durable.index <= purged.index {
            *durable = purged;
        }
        Ok(())
    }
}

/// The current snapshot in the store: one at a time, replaced atomically.
#[derive(Clone)]
pub(crate) struct SnapshotStore {
    store: Store,
    tree: Tree,
    flusher: Flusher,
}

impl SnapshotStore {
    const CURRENT: &[u8] = b"current";

    pub(crate) fn new(store: &Store, flusher: Flusher) -> SnapshotStore {
        SnapshotStore {
            store: store.clone(),
            tree: store.tree("raft-snapshot"),
            flusher,
        }
    }

    /// Replaces the snapshot; returns once the new one is durable.
    pub(crate) async fn save<T: Serialize>(&self, snapshot: &T) -> io::Result<()> {
        let bytes = encode(snapshot).map_err(io::Error::other)?;
        let mut batch = Batch::new();
        delete_chunks(&mut batch, &self.tree, Self::CURRENT)?;
        put_chunks(&mut batch, &self.tree, Self::CURRENT, &bytes);
        let pending = self.store.apply(batch).map_err(io::Error::other)?;
        self.flusher.flush(pending).await
    }

    pub(crate) fn load<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let bytes = get_chunks(&self.tree, Self::CURRENT)?;
        Ok(bytes.map(|bytes| decode(&bytes)).transpose()?)
    }
}

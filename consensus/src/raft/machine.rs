//! The state machine: the cluster state in memory, recovered from the last snapshot and the log.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::codec::{decode, encode};
use super::log::SnapshotStore;
use super::recent::Recent;
use super::types::{
    LogId, Outcome, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig, position_of,
};
use crate::position::LogPosition;
use crate::state::{Accepted, ClusterState};

/// Entries applied before the state is published and their proposers are answered. A bound on how stale a watcher can be
/// during recovery; in service there are rarely two.
const BATCH_ENTRIES_MAX: usize = 64;

/// The state after the entry at that place, and all before it, have been applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The last applied entry.
    pub position: LogPosition,
    /// The state after it.
    pub state: Arc<ClusterState>,
}

/// Applies committed entries and publishes each new state.
pub(crate) struct Machine {
    state: Arc<ClusterState>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
    published: watch::Sender<Applied>,
    recent: Recent,
}

/// What the snapshot record holds.
#[derive(Serialize, Deserialize)]
struct Stored {
    meta: SnapshotMeta,
    data: SnapshotData,
}

impl Machine {
    /// A machine that has applied nothing, and where it publishes; it notes in `recent` what is accepted. openraft installs the
    /// stored snapshot when it starts.
    pub(crate) fn new(
        snapshots: SnapshotStore,
        recent: Recent,
    ) -> (Machine, watch::Receiver<Applied>) {
        let state = Arc::new(ClusterState::default());
        let (published, receiver) = watch::channel(Applied {
            position: LogPosition::default(),
            state: state.clone(),
        });
        let membership = StoredMembership::default();
        (
            Machine {
                state,
                last_applied: None,
                membership,
                snapshots,
                published,
                recent,
            },
            receiver,
        )
    }

    fn apply_entry(&mut self, log_id: LogId, payload: EntryPayloadOf) -> Outcome {
        self.last_applied = Some(log_id);
        match payload {
            EntryPayload::Blank => Outcome(Ok(Accepted::Unchanged)),
            EntryPayload::Normal(record) => {
                // Watchers hold the previous state, so this copies it once per batch.
                let outcome = Arc::make_mut(&mut self.state).apply(log_id.index, &record.0);
                if let Ok(accepted) = outcome {
                    self.recent.note(log_id.index, &record.0, accepted);
                }
                Outcome(outcome)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                Outcome(Ok(Accepted::Unchanged))
            }
        }
    }

    fn publish(&self) {
        self.published.send_replace(Applied {
            position: position_of(self.last_applied),
            state: self.state.clone(),
        });
    }
}

type EntryPayloadOf = openraft::alias::EntryPayloadOf<TypeConfig>;

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH_ENTRIES_MAX);
        while let Some(batch) = batches.next().await {
            let mut answers = Vec::with_capacity(batch.len());
            for item in batch {
                let (entry, responder) = item?;
                let outcome = self.apply_entry(entry.log_id, entry.payload);
                answers.extend(responder.map(|responder| (responder, outcome)));
            }
            // Before the answers: who proposed sees the state that contains his change.
            self.publish();
            for (responder, outcome) in answers {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.clone(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let state = decode(&snapshot)?;
        let stored = Stored {
            meta: meta.clone(),
            data: snapshot,
        };
        self.snapshots.save(&stored).await?;
        self.state = Arc::new(state);
        self.last_applied = stored.meta.last_log_id;
        self.membership = stored.meta.last_membership;
        self.recent
            .begin_after(self.last_applied.map_or(0, |log_id| log_id.index));
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let stored: Option<Stored> = self.snapshots.load()?;
        Ok(stored.map(|Stored { meta, data }| Snapshot {
            meta,
            snapshot: data,
        }))
    }
}

/// Writes one snapshot; works on the state as it stood when it was made.
pub(crate) struct Builder {
    state: Arc<ClusterState>,
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let data = encode(&*self.state).map_err(io::Error::other)?;
        let stored = Stored {
            meta: self.meta.clone(),
            data,
        };
        self.snapshots.save(&stored).await?;
        Ok(Snapshot {
            meta: stored.meta,
            snapshot: stored.data,
        })
    }
}

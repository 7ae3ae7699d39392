//! When each member was last heard, per LAN: what connections prefer, and what people are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;
use crate::liveness::BootTime;
use crate::position::LogPosition;
use crate::state::ServerId;

/// Last signs of life: heartbeats received and heartbeats answered, and whom the others say they hear.
pub(crate) struct Heard {
    last: Mutex<BTreeMap<(ServerId, usize), BootTime>>,
    reports: Mutex<BTreeMap<ServerId, BTreeSet<ServerId>>>,
    /// How much of the log each member said it holds for ever, whatever its run.
    durable: Mutex<BTreeMap<ServerId, LogPosition>>,
    /// Who says that this member was removed from the cluster.
    removers: watch::Sender<BTreeSet<ServerId>>,
    fresh: Duration,
}

impl Heard {
    /// `fresh`: how long after a sign of life a LAN counts as alive.
    pub(crate) fn new(fresh: Duration) -> Heard {
        Heard {
            last: Mutex::default(),
            reports: Mutex::default(),
            durable: Mutex::default(),
            removers: watch::Sender::default(),
            fresh,
        }
    }

    pub(crate) fn note(&self, server: ServerId, lan: usize, at: BootTime) {
        self.last.lock().insert((server, lan), at);
    }

    /// `server` says that this member was removed from the cluster for good. True when it says so for the first time.
    pub(crate) fn note_remover(&self, server: ServerId) -> bool {
        self.removers
            .send_if_modified(|removers| removers.insert(server))
    }

    /// `server` says that it holds the log up to `end` for ever.
    pub(crate) fn note_durable(&self, server: ServerId, end: LogPosition) {
        let mut durable = self.durable.lock();
        let latest = durable.entry(server).or_default();
        *latest = end.max(*latest);
    }

    /// How much of the log `server` said it holds; nothing when it has not been heard since this start.
    pub(crate) fn durable(&self, server: ServerId) -> LogPosition {
        self.durable
            .lock()
            .get(&server)
            .copied()
            .unwrap_or_default()
    }

    /// Who says that this member was removed.
    pub(crate) fn removers(&self) -> BTreeSet<ServerId> {
        self.removers.borrow().clone()
    }

    /// Every change of [`Heard::removers`].
    pub(crate) fn watch_removers(&self) -> watch::Receiver<BTreeSet<ServerId>> {
        self.removers.subscribe()
    }

    /// `server` says that it hears `hears`.
    pub(crate) fn note_report(&self, server: ServerId, hears: BTreeSet<ServerId>) {
        self.reports.lock().insert(server, hears);
    }

    /// Whom `server` says it hears; nobody when it has not been heard itself of late.
    pub(crate) fn report(&self, server: ServerId) -> BTreeSet<ServerId> {
        if self.is_fresh_any(server) {
            self.reports
                .lock()
                .get(&server)
                .cloned()
                .unwrap_or_default()
        } else {
            BTreeSet::new()
        }
    }

    pub(crate) fn is_fresh(&self, server: ServerId, lan: usize) -> bool {
        self.age(server, lan).is_some_and(|age| age <= self.fresh)
    }

    pub(crate) fn is_fresh_any(&self, server: ServerId) -> bool {
        self.age_any(server).is_some_and(|age| age <= self.fresh)
    }

    /// Time since `server` was last heard on `lan`; `None` when it never was.
    pub(crate) fn age(&self, server: ServerId, lan: usize) -> Option<Duration> {
        let last = self.last.lock().get(&(server, lan)).copied()?;
        Some(clock::since(last))
    }

    /// Time since `server` was last heard on any LAN.
    pub(crate) fn age_any(&self, server: ServerId) -> Option<Duration> {
        let last = self.last.lock();
        let heard = last
            .range((server, 0)..=(server, usize::MAX))
            .map(|(_, at)| *at)
            .max()?;
        Some(clock::since(heard))
    }
}

//! When each member was last heard, per LAN: what connections prefer, and what people are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::liveness::BootTime;
use crate::state::ServerId;

/// Last signs of life: heartbeats received and heartbeats answered.
pub(crate) struct Heard {
    last: Mutex<BTreeMap<(ServerId, usize), BootTime>>,
    fresh: Duration,
}

impl Heard {
    /// `fresh`: how long after a sign of life a LAN counts as alive.
    pub(crate) fn new(fresh: Duration) -> Heard {
        Heard {
            last: Mutex::default(),
            fresh,
        }
    }

    pub(crate) fn note(&self, server: ServerId, lan: usize, at: BootTime) {
        self.last.lock().insert((server, lan), at);
    }

    pub(crate) fn is_fresh(&self, server: ServerId, lan: usize) -> bool {
        self.age(server, lan).is_some_and(|age| age <= self.fresh)
    }

    /// Time since `server` was last heard on `lan`; `None` when it never was.
    pub(crate) fn age(&self, server: ServerId, lan: usize) -> Option<Duration> {
        let last = self.last.lock().get(&(server, lan)).copied()?;
        Some(crate::clock::since(last))
    }

    /// Time since `server` was last heard on any LAN.
    pub(crate) fn age_any(&self, server: ServerId) -> Option<Duration> {
        let last = self.last.lock();
        let heard = last
            .range((server, 0)..=(server, usize::MAX))
            .map(|(_, at)| *at)
            .max()?;
        Some(crate::clock::since(heard))
    }
}

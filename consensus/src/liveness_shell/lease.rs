//! The published lease: read on every file-system request, so one atomic load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::liveness::BootTime;

/// Until when this server may act on the last role it was given. A cheap clone.
#[derive(Debug, Clone)]
pub struct Lease {
    shared: Arc<Shared>,
    changes: watch::Receiver<BootTime>,
}

#[derive(Debug)]
struct Shared {
    until: AtomicU64,
    heard_at: AtomicU64,
    length_ns: AtomicU64,
}

impl Lease {
    /// End of the lease in boot time; zero when there is none.
    pub fn valid_until(&self) -> BootTime {
        BootTime(self.shared.until.load(Ordering::Acquire))
    }

    /// When the newest heartbeat was sent that a majority of the voters granted; zero when there is none.
    pub fn heard_at(&self) -> BootTime {
        BootTime(self.shared.heard_at.load(Ordering::Relaxed))
    }

    /// How long a lease this server expects to be granted, by a state that it has applied: that of the cluster's profile,
    /// or less where a module asks for less.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.shared.length_ns.load(Ordering::Relaxed))
    }

    /// Tells each change of the end. It stays silent when the lease runs out: nothing has changed then but the time.
    pub fn changed(&self) -> watch::Receiver<BootTime> {
        self.changes.clone()
    }
}

/// What is published of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) until: BootTime,
    pub(crate) heard_at: BootTime,
    pub(crate) length_ns: u64,
}

/// Where the terms of the lease are written.
pub(crate) struct LeasePublisher {
    shared: Arc<Shared>,
    changes: watch::Sender<BootTime>,
}

impl LeasePublisher {
    /// No lease yet; one would be of this length.
    pub(crate) fn new(length_ns: u64) -> (LeasePublisher, Lease) {
        let shared = Arc::new(Shared {
            until: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            length_ns: AtomicU64::new(length_ns),
        });
        let (sender, changes) = watch::channel(BootTime::default());
        (
            LeasePublisher {
                shared: shared.clone(),
                changes: sender,
            },
            Lease { shared, changes },
        )
    }

    pub(crate) fn publish(&self, terms: Terms) {
        let Shared {
            until,
            heard_at,
            length_ns,
        } = &*self.shared;
        until.store(terms.until.0, Ordering::Release);
        heard_at.store(terms.heard_at.0, Ordering::Relaxed);
        length_ns.store(terms.length_ns, Ordering::Relaxed);
        self.changes.send_if_modified(|published| {
            let is_new = *published != terms.until;
            *published = terms.until;
            is_new
        });
    }
}

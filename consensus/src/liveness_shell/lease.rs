//! The published lease: read on every file-system request, so one atomic load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::liveness::BootTime;

/// Until when this server may act on the last role it was given. A cheap clone.
#[derive(Debug, Clone)]
pub struct Lease {
    until: Arc<AtomicU64>,
    changes: watch::Receiver<BootTime>,
}

impl Lease {
    /// End of the lease in boot time; zero when there is none.
    pub fn valid_until(&self) -> BootTime {
        BootTime(self.until.load(Ordering::Acquire))
    }

    /// Tells each change of the end. It stays silent when the lease runs out: nothing has changed then but the time.
    pub fn changed(&self) -> watch::Receiver<BootTime> {
        self.changes.clone()
    }
}

/// Where the end of the lease is written.
pub(crate) struct LeasePublisher {
    until: Arc<AtomicU64>,
    changes: watch::Sender<BootTime>,
}

impl LeasePublisher {
    pub(crate) fn new() -> (LeasePublisher, Lease) {
        let until = Arc::new(AtomicU64::new(0));
        let (sender, changes) = watch::channel(BootTime::default());
        (
            LeasePublisher {
                until: until.clone(),
                changes: sender,
            },
            Lease { until, changes },
        )
    }

    pub(crate) fn publish(&self, until: BootTime) {
        self.until.store(until.0, Ordering::Release);
        self.changes.send_if_modified(|published| {
            let is_new = *published != until;
            *published = until;
            is_new
        });
    }
}

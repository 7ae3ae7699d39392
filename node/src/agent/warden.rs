//! Keeps the gate of a primary in step with its right to serve.
//!
//! The gate closes by itself when its time is up, whatever this task does: a frozen or starved daemon serves nothing.

use std::sync::Arc;

use consensus::liveness::BootTime;
use consensus::state::{ModuleName, ServerId};
use consensus::{Consensus, Lease};
use fs_mirror::Gate;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::open_addition::OpenAddition;
use crate::core::right::{Right, Standing};

/// Opens and closes the gate of one primary.
pub(super) struct Warden {
    /// Where records are applied.
    pub consensus: Consensus,
    /// The module.
    pub module: ModuleName,
    /// This server.
    pub me: ServerId,
    /// Whether this daemon's start has been applied: a copy alone in the in-sync set may be led before that, and then the
    /// answer changes during the tenure.
    pub fresh: watch::Receiver<bool>,
    /// Whether this server must take part in nothing any more.
    pub out: watch::Receiver<bool>,
    /// The note of a proposed addition.
    pub addition: Arc<OpenAddition>,
    /// What it opens and closes.
    pub gate: Arc<Gate>,
    /// Held from reading to setting: two callers must not set the gate in the wrong order.
    pub adjusting: Mutex<()>,
}

impl Warden {
    /// Follows lease and records until the task is ended; then the gate runs out by itself or is fenced.
    pub(super) async fn run(self: Arc<Self>) {
        let lease = self.consensus.lease();
        let mut lease_changed = lease.changed();
        let mut applied = self.consensus.watch();
        let mut fresh = self.fresh.clone();
        let mut out = self.out.clone();
        loop {
            self.adjust(&lease);
            let ended = tokio::select! {
                changed = lease_changed.changed() => changed.is_err(),
                changed = applied.changed() => changed.is_err(),
                changed = fresh.changed() => changed.is_err(),
                changed = out.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// What this server knows beside the record.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            me: self.me,
            is_fresh: *self.fresh.borrow(),
            addition_open: self.addition.epoch(),
            is_out: *self.out.borrow(),
        }
    }

    /// Sets the gate to what is right now. Also called before an addition is proposed, so that no write is
    /// acknowledged on the old right after the proposal has left.
    pub(super) fn adjust(&self, lease: &Lease) {
        let _in_order = self.adjusting.lock();
        // The lease is read first: an older lease on a newer record is harmless, a newer lease on an older record is not.
        let BootTime(until) = lease.valid_until();
        let state = self.consensus.state();
        let standing = self.standing();
        let right = state
            .modules
            .get(&self.module)
            .map_or(Right::None, |record| standing.right(record));
        match right {
            Right::None => self.gate.close(),
            Right::Forever => self.gate.set_forever(),
            Right::WhileLeased => self.gate.set_until(until),
        }
    }
}

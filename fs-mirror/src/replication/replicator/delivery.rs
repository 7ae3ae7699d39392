//! Answers requests while this server may: what becomes due while the gate is closed is kept until it opens or is fenced.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::Gate;
use crate::replication::shipping::{Completion, Verdict};

/// How often a closed gate is looked at while requests wait behind it.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The last step of every request.
pub(super) struct Delivery<C> {
    gate: Arc<Gate>,
    kept: Mutex<Kept<C>>,
    changed: Condvar,
}

struct Kept<C> {
    /// Due, and the gate is closed. Bounded by the requests that the kernel has open.
    due: Vec<C>,
    is_fenced: bool,
    is_stopping: bool,
}

impl<C: Completion> Delivery<C> {
    pub(super) fn new(gate: Arc<Gate>) -> Delivery<C> {
        let kept = Kept {
            due: Vec::new(),
            is_fenced: false,
            is_stopping: false,
        };
        Delivery {
            gate,
            kept: Mutex::new(kept),
            changed: Condvar::new(),
        }
    }

    /// Answers now, or keeps the request until the gate opens. Called with no lock held.
    pub(super) fn deliver(&self, completion: C, verdict: Verdict) {
        match verdict {
            Verdict::Fenced => completion.finish(Verdict::Fenced),
            Verdict::Acknowledged if self.gate.is_open() => {
                completion.finish(Verdict::Acknowledged)
            }
            Verdict::Acknowledged => self.keep(completion),
        }
    }

    /// Ends what is kept, and keeps nothing any more.
    pub(super) fn fence(&self) {
        self.kept.lock().is_fenced = true;
        self.changed.notify_all();
    }

    /// Ends `run`.
    pub(super) fn stop(&self) {
        self.kept.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Answers what is kept as the gate allows, until `stop`. What is still kept then ends with an error.
    pub(super) fn run(&self) {
        loop {
            let (due, verdict, is_stopping) = self.wait_decided();
            for completion in due {
                completion.finish(verdict);
            }
            if is_stopping {
                return;
            }
        }
    }

    fn keep(&self, completion: C) {
        let mut kept = self.kept.lock();
        if kept.is_fenced || kept.is_stopping {
            drop(kept);
            completion.finish(Verdict::Fenced);
            return;
        }
        kept.due.push(completion);
        self.changed.notify_all();
    }

    fn wait_decided(&self) -> (Vec<C>, Verdict, bool) {
        let mut kept = self.kept.lock();
        loop {
            if kept.is_fenced || kept.is_stopping || self.gate.is_fenced() {
                if !kept.due.is_empty() || kept.is_stopping {
                    return (
                        std::mem::take(&mut kept.due),
                        Verdict::Fenced,
                        kept.is_stopping,
                    );
                }
            } else if !kept.due.is_empty() && self.gate.is_open() {
                return (std::mem::take(&mut kept.due), Verdict::Acknowledged, false);
            }
            if kept.due.is_empty() {
                self.changed.wait(&mut kept);
            } else {
                self.changed.wait_for(&mut kept, LOOK_EVERY);
            }
        }
    }
}

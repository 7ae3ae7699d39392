//! A directory whose disk can be made to stand still: it lies on a mount of our own.

use std::sync::Arc;

use super::TestCopy;
use crate::primary::{Primary, PrimaryOptions};
use crate::{Epoch, Gate};

/// Copies made in it must be gone before it is.
pub(crate) struct SlowPlace {
    gate: Arc<Gate>,
    _served: Primary,
    below: TestCopy,
}

impl SlowPlace {
    /// `None` where this machine cannot mount, after saying why.
    pub(crate) fn new() -> Option<SlowPlace> {
        if !rustix::process::geteuid().is_root() || std::fs::metadata("/dev/fuse").is_err() {
            println!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        let (below, gate) = (TestCopy::new(), Arc::new(Gate::open_forever()));
        let served = Primary::start(
            below.copy.clone(),
            Epoch(1),
            false,
            gate.clone(),
            Box::new(|_| {}),
            PrimaryOptions::default(),
        );
        Some(SlowPlace {
            gate,
            _served: served.unwrap(),
            below,
        })
    }

    /// A copy that stands still when this place does.
    pub(crate) fn copy(&self) -> TestCopy {
        TestCopy::on(tempfile::tempdir_in(self.below.path()).unwrap())
    }

    /// Whatever needs this disk waits from now on.
    pub(crate) fn stand_still(&self) {
        self.gate.close();
    }

    /// The disk answers again.
    pub(crate) fn go_on(&self) {
        self.gate.set_forever();
    }
}

impl Drop for SlowPlace {
    /// A test that failed must not leave anybody waiting.
    fn drop(&mut self) {
        self.go_on();
    }
}

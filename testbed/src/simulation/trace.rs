//! What happened, line by line. Two runs of one seed have the same lines; the digest says so without keeping them.

use std::fmt::{Arguments, Write as _};

/// Lines kept for a failure report, without a full trace.
const KEPT_LINES: usize = 60;

/// The trace of a run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    digest: u64,
    line: String,
    /// Every line, when asked for; otherwise the newest ones.
    lines: std::collections::VecDeque<String>,
    keeps_all: bool,
    keeps_some: bool,
}

impl Trace {
    /// `keeps_all`: keep every line; otherwise only the digest, and the last lines of notable events.
    pub(super) fn new(keeps_all: bool) -> Self {
        Self {
            keeps_all,
            keeps_some: true,
            digest: 0xcbf2_9ce4_8422_2325,
            ..Self::default()
        }
    }

    /// Something that happens all the time.
    pub(super) fn detail(&mut self, now: u64, what: Arguments<'_>) {
        self.take(now, what, false);
    }

    /// Something a reader of a failure wants to see.
    pub(super) fn note(&mut self, now: u64, what: Arguments<'_>) {
        self.take(now, what, true);
    }

    fn take(&mut self, now: u64, what: Arguments<'_>, is_notable: bool) {
        self.line.clear();
        let microseconds = now / 1000;
        // Writing to a string cannot fail.
        let _ = write!(
            self.line,
            "{:3}.{:06} {what}",
            microseconds / 1_000_000,
            microseconds % 1_000_000
        );
        for chunk in self.line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.digest = (self.digest.rotate_left(5) ^ u64::from_le_bytes(word))
                .wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        if self.keeps_all || (is_notable && self.keeps_some) {
            self.lines.push_back(self.line.clone());
            if !self.keeps_all && self.lines.len() > KEPT_LINES {
                self.lines.pop_front();
            }
        }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

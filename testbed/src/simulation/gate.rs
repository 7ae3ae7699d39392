//! May a primary answer: the gate of a tenure in virtual time.

use consensus::liveness::BootTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Closed,
    Until(BootTime),
    Forever,
    Fenced,
}

impl Gate {
    pub(super) fn is_open(self, now: BootTime) -> bool {
        match self {
            Self::Closed | Self::Fenced => false,
            Self::Until(until) => now < until,
            Self::Forever => true,
        }
    }

    pub(super) fn remaining_ns(self, now: BootTime) -> Option<u64> {
        match self {
            Self::Closed | Self::Fenced => None,
            Self::Until(until) => Some(until.ns_since(now)).filter(|left| *left > 0),
            Self::Forever => Some(u64::MAX),
        }
    }
}

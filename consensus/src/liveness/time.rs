//! Boot time and the lengths that depend on the lease.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::state::{ClusterState, ServerId};

const MS: u64 = 1_000_000;

/// Nanoseconds of `CLOCK_BOOTTIME`: it runs while the machine sleeps, and nobody can set it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This time and `ns` more.
    #[must_use]
    pub fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds since `earlier`; 0 when it is later.
    #[must_use]
    pub fn ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:03} s since boot",
            self.0 / (1000 * MS),
            self.0 / MS % 1000
        )
    }
}

/// The lengths that follow from the length of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Length of a lease, `L`.
    pub lease_ns: u64,
    /// Time between two heartbeats.
    pub heartbeat_ns: u64,
}

impl Timing {
    /// Shortest lease that a cluster can be configured with.
    pub const LEASE_MS_MIN: u64 = 200;
    /// Longest lease that a cluster can be configured with.
    pub const LEASE_MS_MAX: u64 = 60_000;
    /// The lease of a cluster that was configured with none.
    pub const LEASE_MS_DEFAULT: u64 = 1500;
    /// Modules lower the lease of their servers to this at the most: the lease of the profile `fast`.
    pub const HEART_MS_MIN: u32 = 500;

    /// The lengths for a lease of `lease_ms`, taken to the nearest length that is allowed.
    #[must_use]
    pub fn new(lease_ms: u64) -> Self {
        let lease_ns = lease_ms.clamp(Self::LEASE_MS_MIN, Self::LEASE_MS_MAX) * MS;
        Self {
            lease_ns,
            heartbeat_ns: (lease_ns / 6).min(150 * MS),
        }
    }

    /// The lengths for the lease of `server` in a cluster of these lengths, the profile: as short as the modules on it ask
    /// for, never longer than the profile, and no shorter than [`Self::HEART_MS_MIN`]. A function of the applied state
    /// alone. Members that have not applied the same need not agree: see [`super::Watcher`].
    #[must_use]
    pub fn of_server(self, state: &ClusterState, server: ServerId) -> Self {
        self.lowered_to(state.heart_timeout_ms(server))
    }

    /// The shortest lengths that `server` can have gone by since its present run began, whatever it had applied. Of one that
    /// is no member any more nothing is kept: the shortest that anybody can have gone by.
    #[must_use]
    pub fn shortest_of_server(self, state: &ClusterState, server: ServerId) -> Self {
        if state.members.contains_key(&server) {
            self.lowered_to(state.shortest_hearts.get(&server).copied())
        } else {
            self.lowered_to(Some(Self::HEART_MS_MIN))
        }
    }

    /// The lengths when a module asks for `heart_timeout_ms`, if any does.
    #[must_use]
    pub fn lowered_to(self, heart_timeout_ms: Option<u32>) -> Self {
        let Some(asked) = heart_timeout_ms else {
            return self;
        };
        let lowered = Self::new(asked.max(Self::HEART_MS_MIN).into());
        if lowered.lease_ns < self.lease_ns {
            lowered
        } else {
            self
        }
    }

    /// A member that was not heard for so long cannot hold a lease any more, even when its clock is 1 % slower:
    /// `L` * 1.01 + 0.3 s. The 0.3 s keep a late heartbeat of a living server from costing it its role.
    #[must_use]
    pub fn declare_after_ns(&self) -> u64 {
        self.lease_ns + self.lease_ns / 100 + 300 * MS
    }

    /// A run that is heard but that the cluster does not know for so long counts as silent: whatever keeps its start
    /// from being committed keeps the service down.
    #[must_use]
    pub fn announce_after_ns(&self) -> u64 {
        3 * self.declare_after_ns()
    }

    /// Time between two looks at who is silent: short against what is looked for, so that a look does not delay a takeover.
    #[must_use]
    pub fn look_ns(&self) -> u64 {
        (self.lease_ns / 25).min(50 * MS)
    }

    /// A connection on which no heartbeat is answered for so long is replaced, while there is time left to be heard on
    /// the next one.
    #[must_use]
    pub fn link_silence_ns(&self) -> u64 {
        (self.lease_ns * 2 / 5).clamp(250 * MS, 600 * MS)
    }

    /// Time for one connection, TLS included, and the least time between two attempts.
    #[must_use]
    pub fn connect_ns(&self) -> u64 {
        (self.lease_ns / 5).clamp(150 * MS, 300 * MS)
    }

    /// A voter whose own clock jumped by more than this between two looks was frozen: heartbeats may wait unread.
    /// Shorter pauses cannot make a living member look silent by themselves.
    #[must_use]
    pub fn frozen_after_ns(&self) -> u64 {
        self.lease_ns / 2
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::new(Self::LEASE_MS_DEFAULT)
    }
}

//! The committed record of a mirror module: who leads, whose copy is whole, what people want.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ids::{Epoch, EventId, ModuleName, PackageHash, ServerId};

/// Most modules of a cluster.
pub const MODULES_MAX: usize = 256;
/// Most replicated directories of one module.
pub const DIRECTORIES_MAX: usize = 64;
/// Most virtual addresses of one module.
pub const ADDRESSES_MAX: usize = 64;

/// In the place of a server that is gone for good, until another one gets its copy. No member ever has this number.
pub const VACANT: ServerId = ServerId(0);

/// What people want of a module on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// It takes part: as primary or as secondary.
    Started,
    /// It rests.
    Stopped,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Wanted::Started => "started",
            Wanted::Stopped => "stopped",
        })
    }
}

/// When the secondary's answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckMode {
    /// Applied, and on disk where the application asked for it.
    Disk,
    /// Received in memory: faster, and worth nothing after a crash of the secondary (R16).
    Receipt,
}

impl fmt::Display for AckMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AckMode::Disk => "disk",
            AckMode::Receipt => "receipt",
        })
    }
}

/// The committed state of one mirror module.
///
/// Invariant (R5): every acknowledged write is on every member of `in_sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRecord {
    /// Name of the module.
    pub name: ModuleName,
    /// The entry that installed it: tells a module from another one of that name which was there before.
    pub installation: u64,
    /// The two servers that hold a copy; one place may be [`VACANT`].
    pub servers: [ServerId; 2],
    /// Grows with every change of `primary` or `in_sync`, and whenever a command made before must no longer count.
    pub epoch: Epoch,
    /// Who serves, or is the only one that may.
    pub primary: Option<ServerId>,
    /// Whose copy holds every acknowledged write. Empty before the first start only. It may name a server that the
    /// primary has no session with: then the primary acknowledges nothing until it has dropped it.
    pub in_sync: BTreeSet<ServerId>,
    /// Members of `in_sync` whose newest acknowledged writes may exist in memory only; their right to lead ends with
    /// the run of their daemon (R16). Always empty with [`AckMode::Disk`] from the start.
    pub received_only: BTreeSet<ServerId>,
    /// Both copies of `in_sync` are the same to the byte: true from a `Switchover` (its author has drained and unmounted)
    /// until the next change of the record or `ServerStarted` of a member of the set. The new primary then begins its
    /// session in sync; otherwise a primary that finds no session must first `DropSecondary`, and that always makes a new
    /// epoch, also when the server is not in the set: it ends an addition that may be on its way (R6).
    pub identical: bool,
    /// Copies that hold acknowledged writes which the reference lacks since a person's force, and the epoch of that force.
    /// What a reintegration takes from such a copy is set aside first. Ends when the copy is whole again.
    pub diverged: BTreeMap<ServerId, Epoch>,
    /// Servers whose directory was never brought up to date since the module first started, or since they were given their place:
    /// what they have is not a copy of this module. They do not become the reference while the other place has one, not even by
    /// force.
    pub unfilled: BTreeSet<ServerId>,
    /// What people want, per server.
    pub wanted: BTreeMap<ServerId, Wanted>,
    /// When the secondary's answer counts.
    pub ack: AckMode,
    /// The configuration in force.
    pub package: PackageHash,
    /// The replicated directories: absolute, without `.` and `..`.
    pub directories: Vec<String>,
    /// The virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// How soon the module asks a server to count as lost, in milliseconds: it lowers the leases of its servers (R7, see
    /// [`crate::liveness::Timing::of_server`]), and never raises them. Any number is allowed.
    pub heart_timeout_ms: Option<u32>,
    /// The event of the last role change.
    pub last_cause: EventId,
}

/// What the record makes of a server. It says nothing of whether the others are alive: see
/// [`super::ClusterState::waits_for`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It leads. `alone`: no other copy is whole, so it needs neither lease nor peer (R6).
    Primary {
        /// The in-sync set is this server only.
        alone: bool,
    },
    /// It follows, and may take over when `of` is declared down.
    InSyncSecondary {
        /// The primary.
        of: ServerId,
    },
    /// Its copy lacks acknowledged writes; it must be brought up to date by `of`.
    Outdated {
        /// The primary.
        of: ServerId,
    },
    /// Nobody leads.
    NoPrimary {
        /// This server's copy is whole: it may propose to take over.
        may_lead: bool,
        /// Whose copies are whole: for these it waits.
        holders: BTreeSet<ServerId>,
    },
    /// The module has never been started: a person must say whose copy is the good one.
    FirstStart,
    /// The module has no copy on this server.
    NotHere,
}

impl MirrorRecord {
    /// What this record makes of the server `me`.
    #[must_use]
    pub fn standing(&self, me: ServerId) -> Standing {
        if !self.servers.contains(&me) {
            return Standing::NotHere;
        }
        if self.in_sync.is_empty() {
            return Standing::FirstStart;
        }
        let holds = self.in_sync.contains(&me);
        match self.primary {
            Some(primary) if primary == me => Standing::Primary {
                alone: self.in_sync.len() == 1,
            },
            Some(of) if holds => Standing::InSyncSecondary { of },
            Some(of) => Standing::Outdated { of },
            None => Standing::NoPrimary {
                may_lead: holds,
                holders: self.in_sync.clone(),
            },
        }
    }

    /// The servers that hold a copy.
    pub fn hosts(&self) -> impl Iterator<Item = ServerId> + use<> {
        self.servers.into_iter().filter(|server| *server != VACANT)
    }

    /// The other server of the pair; `None` when `server` is not of the pair, or alone in it.
    #[must_use]
    pub fn peer_of(&self, server: ServerId) -> Option<ServerId> {
        let peer = match self.servers {
            [first, second] if first == server => second,
            [first, second] if second == server => first,
            [_, _] => VACANT,
        };
        (peer != VACANT).then_some(peer)
    }

    /// Up to which epoch of its primary the secondary `server` may acknowledge a change that it has only received: its right to
    /// lead ends with this run of its daemon then (R16), and nothing but a new epoch changes that. A frame of a later epoch may
    /// belong to a record that `server` has not applied.
    #[must_use]
    pub fn acknowledges_on_receipt(&self, server: ServerId) -> Option<Epoch> {
        let is_tied = self.primary != Some(server) && self.received_only.contains(&server);
        (is_tied && self.ack == AckMode::Receipt).then_some(self.epoch)
    }

    /// What people want of the module on `server`.
    #[must_use]
    pub fn wanted_on(&self, server: ServerId) -> Wanted {
        self.wanted.get(&server).copied().unwrap_or(Wanted::Stopped)
    }
}

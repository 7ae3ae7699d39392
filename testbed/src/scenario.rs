//! Named fault scenarios on real processes.
//!
//! A scenario is one round: a mirrored cluster under load goes in, a fault happens, and a mirrored cluster comes out. Rounds
//! are repeated in the same lab. After every round the oracles are asked; after the last one the bounds are checked over all
//! rounds.

mod alone;
mod arena;
mod bad_input;
mod blackout;
mod clocks;
mod clusters;
pub mod command_line;
mod dry_runs;
pub(crate) mod excuse;
mod failover;
mod fencing;
pub mod figures;
mod force;
mod links;
mod membership;
mod relayed;
mod survival;
mod trees;
mod unfit_disks;

use crate::cluster::profile::Profile;
use crate::lab::Topology;
pub use arena::Arena;
pub(crate) use arena::{hold, ms_since};
use figures::{Bound, Figures, Percentile};

/// Attributes of a `<heart>` that asks for the shortest lease.
const SHORT_HEART: &str = r#"pulse="100ms" timeout="500ms""#;

/// What a scenario needs before its first round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A mirrored module under load.
    Mirrored,
    /// A formed cluster; the scenario installs what it needs.
    Formed,
    /// A mirrored module under load on two of seven members.
    MirroredAmongSeven,
    /// A mirrored module under load that asks for a lease as short as there is.
    MirroredWithShortHeart,
}

impl Start {
    fn is_mirrored(self) -> bool {
        match self {
            Start::Mirrored | Start::MirroredAmongSeven | Start::MirroredWithShortHeart => true,
            Start::Formed => false,
        }
    }

    /// What the module's `<heart>` asks for.
    fn heart(self) -> Option<&'static str> {
        match self {
            Start::Mirrored | Start::Formed | Start::MirroredAmongSeven => None,
            Start::MirroredWithShortHeart => Some(SHORT_HEART),
        }
    }

    fn topology(self) -> Topology {
        match self {
            Start::Mirrored | Start::Formed | Start::MirroredWithShortHeart => Topology::mirror(),
            Start::MirroredAmongSeven => Topology::seven(),
        }
    }
}

/// A named scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// What it begins with.
    pub start: Start,
    /// Limits over all rounds.
    pub bounds: &'static [Limit],
    /// One round.
    pub round: fn(&mut Arena) -> anyhow::Result<Figures>,
}

/// How soon a takeover starts.
const TAKEOVER: Limit = Limit {
    figure: "takeover_ms",
    max: Profile::takeover_ms_max,
};
/// The same where a module asks for the shortest lease. When the lost server led the log, the proposal waits for an election;
/// with the longest profile that takes so long that it is made anew meanwhile.
const SHORT_TAKEOVER: Limit = Limit {
    figure: "takeover_ms",
    max: |profile| match profile {
        Profile::Fast | Profile::Default => Profile::Fast.takeover_ms_max(),
        Profile::Wide => ELECTION_WIDE_MS_MAX,
    },
};
/// Raft holds on to a leader for nine heartbeats of 0.3 s with the longest profile.
const ELECTION_WIDE_MS_MAX: f64 = 3500.0;
/// With a short lease the service is back before Raft's own timer would have made another leader, and the address has moved.
const SHORT_SERVED: Limit = Limit {
    figure: "served_ms",
    max: |profile| match profile {
        Profile::Fast | Profile::Default => 1900.0,
        Profile::Wide => ELECTION_WIDE_MS_MAX + 1100.0,
    },
};
/// How long a writer waits when the secondary dies.
const STALL: Limit = Limit {
    figure: "stall_ms",
    max: Profile::stall_ms_max,
};
/// The loss of a witness is hardly felt.
const WITNESS_STALL: Limit = Limit {
    figure: "stall_ms",
    max: |_profile| 1000.0,
};

/// A limit on the 99th percentile of a figure, which may follow the profile.
#[derive(Debug)]
pub struct Limit {
    figure: &'static str,
    max: fn(Profile) -> f64,
}

impl Scenario {
    /// The limits in a cluster of this profile.
    pub fn bounds_of(&self, profile: Profile) -> Vec<Bound> {
        let bound = |limit: &Limit| Bound {
            figure: limit.figure,
            percentile: Percentile::P99,
            max: (limit.max)(profile),
        };
        self.bounds.iter().map(bound).collect()
    }
}

/// As `STALL`, for the longest of many.
const STALL_GAP: Limit = Limit {
    figure: "gap_ms",
    max: Profile::stall_ms_max,
};

/// A pause that may or may not move the role: at most the pause itself, and then a takeover or a look at who is there.
const BRIEF_GAP: Limit = Limit {
    figure: "gap_ms",
    max: |_profile| 4800.0,
};

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "primary_power_cut",
        about: "the primary loses power; the other serves, nothing acknowledged is lost, the server returns",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: failover::primary_power_cut,
    },
    Scenario {
        name: "heart_timeout",
        about: "as primary_power_cut, with a module whose <heart> asks for 0.5 s in a cluster of longer leases",
        start: Start::MirroredWithShortHeart,
        bounds: &[SHORT_TAKEOVER, SHORT_SERVED],
        round: failover::heart_timeout,
    },
    Scenario {
        name: "primary_daemon_killed",
        about: "SIGKILL to the primary's daemon while the application lives",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: failover::primary_daemon_killed,
    },
    Scenario {
        name: "primary_daemon_frozen",
        about: "the primary's daemon is stopped for 10 s (--seconds) and continued: it serves nothing of its former role",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: failover::primary_daemon_frozen,
    },
    Scenario {
        name: "primary_isolated",
        about: "every frame of the primary is lost, both ways, and later not any more",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: failover::primary_isolated,
    },
    Scenario {
        name: "primary_daemon_paused",
        about: "the primary's daemon is stopped for less than a lease: nothing moves",
        start: Start::Mirrored,
        bounds: &[],
        round: failover::primary_daemon_paused,
    },
    Scenario {
        name: "primary_daemon_frozen_briefly",
        about: "the primary's daemon is stopped for about as long as the leases: its role stays or moves, and has one owner",
        start: Start::Mirrored,
        bounds: &[BRIEF_GAP],
        round: failover::primary_daemon_frozen_briefly,
    },
    Scenario {
        name: "pair_link_cut",
        about: "the link of the pair is cut, in sync, reintegrating or switching over: the service stays",
        start: Start::Mirrored,
        bounds: &[],
        round: links::pair_link_cut,
    },
    Scenario {
        name: "flapping_link",
        about: "the link of the pair comes and goes for ten minutes (--minutes): no role moves, nothing grows",
        start: Start::Mirrored,
        bounds: &[STALL_GAP],
        round: links::flapping_link,
    },
    Scenario {
        name: "one_lan_lost",
        about: "one of two LANs is lost: the primary stays, both copies are in sync over the other",
        start: Start::Mirrored,
        bounds: &[STALL],
        round: links::one_lan_lost,
    },
    Scenario {
        name: "command_relayed",
        about: "commands typed where neither the leader nor the primary is reached: done once, the outcome learnt",
        start: Start::Mirrored,
        bounds: &[],
        round: relayed::command_relayed,
    },
    Scenario {
        name: "clock_steps",
        about: "wall clocks jump by hours, drift and flicker: no role moves, no writer waits",
        start: Start::Mirrored,
        bounds: &[],
        round: clocks::clock_steps,
    },
    Scenario {
        name: "boot_clocks_differ",
        about: "servers that have been up for different times agree on leases",
        start: Start::Mirrored,
        bounds: &[STALL],
        round: clocks::boot_clocks_differ,
    },
    Scenario {
        name: "swap",
        about: "a planned switchover: no reintegration, the gap is the application's own stop and start",
        start: Start::Mirrored,
        bounds: &[],
        round: failover::swap,
    },
    Scenario {
        name: "secondary_power_cut",
        about: "the secondary loses power; the writer stalls shortly and goes on alone",
        start: Start::Mirrored,
        bounds: &[STALL],
        round: survival::secondary_power_cut,
    },
    Scenario {
        name: "witness_lost",
        about: "the witness loses power: nothing happens to the service",
        start: Start::Mirrored,
        bounds: &[WITNESS_STALL],
        round: survival::witness_lost,
    },
    Scenario {
        name: "blackout",
        about: "everything loses power at once and returns in any order",
        start: Start::Mirrored,
        bounds: &[],
        round: blackout::blackout,
    },
    Scenario {
        name: "blackout_every_order",
        about: "as blackout, with each of the six orders of return",
        start: Start::Mirrored,
        bounds: &[],
        round: blackout::blackout_every_order,
    },
    Scenario {
        name: "stale_server_starts_first",
        about: "the server whose copy is old returns first: it waits, and says for whom",
        start: Start::Mirrored,
        bounds: &[],
        round: blackout::stale_server_starts_first,
    },
    Scenario {
        name: "alone_without_quorum",
        about: "the only whole copy serves on without any other voter, also after a restart; then all return",
        start: Start::Mirrored,
        bounds: &[],
        round: alone::alone_without_quorum,
    },
    Scenario {
        name: "addition_open_over_restart",
        about: "the primary dies while it adds its peer, and restarts cut off: it serves nothing before a majority answers",
        start: Start::Mirrored,
        bounds: &[],
        round: alone::addition_open_over_restart,
    },
    Scenario {
        name: "addition_cannot_be_noted",
        about: "the primary cannot note that it adds its peer: it does not, and when the peer dies again writers go on",
        start: Start::Mirrored,
        bounds: &[STALL],
        round: alone::addition_cannot_be_noted,
    },
    Scenario {
        name: "force_on_the_wrong_side",
        about: "an operator forces a copy that lacks writes, with every misuse; what the other copy had is set aside",
        start: Start::Formed,
        bounds: &[],
        round: force::force,
    },
    Scenario {
        name: "reinstalled_at_once",
        about: "a module is uninstalled and installed again at once, three times",
        start: Start::Formed,
        bounds: &[],
        round: force::reinstalled_at_once,
    },
    Scenario {
        name: "stop_script_defies",
        about: "stop script and application ignore every signal and fork; a server cut off is rid of them all the same",
        start: Start::Formed,
        bounds: &[],
        round: fencing::stop_script_defies,
    },
    Scenario {
        name: "fence_address_stays",
        about: "the ladder of a primary cut off: addresses cannot be removed, and run out before the other server has them",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: fencing::address_stays,
    },
    Scenario {
        name: "fence_stop_script_hangs",
        about: "and the stop script ignores signals, forks and never ends: all of it is killed",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: fencing::stop_script_hangs,
    },
    Scenario {
        name: "fence_processes_survive",
        about: "and a disk hangs below the scripts and below a process, while another one has left the cgroup: the mount is aborted",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: fencing::processes_survive,
    },
    Scenario {
        name: "fence_all_rungs_broken",
        about: "and the mount is not where it was: the watchdog resets the server, once",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: fencing::all_rungs_broken,
    },
    Scenario {
        name: "watchdog_silent",
        about: "a watchdog is armed with the role, disarmed after it, and resets a server whose daemon lives but does nothing",
        start: Start::Mirrored,
        bounds: &[TAKEOVER],
        round: fencing::watchdog_silent,
    },
    Scenario {
        name: "stop_outlasts_daemon",
        about: "a daemon told to end waits five minutes for a stop script, then ends all the hard way and disarms its watchdog",
        start: Start::Formed,
        bounds: &[],
        round: fencing::stop_outlasts_daemon,
    },
    Scenario {
        name: "trees_git_build",
        about: "git clone, build and test of a real crate on the mount; both trees are equal after",
        start: Start::Mirrored,
        bounds: &[],
        round: trees::git_build,
    },
    Scenario {
        name: "trees_tar",
        about: "tar of a large tree on the mount; both trees are equal after",
        start: Start::Mirrored,
        bounds: &[],
        round: trees::tar,
    },
    Scenario {
        name: "trees_sqlite",
        about: "SQLite with several writers and both journal modes on the mount; both trees are equal after",
        start: Start::Mirrored,
        bounds: &[],
        round: trees::sqlite,
    },
    Scenario {
        name: "trees_pgbench",
        about: "pgbench through the virtual address; both trees are equal after (needs --app postgresql)",
        start: Start::Mirrored,
        bounds: &[],
        round: trees::pgbench,
    },
    Scenario {
        name: "members_come_and_go",
        about: "the witness leaves, another joins, certificates change: nobody who writes notices",
        start: Start::Mirrored,
        bounds: &[WITNESS_STALL],
        round: membership::members_come_and_go,
    },
    Scenario {
        name: "server_replaced",
        about: "a server is lost with its disk; a fresh one takes its place by one command, while the module serves",
        start: Start::Mirrored,
        bounds: &[STALL],
        round: membership::server_replaced,
    },
    Scenario {
        name: "removed_while_alone",
        about: "a primary that runs alone and cut off is given up and another one named; when it is heard again it stops for good",
        start: Start::Formed,
        bounds: &[],
        round: membership::removed_while_alone,
    },
    Scenario {
        name: "old_disks",
        about: "a voter's disk put back to an earlier state, or without its log, is refused with the way out",
        start: Start::Formed,
        bounds: &[],
        round: membership::old_disks,
    },
    Scenario {
        name: "old_disk_of_secondary",
        about: "the secondary's state directory is wiped, restored or lacks its log: refused with the way out, which is taken",
        start: Start::Mirrored,
        bounds: &[],
        round: membership::old_disk_of_secondary,
    },
    Scenario {
        name: "old_disk_of_primary",
        about: "as old_disk_of_secondary, for a primary that lost power",
        start: Start::Mirrored,
        bounds: &[],
        round: membership::old_disk_of_primary,
    },
    Scenario {
        name: "failed_disk_of_primary",
        about: "the disk below the primary's copy takes no more: the other server leads, and the copy is written anew and on the disk",
        start: Start::Mirrored,
        bounds: &[],
        round: unfit_disks::failed_disk_of_primary,
    },
    Scenario {
        name: "failed_disk_of_secondary",
        about: "as failed_disk_of_primary, for the secondary: the primary goes on alone",
        start: Start::Mirrored,
        bounds: &[],
        round: unfit_disks::failed_disk_of_secondary,
    },
    Scenario {
        name: "server_moves",
        about: "a running server is found at another address and under another name, and as before again",
        start: Start::Formed,
        bounds: &[],
        round: membership::server_moves,
    },
    Scenario {
        name: "pair_waits_for_its_voter",
        about: "two servers without a witness: the only voter is lost, the other says so; a witness joins later",
        start: Start::Formed,
        bounds: &[],
        round: membership::pair_waits_for_its_voter,
    },
    Scenario {
        name: "pair_under_load",
        about: "two servers without a witness: either is lost, the primary is the voter or not; served again by itself, nothing lost",
        start: Start::Mirrored,
        bounds: &[STALL],
        round: membership::pair_under_load,
    },
    Scenario {
        name: "pair_starts_anew",
        about: "two servers without a witness: the only voter is lost for good; a new cluster around the copy that is left",
        start: Start::Formed,
        bounds: &[],
        round: membership::pair_starts_anew,
    },
    Scenario {
        name: "seven_members",
        about: "five vote and two learn: a learner, the primary and two voters are lost, a voter leaves and a learner votes",
        start: Start::MirroredAmongSeven,
        bounds: &[TAKEOVER],
        round: membership::seven_members,
    },
    Scenario {
        name: "unfit_disks",
        about: "a voter's state directory is full, then read-only: a clear text, nothing forgotten, the cluster goes on",
        start: Start::Formed,
        bounds: &[],
        round: unfit_disks::unfit_disks,
    },
    Scenario {
        name: "unfit_disk_of_secondary",
        about: "the secondary's state directory is full, then read-only, under load: named, and in sync when it is well again",
        start: Start::Mirrored,
        bounds: &[],
        round: unfit_disks::unfit_disk_of_secondary,
    },
    Scenario {
        name: "unfit_disk_of_primary",
        about: "as unfit_disk_of_secondary, for the primary: the other server takes over",
        start: Start::Mirrored,
        bounds: &[],
        round: unfit_disks::unfit_disk_of_primary,
    },
    Scenario {
        name: "witness_of_two_clusters",
        about: "one witness process is a member of two clusters at once",
        start: Start::Formed,
        bounds: &[],
        round: clusters::witness_of_two_clusters,
    },
    Scenario {
        name: "dry_runs",
        about: "every verb that changes something, with --dry-run: the plan, the risk, and nothing changes",
        start: Start::Formed,
        bounds: &[],
        round: dry_runs::dry_runs,
    },
    Scenario {
        name: "bad_input",
        about: "wrong commands, tokens, packages and directories: each a clear error, and nothing changes",
        start: Start::Formed,
        bounds: &[],
        round: bad_input::bad_input,
    },
];

/// A scenario by its name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

//! Raft's times, scaled with the lease so that an election fits inside it. It is the lease of the profile: openraft fixes these
//! times when it starts, and what modules ask for is not applied yet then.

use openraft::{Config, ConfigError, SnapshotPolicy};

use crate::liveness::Timing;

/// A LAN on which nothing was heard for so many heartbeat intervals counts as silent.
pub(crate) const SILENCE_HEARTBEATS: u32 = 3;
/// Bounds of Raft's heartbeat interval, which is a fifteenth of the lease: 100 ms at the default of 1.5 s.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 40..=300;
/// Entries between two snapshots, and entries kept for members that lag a little.
const SNAPSHOT_ENTRIES: u64 = 500;
const KEPT_ENTRIES: u64 = 200;

/// The configuration of openraft for these times.
///
/// # Errors
/// Never for times within their limits; openraft checks.
pub(crate) fn raft_config(timing: Timing) -> Result<Config, ConfigError> {
    let heartbeat_interval =
        (timing.lease_ns / 1_000_000 / 15).clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
    let config = Config {
        cluster_name: "sidekick".into(),
        heartbeat_interval,
        election_timeout_min: 4 * heartbeat_interval,
        election_timeout_max: 8 * heartbeat_interval,
        enable_pre_vote: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        install_snapshot_timeout: 10_000,
        ..Config::default()
    };
    config.validate()
}

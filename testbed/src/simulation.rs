//! The whole control plane in virtual time: two servers and a witness, in some runs two servers
//! more that only vote, their clocks, disks and links, on one thread, from one seed.
//!
//! What runs is the product's own code where it decides: `consensus::state` applies, `consensus::liveness` grants and
//! declares, `node::core` says what should run, with which right, and what comes next about the peer, `fs_mirror`'s core
//! says which write may be answered. Around it stand small models: a Raft, a stream, a disk that forgets what was not
//! synced, an application that counts every acknowledged write.
//!
//! A run has two phases. In the first, faults drawn from the seed; in the second they end, save for one that a cluster
//! has to live with in some runs, and without any operator the service must be up again and both copies in sync. Checked
//! at every moment: P1, P2, P4, P10 of the test programme, and that all members make the same states of the same entries;
//! at the end P5 and P7. The same seed gives the same run, byte for byte.

mod agent;
pub mod batch;
mod clock;
pub mod command_line;
mod copy;
mod daemon;
mod desk;
mod faults;
mod gate;
mod genesis;
mod intake;
mod member;
mod message;
mod network;
mod oracle;
mod outcome;
mod outside;
mod place;
mod proposals;
mod raft;
mod random;
mod tenure;
mod trace;
mod world;

#[cfg(test)]
mod tests;

pub use oracle::Broken;
pub use outcome::Outcome;

use crate::planted::Bug;

/// How a seed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A planted bug.
    pub bug: Option<Bug>,
    /// Keep every line of the trace.
    pub keeps_trace: bool,
}

/// Runs one seed.
///
/// # Errors
/// The cluster of the beginning cannot be made: a mistake of the simulation.
pub fn simulate(seed: u64, options: Options) -> anyhow::Result<Outcome> {
    Ok(world::World::new(seed, options)?.run(seed))
}

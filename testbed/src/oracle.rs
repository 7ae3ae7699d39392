//! Oracles: what must be true after, and during, every run (test-programme P1-P4, P7, P10-P12).
//!
//! They look from outside: rows through the virtual address, frames at the switch, trees below the mounts, events of the cluster.

pub mod explanation;
pub mod http;
pub mod leaks;
pub mod mount_probe;
pub mod recorder;
pub mod roles;
pub mod starvation;
pub mod target;
pub mod tree;
pub mod wire;

pub use recorder::{Load, Recorder, Report};
pub use target::{Application, Target};

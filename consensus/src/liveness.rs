//! Leases and declarations (R7), without clock, socket or task: the time is an argument, actions are a result.
//!
//! A server holds a [`LeaseHolder`]: its right to serve, as long as a majority of the voters answered a heartbeat it
//! sent less than `L` ago. A voter holds a [`Watcher`]: it answers heartbeats, and declares a member that it has not
//! heard for longer than any lease it granted can last. Both sides count with `CLOCK_BOOTTIME` of their own machine;
//! only the rates of the clocks are compared, with a margin of 1 %.

mod heartbeat;
mod lease;
mod settling;
mod time;
mod watcher;

#[cfg(test)]
mod tests;

pub use heartbeat::{Heartbeat, NoGrant, Verdict};
pub use lease::LeaseHolder;
pub use time::{BootTime, Timing};
pub use watcher::{Action, REPROPOSE_NS, Watcher};

//! The lab on itself, and short scenarios: real namespaces, real processes. One crate, one link.
//!
//! Each test says `skipped: why` on a machine that cannot do it. Every wait has a deadline.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod applications;
mod campaigns;
mod daemon;
mod faults;
mod life;
mod scenarios;

/// Skips the calling test, loudly, where labs cannot run.
macro_rules! needs_lab {
    () => {
        if let Some(why) = testbed::lab::missing() {
            println!("skipped: {why}");
            return;
        }
    };
}
pub(crate) use needs_lab;

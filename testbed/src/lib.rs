//! The testbed of Sidekick: laboratories of real servers on one machine, faults, oracles, scenarios, the demo and the benches.
//!
//! Laboratories and scenarios drive the finished programs (`sknode`, `skcli`) from outside, as an operator, an application
//! and a power cut would. They never reach into their memory, so what they prove holds for what is shipped. `fuzz` calls
//! into the decoders of what arrives from other members. [`exploration`], [`simulation`] and [`planted`] run the product's
//! pure cores instead, millions of times as often.

pub mod bench;
pub mod chaos;
pub mod cluster;
pub mod demo;
pub mod exploration;
pub mod fuzz;
pub mod lab;
pub mod ledger;
pub mod matrix;
pub mod oracle;
pub mod planted;
pub mod scenario;
pub mod simulation;
mod trust;
pub mod wait;

use std::io::Write as _;
use std::process::ExitCode;

/// The exit status of what this machine cannot do.
const SKIPPED: u8 = 77;

/// Says that this machine cannot do it, and why: no success, for nothing was shown, and no failure either.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn skipped(name: &str, why: &str, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    writeln!(out, "skipped: {why}")?;
    if json {
        let object = serde_json::json!({ "name": name, "passed": null, "skipped": why });
        writeln!(out, "{object}")?;
    }
    Ok(ExitCode::from(SKIPPED))
}

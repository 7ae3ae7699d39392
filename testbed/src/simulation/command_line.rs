//! `testbed simulate`.

use std::io::{Write as _, stdout};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::batch::{Totals, run as run_batch};
use super::{Options, Outcome, simulate};
use crate::planted::Bug;

/// Options of `testbed simulate`.
#[derive(Debug, clap::Args)]
pub struct SimulateOptions {
    /// How many seeds
    #[arg(long, default_value_t = 2000)]
    pub seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    pub first_seed: u64,
    /// Plant a bug that has to be found
    #[arg(long, value_enum)]
    pub plant: Option<Bug>,
    /// Print every line of the trace of the first seed
    #[arg(long)]
    pub trace: bool,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs `testbed simulate ...`: exit status 1 when a property did not hold.
///
/// # Errors
/// A run could not begin, or nobody reads the output.
pub fn run(options: &SimulateOptions) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    let planted = Options {
        bug: options.plant,
        keeps_trace: false,
    };
    if options.trace {
        let keeps_trace = true;
        let outcome = simulate(
            options.first_seed,
            Options {
                keeps_trace,
                ..planted
            },
        )?;
        for line in &outcome.trace {
            writeln!(out, "{line}")?;
        }
    }
    let started = Instant::now();
    let seeds = options.first_seed..options.first_seed.saturating_add(options.seeds);
    let totals = run_batch(seeds, planted, false)?;
    for failure in &totals.failures {
        write!(out, "{}", told(failure, options.plant))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    write!(out, "{}", summary(&totals, seconds))?;
    if options.json {
        writeln!(out, "{}", json_line(&totals, options))?;
    }
    Ok(if totals.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A failure, with the command that shows it again.
pub(crate) fn told(failure: &Outcome, planted: Option<Bug>) -> String {
    let Some(broken) = &failure.broken else {
        return String::new();
    };
    let mut text = format!("seed {}: {broken}\n", failure.seed);
    for line in &failure.trace {
        text.push_str(&format!("    {line}\n"));
    }
    text.push_str(&format!("    replay: {}\n", replay(failure.seed, planted)));
    text
}

/// The command that runs one seed again.
pub(crate) fn replay(seed: u64, planted: Option<Bug>) -> String {
    let plant = planted.map_or(String::new(), |bug| format!(" --plant {}", bug.name()));
    format!("testbed simulate --seeds 1 --first-seed {seed}{plant} --trace")
}

fn summary(totals: &Totals, seconds: f64) -> String {
    let hours = totals.virtual_ns as f64 / 3.6e12;
    let faults: Vec<String> = totals
        .faults
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    format!(
        "{} seeds, {} failed; {hours:.1} virtual hours in {seconds:.1} s, {} events; {} writes acknowledged, {} failovers, \
         {} role changes\nfaults: {}\ndigest {:016x}\n",
        totals.seeds,
        totals.failures.len(),
        totals.events,
        totals.acknowledged,
        totals.failovers,
        totals.role_changes,
        faults.join(", "),
        totals.digest
    )
}

fn json_line(totals: &Totals, options: &SimulateOptions) -> serde_json::Value {
    let failures: Vec<_> = totals
        .failures
        .iter()
        .map(|failure| {
            json!({
                "seed": failure.seed,
                "broken": failure.broken.as_ref().map(ToString::to_string),
                "replay": replay(failure.seed, options.plant),
            })
        })
        .collect();
    json!({
        "name": "simulate",
        "passed": totals.failures.is_empty(),
        "first_seed": options.first_seed,
        "seeds": totals.seeds,
        "virtual_hours": totals.virtual_ns as f64 / 3.6e12,
        "acknowledged": totals.acknowledged,
        "failovers": totals.failovers,
        "role_changes": totals.role_changes,
        "faults": totals.faults,
        "digest": format!("{:016x}", totals.digest),
        "failures": failures,
    })
}

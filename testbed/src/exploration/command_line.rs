//! `testbed explore`.

use std::io::{Write as _, stdout};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::{Case, Outcome, case_for, cases, explore};
use crate::planted::Bug;

/// Options of `testbed explore`.
#[derive(Debug, clap::Args)]
pub struct ExploreOptions {
    /// States after which a case ends
    #[arg(long, default_value_t = 300_000)]
    pub states: usize,
    /// Only the case of this number
    #[arg(long)]
    pub case: Option<usize>,
    /// Plant a bug that has to be found
    #[arg(long, value_enum)]
    pub plant: Option<Bug>,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs `testbed explore ...`: exit status 1 when a property did not hold.
///
/// # Errors
/// The planted bug lives where the exploration does not reach, or nobody reads the output.
pub fn run(options: &ExploreOptions) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    let mut figures = Vec::new();
    let mut has_failed = false;
    for (number, (name, case)) in chosen(options)?.into_iter().enumerate() {
        if options.case.is_some_and(|chosen| chosen != number + 1) {
            continue;
        }
        let started = Instant::now();
        let outcome = explore(case);
        let seconds = started.elapsed().as_secs_f64();
        write!(out, "{}. {name}: {}", number + 1, told(&outcome, seconds))?;
        out.flush()?;
        let (states, violated) = match outcome {
            Outcome::Holds { states, .. } => (states, None),
            Outcome::Violated { what, states, .. } => (states, Some(what)),
        };
        has_failed |= violated.is_some();
        figures.push(
            json!({"case": name, "states": states, "seconds": seconds, "violated": violated}),
        );
    }
    if options.json {
        let line = json!({"name": "explore", "passed": !has_failed, "cases": figures});
        writeln!(out, "{line}")?;
    }
    Ok(if has_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn chosen(options: &ExploreOptions) -> anyhow::Result<Vec<(String, Case)>> {
    let Some(bug) = options.plant else {
        let named = |(name, case): (&str, Case)| (name.to_owned(), case);
        return Ok(cases(options.states).into_iter().map(named).collect());
    };
    match case_for(bug, options.states) {
        Some(case) => Ok(vec![(bug.name(), case)]),
        None => anyhow::bail!(
            "the exploration does not reach {}; look for it with testbed simulate --plant {}",
            bug.name(),
            bug.name()
        ),
    }
}

fn told(outcome: &Outcome, seconds: f64) -> String {
    match outcome {
        Outcome::Holds {
            states,
            is_complete,
        } => {
            let extent = if *is_complete {
                "all there are"
            } else {
                "bound reached"
            };
            format!("holds in {states} states, {extent}, {seconds:.1} s\n")
        }
        Outcome::Violated {
            what,
            trace,
            states,
        } => {
            let steps = trace.join("\n    ");
            format!(
                "{what}\n    {steps}\n  after {} steps, {states} states, {seconds:.1} s\n",
                trace.len()
            )
        }
    }
}

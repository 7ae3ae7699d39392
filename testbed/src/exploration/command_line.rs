//! `testbed explore`.

use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::{Bounds, Case, FAULT, Outcome, against_model, case_for, cases, explore};
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
    /// Other bounds than those of the cases
    #[command(flatten)]
    pub bounds: OtherBounds,
    /// Compare with an independent model of the rules instead: a Python file
    #[arg(long, conflicts_with_all = ["case", "plant", "json"])]
    pub model: Option<PathBuf>,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Bounds given by hand.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OtherBounds {
    /// Writes of the application
    #[arg(long)]
    pub writes: Option<u8>,
    /// Crashes and silences
    #[arg(long)]
    pub faults: Option<u8>,
    /// Of these, crashes at most
    #[arg(long)]
    pub crashes: Option<u8>,
    /// Switchovers and stops
    #[arg(long)]
    pub planned: Option<u8>,
    /// Role changes
    #[arg(long)]
    pub epochs: Option<u8>,
}

impl OtherBounds {
    fn instead_of(self, bounds: Bounds) -> Bounds {
        Bounds {
            writes: self.writes.unwrap_or(bounds.writes),
            faults: self.faults.unwrap_or(bounds.faults),
            crashes: self.crashes.unwrap_or(bounds.crashes),
            planned: self.planned.unwrap_or(bounds.planned),
            epochs: self.epochs.unwrap_or(bounds.epochs),
        }
    }
}

/// Runs `testbed explore ...`: exit status 1 when a property did not hold.
///
/// # Errors
/// The planted bug lives where the exploration does not reach, or nobody reads the output.
pub fn run(options: &ExploreOptions) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    if let Some(model) = &options.model {
        let agree = against_model::run(
            model,
            options.states,
            options.bounds.instead_of(FAULT),
            &mut out,
        )?;
        return Ok(if agree {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let mut figures = Vec::new();
    let mut has_failed = false;
    for (number, (name, mut case)) in chosen(options)?.into_iter().enumerate() {
        if options.case.is_some_and(|chosen| chosen != number + 1) {
            continue;
        }
        case.bounds = options.bounds.instead_of(case.bounds);
        let started = Instant::now();
        let outcome = explore(case);
        let seconds = started.elapsed().as_secs_f64();
        write!(
            out,
            "{}. {name}: {}",
            number + 1,
            told(case, &outcome, seconds)
        )?;
        out.flush()?;
        let (states, is_complete, violated) = match outcome {
            Outcome::Holds {
                states,
                is_complete,
                ..
            } => (states, is_complete, None),
            Outcome::Violated { what, states, .. } => (states, false, Some(what)),
        };
        has_failed |= violated.is_some();
        figures.push(
            json!({"case": name, "states": states, "complete": is_complete, "seconds": seconds, "violated": violated}),
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

fn told(case: Case, outcome: &Outcome, seconds: f64) -> String {
    match outcome {
        Outcome::Holds {
            states,
            depth,
            is_complete,
        } => {
            let extent = if *is_complete {
                "complete"
            } else {
                "bound of states reached"
            };
            let Bounds {
                writes,
                faults,
                crashes,
                planned,
                epochs,
            } = case.bounds;
            format!(
                "holds in {states} states, depth {depth}, {extent}, {seconds:.1} s (writes {writes}, faults {faults} of \
                 which crashes {crashes}, planned {planned}, role changes {epochs})\n"
            )
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

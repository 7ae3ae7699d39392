//! `testbed planted`: each bug switched on, looked for by the exploration and by the simulation.

use std::io::{Write as _, stdout};
use std::process::ExitCode;

use clap::ValueEnum as _;
use comfy_table::{ContentArrangement, Table};
use serde_json::json;

use super::Bug;
use crate::exploration::{self, case_for, explore};
use crate::simulation::command_line::replay;
use crate::simulation::{self, batch};

/// States of an exploration after which a bug counts as not found by it.
const STATES_MAX: usize = 1_000_000;

/// Options of `testbed planted`.
#[derive(Debug, clap::Args)]
pub struct PlantedOptions {
    /// Only these bugs
    #[arg(value_enum)]
    pub bugs: Vec<Bug>,
    /// Seeds after which a bug counts as not found by the simulation
    #[arg(long, default_value_t = 2000)]
    pub seeds: u64,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How a bug was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The bug.
    pub bug: Bug,
    /// By the exploration: after how many states, and what it saw.
    pub by_exploration: Option<(usize, String)>,
    /// By the simulation: by which seed, counted from 1, and what it saw.
    pub by_simulation: Option<(u64, String)>,
}

impl Found {
    /// By anything at all.
    pub fn is_found(&self) -> bool {
        self.by_exploration.is_some() || self.by_simulation.is_some()
    }
}

/// Looks for one bug with everything there is.
///
/// # Errors
/// A run of the simulation could not begin.
pub fn look_for(bug: Bug, seeds: u64) -> anyhow::Result<Found> {
    let outcome = case_for(bug, STATES_MAX).map(explore);
    let by_exploration = match outcome {
        Some(exploration::Outcome::Violated { what, states, .. }) => Some((states, what)),
        Some(exploration::Outcome::Holds { .. }) | None => None,
    };
    let options = simulation::Options {
        bug: Some(bug),
        keeps_trace: false,
    };
    let totals = batch::run(1..seeds.saturating_add(1), options, true)?;
    let first = totals.failures.into_iter().next();
    let by_simulation = first.and_then(|failure| {
        let what = failure.broken.as_ref()?.to_string();
        Some((failure.seed, what))
    });
    if let Some((seed, what)) = &by_simulation {
        let without = simulation::simulate(*seed, simulation::Options::default())?;
        anyhow::ensure!(
            without.broken.is_none(),
            "seed {seed} fails without the bug too ({what}): that says nothing about {bug:?}"
        );
    }
    Ok(Found {
        bug,
        by_exploration,
        by_simulation,
    })
}

/// Runs `testbed planted ...`: exit status 1 when a bug is not found.
///
/// # Errors
/// A run could not begin, or nobody reads the output.
pub fn run(options: &PlantedOptions) -> anyhow::Result<ExitCode> {
    let bugs = match options.bugs.as_slice() {
        [] => Bug::value_variants().to_vec(),
        chosen => chosen.to_vec(),
    };
    let mut found = Vec::new();
    for bug in bugs {
        found.push(look_for(bug, options.seeds)?);
    }
    let missed = found.iter().filter(|found| !found.is_found()).count();
    let mut out = stdout().lock();
    writeln!(out, "{}", table(&found))?;
    writeln!(out, "{} of {} found", found.len() - missed, found.len())?;
    if options.json {
        writeln!(out, "{}", json_line(&found, missed == 0))?;
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn replay_of(found: &Found) -> String {
    match (&found.by_simulation, &found.by_exploration) {
        (Some((seed, _)), _) => replay(*seed, Some(found.bug)),
        (None, Some(_)) => format!("testbed explore --plant {}", found.bug.name()),
        (None, None) => "-".to_owned(),
    }
}

fn table(found: &[Found]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["rule", "bug", "exploration", "simulation", "replay"]);
    for found in found {
        let explored = found.by_exploration.as_ref();
        let explored = explored.map_or("-".to_owned(), |(states, _)| format!("{states} states"));
        let simulated = found.by_simulation.as_ref();
        let simulated = simulated.map_or("-".to_owned(), |(seed, _)| format!("seed {seed}"));
        table.add_row([
            found.bug.rule().to_owned(),
            found.bug.about().to_owned(),
            explored,
            simulated,
            replay_of(found),
        ]);
    }
    table
}

fn json_line(found: &[Found], passed: bool) -> serde_json::Value {
    let bugs: Vec<_> = found
        .iter()
        .map(|found| {
            let explored = found.by_exploration.as_ref();
            let simulated = found.by_simulation.as_ref();
            json!({
                "bug": found.bug.name(),
                "rule": found.bug.rule(),
                "about": found.bug.about(),
                "exploration_states": explored.map(|(states, _)| states),
                "exploration_saw": explored.map(|(_, what)| what),
                "simulation_seed": simulated.map(|(seed, _)| seed),
                "simulation_saw": simulated.map(|(_, what)| what),
                "replay": replay_of(found),
            })
        })
        .collect();
    json!({"name": "planted", "passed": passed, "bugs": bugs})
}

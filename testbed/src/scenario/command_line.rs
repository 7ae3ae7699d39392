//! `testbed scenario list | run`.

use super::excuse::{self, Excuses};
use super::figures::{Percentile, Rounds};
use super::{ALL, Arena, Scenario, named};
use crate::cluster::package::Acknowledgement;
use crate::cluster::profile::Profile;
use crate::oracle::Application;
use anyhow::Context as _;
use clap::Subcommand;
use parking_lot::Mutex;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What can be done with scenarios.
#[derive(Debug, Subcommand)]
pub enum ScenarioCommand {
    /// List the scenarios
    List,
    /// Run one scenario; the last line of --json is {"name", "passed", "lost", ...figures}
    Run(RunOptions),
}

/// Options of `testbed scenario run`.
#[derive(Debug, clap::Args)]
pub struct RunOptions {
    /// Name of the scenario
    pub name: String,
    /// Rounds in one lab
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub repeat: u32,
    /// Seed of everything random
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the fault lasts, for scenarios that say so
    #[arg(long, value_parser = clap::value_parser!(u64).range(4..=86_400))]
    pub seconds: Option<u64>,
    /// The same in minutes
    #[arg(long, conflicts_with = "seconds")]
    pub minutes: Option<u64>,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
    /// Application in the module
    #[arg(long, value_enum, default_value = "ledger")]
    pub app: Application,
    /// How fast a lost server is noticed
    #[arg(long, value_enum, default_value = "default")]
    pub profile: Profile,
    /// When writes of the module are answered
    #[arg(long, value_enum, default_value = "disk")]
    pub ack: Acknowledgement,
    /// Leave the lab's directories and logs behind
    #[arg(long)]
    pub keep: bool,
}

/// Runs `testbed scenario ...`.
///
/// # Errors
/// Unknown scenario; a failed one is exit status 1 and not an error.
pub fn run(command: ScenarioCommand) -> anyhow::Result<ExitCode> {
    match command {
        ScenarioCommand::List => {
            let mut out = std::io::stdout();
            for scenario in ALL {
                writeln!(out, "{:26} {}", scenario.name, scenario.about)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ScenarioCommand::Run(options) => {
            let scenario = named(&options.name).with_context(|| {
                format!("no scenario {}: see testbed scenario list", options.name)
            })?;
            if let Some(why) = crate::cluster::missing() {
                return crate::skipped(scenario.name, &why, options.json);
            }
            let outcome = perform(scenario, &options);
            outcome.print(options.json)?;
            Ok(if outcome.failure.is_none() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

impl RunOptions {
    fn length(&self) -> Option<Duration> {
        let seconds = self.minutes.map(|minutes| minutes.saturating_mul(60));
        seconds.or(self.seconds).map(Duration::from_secs)
    }
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    name: &'static str,
    seed: u64,
    rounds: Rounds,
    lost: Option<u64>,
    acknowledged: u64,
    /// Why it failed, with everything that helps to understand it.
    pub failure: Option<String>,
}

/// Runs all rounds of a scenario and judges them: in one lab when they begin with the module mirrored, else each in a lab of its own.
pub fn perform(scenario: &'static Scenario, options: &RunOptions) -> Outcome {
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut outcome = Outcome {
        name: scenario.name,
        seed,
        rounds: Rounds::default(),
        lost: None,
        acknowledged: 0,
        failure: None,
    };
    let all = 1..=options.repeat;
    let labs: Vec<_> = if scenario.start.is_mirrored() {
        vec![all]
    } else {
        all.map(|round| round..=round).collect()
    };
    for rounds in labs {
        perform_in_a_lab(scenario, options, rounds, &mut outcome);
        if outcome.failure.is_some() {
            break;
        }
    }
    outcome
}

fn perform_in_a_lab(
    scenario: &Scenario,
    options: &RunOptions,
    rounds: RangeInclusive<u32>,
    outcome: &mut Outcome,
) {
    let topology = scenario.start.topology();
    match Arena::formed_with(topology, options.app, outcome.seed, options.profile) {
        Err(error) => outcome.failure = Some(format!("{error:#}")),
        Ok(mut arena) => {
            arena.length = options.length();
            arena.heart = scenario.start.heart();
            arena.set_acknowledgement(options.ack);
            if options.keep {
                arena.lab_mut().keep_files();
            }
            if let Err(error) = play_rounds(scenario, options, rounds, &mut arena, outcome) {
                outcome.failure = Some(format!("{error:#}\n{}", arena.evidence()));
            }
        }
    }
}

fn play_rounds(
    scenario: &Scenario,
    options: &RunOptions,
    rounds: RangeInclusive<u32>,
    arena: &mut Arena,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if scenario.start.is_mirrored() {
        arena.start_module()?;
    }
    let bounds = scenario.bounds_of(options.profile);
    let excuses = Mutex::new(Excuses::of(options.repeat));
    for round in rounds {
        let began = Instant::now();
        let play =
            |arena: &mut Arena| (scenario.round)(arena).with_context(|| format!("round {round}"));
        let audit = |arena: &mut Arena| {
            if scenario.start.is_mirrored() {
                let report = arena
                    .audit()
                    .with_context(|| format!("audit of round {round}"))?;
                outcome.lost = Some(report.lost.len() as u64);
                outcome.acknowledged = report.acknowledged;
            }
            Ok(())
        };
        let figures = excuse::play(arena, &excuses, &bounds, play, audit)?;
        if !options.json {
            let shown: Vec<String> = figures
                .iter()
                .map(|(name, value)| format!("{name} {value:.0}"))
                .collect();
            let seconds = began.elapsed().as_secs_f64();
            writeln!(
                std::io::stdout(),
                "round {round:3}  {seconds:5.1} s  {}",
                shown.join("  ")
            )?;
        }
        outcome.rounds.push(figures);
    }
    if scenario.start.is_mirrored() {
        let report = arena.finish_recorder()?;
        outcome.lost = Some(report.lost.len() as u64);
        outcome.acknowledged = report.acknowledged;
        anyhow::ensure!(
            report.lost.is_empty(),
            "{} acknowledged rows are lost",
            report.lost.len()
        );
        arena.verify_trees()?;
    }
    let violations = outcome.rounds.violations(&bounds);
    anyhow::ensure!(violations.is_empty(), "{}", violations.join("; "));
    Ok(())
}

impl Outcome {
    fn print(&self, is_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout();
        if let Some(failure) = &self.failure {
            writeln!(out, "{} failed: {failure}", self.name)?;
            writeln!(
                out,
                "replay: testbed scenario run {} --repeat {} --seed {}",
                self.name,
                self.rounds.count() + 1,
                self.seed
            )?;
        }
        if is_json {
            writeln!(out, "{}", self.json())?;
            return Ok(());
        }
        for name in self.rounds.names() {
            let value = |percentile| self.rounds.percentile(name, percentile).unwrap_or(0.0);
            writeln!(
                out,
                "{name:26} p50 {:10.0}  p99 {:10.0}",
                value(Percentile::P50),
                value(Percentile::P99)
            )?;
        }
        writeln!(
            out,
            "{}: {}, {} rounds, {} rows acknowledged, lost: {}",
            self.name,
            if self.failure.is_none() {
                "passed"
            } else {
                "FAILED"
            },
            self.rounds.count(),
            self.acknowledged,
            self.lost
                .map_or_else(|| "unknown".to_owned(), |lost| lost.to_string())
        )?;
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let mut object = serde_json::json!({
            "name": self.name,
            "passed": self.failure.is_none(),
            "lost": self.lost,
            "acknowledged": self.acknowledged,
            "rounds": self.rounds.count(),
            "seed": self.seed,
        });
        for name in self.rounds.names() {
            for (suffix, percentile) in [("p50", Percentile::P50), ("p99", Percentile::P99)] {
                if let Some(value) = self.rounds.percentile(name, percentile) {
                    object[format!("{name}_{suffix}")] = ((value * 10.0).round() / 10.0).into();
                }
            }
        }
        object
    }
}

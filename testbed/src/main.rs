//! `testbed`: laboratories, scenarios, the demo and the benches of Sidekick.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use testbed::exploration::command_line::ExploreOptions;
use testbed::lab::command_line::LabCommand;
use testbed::oracle::mount_probe;
use testbed::planted::table::PlantedOptions;
use testbed::scenario::command_line::ScenarioCommand;
use testbed::simulation::command_line::SimulateOptions;
use testbed::{
    bench, chaos, demo, exploration, fuzz, lab, ledger, matrix, planted, scenario, simulation,
};

/// Real Sidekick clusters on one machine: to play with, to test and to measure
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Clusters in namespaces: up, down, exec, list, clean
    #[command(subcommand)]
    Lab(LabCommand),
    /// Named fault scenarios: list, run
    #[command(subcommand)]
    Scenario(ScenarioCommand),
    /// The control plane in virtual time, seed by seed
    Simulate(SimulateOptions),
    /// Every order of events of a small cluster, up to a bound
    Explore(ExploreOptions),
    /// Old bugs switched on, one at a time: whether the proof kit finds them
    Planted(PlantedOptions),
    /// Every one-way combination of lost links, in every state of a mirror
    Matrix(matrix::Options),
    /// Hostile bytes for everything that arrives from other members
    Fuzz(fuzz::Options),
    /// Random faults under load, an audit after each
    Chaos(chaos::Options),
    /// The main job, narrated: a database that survives its primary
    Demo(demo::Options),
    /// The figures, as ratios against baselines measured in the same run
    Bench(bench::Options),
    /// A small HTTP ledger over SQLite, an application for fast tests
    Ledger(ledger::Options),
    #[command(name = "__hold", hide = true)]
    Hold { plan: String },
    #[command(name = "__init", hide = true)]
    Init,
    #[command(name = "__enter", hide = true)]
    Enter(lab::holder::Entering),
    #[command(name = "__pass-through", hide = true)]
    PassThrough(bench::pass_through::Options),
    #[command(name = "__probe-mount", hide = true)]
    ProbeMount(mount_probe::Options),
    #[command(name = "__load", hide = true)]
    Load(bench::load::Options),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .init();
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Lab(command) => lab::command_line::run(command),
        Action::Scenario(command) => scenario::command_line::run(command),
        Action::Simulate(options) => simulation::command_line::run(&options),
        Action::Explore(options) => exploration::command_line::run(&options),
        Action::Planted(options) => planted::table::run(&options),
        Action::Matrix(options) => matrix::run(&options),
        Action::Fuzz(options) => fuzz::run(&options),
        Action::Chaos(options) => chaos::run(&options),
        Action::Demo(options) => demo::run(&options),
        Action::Bench(options) => bench::run(&options),
        Action::Ledger(options) => ledger::run(&options),
        Action::Hold { plan } => lab::holder::hold(&plan),
        Action::Init => lab::holder::init(),
        Action::Enter(entering) => lab::holder::enter_and_run(&entering),
        Action::PassThrough(options) => bench::pass_through::run(&options),
        Action::ProbeMount(options) => mount_probe::run(&options),
        Action::Load(options) => bench::load::run(&options),
    }
}

//! `testbed demo`: the main job, narrated. A database behind a virtual address survives the loss of its primary; the server
//! returns and is brought up to date; a planned switchover brings the service back. Exit status 1 if anything was lost.

mod narrator;

use crate::lab::command_line::{how_to_talk, wait_for_end};
use crate::oracle::Application;
use crate::oracle::recorder::Report;
use crate::scenario::Arena;
use crate::scenario::figures::Figures;
use crate::wait;
use anyhow::Context as _;
use narrator::Narrator;
use std::process::ExitCode;
use std::time::Duration;

/// The other server takes over within this time, or the demo has failed.
const TAKEOVER_DEADLINE: Duration = Duration::from_secs(30);
/// The client is served again within this time, or the demo has failed.
const SERVED_DEADLINE: Duration = Duration::from_secs(60);
/// Rows committed between the acts.
const ROWS_BETWEEN: u64 = 500;
/// Time for them.
const ROWS_DEADLINE: Duration = Duration::from_secs(60);

/// Options of `testbed demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Leave the cluster up at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Application in the module [default: postgresql where it is installed, else ledger]
    #[arg(long, value_enum)]
    app: Option<Application>,
}

/// What the acts measured.
#[derive(Debug, Default)]
struct Measured {
    takeover_ms: f64,
    served_ms: f64,
    reintegration_ms: f64,
    reintegrated_bytes: f64,
    swap_gap_ms: f64,
}

/// Runs the demo.
///
/// # Errors
/// Something did not happen as it should; the evidence is on the terminal.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(why) = crate::cluster::missing() {
        anyhow::bail!("the demo cannot run here: {why}");
    }
    let application = options.app.unwrap_or_else(installed);
    let mut narrator = Narrator::new();
    narrator.say(
        "Starting two servers (s1, s2) and a witness (w) in namespaces, two LANs between them, and a client.",
    );
    let mut arena = Arena::formed(application, 0)?;
    match play(&mut arena, &mut narrator) {
        Ok((measured, report)) => {
            narrator.table(&table(&measured, &report));
            if options.keep {
                narrator.say("The cluster stays up. Ctrl-C ends it.");
                narrator.raw(&how_to_talk(arena.lab())?);
                wait_for_end()?;
            }
            Ok(if report.lost.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Err(error) => {
            narrator.raw(&arena.evidence());
            if options.keep {
                narrator.say(&format!(
                    "FAILED: {error:#}. The cluster stays up. Ctrl-C ends it."
                ));
                narrator.raw(&how_to_talk(arena.lab())?);
                wait_for_end()?;
            }
            Err(error)
        }
    }
}

/// PostgreSQL where it is installed, the embedded ledger elsewhere.
fn installed() -> Application {
    if Application::Postgresql.is_installed() {
        Application::Postgresql
    } else {
        Application::Ledger
    }
}

fn play(arena: &mut Arena, narrator: &mut Narrator) -> anyhow::Result<(Measured, Report)> {
    let mut measured = Measured::default();
    narrator.say(&format!(
        "The cluster is formed. Installing the module: {} on a replicated directory behind {}.",
        arena.application().name(),
        crate::lab::topology::virtual_v4()
    ));
    arena.start_module()?;
    let primary = arena.ready()?;
    let other = arena.cluster().other(&primary)?;
    narrator.say(&format!(
        "Mirrored: {primary} is PRIM, {other} is SECOND. The client commits rows through the virtual address."
    ));
    let started = arena.recorder()?.start_ns();
    arena.recorder()?.wait_load(ROWS_BETWEEN, ROWS_DEADLINE)?;
    lose_power(arena, narrator, &primary, &other, &mut measured)?;
    bring_back(arena, narrator, &primary, &mut measured)?;
    switch_back(arena, narrator, &other, &primary, &mut measured)?;
    narrator.say("Stopping the client and reading every row back.");
    let gap = arena.recorder()?.longest_gap_ms(started, wait::boot_ns());
    let mut report = arena.finish_recorder()?;
    report.longest_gap_ms = gap;
    let trees = arena.verify_trees().context("compare both copies")?;
    narrator.say(&format!(
        "Both copies are equal: {} entries, {} compared byte by byte.",
        trees.entries,
        bytes(trees.bytes as f64)
    ));
    Ok((measured, report))
}

fn lose_power(
    arena: &mut Arena,
    narrator: &mut Narrator,
    primary: &str,
    other: &str,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    narrator.say(&format!(
        "{primary} loses power: links down, everything on it dies at once."
    ));
    let cut = arena.lab_mut().power_cut(primary)?;
    measured.takeover_ms = arena.wait_takeover(other, cut, TAKEOVER_DEADLINE)?;
    narrator.say(&format!(
        "{other} takes over {} after the cut; the application starts there.",
        ms(measured.takeover_ms)
    ));
    measured.served_ms = arena.wait_served_by(other, cut, SERVED_DEADLINE)?;
    narrator.say(&format!(
        "The client is served again, {} after the cut.",
        ms(measured.served_ms)
    ));
    arena.recorder()?.wait_load(ROWS_BETWEEN, ROWS_DEADLINE)
}

fn bring_back(
    arena: &mut Arena,
    narrator: &mut Narrator,
    primary: &str,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    narrator.say(&format!(
        "{primary} has power again and is brought up to date while the client goes on."
    ));
    let mut figures = Figures::default();
    arena.bring_back(primary, &mut figures)?;
    measured.reintegration_ms = figures.get("reintegration_ms").unwrap_or(0.0);
    measured.reintegrated_bytes = figures.get("reintegrated_bytes").unwrap_or(0.0);
    narrator.say(&format!(
        "{primary} is SECOND and up to date, {} after its power came back, {} copied.",
        ms(measured.reintegration_ms),
        bytes(measured.reintegrated_bytes)
    ));
    arena.audit().map(drop).context("audit after the return")
}

fn switch_back(
    arena: &mut Arena,
    narrator: &mut Narrator,
    from: &str,
    to: &str,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    narrator.say(&format!(
        "A planned switchover from {from} back to {to}: skcli module swap."
    ));
    let began = wait::boot_ns();
    let swap = ["module", "swap", "-m", crate::cluster::MODULE];
    arena.cluster().skcli(from)?.json(&swap)?;
    arena.wait_takeover(to, began, TAKEOVER_DEADLINE)?;
    arena.wait_served_by(to, began, SERVED_DEADLINE)?;
    arena.primary()?;
    measured.swap_gap_ms = arena.recorder()?.longest_gap_ms(began, wait::boot_ns());
    narrator.say(&format!(
        "{to} is PRIM again; the client waited {} at most, nothing had to be copied.",
        ms(measured.swap_gap_ms)
    ));
    arena
        .audit()
        .map(drop)
        .context("audit after the switchover")
}

fn table(measured: &Measured, report: &Report) -> Vec<(&'static str, String)> {
    vec![
        ("takeover, from the power cut", ms(measured.takeover_ms)),
        ("client served again", ms(measured.served_ms)),
        ("longest gap seen by the client", ms(report.longest_gap_ms)),
        ("switchover, longest gap", ms(measured.swap_gap_ms)),
        ("return to full redundancy", ms(measured.reintegration_ms)),
        ("bytes reintegrated", bytes(measured.reintegrated_bytes)),
        ("rows acknowledged", report.acknowledged.to_string()),
        ("rows of unknown outcome", report.unknown.to_string()),
        ("rows lost", report.lost.len().to_string()),
    ]
}

fn ms(value: f64) -> String {
    if value < 1000.0 {
        format!("{value:.0} ms")
    } else {
        format!("{:.2} s", value / 1000.0)
    }
}

fn bytes(value: f64) -> String {
    match value {
        v if v < 1024.0 => format!("{v:.0} B"),
        v if v < 1024.0 * 1024.0 => format!("{:.1} KiB", v / 1024.0),
        v => format!("{:.1} MiB", v / 1024.0 / 1024.0),
    }
}

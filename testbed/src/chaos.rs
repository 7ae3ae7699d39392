//! `testbed chaos`: random faults on a cluster under load, an audit after each, for minutes or hours (test-programme T4).
//!
//! After each fault everything must be mirrored again by itself (P7); then the audit: acknowledged rows are there (P1), one
//! owner of the address (P2), both copies equal (P3), no promotion from outside the in-sync set (P4), every role change with a
//! chain of causes down to what somebody saw (P10), nothing left behind (P11), and enough load that all this means something
//! (P12).

mod causes;
mod fault;
mod report;
mod step;

use crate::cluster::package::Acknowledgement;
use crate::oracle::recorder::Report;
use crate::oracle::starvation::STOOD_STILL;
use crate::oracle::{Application, Load, roles};
use crate::scenario::{Arena, hold, ms_since};
use crate::wait;
use anyhow::{Context as _, ensure};
use clap::Args;
use fault::Fault;
use report::Campaign;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use step::Cast;

/// Rows at a steady pace: an hour of them must be read back at the end.
const LOAD: Load = Load {
    writers: 4,
    rest: Duration::from_millis(20),
};
/// Fewer acknowledged rows per second over the whole run, and the run proves nothing (P12).
const RATE_MIN: f64 = 10.0;
/// After each step the rows of so long are read back; all of them at the end.
const AUDIT_WINDOW: Duration = Duration::from_secs(180);
/// Steps in a hundred that may be excused by a machine that stood still; one in a shorter run.
const EXCUSED_PERCENT_MAX: usize = 1;
/// Failovers in a minute below which a run proves too little: 150 in an hour.
const FAILOVERS_PER_MINUTE_MIN: f64 = 2.5;
/// Shorter runs draw too few faults for that to be asked of them.
const COUNTED_FROM_MINUTES: f64 = 30.0;

/// Options of `testbed chaos`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How long
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub minutes: u32,
    /// Seed of all faults
    #[arg(long)]
    pub seed: Option<u64>,
    /// Time from one fault to the next, in seconds; longer when a fault and its audit take longer
    #[arg(long, value_name = "SECONDS", default_value = "10s", value_parser = seconds)]
    pub every: Duration,
    /// When writes of the module are answered
    #[arg(long, value_enum, default_value = "disk")]
    pub ack: Acknowledgement,
    /// Stop after so many faults
    #[arg(long, value_name = "COUNT")]
    pub faults: Option<u32>,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write a report for people
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Leave the lab's directories and logs behind
    #[arg(long)]
    pub keep: bool,
}

/// `10` or `10s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    match number.parse::<u64>() {
        Ok(seconds) if seconds <= 3600 => Ok(Duration::from_secs(seconds)),
        Ok(_) | Err(_) => Err("expected seconds, at most 3600, as 10s".to_owned()),
    }
}

/// Runs `testbed chaos`.
///
/// # Errors
/// The report cannot be written; a failed run is exit status 1 and not an error.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    if let Some(why) = crate::cluster::missing() {
        return crate::skipped("chaos", &why, options.json);
    }
    let campaign = perform(options);
    if let Some(path) = &options.report {
        std::fs::write(path, campaign.for_people())
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(failure) = &campaign.failure {
        writeln!(out, "chaos failed: {failure}")?;
        writeln!(out, "replay: {}", campaign.command())?;
    }
    writeln!(out, "{}", campaign.summary())?;
    if options.json {
        writeln!(out, "{}", campaign.json())?;
    }
    Ok(if campaign.failure.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the faults and judges.
pub fn perform(options: &Options) -> Campaign {
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut campaign = Campaign::new(options, seed);
    match Arena::formed(Application::Ledger, seed) {
        Err(error) => campaign.failure = Some(format!("{error:#}")),
        Ok(mut arena) => {
            arena.set_acknowledgement(options.ack);
            if options.keep {
                arena.lab_mut().keep_files();
            }
            if let Err(error) = all_steps(options, &mut arena, &mut campaign) {
                // A frozen or cut-off daemon could tell nothing.
                let _already_well = arena.lab().heal();
                campaign.failure = Some(format!("{error:#}\n{}", arena.evidence()));
                // What was promised before the failure is read back all the same.
                match arena.finish_recorder() {
                    Ok(rows) => campaign.finished(rows),
                    Err(error) => tracing::warn!("the rows cannot be read back: {error:#}"),
                }
            }
        }
    }
    campaign
}

fn all_steps(options: &Options, arena: &mut Arena, campaign: &mut Campaign) -> anyhow::Result<()> {
    arena.load = LOAD;
    arena.start_module()?;
    let began = wait::boot_ns();
    let end_ms = f64::from(options.minutes) * 60_000.0;
    for number in 1.. {
        let is_last = options.faults.is_some_and(|faults| number > faults);
        if is_last || ms_since(began) >= end_ms {
            break;
        }
        let fault = Fault::choose(&mut arena.random);
        let step_began = wait::boot_ns();
        arena.stood_still();
        one_step(arena, fault, campaign)
            .with_context(|| format!("step {number}, minute {:.1}: {fault}", minutes(began)))?;
        campaign.took(ms_since(began));
        hold(step_began, options.every);
    }
    finish(arena, campaign)
}

fn minutes(since_ns: u64) -> f64 {
    ms_since(since_ns) / 60_000.0
}

fn one_step(arena: &mut Arena, fault: Fault, campaign: &mut Campaign) -> anyhow::Result<()> {
    let primary = arena.ready()?;
    let cast = Cast {
        secondary: arena.cluster().other(&primary)?,
        leader: wait::until("a leader", step::CONVERGE_DEADLINE, || {
            arena.cluster().leader().map_err(|e| format!("{e:#}"))
        })?,
        primary,
    };
    let before = arena.all_events()?.len();
    let cut = step::inject(arena, fault, &cast)?;
    let lifted = wait::boot_ns();
    arena.wait_settled(lifted, step::CONVERGE_DEADLINE)?;
    let converged = ms_since(lifted);
    let gap = arena.recorder()?.longest_gap_ms(cut, wait::boot_ns());
    // What the audit itself costs the machine is no excuse.
    let starved = arena.stood_still();
    audit(arena)?;
    let events = arena.all_events()?;
    let new = events.get(before..).unwrap_or_default();
    let mut order = vec![cast.primary.clone()];
    order.extend(roles::primaries(crate::cluster::MODULE, new));
    order.dedup();
    let causes = causes::of_changes(new, &events)?;
    let judged =
        step::verify_moves(fault, &cast, &order).and_then(|()| step::verify_gap(fault, &cast, gap));
    match judged {
        Err(error) if starved >= STOOD_STILL => campaign.excuse(format!(
            "{error:#}; the machine had stood still for {} ms",
            starved.as_millis()
        )),
        judged => {
            judged?;
            campaign.note(fault, gap, converged, causes);
        }
    }
    campaign.starved(starved);
    writeln!(
        std::io::stdout(),
        "{}",
        campaign.line(fault, &order, gap, converged)
    )?;
    Ok(())
}

/// All oracles, with the client at rest for a moment so that the copies can be compared.
fn audit(arena: &Arena) -> anyhow::Result<Report> {
    let window_ns = u64::try_from(AUDIT_WINDOW.as_nanos()).unwrap_or(u64::MAX);
    let report = arena.audit_since(wait::boot_ns().saturating_sub(window_ns))?;
    arena.verify_logs()?;
    arena.recorder()?.pause();
    let equal = arena.verify_trees();
    arena.recorder()?.resume();
    equal.context("the copies differ")?;
    Ok(report)
}

fn finish(arena: &mut Arena, campaign: &mut Campaign) -> anyhow::Result<()> {
    let report = arena.finish_recorder()?;
    let lost = report.lost.len();
    let rate = report.rate;
    campaign.finished(report);
    ensure!(lost == 0, "{lost} acknowledged rows are lost");
    ensure!(
        rate >= RATE_MIN,
        "rejected: {rate:.1} rows per second were acknowledged, a run needs {RATE_MIN:.0}"
    );
    campaign.verify_enough_happened()?;
    arena.verify_trees()?;
    Ok(())
}

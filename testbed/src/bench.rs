//! `testbed bench`: what the mirror costs, as ratios against baselines measured in the same run: the plain directory, a
//! do-nothing FUSE pass-through, and the round trip of a message over the same wire.
//!
//! Machines are shared and noisy: each line is measured several times, the targets in turn, and the middle value counts.

pub mod load;
pub mod pass_through;
mod report;
mod stand;

use crate::cluster::package::Acknowledgement;
use load::Measurement;
use report::Report;
use stand::{Stand, Target, Trip};
use std::process::ExitCode;

/// Options of `testbed bench`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Measurements of each line; the middle one counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    repeat: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Last line is one JSON object
    #[arg(long)]
    json: bool,
    /// Only lines whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// When writes of the mirror are answered
    #[arg(long, value_enum, default_value = "disk")]
    ack: Acknowledgement,
}

/// Which figure of a measurement counts, and which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    /// Middle latency: the mirror may add so many microseconds to pass-through + ping-pong.
    LatencyAdded(u32),
    /// Operations per second: at least this share of the pass-through, in hundredths.
    RateShare(u32),
    /// MiB per second read here: at least this share of the pass-through, in hundredths.
    ThroughputShare(u32),
    /// MiB per second written here and there, 128 KiB each: at least this share of the pass-through, in hundredths. Shown beside the
    /// share that bare TCP alone would leave, without TLS and without the second write.
    ShippedShare(u32),
}

/// One line of the table.
#[derive(Debug)]
struct Line {
    name: &'static str,
    arguments: &'static [&'static str],
    figure: Figure,
    /// The line is a goal of the product, not an additional view.
    is_goal: bool,
}

const LINES: &[Line] = &[
    Line {
        name: "4 KiB write, one at a time, direct",
        arguments: &["write", "--direct"],
        figure: Figure::LatencyAdded(40),
        is_goal: true,
    },
    Line {
        name: "4 KiB write, one at a time, cached",
        arguments: &["write"],
        figure: Figure::LatencyAdded(40),
        is_goal: false,
    },
    Line {
        name: "4 KiB write, 16 writers, direct",
        arguments: &["write", "--direct", "--writers", "16"],
        figure: Figure::RateShare(40),
        is_goal: true,
    },
    Line {
        name: "128 KiB sequential write, direct",
        arguments: &["write", "--direct", "--size", "131072", "--sequential"],
        figure: Figure::ShippedShare(40),
        is_goal: true,
    },
    Line {
        name: "128 KiB sequential write, cached",
        arguments: &["write", "--size", "131072", "--sequential"],
        figure: Figure::ShippedShare(40),
        is_goal: false,
    },
    Line {
        name: "create + 4 KiB + close",
        arguments: &["create"],
        figure: Figure::RateShare(25),
        is_goal: true,
    },
    Line {
        name: "4 KiB random read, cached",
        arguments: &["read"],
        figure: Figure::RateShare(90),
        is_goal: true,
    },
    Line {
        name: "128 KiB sequential read, direct",
        arguments: &["read", "--direct", "--size", "131072", "--sequential"],
        figure: Figure::ThroughputShare(90),
        is_goal: true,
    },
];

/// Runs the benches.
///
/// # Errors
/// The lab or the mirror could not be made. A goal that is missed is exit status 1 and not an error.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(why) = crate::cluster::missing() {
        anyhow::bail!("the benches cannot run here: {why}");
    }
    let stand = Stand::new(options.ack)?;
    let mut report = Report::default();
    let seconds = options.seconds.to_string();
    for trip in [Trip::Small, Trip::Large] {
        let pings = repeat(options.repeat, || stand.ping(trip, &seconds))?;
        report.trip(trip, &middle(&pings, |m| m.p50_us));
    }
    for line in LINES {
        if options
            .only
            .as_ref()
            .is_some_and(|part| !line.name.contains(part.as_str()))
        {
            continue;
        }
        let mut measured: [Vec<Measurement>; 3] = Default::default();
        let mut cpu = Vec::new();
        for _ in 0..options.repeat {
            for (index, target) in Target::ALL.into_iter().enumerate() {
                let before = stand.daemon_cpu_s();
                let one = stand.load(target, line.arguments, &seconds)?;
                if target == Target::Mirror && one.bytes > 0 {
                    let gib = one.bytes as f64 / f64::from(1 << 30);
                    cpu.push((stand.daemon_cpu_s() - before) / gib);
                }
                measured[index].push(one);
            }
        }
        let key = |m: &Measurement| match line.figure {
            Figure::LatencyAdded(_) => m.p50_us,
            Figure::RateShare(_) => m.per_s,
            Figure::ThroughputShare(_) | Figure::ShippedShare(_) => m.mib_per_s,
        };
        let [plain, pass, mirror] = measured.map(|all| middle(&all, key));
        cpu.sort_by(f64::total_cmp);
        report.line(
            line,
            &plain,
            &pass,
            &mirror,
            cpu.get(cpu.len() / 2).copied().unwrap_or(0.0),
        );
    }
    report.memory(&stand.daemon_memory_mib());
    report.print(options.json)?;
    Ok(if report.all_goals_met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn repeat<T>(count: u32, one: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    (0..count).map(|_| one()).collect()
}

/// The measurement whose figure is the middle one.
fn middle(all: &[Measurement], key: impl Fn(&Measurement) -> f64) -> Measurement {
    let mut sorted = all.to_vec();
    sorted.sort_by(|a, b| key(a).total_cmp(&key(b)));
    sorted.get(sorted.len() / 2).cloned().unwrap_or_default()
}

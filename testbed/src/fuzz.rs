//! `testbed fuzz TARGET`: hostile bytes for everything that arrives from other members.
//!
//! Inputs are made from real messages (`testbed/corpus`) by mutations that know the structure: lengths are put right again, so
//! that what is behind them is reached; bodies are mutated inside their envelopes; numbers are replaced by those that hurt.
//! Each input goes to the decoder that the daemon uses. With `--live` they go to a daemon in a lab, from a stranger and from
//! someone with a member's certificate.
//!
//! A finding is a panic, an input that takes longer than [`SLOW`], or memory that grows. The seed and the number of the input
//! make it again.

mod live;
mod mutate;
mod target;

use crate::wait::boot_ns;
use anyhow::{Context as _, ensure};
use clap::Args;
use mutate::Mutator;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
pub use target::Target;

/// One input takes less than this.
const SLOW: Duration = Duration::from_secs(1);
/// The process may grow by this over a run: the corpus, and the largest message.
const GROWTH_KIB_MAX: u64 = 128 << 10;
/// Inputs between two looks at time and memory.
const LOOK_EVERY: u64 = 4096;
/// Overrides where the corpus is.
const CORPUS_ENV: &str = "SIDEKICK_CORPUS_DIR";

/// Options of `testbed fuzz`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What is attacked
    #[arg(value_enum)]
    pub target: Target,
    /// How long
    #[arg(long, conflicts_with = "seconds")]
    pub minutes: Option<u64>,
    /// How long, in seconds
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Seed of all inputs
    #[arg(long)]
    pub seed: Option<u64>,
    /// Attack a daemon in a lab, not only the decoder
    #[arg(long)]
    pub live: bool,
    /// Write the real messages that the corpus consists of, and nothing else
    #[arg(long, conflicts_with = "live")]
    pub store: bool,
    /// Last line is one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn length(&self) -> Duration {
        let seconds = self.minutes.map(|minutes| minutes * 60);
        Duration::from_secs(seconds.or(self.seconds).unwrap_or(3))
    }
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Inputs.
    pub inputs: u64,
    /// Of those, how many were understood: the structure was kept.
    pub understood: u64,
    /// Memory gained.
    pub growth_kib: u64,
}

/// Runs `testbed fuzz`.
///
/// # Errors
/// The corpus cannot be read, no lab can be made; a finding.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    if options.store {
        let count = store(options.target)?;
        writeln!(
            out,
            "{count} messages in {}",
            directory(options.target).display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if options.live
        && let Some(why) = crate::cluster::missing()
    {
        return crate::skipped(options.target.name(), &why, options.json);
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    let result = perform(options, seed);
    let name = options.target.name();
    let live = if options.live { " --live" } else { "" };
    match &result {
        Ok(tally) => writeln!(
            out,
            "fuzz {name}{live}: no finding in {} inputs, {} of them understood; memory grew by {} KiB; seed {seed}",
            tally.inputs, tally.understood, tally.growth_kib
        )?,
        Err(error) => writeln!(
            out,
            "fuzz {name}{live}: FOUND: {error:#}\nreplay: testbed fuzz {name}{live} --seconds {} --seed {seed}",
            options.length().as_secs()
        )?,
    }
    if options.json {
        let inputs = result.as_ref().map_or(0, |tally| tally.inputs);
        let object = serde_json::json!({
            "name": format!("fuzz {name}{live}"),
            "passed": result.is_ok(),
            "inputs": inputs,
            "seed": seed,
        });
        writeln!(out, "{object}")?;
    }
    Ok(if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sends inputs until the time is over.
///
/// # Errors
/// A finding, or the corpus cannot be read.
pub fn perform(options: &Options, seed: u64) -> anyhow::Result<Tally> {
    let mut mutator = Mutator::new(corpus(options.target)?, seed);
    if options.live {
        return live::attack(options.target, &mut mutator, options.length());
    }
    let mut tally = Tally::default();
    let (began, before) = (Instant::now(), resident_kib());
    loop {
        if tally.inputs.is_multiple_of(LOOK_EVERY) {
            tally.growth_kib = resident_kib().saturating_sub(before);
            ensure!(
                tally.growth_kib <= GROWTH_KIB_MAX,
                "memory grew by {} KiB over {} inputs",
                tally.growth_kib,
                tally.inputs
            );
            if began.elapsed() >= options.length() {
                return Ok(tally);
            }
        }
        tally.inputs += 1;
        let input = mutator.next(options.target);
        if try_decode(options.target, &input)
            .with_context(|| format!("input {}: {}", tally.inputs, shown(&input)))?
        {
            tally.understood += 1;
        }
    }
}

fn try_decode(target: Target, input: &target::Input) -> anyhow::Result<bool> {
    let began = boot_ns();
    let decoded = catch_unwind(AssertUnwindSafe(|| target.decode(input)));
    let took = Duration::from_nanos(boot_ns() - began);
    let understood = decoded.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        anyhow::anyhow!("panicked: {}", text.unwrap_or("without a text"))
    })?;
    ensure!(took < SLOW, "took {} ms", took.as_millis());
    Ok(understood)
}

fn shown(input: &target::Input) -> String {
    let hex: String = input
        .bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{} {hex}", input.kind)
}

fn resident_kib() -> u64 {
    crate::oracle::leaks::resident_kib(std::process::id())
}

fn directory(target: Target) -> PathBuf {
    let base = std::env::var_os(CORPUS_ENV).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"),
        PathBuf::from,
    );
    base.join(target.name())
}

/// Writes the real messages of a target, one file each: what mutations work on, without what surrounds it.
fn store(target: Target) -> anyhow::Result<usize> {
    let directory = directory(target);
    std::fs::create_dir_all(&directory)?;
    let samples = target.samples();
    for (number, input) in samples.iter().enumerate() {
        let name = format!("{}-{number:02}.bin", input.kind);
        std::fs::write(directory.join(name), &input.body)?;
    }
    Ok(samples.len())
}

/// The stored messages of a target: real ones, and everything that was once a finding.
fn corpus(target: Target) -> anyhow::Result<Vec<target::Input>> {
    let directory = directory(target);
    let mut names: Vec<_> = std::fs::read_dir(&directory)
        .with_context(|| format!("read {}", directory.display()))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    // The order of a directory is chance; one seed is one run.
    names.sort();
    let mut inputs = Vec::new();
    for name in names {
        let text = name.to_string_lossy();
        let kind = text.split_once('-').map_or("", |(kind, _)| kind);
        if target.kinds().contains(&kind) {
            let bytes = std::fs::read(directory.join(&name))?;
            inputs.push(target::Input::new(target, kind, bytes));
        }
    }
    ensure!(!inputs.is_empty(), "no messages in {}", directory.display());
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is stored is what this version speaks. Method: every stored message is decoded.
    #[test]
    fn stored_messages_are_understood() {
        for target in Target::ALL {
            for input in corpus(target).expect("a corpus") {
                assert!(target.decode(&input), "{} {}", target.name(), shown(&input));
            }
        }
    }

    /// Goal: the decoders survive nonsense. Method: a short run of each target with the seed of this test.
    #[test]
    fn a_moment_of_each_target() {
        for target in Target::ALL {
            let options = Options {
                target,
                minutes: None,
                seconds: Some(3),
                seed: Some(1),
                live: false,
                store: false,
                json: false,
            };
            let tally = perform(&options, 1).expect("no finding");
            assert!(
                tally.inputs > 1000 && tally.understood > 10,
                "{target:?} {tally:?}"
            );
            assert!(tally.understood < tally.inputs, "{target:?} {tally:?}");
        }
    }
}

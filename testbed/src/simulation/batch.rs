//! Many seeds on all cores.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::{Options, Outcome, simulate};

/// What many runs came to.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    /// Nanoseconds of virtual time.
    pub virtual_ns: u64,
    /// Events handled.
    pub events: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Failovers.
    pub failovers: u64,
    /// Changes of primary or in-sync set.
    pub role_changes: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<String, u64>,
    /// All digests in one, whatever thread ran which seed.
    pub digest: u64,
    /// Runs in which a property did not hold, by seed.
    pub failures: Vec<Outcome>,
}

impl Totals {
    fn take(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.virtual_ns += outcome.virtual_ns;
        self.events += outcome.events;
        self.acknowledged += outcome.acknowledged;
        self.failovers += outcome.failovers;
        self.role_changes += outcome.role_changes;
        self.digest ^= outcome.digest.rotate_left((outcome.seed % 64) as u32);
        for kind in &outcome.faults {
            *self.faults.entry(kind.clone()).or_default() += 1;
        }
        if outcome.broken.is_some() {
            self.failures.push(outcome);
        }
    }

    fn add(&mut self, other: Totals) {
        self.seeds += other.seeds;
        self.virtual_ns += other.virtual_ns;
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.failovers += other.failovers;
        self.role_changes += other.role_changes;
        self.digest ^= other.digest;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.seed);
    }
}

/// Runs all of `seeds`; with `stops` no new seed is begun after a failure, and every seed before the first failing one
/// was run.
///
/// # Errors
/// A run could not begin.
///
/// # Panics
/// A run panicked.
pub fn run(seeds: Range<u64>, options: Options, stops: bool) -> anyhow::Result<Totals> {
    let next = AtomicU64::new(seeds.start);
    let first_failure = AtomicU64::new(u64::MAX);
    let work = || {
        let mut totals = Totals::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seed > first_failure.load(Ordering::Relaxed) {
                return Ok(totals);
            }
            let outcome = simulate(seed, options)?;
            if stops && outcome.broken.is_some() {
                first_failure.fetch_min(seed, Ordering::Relaxed);
            }
            totals.take(outcome);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<anyhow::Result<Totals>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let mut totals = Totals::default();
    for result in results {
        totals.add(result?);
    }
    Ok(totals)
}

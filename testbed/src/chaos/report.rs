//! What came of a chaos run: figures by kind of fault, for machines and for people.

use super::causes::Change;
use super::fault::Fault;
use super::{COUNTED_FROM_MINUTES, EXCUSED_PERCENT_MAX, FAILOVERS_PER_MINUTE_MIN, Options};
use crate::cluster::package::Acknowledgement;
use crate::oracle::recorder::Report;
use anyhow::ensure;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Figures of all faults of one kind.
#[derive(Debug, Default)]
struct OfKind {
    count: u32,
    failovers: u32,
    gaps_ms: Vec<f64>,
    converged_ms: Vec<f64>,
}

/// A whole run.
#[derive(Debug)]
pub struct Campaign {
    minutes: u32,
    ack: Acknowledgement,
    every: Duration,
    seed: u64,
    steps: u32,
    took_ms: f64,
    kinds: BTreeMap<String, OfKind>,
    causes: BTreeMap<String, u32>,
    failovers: u32,
    planned: u32,
    excused: Vec<String>,
    starved_max: Duration,
    rows: Option<Report>,
    /// Why it failed, with everything that helps to understand it.
    pub failure: Option<String>,
}

impl Campaign {
    pub(super) fn new(options: &Options, seed: u64) -> Campaign {
        Campaign {
            minutes: options.minutes,
            ack: options.ack,
            every: options.every,
            seed,
            steps: 0,
            took_ms: 0.0,
            kinds: BTreeMap::new(),
            causes: BTreeMap::new(),
            failovers: 0,
            planned: 0,
            excused: Vec::new(),
            starved_max: Duration::ZERO,
            rows: None,
            failure: None,
        }
    }

    /// A step whose audit passed.
    pub(super) fn note(
        &mut self,
        fault: Fault,
        gap_ms: f64,
        converged_ms: f64,
        changes: Vec<Change>,
    ) {
        let kind = self.kinds.entry(fault.kind()).or_default();
        self.steps += 1;
        kind.count += 1;
        kind.gaps_ms.push(gap_ms);
        kind.converged_ms.push(converged_ms);
        for change in changes {
            tracing::info!(change.what, change.first_cause, "role change");
            *self.causes.entry(change.first_cause).or_default() += 1;
            if change.is_planned {
                self.planned += 1;
            } else {
                self.failovers += 1;
                kind.failovers += 1;
            }
        }
    }

    /// The machine kept a thread that wanted to run from running for so long in one step.
    pub(super) fn starved(&mut self, starved: Duration) {
        self.starved_max = self.starved_max.max(starved);
    }

    pub(super) fn took(&mut self, ms: f64) {
        self.took_ms = ms;
    }

    /// A role that moved although it should not, or a gap that was too long, on a machine that stood still. The step
    /// counts neither against the product nor for it.
    pub(super) fn excuse(&mut self, why: String) {
        self.excused.push(why);
    }

    /// Enough steps counted, and enough of them were failovers.
    pub(super) fn verify_enough_happened(&self) -> anyhow::Result<()> {
        let all = usize::try_from(self.steps)? + self.excused.len();
        let excused_max = (all * EXCUSED_PERCENT_MAX / 100).max(1);
        ensure!(
            self.excused.len() <= excused_max,
            "rejected: the machine stood still in {} of {all} steps, at most {excused_max} may be excused",
            self.excused.len()
        );
        let minutes = self.took_ms / 60_000.0;
        let wanted = FAILOVERS_PER_MINUTE_MIN * minutes;
        ensure!(
            minutes < COUNTED_FROM_MINUTES || f64::from(self.failovers) >= wanted,
            "rejected: {} failovers in {minutes:.0} minutes, a run of that length needs {wanted:.0}",
            self.failovers
        );
        Ok(())
    }

    pub(super) fn finished(&mut self, rows: Report) {
        self.rows = Some(rows);
    }

    /// One line for a step.
    pub(super) fn line(&self, fault: Fault, order: &[String], gap: f64, converged: f64) -> String {
        let fault = fault.to_string();
        format!(
            "{:4}  {fault:52} {:9} gap {gap:6.0} ms  mirrored after {converged:6.0} ms  failovers {}",
            self.steps,
            order.join(">"),
            self.failovers
        )
    }

    pub(super) fn command(&self) -> String {
        format!(
            "testbed chaos --minutes {} --every {}s --ack {} --seed {}",
            self.minutes,
            self.every.as_secs(),
            self.ack.name(),
            self.seed
        )
    }

    /// The run in one line.
    pub fn summary(&self) -> String {
        let (acknowledged, lost) = self
            .rows
            .as_ref()
            .map_or(("unknown".to_owned(), "unknown".to_owned()), |rows| {
                (rows.acknowledged.to_string(), rows.lost.len().to_string())
            });
        format!(
            "chaos: {}, {:.1} minutes, {} faults, {} failovers, {} planned role changes, {acknowledged} rows acknowledged, \
             lost: {lost}",
            if self.failure.is_none() {
                "passed"
            } else {
                "FAILED"
            },
            self.took_ms / 60_000.0,
            self.steps,
            self.failovers,
            self.planned
        )
    }

    /// The run as one JSON object.
    pub fn json(&self) -> serde_json::Value {
        let kinds: serde_json::Map<String, serde_json::Value> = self
            .kinds
            .iter()
            .map(|(name, kind)| {
                let value = serde_json::json!({
                    "count": kind.count,
                    "failovers": kind.failovers,
                    "gap_ms_p50": percentile(&kind.gaps_ms, 50),
                    "gap_ms_max": percentile(&kind.gaps_ms, 100),
                });
                (name.clone(), value)
            })
            .collect();
        serde_json::json!({
            "name": "chaos",
            "passed": self.failure.is_none(),
            "minutes": self.took_ms / 60_000.0,
            "seed": self.seed,
            "faults": self.steps,
            "failovers": self.failovers,
            "planned": self.planned,
            "explained": self.causes.values().sum::<u32>(),
            "acknowledged": self.rows.as_ref().map(|rows| rows.acknowledged),
            "unknown": self.rows.as_ref().map(|rows| rows.unknown),
            "lost": self.rows.as_ref().map(|rows| rows.lost.len()),
            "rate": self.rows.as_ref().map(|rows| rows.rate),
            "excused": self.excused.len(),
            "kinds": kinds,
        })
    }

    /// The run as a page.
    pub fn for_people(&self) -> String {
        let mut page = format!(
            "# Chaos run of {:.0} minutes\n\n    {}\n\n{}.\n\n",
            self.took_ms / 60_000.0,
            self.command(),
            self.summary()
        );
        page += "Two servers and a witness in namespaces of one machine, two LANs, the ledger behind its virtual address, four \
                 writers at a steady pace.\nAfter every fault: mirrored again by itself (P7), then acknowledged rows read back \
                 (P1), owners of the address at\nthe switch (P2), both trees compared (P3), promotions (P4), causes (P10), \
                 leftovers (P11), load (P12).\n\n";
        self.rows_for_people(&mut page);
        self.kinds_for_people(&mut page);
        self.causes_for_people(&mut page);
        let _infallible = writeln!(
            page,
            "\nLongest time this machine kept a waiting thread from running, or a small write from its disk: {} ms.",
            self.starved_max.as_millis()
        );
        for excused in &self.excused {
            let _infallible = writeln!(page, "* not counted against the product: {excused}");
        }
        if let Some(failure) = &self.failure {
            let first = failure.lines().next().unwrap_or_default();
            let _infallible = writeln!(page, "\nFailed: {first}");
        }
        page
    }

    fn rows_for_people(&self, page: &mut String) {
        if let Some(rows) = &self.rows {
            let _infallible = writeln!(
                page,
                "| Rows | |\n|---|---|\n| acknowledged | {} |\n| lost | {} |\n| unknown (the answer never came; allowed to be \
                 there or not) | {} |\n| per second over the whole run | {:.1} |\n| longest time without any | {:.0} ms |\n",
                rows.acknowledged,
                rows.lost.len(),
                rows.unknown,
                rows.rate,
                rows.longest_gap_ms
            );
        }
    }

    fn kinds_for_people(&self, page: &mut String) {
        page.push_str(
            "| Fault | Times | Failovers | Gap p50 ms | Gap max ms | Mirrored again p50 ms | max ms |\n|---|---|---|---|---|---|---|\n",
        );
        for (name, kind) in &self.kinds {
            let _infallible = writeln!(
                page,
                "| {name} | {} | {} | {:.0} | {:.0} | {:.0} | {:.0} |",
                kind.count,
                kind.failovers,
                percentile(&kind.gaps_ms, 50),
                percentile(&kind.gaps_ms, 100),
                percentile(&kind.converged_ms, 50),
                percentile(&kind.converged_ms, 100)
            );
        }
    }

    fn causes_for_people(&self, page: &mut String) {
        page.push_str(
            "\n| First cause of a role change, as the cluster tells it | Times |\n|---|---|\n",
        );
        for (cause, count) in &self.causes {
            let _infallible = writeln!(page, "| {cause} | {count} |");
        }
    }
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0.0)
}

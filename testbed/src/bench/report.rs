//! The table of the benches.

use super::load::Measurement;
use super::stand::Trip;
use super::{Figure, Line};
use std::io::Write as _;

/// MiB of one write of the lines that are judged by [`Figure::ShippedShare`].
const SHIPPED_MIB: f64 = 0.125;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// [`Trip::Small`].
    ping_us: f64,
    /// [`Trip::Large`].
    shipping_us: f64,
    rows: Vec<Row>,
    memory: Vec<(String, f64)>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    unit: &'static str,
    plain: f64,
    pass: f64,
    mirror: f64,
    verdict: String,
    is_met: bool,
    is_goal: bool,
    cpu_s_per_gib: f64,
}

impl Report {
    pub(super) fn trip(&mut self, trip: Trip, measured: &Measurement) {
        match trip {
            Trip::Small => self.ping_us = measured.p50_us,
            Trip::Large => self.shipping_us = measured.p50_us,
        }
    }

    pub(super) fn memory(&mut self, memory: &[(String, f64)]) {
        self.memory = memory.to_vec();
    }

    pub(super) fn line(
        &mut self,
        line: &Line,
        plain: &Measurement,
        pass: &Measurement,
        mirror: &Measurement,
        cpu_s_per_gib: f64,
    ) {
        type Key = fn(&Measurement) -> f64;
        let (unit, key): (_, Key) = match line.figure {
            Figure::LatencyAdded(_) => ("us p50", |m| m.p50_us),
            Figure::RateShare(_) => ("/s", |m| m.per_s),
            Figure::ThroughputShare(_) | Figure::ShippedShare(_) => ("MiB/s", |m| m.mib_per_s),
        };
        let (plain, pass, mirror) = (key(plain), key(pass), key(mirror));
        let (verdict, is_met) = self.judge(line.figure, pass, mirror);
        self.rows.push(Row {
            name: line.name,
            unit,
            plain,
            pass,
            mirror,
            verdict,
            is_met,
            is_goal: line.is_goal,
            cpu_s_per_gib,
        });
    }

    fn judge(&self, figure: Figure, pass: f64, mirror: f64) -> (String, bool) {
        match figure {
            Figure::LatencyAdded(allowed) => {
                let added = mirror - pass - self.ping_us;
                let text = format!("pass-through + ping-pong {added:+.0} us (at most +{allowed})");
                (text, added <= f64::from(allowed))
            }
            Figure::RateShare(least) | Figure::ThroughputShare(least) => {
                let share = Share::new(mirror, pass, least);
                (format!("{share}"), share.is_met())
            }
            Figure::ShippedShare(least) => {
                let share = Share::new(mirror, pass, least);
                let pass_us = SHIPPED_MIB * 1e6 / pass.max(f64::MIN_POSITIVE);
                let left = pass_us / (pass_us + self.shipping_us);
                let text = format!("{share}; bare TCP alone leaves {left:.2}");
                (text, share.is_met())
            }
        }
    }

    pub(super) fn all_goals_met(&self) -> bool {
        self.rows.iter().all(|row| row.is_met || !row.is_goal)
    }

    pub(super) fn print(&self, is_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout();
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(vec![
            "",
            "unit",
            "plain",
            "pass-through",
            "mirror",
            "verdict",
            "CPU s/GiB, both",
        ]);
        for row in &self.rows {
            let mark = match (row.is_goal, row.is_met) {
                (false, _) => "",
                (true, true) => "met: ",
                (true, false) => "MISSED: ",
            };
            table.add_row(vec![
                row.name.to_owned(),
                row.unit.to_owned(),
                format!("{:.0}", row.plain),
                format!("{:.0}", row.pass),
                format!("{:.0}", row.mirror),
                format!("{mark}{}", row.verdict),
                format!("{:.1}", row.cpu_s_per_gib),
            ]);
        }
        writeln!(
            out,
            "over the same wire, bare TCP: 4 KiB ping-pong {:.0} us p50, 128 KiB and an answer {:.0} us p50",
            self.ping_us, self.shipping_us
        )?;
        writeln!(out, "{table}")?;
        for (name, mib) in &self.memory {
            writeln!(out, "resident memory of sknode on {name}: {mib:.0} MiB")?;
        }
        if is_json {
            writeln!(out, "{}", self.json())?;
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let lines: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "name": row.name, "unit": row.unit, "plain": row.plain, "pass_through": row.pass,
                    "mirror": row.mirror, "goal": row.is_goal, "met": row.is_met,
                    "cpu_s_per_gib": row.cpu_s_per_gib,
                })
            })
            .collect();
        serde_json::json!({
            "ping_pong_us": self.ping_us,
            "shipping_us": self.shipping_us,
            "passed": self.all_goals_met(),
            "lines": lines,
            "memory_mib": self.memory.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })
    }
}

/// Part of the pass-through's figure that the mirror reaches.
#[derive(Debug, Clone, Copy)]
struct Share {
    reached: f64,
    least: f64,
}

impl Share {
    fn new(mirror: f64, pass: f64, least_hundredths: u32) -> Share {
        Share {
            reached: mirror / pass.max(f64::MIN_POSITIVE),
            least: f64::from(least_hundredths) / 100.0,
        }
    }

    fn is_met(self) -> bool {
        self.reached >= self.least
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Share { reached, least } = self;
        write!(f, "{reached:.2} of pass-through (at least {least:.2})")
    }
}

//! A histogram that keeps nothing but the number of its values: what openraft needs of `base2histogram` while nobody reads
//! its statistics.

use std::fmt;
use std::marker::PhantomData;

/// Counts values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    label: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Histogram<T> {
        Histogram {
            samples: 0,
            label: PhantomData,
        }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `count` equal values.
    pub fn record_n(&mut self, _value: u64, count: u64) {
        self.samples += count;
    }

    /// The number of values; every percentile is 0.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples,
            ..PercentileStats::default()
        }
    }
}

/// Number of values, and values below which a share of them lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for its percentage")]
pub struct PercentileStats {
    /// Number of values.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples", self.samples)
    }
}

/// A chart of histograms; nothing is drawn.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one.
    pub fn new() -> AsciiChart {
        AsciiChart
    }

    /// Adds nothing.
    #[must_use]
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> AsciiChart {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

//! What a session has cost so far.

use std::time::Duration;

const BUCKETS: usize = 40;

/// Durations by powers of two of a nanosecond.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    counts: [u64; BUCKETS],
}

impl Default for LatencyHistogram {
    fn default() -> LatencyHistogram {
        LatencyHistogram {
            counts: [0; BUCKETS],
        }
    }
}

impl LatencyHistogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - nanoseconds.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The duration that `per_mille` of those counted do not exceed, rounded up to a power of two; `None` when nothing
    /// was counted.
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let count = self.count();
        let rank = (count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|in_bucket| {
            seen += in_bucket;
            count > 0 && seen >= rank
        })?;
        Some(Duration::from_nanos(1 << bucket))
    }
}

/// Figures of the running session, or of the last one.
#[derive(Clone, Debug, Default)]
pub struct ReplicationStats {
    /// Frames shipped.
    pub frames_shipped: u64,
    /// Plaintext bytes sent.
    pub bytes_sent: u64,
    /// Frames shipped and not acknowledged.
    pub frames_in_flight: usize,
    /// Bytes of them.
    pub bytes_in_flight: usize,
    /// From shipping a change to its acknowledgement.
    pub latency: LatencyHistogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_rounded_up_to_powers_of_two() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile(500), None);
        for _ in 0..99 {
            histogram.record(Duration::from_nanos(1000));
        }
        histogram.record(Duration::from_secs(1));
        assert_eq!(histogram.quantile(500), Some(Duration::from_nanos(1024)));
        assert_eq!(histogram.quantile(990), Some(Duration::from_nanos(1024)));
        assert_eq!(
            histogram.quantile(1000),
            Some(Duration::from_nanos(1 << 30))
        );
    }
}

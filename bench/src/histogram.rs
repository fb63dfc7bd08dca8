//! Latencies, kept in buckets whose width grows with the value: at most 0.8 % wrong, in constant memory.

use std::time::Duration;

use crate::sample::Latency;

/// Buckets per doubling of the value.
const STEPS: u64 = 128;

/// Values up to `2^40` ns (18 minutes); greater ones count as that.
const DOUBLINGS: usize = 34;

/// Counts of values.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    greatest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; DOUBLINGS * STEPS as usize], total: 0, greatest: 0 }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: Duration) {
        let nanoseconds = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        let last = self.counts.len() - 1;
        self.counts[bucket(nanoseconds).min(last)] += 1;
        self.total += 1;
        self.greatest = self.greatest.max(nanoseconds);
    }

    /// The value that a share (0 to 1) of all values does not exceed, in microseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(bucket).min(self.greatest as f64) / 1000.0;
            }
        }
        0.0
    }

    /// The quantiles that are reported.
    pub fn latency(&self) -> Latency {
        Latency {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.greatest as f64 / 1000.0,
        }
    }
}

/// Below `2 * STEPS` each value has a bucket of its own; above, each doubling has `STEPS`.
fn bucket(value: u64) -> usize {
    if value < 2 * STEPS {
        return value as usize;
    }
    let doublings = u64::from(value.ilog2() - (2 * STEPS).ilog2() + 1);
    (doublings * STEPS + (value >> doublings)) as usize
}

fn middle(bucket: usize) -> f64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket as f64;
    }
    let doublings = bucket / STEPS - 1;
    let lowest = (bucket - doublings * STEPS) << doublings;
    lowest as f64 + (1u64 << doublings) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_hundredth() {
        let mut histogram = Histogram::default();
        for microseconds in 1..=100_000 {
            histogram.record(Duration::from_micros(microseconds));
        }
        for (share, expected) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0), (1.0, 100_000.0)] {
            let found = histogram.quantile(share);
            assert!((found / expected - 1.0).abs() < 0.01, "{share}: {found}");
        }
        assert_eq!(histogram.latency().max, 100_000.0);
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut last = 0;
        for value in 0..200_000 {
            let this = bucket(value);
            assert!(this == last || this == last + 1, "{value}: {last} then {this}");
            last = this;
        }
        assert!(bucket(1 << 39) < DOUBLINGS * STEPS as usize);
    }
}

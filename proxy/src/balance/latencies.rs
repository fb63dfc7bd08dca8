//! How long the answers of a service take: a histogram of the last few thousand, of which quantiles can be asked.
//!
//! Log-linear: eight buckets for each doubling, so that a quantile is at most an eighth too high. What is old is halved away by
//! number, not by time: a quiet service keeps what it has. Made with the first observation: a service that nobody hedges costs
//! a pointer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::filter::Share;

/// Buckets of each doubling, as a power of two.
const PRECISION: u32 = 3;
const PER_DOUBLING: usize = 1 << PRECISION;
/// Longest time that is told apart, in microseconds: 2 to this power, more than two minutes.
const LARGEST: u32 = 27;
const BUCKETS: usize = (LARGEST - PRECISION + 1) as usize * PER_DOUBLING;
/// At so many observations all are halved.
const MOST: u32 = 4096;

/// The latencies of a service, shared by all workers and kept across snapshots.
#[derive(Debug, Default)]
pub struct Latencies {
    histogram: OnceLock<Box<Histogram>>,
}

#[derive(Debug)]
struct Histogram {
    number: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { number: AtomicU32::new(0), buckets: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl Latencies {
    /// An answer began after this long; or had not begun by then, when nobody waited for it any more.
    pub fn observe(&self, latency: Duration) {
        let histogram = self.histogram.get_or_init(Box::default);
        if let Some(bucket) = histogram.buckets.get(bucket(latency)) {
            bucket.fetch_add(1, Relaxed);
        }
        if histogram.number.fetch_add(1, Relaxed) + 1 >= MOST {
            histogram.halve();
        }
    }

    /// Within which time this share of the answers began; nothing before there were `samples` of them. About a microsecond of work.
    pub fn quantile(&self, share: Share, samples: u32) -> Option<Duration> {
        let histogram = self.histogram.get()?;
        let counts: [u32; BUCKETS] =
            std::array::from_fn(|at| histogram.buckets.get(at).map_or(0, |one| one.load(Relaxed)));
        let number: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if number == 0 || number < u64::from(samples) {
            return None;
        }
        let rank = (number * u64::from(share.0)).div_ceil(1_000_000);
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        Some(upper_bound(at.unwrap_or(BUCKETS - 1)))
    }
}

impl Histogram {
    /// Two workers may halve at once, and an observation may get lost between: an estimate bears both.
    fn halve(&self) {
        let mut number = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Relaxed) / 2;
            bucket.store(half, Relaxed);
            number += half;
        }
        self.number.store(number, Relaxed);
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min((1 << LARGEST) - 1) as usize;
    let doubling = micros.checked_ilog2().unwrap_or(0);
    match doubling.checked_sub(PRECISION) {
        None => micros,
        Some(shift) => (shift as usize) * PER_DOUBLING + (micros >> shift),
    }
}

/// The least time that is beyond a bucket.
fn upper_bound(bucket: usize) -> Duration {
    let next = bucket + 1;
    let shift = (next / PER_DOUBLING).saturating_sub(1);
    Duration::from_micros(((next - shift * PER_DOUBLING) as u64) << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn percent(percent: u32) -> Share {
        Share(percent * 10_000)
    }

    #[test]
    fn every_time_lies_in_its_bucket_and_the_bound_is_at_most_an_eighth_too_high() {
        let mut before = 0;
        for micros in (0..5000).chain((13..27).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 99])) {
            let time = Duration::from_micros(micros);
            let at = bucket(time);
            assert!(at >= before && at < BUCKETS, "{micros} in {at} after {before}");
            before = at;
            let bound = upper_bound(at);
            assert!(bound > time && bound <= time + time / 8 + Duration::from_micros(1), "{time:?} below {bound:?}");
        }
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_what_was_observed() {
        let latencies = Latencies::default();
        assert_eq!(latencies.quantile(percent(95), 0), None, "nothing was observed");
        (1..=100).for_each(|ms| latencies.observe(ms * MS));
        assert_eq!(latencies.quantile(percent(95), 101), None, "too few");
        for (share, expected) in [(50, 50), (95, 95), (99, 99)] {
            let found = latencies.quantile(percent(share), 100).expect("enough");
            assert!((expected * MS..=expected * MS * 9 / 8).contains(&found), "{share} %: {found:?}");
        }
    }

    #[test]
    fn what_is_old_is_forgotten_after_a_few_thousand_answers() {
        let latencies = Latencies::default();
        (0..10_000).for_each(|_| latencies.observe(100 * MS));
        assert!(latencies.quantile(percent(95), 1000) > Some(99 * MS));
        let mut needed = 0;
        while latencies.quantile(percent(95), 1000) > Some(2 * MS) {
            latencies.observe(MS);
            needed += 1;
        }
        assert!(needed < 5 * MOST, "{needed}");
    }
}

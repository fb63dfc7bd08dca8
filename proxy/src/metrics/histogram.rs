//! How often something took how long, or was how large: counters of buckets, and their sum.
//!
//! Of the buckets of durations those are kept between the shortest and the longest that occurred: most edges answer within one
//! order of magnitude, and there may be thousands of edges.

use std::time::Duration;

/// Upper bounds of durations in microseconds, nine per decade from 0.1 ms to 10 s; above is the last bucket.
#[allow(clippy::indexing_slicing, reason = "done by the compiler")]
pub(super) const STEPS: [u64; 46] = {
    let steps = [10, 15, 20, 25, 30, 40, 50, 60, 80];
    let mut bounds = [0; 46];
    let (mut index, mut decade) = (0, 10);
    while index < bounds.len() {
        bounds[index] = steps[index % steps.len()] * decade;
        index += 1;
        if index % steps.len() == 0 {
            decade *= 10;
        }
    }
    bounds
};

/// Of them, those that are exposed: 1, 2.5 and 5 per decade.
pub(super) const EXPOSED: [u64; 16] = [
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Upper bounds of bodies in bytes; above is the last bucket.
pub(super) const SIZES: [u64; 8] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20];

/// Durations.
#[derive(Debug, Clone, Default)]
pub(super) struct Durations {
    /// The bucket of the first counter.
    first: usize,
    counts: Vec<u64>,
    microseconds: u64,
}

/// Sizes of bodies.
#[derive(Debug, Clone, Default)]
pub(super) struct Sizes {
    counts: [u64; SIZES.len() + 1],
    bytes: u64,
}

impl Durations {
    /// Counts one.
    pub(super) fn record(&mut self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.microseconds = self.microseconds.wrapping_add(microseconds);
        self.count(STEPS.partition_point(|bound| *bound < microseconds), 1);
    }

    /// Adds what another has counted.
    pub(super) fn add(&mut self, other: &Durations) {
        self.microseconds = self.microseconds.wrapping_add(other.microseconds);
        for (bucket, number) in (other.first..).zip(&other.counts) {
            self.count(bucket, *number);
        }
    }

    fn count(&mut self, bucket: usize, number: u64) {
        match self.counts.get_mut(bucket.wrapping_sub(self.first)) {
            Some(count) => *count += number,
            None => self.reach(bucket, number),
        }
    }

    /// The first in a bucket beyond those that there are.
    #[cold]
    fn reach(&mut self, bucket: usize, number: u64) {
        if self.counts.is_empty() {
            self.first = bucket;
        }
        let before = self.first.saturating_sub(bucket);
        self.first -= before;
        let index = bucket - self.first;
        let mut counts = vec![0; (before + self.counts.len()).max(index + 1)];
        counts.iter_mut().skip(before).zip(&self.counts).for_each(|(new, old)| *new = *old);
        if let Some(count) = counts.get_mut(index) {
            *count += number;
        }
        self.counts = counts;
    }

    /// The sum, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.microseconds as f64 / 1e6
    }

    /// How many there are under each of some of the bounds, and above the one before; the last are those above all of them.
    pub(super) fn gathered(&self, bounds: &[u64]) -> Vec<u64> {
        let mut gathered = vec![0; bounds.len() + 1];
        for (bucket, number) in (self.first..).zip(&self.counts) {
            let upper = STEPS.get(bucket).copied().unwrap_or(u64::MAX);
            if let Some(count) = gathered.get_mut(bounds.partition_point(|bound| *bound < upper)) {
                *count += number;
            }
        }
        gathered
    }
}

impl Sizes {
    /// Counts one.
    pub(super) fn record(&mut self, bytes: u64) {
        self.bytes = self.bytes.wrapping_add(bytes);
        if let Some(count) = self.counts.get_mut(SIZES.partition_point(|bound| *bound < bytes)) {
            *count += 1;
        }
    }

    /// Adds what another has counted.
    pub(super) fn add(&mut self, other: &Sizes) {
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.counts.iter_mut().zip(other.counts).for_each(|(count, number)| *count += number);
    }

    /// The sum, in bytes.
    pub(super) fn bytes(&self) -> f64 {
        self.bytes as f64
    }

    /// How many there are under each bound and above the one before.
    pub(super) fn counts(&self) -> &[u64] {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_by_nine_steps_per_decade_and_every_third_is_exposed() {
        assert!(STEPS.is_sorted() && EXPOSED.is_sorted() && SIZES.is_sorted());
        assert_eq!((STEPS[0], STEPS[9], STEPS[45]), (100, 1000, 10_000_000));
        assert!(EXPOSED.iter().all(|bound| STEPS.contains(bound)));
    }

    #[test]
    fn buckets_are_kept_from_the_shortest_to_the_longest() {
        let mut durations = Durations::default();
        for microseconds in [900, 2_000, 100, 101, 60_000_000] {
            durations.record(Duration::from_micros(microseconds));
        }
        let mut others = Durations::default();
        others.record(Duration::from_micros(2_001));
        assert_eq!((others.first, others.counts.len()), (12, 1));
        others.add(&durations);
        let gathered = others.gathered(&EXPOSED);
        assert_eq!(gathered[..5], [1, 1, 0, 1, 2]);
        assert_eq!((gathered.iter().sum::<u64>(), gathered.last()), (6, Some(&1)));
        assert_eq!(others.gathered(&STEPS).iter().sum::<u64>(), 6);
        assert!((others.seconds() - 60.005_102).abs() < 1e-9);
    }

    #[test]
    fn a_body_belongs_to_the_first_bound_that_is_not_below_it() {
        let mut sizes = Sizes::default();
        for bytes in [0, 256, 257, 1 << 30] {
            sizes.record(bytes);
        }
        assert_eq!((sizes.counts[0], sizes.counts[1], sizes.counts[8]), (2, 1, 1));
    }
}

//! How often something took how long, or was how large: counters of buckets, and their sum.
//!
//! Durations are told in three ways: for people who look at the live table (nine buckets per decade), as a classic histogram (three per
//! decade), and as a native one (four per octave). The bounds of all of them bound the buckets that are counted, so that each is exact
//! and a duration is counted once. Of the buckets those are kept between the shortest and the longest that occurred: most edges answer
//! within one order of magnitude, and there may be thousands of edges.

use std::time::Duration;

/// Upper bounds of durations in microseconds for the live table, nine per decade from 0.1 ms to 10 s.
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

/// Of them, those of classic histograms: 1, 2.5 and 5 per decade.
pub(super) const EXPOSED: [u64; 16] = [
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Upper bounds of native histograms, four per octave from 2⁻¹⁴ s (61 µs) to 2¹⁴ s (4½ h), in whole microseconds like what is measured.
#[allow(clippy::indexing_slicing, reason = "done by the compiler")]
const POWERS: [u64; 113] = {
    let fractions = [1.0, 1.189_207_115_002_721, std::f64::consts::SQRT_2, 1.681_792_830_507_429];
    let mut bounds = [0; 113];
    let (mut index, mut octave) = (0, LEAST);
    while index < bounds.len() {
        bounds[index] = (fractions[index % fractions.len()] * octave * 1e6) as u64;
        index += 1;
        if index % fractions.len() == 0 {
            octave *= 2.0;
        }
    }
    bounds
};

/// Four buckets per octave.
pub(super) const SCHEMA: i32 = 2;
/// Seconds up to which native histograms tell nothing apart: 2⁻¹⁴.
const LEAST: f64 = 1.0 / 16384.0;
/// Index of the bucket that ends there.
const LEAST_INDEX: i32 = -56;
/// Index of the bucket of what is above all finite ones, with that schema.
const INFINITE: i32 = 4097;

/// Upper bounds of the buckets that are counted: all of these; above is the last bucket.
#[allow(clippy::indexing_slicing, reason = "done by the compiler")]
const BOUNDS: [u64; UNION] = {
    let mut bounds = [0; UNION];
    let (mut index, mut step, mut power) = (0, 0, 0);
    while index < UNION {
        (bounds[index], step, power) = next(step, power);
        index += 1;
    }
    bounds
};

const UNION: usize = {
    let (mut number, mut step, mut power) = (0, 0, 0);
    while step < STEPS.len() || power < POWERS.len() {
        (_, step, power) = next(step, power);
        number += 1;
    }
    number
};

/// The least bound that is left of both, and what is left after it.
#[allow(clippy::indexing_slicing, reason = "done by the compiler")]
const fn next(step: usize, power: usize) -> (u64, usize, usize) {
    let of_steps = if step < STEPS.len() { STEPS[step] } else { u64::MAX };
    let of_powers = if power < POWERS.len() { POWERS[power] } else { u64::MAX };
    if of_steps < of_powers {
        (of_steps, step + 1, power)
    } else if of_powers < of_steps {
        (of_powers, step, power + 1)
    } else {
        (of_steps, step + 1, power + 1)
    }
}

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
        self.count(BOUNDS.partition_point(|bound| *bound < microseconds), 1);
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

    /// For native histograms: up to where nothing is told apart, in seconds, and how many are there; the other buckets by index.
    pub(super) fn native(&self) -> ((f64, u64), Vec<(i32, u64)>) {
        let gathered = self.gathered(&POWERS);
        let (last, finite) = gathered.split_last().map_or((0, &[][..]), |(last, finite)| (*last, finite));
        let zero = finite.first().map_or(0, |count| *count);
        let finite = (LEAST_INDEX..).zip(finite).skip(1).map(|(index, count)| (index, *count));
        let filled = finite.chain([(INFINITE, last)]).filter(|(_, count)| *count > 0);
        ((LEAST, zero), filled.collect())
    }

    /// How many there are under each of some of the bounds, and above the one before; the last are those above all of them.
    pub(super) fn gathered(&self, bounds: &[u64]) -> Vec<u64> {
        let mut gathered = vec![0; bounds.len() + 1];
        for (bucket, number) in (self.first..).zip(&self.counts) {
            let upper = BOUNDS.get(bucket).copied().unwrap_or(u64::MAX);
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
        assert_eq!(others.counts.len(), 1);
        others.add(&durations);
        let gathered = others.gathered(&EXPOSED);
        assert_eq!(gathered[..5], [1, 1, 0, 1, 2]);
        assert_eq!((gathered.iter().sum::<u64>(), gathered.last()), (6, Some(&1)));
        assert_eq!(others.gathered(&STEPS).iter().sum::<u64>(), 6);
        assert!((others.seconds() - 60.005_102).abs() < 1e-9);
    }

    #[test]
    fn native_buckets_are_those_of_the_schema() {
        let mut durations = Durations::default();
        for microseconds in [61, 62, 500_000, 1_000_000, 1_000_001, 1_189_207, 1_189_208, 20_000_000_000] {
            durations.record(Duration::from_micros(microseconds));
        }
        let (zero, buckets) = durations.native();
        assert_eq!(zero, (0.000_061_035_156_25, 1));
        assert_eq!(buckets, [(-55, 1), (-4, 1), (0, 1), (1, 2), (2, 1), (4097, 1)]);
        for (index, bound) in (LEAST_INDEX..).zip(POWERS) {
            assert_eq!((f64::from(index) / 4.0).exp2().mul_add(1e6, 1e-6) as u64, bound, "{index}");
        }
        let mut all = Durations::default();
        BOUNDS.iter().for_each(|bound| all.record(Duration::from_micros(*bound)));
        assert!(BOUNDS.is_sorted() && all.counts.iter().all(|count| *count == 1), "each in a bucket of its own");
        assert_eq!(size_of_val(&*all.counts), 8 * UNION, "as much as an edge can ever need: {UNION} buckets");
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

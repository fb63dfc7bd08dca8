//! Round robin by weight, without a lock: a counter walks over the endpoints again and again, and each is passed over as often as
//! its weight is less than the greatest (gRPC's static stride scheduler).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::snapshot::Endpoint;

/// Weights are scaled to this, the greatest.
const SCALE: u64 = 0xffff;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Stride {
    counter: AtomicU64,
    /// Scaled; empty where all are alike.
    weights: Vec<u64>,
}

impl Stride {
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let greatest = endpoints.iter().map(|endpoint| endpoint.weight.max(1)).max().unwrap_or(1);
        let scaled =
            |endpoint: &Arc<Endpoint>| (u64::from(endpoint.weight.max(1)) * SCALE / u64::from(greatest)).max(1);
        let weights: Vec<u64> = endpoints.iter().map(scaled).collect();
        let alike = weights.iter().all(|weight| *weight == SCALE);
        // Sidecars that start together do not begin at the same endpoint.
        let counter = AtomicU64::new(fastrand::u64(..1 << 20));
        Stride { counter, weights: if alike { Vec::new() } else { weights } }
    }

    /// The next of `number`.
    pub(super) fn next(&self, number: usize) -> usize {
        let number = number.max(1) as u64;
        // The one of the greatest weight is never passed over: a round finds somebody.
        for _ in 0..=number {
            let turn = self.counter.fetch_add(1, Relaxed);
            let (round, at) = (turn / number, turn % number);
            let weight = self.weights.get(at as usize).copied().unwrap_or(SCALE);
            // Spread over the rounds: the offset keeps light endpoints from having their turn in the same round.
            let place = (weight * round + SCALE / 2 * at) % SCALE;
            if weight >= SCALE || place >= SCALE - weight {
                return at as usize;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32], turns: usize) -> Vec<usize> {
        let endpoint = |(at, weight): (usize, &u32)| {
            Arc::new(Endpoint { weight: *weight, ..Endpoint::plain(([10, 0, 0, at as u8], 80).into()) })
        };
        let endpoints: Vec<_> = weights.iter().enumerate().map(endpoint).collect();
        let stride = Stride::new(&endpoints);
        let mut counts = vec![0; weights.len()];
        (0..turns).for_each(|_| counts[stride.next(weights.len())] += 1);
        counts
    }

    #[test]
    fn turns_are_shared_by_weight_exactly() {
        assert_eq!(shares(&[1, 1, 1], 3000), [1000; 3]);
        for (count, expected) in shares(&[1, 2, 5], 8000).into_iter().zip([1000_i64, 2000, 5000]) {
            assert!((count as i64 - expected).abs() <= 20, "{count} of {expected}");
        }
    }
}

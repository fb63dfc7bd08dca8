//! Weighted clusters: exact over time, smooth in between, without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::Cluster;

/// Clusters with weights; never empty, never of sum zero.
#[derive(Debug)]
pub struct WeightedClusters {
    /// Cluster and weight above zero.
    pub clusters: Vec<(Arc<Cluster>, u32)>,
    /// Sum of the weights.
    total: u32,
    /// Steps from one request's place within the sum to the next one's; without a divisor in common with it.
    stride: u32,
    /// Requests so far, from a random beginning: so that sidecars do not go in step.
    turn: AtomicU32,
}

impl WeightedClusters {
    /// Clusters by weight, those of weight zero left out; `None` if no weight is above zero.
    pub fn new(clusters: impl IntoIterator<Item = (Arc<Cluster>, u32)>) -> Option<WeightedClusters> {
        let mut clusters: Vec<_> = clusters.into_iter().collect();
        clusters.retain(|(_, weight)| *weight > 0);
        let total = clusters.iter().fold(0_u32, |sum, (_, weight)| sum.saturating_add(*weight));
        let turn = AtomicU32::new(fastrand::u32(..));
        (total > 0).then(|| WeightedClusters { clusters, total, stride: stride(total), turn })
    }

    /// The cluster whose turn it is, and its place. (There is always one.) Exact: of as many requests in a row as the sum of the weights, each cluster gets
    /// as many as its weight; smooth: they are spread evenly between the others.
    pub fn next(&self) -> Option<(usize, &Arc<Cluster>)> {
        let mut left = match &self.clusters[..] {
            [_] => 0,
            _ => {
                let turn = self.turn.fetch_add(1, Relaxed);
                // Below `total`, which is 32 bits wide.
                (u64::from(turn) * u64::from(self.stride) % u64::from(self.total)) as u32
            }
        };
        self.clusters.iter().enumerate().find_map(|(place, (cluster, weight))| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                None
            }
            None => Some((place, cluster)),
        })
    }
}

/// A step that visits every place before any twice, each far from those before: near the golden section of the sum.
fn stride(total: u32) -> u32 {
    const GOLDEN_SECTION: f64 = 0.618_033_988_749_895;
    let near = ((f64::from(total) * GOLDEN_SECTION) as u32).max(1);
    (near..=total).chain((1..near).rev()).find(|step| coprime(*step, total)).unwrap_or(1)
}

fn coprime(mut one: u32, mut other: u32) -> bool {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(weights: &[u32]) -> Option<WeightedClusters> {
        let cluster = |name: &usize| Arc::new(crate::http::testing::cluster(&name.to_string(), Vec::new()));
        WeightedClusters::new(weights.iter().enumerate().map(|(name, weight)| (cluster(&name), *weight)))
    }

    fn places(clusters: &WeightedClusters, requests: usize) -> Vec<usize> {
        (0..requests).filter_map(|_| clusters.next()).map(|(place, _)| place).collect()
    }

    #[test]
    fn each_gets_exactly_its_weight_of_every_round() {
        for weights in [&[1, 1][..], &[9, 1], &[90, 10], &[1, 2, 3], &[7], &[33, 33, 34], &[1, 999]] {
            let clusters = clusters(weights).expect("some weight");
            let total: u32 = weights.iter().sum();
            for _ in 0..3 {
                let round = places(&clusters, total as usize);
                let shares =
                    (0..weights.len()).map(|place| round.iter().filter(|drawn| **drawn == place).count() as u32);
                assert_eq!(shares.collect::<Vec<_>>(), weights, "{round:?}");
            }
        }
    }

    #[test]
    fn the_small_share_is_spread_evenly() {
        let clusters = clusters(&[90, 10]).expect("some weight");
        let drawn = places(&clusters, 1000);
        let canary: Vec<usize> = drawn.iter().enumerate().filter(|(_, place)| **place == 1).map(|(at, _)| at).collect();
        assert!((99..=101).contains(&canary.len()), "{}", canary.len());
        assert!(canary.windows(2).all(|pair| (4..=18).contains(&(pair[1] - pair[0]))), "{canary:?}");
    }

    #[test]
    fn no_weight_is_no_cluster_and_zero_gets_nothing() {
        assert!(clusters(&[]).is_none() && clusters(&[0, 0]).is_none());
        let some = clusters(&[0, 1, 0]).expect("one");
        assert!(places(&some, 10).iter().all(|place| *place == 0), "the others are left out");
        assert_eq!(some.next().map(|(_, cluster)| cluster.name.to_string()), Some("1".to_owned()));
    }

    #[test]
    fn every_step_reaches_every_place() {
        for total in (1..200).chain([1_000, 16_000_000, u32::MAX]) {
            assert!(coprime(stride(total), total), "{total}");
        }
    }
}

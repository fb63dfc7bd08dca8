//! How the tiers of a cluster share its traffic while some endpoints are not well.
//!
//! Envoy's arithmetic ("priority levels", "panic threshold"): a tier takes what its healthy share, weighted by how much of it must be
//! healthy, bears; the rest goes to the next. When all together bear less than everything, tiers that have fallen under the
//! panic threshold use all of their endpoints.

use std::time::{Duration, Instant};

use super::health::{RETURN_WINDOW, Standing};
use super::set::{EndpointSet, Tier};
use crate::policy::OutlierDetection;

/// After this a plan is made anew: ejections end, and those who return get more, without anybody telling.
const LIFE: Duration = Duration::from_millis(100);

/// How tiers share the traffic.
#[derive(Debug, Default)]
pub(super) struct Plan {
    epoch: u64,
    /// `None`: never made.
    until: Option<Instant>,
    /// For each tier: its share of the traffic in thousandths, and the most that an endpoint gets there of its own share, in
    /// percent; `None` where health is not believed.
    tiers: Vec<(u64, Option<u32>)>,
}

impl Plan {
    pub(super) fn holds(&self, epoch: u64, now: Instant) -> bool {
        self.epoch == epoch && self.until.is_some_and(|until| now < until)
    }

    pub(super) fn new(set: &EndpointSet, now: Instant) -> Plan {
        let epoch = set.watch.epoch();
        let mut all_well = true;
        let (healthy, best): (Vec<f64>, Vec<u32>) =
            set.tiers.iter().map(|tier| healthy(set, tier, now, &mut all_well)).unzip();
        if all_well {
            set.watch.calm(epoch);
        }
        let needed = f64::from(set.policy.locality.minimum_healthy.max(1)) / 100.0;
        let bears: Vec<f64> = healthy.iter().map(|healthy| (healthy / needed).min(1.0)).collect();
        let together: f64 = bears.iter().sum();
        let panics = |healthy: f64| together < 1.0 && healthy * 100.0 < f64::from(set.policy.panic_threshold);
        let mut left = 1.0;
        let mut tiers = Vec::with_capacity(healthy.len());
        for (bears, (healthy, best)) in bears.iter().zip(healthy.iter().zip(best)) {
            let share = if together < 1.0 { bears / together.max(f64::MIN_POSITIVE) } else { bears.min(left) };
            left -= share;
            tiers.push(((share * 1000.0).round() as u64, (!panics(*healthy)).then_some(best.max(1))));
        }
        if together == 0.0
            && let Some((share, _)) = tiers.first_mut()
        {
            *share = 1000;
        }
        Plan { epoch, until: Some(now + LIFE), tiers }
    }

    /// The tier whose turn it is; `ticket` is below 1000.
    pub(super) fn tier(&self, ticket: u64) -> usize {
        let mut sum = 0;
        let holds = |(share, _): &(u64, Option<u32>)| {
            sum += share;
            ticket < sum
        };
        self.tiers.iter().position(holds).unwrap_or(0)
    }

    /// The most that an endpoint of a tier gets of its own share, in percent; `None` where health is not believed. The others' part is
    /// relative to it: when all are new, none is.
    pub(super) fn best(&self, tier: usize) -> Option<u32> {
        self.tiers.get(tier).map_or(Some(100), |(_, best)| *best)
    }
}

/// The healthy share of a tier, and the most that an endpoint gets of its own. Settles what has ended by itself.
fn healthy(set: &EndpointSet, tier: &Tier, now: Instant, all_well: &mut bool) -> (f64, u32) {
    let endpoints = set.of(&tier.range);
    let patience =
        set.policy.outliers.as_ref().map_or(RETURN_WINDOW, |OutlierDetection { base_ejection, .. }| *base_ejection);
    let (mut number, mut best) = (0_u32, 0);
    for endpoint in endpoints {
        let at = endpoint.load.since_creation(now);
        endpoint.load.health.end_idle_probation(at, patience);
        let standing = endpoint.load.health.standing(at);
        number += u32::from(matches!(standing, Standing::Available | Standing::Probation));
        let percent = set.percent(endpoint, now);
        best = best.max(percent);
        *all_well &= percent >= 100;
    }
    (f64::from(number) / endpoints.len().max(1) as f64, best)
}

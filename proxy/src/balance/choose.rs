//! Power of two choices: of two endpoints drawn at random by weight, the one that costs less.

use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::Instant;

use crate::snapshot::Endpoint;

/// Draws that may meet an excluded or paused endpoint before every endpoint of the priority is looked at.
const DRAWS: usize = 6;

/// The endpoint drawn second is taken if it costs less than this share of the first. Smaller differences are noise, and
/// following them would undo the weights of the draw.
const NOTABLY: f64 = 0.9;

/// The endpoints of a cluster, made ready for choosing: sorted by priority, weights added up.
#[derive(Debug, Default)]
pub struct EndpointSet {
    endpoints: Vec<Arc<Endpoint>>,
    tiers: Vec<Tier>,
}

/// The endpoints of one priority.
#[derive(Debug)]
struct Tier {
    range: Range<usize>,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    /// All alike: a draw is one random number.
    Equal,
    /// Running sums, for a binary search.
    Sums {
        /// One for each endpoint.
        sums: Vec<u64>,
        /// Weight of the mean endpoint.
        mean: f64,
    },
}

impl EndpointSet {
    /// Prepares endpoints in any order.
    pub fn new(mut endpoints: Vec<Arc<Endpoint>>) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.priority);
        let mut tiers = Vec::new();
        let mut start = 0;
        for tier in endpoints.chunk_by(|a, b| a.priority == b.priority) {
            let equal = tier.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
            let weights = if equal {
                Weights::Equal
            } else {
                let running = |sum: &mut u64, endpoint: &Arc<Endpoint>| {
                    *sum += u64::from(endpoint.weight.max(1));
                    Some(*sum)
                };
                let sums: Vec<u64> = tier.iter().scan(0, running).collect();
                let mean = sums.last().copied().unwrap_or(1) as f64 / tier.len() as f64;
                Weights::Sums { sums, mean }
            };
            tiers.push(Tier { range: start..start + tier.len(), weights });
            start += tier.len();
        }
        EndpointSet { endpoints, tiers }
    }

    fn endpoints_of(&self, tier: &Tier) -> &[Arc<Endpoint>] {
        self.endpoints.get(tier.range.clone()).unwrap_or_default()
    }
}

impl Deref for EndpointSet {
    type Target = [Arc<Endpoint>];

    fn deref(&self) -> &Self::Target {
        &self.endpoints
    }
}

impl FromIterator<Arc<Endpoint>> for EndpointSet {
    fn from_iter<I: IntoIterator<Item = Arc<Endpoint>>>(endpoints: I) -> Self {
        EndpointSet::new(endpoints.into_iter().collect())
    }
}

impl Tier {
    /// Position of an endpoint, drawn by weight.
    fn draw(&self, random: &mut impl FnMut(u64) -> u64) -> usize {
        match &self.weights {
            Weights::Equal => self.range.start + random(self.range.len() as u64) as usize,
            Weights::Sums { sums, .. } => {
                let ticket = random(sums.last().copied().unwrap_or(1));
                self.range.start + sums.partition_point(|sum| *sum <= ticket)
            }
        }
    }

    fn cost(&self, endpoint: &Endpoint, now: Instant) -> f64 {
        let weight = match &self.weights {
            Weights::Equal => 1.0,
            Weights::Sums { mean, .. } => f64::from(endpoint.weight.max(1)) / mean,
        };
        endpoint.load.cost(weight, now)
    }
}

/// Chooses an endpoint. `random(n)` is a number below `n`.
///
/// The lowest priority that has an endpoint which is neither excluded nor paused serves; if all that are left are paused, the
/// cheapest of the lowest priority is tried all the same: a try that may fail is better than a failure that is certain.
pub fn choose<'a>(
    set: &'a EndpointSet,
    exclude: &[SocketAddr],
    now: Instant,
    mut random: impl FnMut(u64) -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let permitted = |endpoint: &&Arc<Endpoint>| !exclude.contains(&endpoint.address);
    let usable = |endpoint: &&Arc<Endpoint>| permitted(endpoint) && !endpoint.load.paused(now);

    for tier in &set.tiers {
        let cheaper = |a: &&Arc<Endpoint>, b: &&Arc<Endpoint>| tier.cost(a, now).total_cmp(&tier.cost(b, now));
        let mut first: Option<&Arc<Endpoint>> = None;
        for _ in 0..if tier.range.len() == 1 { 1 } else { DRAWS } {
            let Some(drawn) = set.endpoints.get(tier.draw(&mut random)).filter(&usable) else { continue };
            match first {
                None => first = Some(drawn),
                Some(other) if Arc::ptr_eq(other, drawn) => {}
                Some(other) if tier.cost(drawn, now) < tier.cost(other, now) * NOTABLY => return Some(drawn),
                Some(other) => return Some(other),
            }
        }
        // The draws met the same endpoint, or ones that cannot serve: few are left, look at all of them.
        let found = set.endpoints_of(tier).iter().filter(&usable).min_by(&cheaper);
        if found.is_some() {
            return found;
        }
    }
    set.tiers.iter().find_map(|tier| {
        let cheaper = |a: &&Arc<Endpoint>, b: &&Arc<Endpoint>| tier.cost(a, now).total_cmp(&tier.cost(b, now));
        set.endpoints_of(tier).iter().filter(&permitted).min_by(&cheaper)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::balance::LoadGuard;

    fn endpoint(last: u8, weight: u32, priority: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: SocketAddr::from(([10, 0, 0, last], 80)),
            identity: None,
            workload: "".into(),
            weight,
            locality: ("".into(), "".into()),
            priority,
            load: Arc::default(),
        })
    }

    /// A closed loop of `clients`, each sending its next request when the last was answered, in simulated time.
    fn simulate(
        set: &EndpointSet,
        latency: impl Fn(u8) -> Duration,
        clients: usize,
        requests: usize,
    ) -> HashMap<u8, f64> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut now = Instant::now();
        let mut counts = HashMap::new();
        let mut busy: Vec<(Instant, Instant, Arc<Endpoint>, LoadGuard)> = Vec::new();
        for _ in 0..requests {
            if busy.len() == clients {
                let next = busy.iter().enumerate().min_by_key(|(_, entry)| entry.0).map(|(at, _)| at).expect("busy");
                let (done, started, endpoint, mut guard) = busy.swap_remove(next);
                now = done;
                endpoint.load.observe(now - started, now);
                guard.discard();
            }
            let chosen = choose(set, &[], now, |bound| random.u64(..bound)).expect("an endpoint").clone();
            let last = last_octet(&chosen);
            *counts.entry(last).or_insert(0.0) += 1.0 / requests as f64;
            busy.push((now + latency(last), now, chosen.clone(), LoadGuard::new(chosen.load.clone(), now)));
        }
        for (.., mut guard) in busy {
            guard.discard();
        }
        counts
    }

    fn last_octet(endpoint: &Endpoint) -> u8 {
        match endpoint.address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        }
    }

    #[test]
    fn equal_endpoints_share_equally() {
        let set: EndpointSet = (1..=4).map(|n| endpoint(n, 1, 0)).collect();
        let shares = simulate(&set, |_| Duration::from_millis(5), 16, 20_000);
        for n in 1..=4 {
            assert!((0.2..0.3).contains(&shares[&n]), "{shares:?}");
        }
    }

    #[test]
    fn an_endpoint_twenty_times_slower_gets_under_three_percent() {
        let set: EndpointSet = (1..=4).map(|n| endpoint(n, 1, 0)).collect();
        let latency = |n| Duration::from_millis(if n == 3 { 100 } else { 5 });
        let shares = simulate(&set, latency, 8, 20_000);
        let slow = shares.get(&3).copied().unwrap_or(0.0);
        assert!(slow < 0.03, "{shares:?}");
        assert!([1, 2, 4].iter().all(|n| shares[n] > 0.2), "{shares:?}");
    }

    #[test]
    fn weights_divide_the_traffic_idle_and_busy() {
        for clients in [1, 100] {
            let set: EndpointSet =
                [endpoint(1, 1, 0), endpoint(2, 1, 0), endpoint(3, 8, 0), endpoint(4, 8, 0)].into_iter().collect();
            let shares = simulate(&set, |_| Duration::from_millis(5), clients, 20_000);
            let light = shares[&1] + shares[&2];
            assert!((0.06..0.17).contains(&light), "{light} went to 2/18 = 0.11 of the weight: {shares:?}");
        }
    }

    #[test]
    fn leaves_out_what_was_tried_and_goes_to_the_next_priority() {
        let set: EndpointSet = [endpoint(2, 1, 1), endpoint(1, 1, 0)].into_iter().collect();
        let now = Instant::now();
        let pick = |exclude: &[SocketAddr]| {
            choose(&set, exclude, now, |bound| fastrand::u64(..bound)).map(|endpoint| last_octet(endpoint))
        };
        assert_eq!(pick(&[]), Some(1));
        assert_eq!(pick(&[set[0].address]), Some(2));
        assert_eq!(pick(&[set[0].address, set[1].address]), None);
        set[0].load.failed(now);
        assert_eq!(pick(&[]), Some(2));
        set[1].load.failed(now);
        assert_eq!(pick(&[]), Some(1), "when all are paused, the first priority is tried");
        assert_eq!(pick(&[set[0].address]), Some(2));
    }

    #[test]
    fn finds_the_only_one_left_among_many() {
        let set: EndpointSet = (1..=100).map(|n| endpoint(n, u32::from(n), 0)).collect();
        let now = Instant::now();
        for (at, endpoint) in set.iter().enumerate() {
            if at != 41 {
                endpoint.load.failed(now);
            }
        }
        let chosen = choose(&set, &[], now, |bound| fastrand::u64(..bound)).expect("one is left");
        assert_eq!(last_octet(chosen), 42);
        assert!(choose(&EndpointSet::default(), &[], now, |_| 0).is_none());
    }
}

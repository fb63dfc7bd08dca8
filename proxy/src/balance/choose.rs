//! Choosing an endpoint. While all endpoints are well this looks at two of them; only a cluster in trouble looks at health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::hash;
use super::health::{RETURN_WINDOW, Standing, ramp};
use super::plan::Plan;
use super::set::{EndpointSet, Group, Method};
use crate::snapshot::Endpoint;

/// Draws that may meet an excluded, paused or full endpoint before every endpoint of the group is looked at.
const DRAWS: usize = 6;

/// The endpoint drawn second is taken if it costs less than this share of the first. Smaller differences are noise, and
/// following them would undo the weights of the draw.
const NOTABLY: f64 = 0.9;

/// Tries of a key whose place in Maglev's table cannot serve.
const REHASHES: u64 = 16;

/// What a request asks of the choice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Endpoints that were tried already.
    pub exclude: &'a [SocketAddr],
    /// The hash of what the algorithm hashes; without one, any endpoint will do.
    pub key: Option<u64>,
}

/// A choice as it is made.
struct Choice<'s, 'w, R> {
    set: &'s EndpointSet,
    wish: Wish<'w>,
    now: Instant,
    random: R,
}

/// Chooses an endpoint. `random(n)` is a number below `n`.
///
/// The most preferred tier that has an endpoint which is neither excluded, paused nor full serves, as far as it is healthy. If
/// all that are left are unwell, the least unwell is tried all the same: a try that may fail is better than a failure that is certain.
/// Full endpoints are never chosen.
pub fn choose<'s>(
    set: &'s EndpointSet,
    wish: Wish<'_>,
    now: Instant,
    random: impl FnMut(u64) -> u64,
) -> Option<&'s Arc<Endpoint>> {
    let mut choice = Choice { set, wish, now, random };
    if set.watch.troubled() { choice.by_health() } else { choice.plainly() }.or_else(|| choice.least_unwell())
}

impl<'s, R: FnMut(u64) -> u64> Choice<'s, '_, R> {
    /// Everybody is well: the tiers in their order.
    fn plainly(&mut self) -> Option<&'s Arc<Endpoint>> {
        (0..self.set.tiers.len()).find_map(|tier| self.of_tier(tier, None))
    }

    /// The tier whose turn it is, then the others in their order.
    fn by_health(&mut self) -> Option<&'s Arc<Endpoint>> {
        let plan = self.set.plan(self.now);
        let plan: &Plan = &plan;
        // A key stays in its tier as long as the shares do.
        let ticket = match self.wish.key {
            Some(key) => key % 1000,
            None => (self.random)(1000),
        };
        let first = plan.tier(ticket);
        let others = (0..self.set.tiers.len()).filter(|tier| *tier != first);
        std::iter::once(first).chain(others).find_map(|tier| self.of_tier(tier, plan.best(tier)))
    }

    fn of_tier(&mut self, tier: usize, by_health: Option<u32>) -> Option<&'s Arc<Endpoint>> {
        let tier = self.set.tiers.get(tier)?;
        if let [only] = tier.groups.as_slice() {
            return self.of_group(only, by_health);
        }
        let random = &mut self.random;
        let groups: smallvec::SmallVec<[&Group; 4]> = tier.groups(random).collect();
        groups.into_iter().find_map(|group| self.of_group(group, by_health))
    }

    fn of_group(&mut self, group: &'s Group, by_health: Option<u32>) -> Option<&'s Arc<Endpoint>> {
        let chosen = match (&group.method, self.wish.key) {
            (Method::PeakEwma, _) => self.better(group, by_health, 2, |choice, endpoint| choice.cost(group, endpoint)),
            (Method::LeastRequest(choices), _) => {
                let cost =
                    |_: &Self, endpoint: &Endpoint| (f64::from(endpoint.load.live()) + 1.0) / group.weight(endpoint);
                self.better(group, by_health, *choices as usize, cost)
            }
            (Method::InTurn(stride), _) => {
                let number = group.range.len();
                (0..2 * number.max(DRAWS)).find_map(|_| {
                    let at = group.range.start + stride.next(number);
                    self.at(at).filter(|endpoint| self.takes(endpoint, by_health))
                })
            }
            (Method::Ring(ring), Some(key)) => ring.after(key).take(MOST_STEPS).find_map(|at| {
                self.at(group.range.start + at).filter(|endpoint| self.takes_key(group, endpoint, by_health))
            }),
            (Method::Maglev(table), Some(key)) => (0..REHASHES).find_map(|attempt| {
                let key = if attempt == 0 { key } else { hash::again(key, attempt) };
                let at = group.range.start + table.at(key)?;
                self.at(at).filter(|endpoint| self.takes_key(group, endpoint, by_health))
            }),
            (Method::Random | Method::Ring(_) | Method::Maglev(_), _) => (0..DRAWS).find_map(|_| {
                let at = group.draw(&mut self.random);
                self.at(at).filter(|endpoint| self.takes(endpoint, by_health))
            }),
        };
        // The draws met the same endpoint, or ones that cannot serve: few are left, look at all of them.
        chosen.or_else(|| {
            let whole = |endpoint: &&Arc<Endpoint>| {
                self.usable(endpoint) && by_health.is_none_or(|best| self.set.percent(endpoint, self.now) >= best)
            };
            let cheaper = |a: &&Arc<Endpoint>, b: &&Arc<Endpoint>| self.cost(group, a).total_cmp(&self.cost(group, b));
            self.set.of(&group.range).iter().filter(whole).min_by(cheaper)
        })
    }

    /// The one that costs notably less of `choices` drawn at random.
    fn better(
        &mut self,
        group: &'s Group,
        by_health: Option<u32>,
        choices: usize,
        cost: impl Fn(&Self, &Endpoint) -> f64,
    ) -> Option<&'s Arc<Endpoint>> {
        let mut best: Option<&Arc<Endpoint>> = None;
        let mut compared = 0;
        for _ in 0..if group.range.len() == 1 { 1 } else { DRAWS + choices } {
            let at = group.draw(&mut self.random);
            let Some(drawn) = self.at(at).filter(|endpoint| self.takes(endpoint, by_health)) else { continue };
            match best {
                None if self.probes(drawn, by_health) => return Some(drawn),
                None => best = Some(drawn),
                Some(other) if Arc::ptr_eq(other, drawn) => continue,
                Some(other) => {
                    if cost(self, drawn) < cost(self, other) * NOTABLY {
                        best = Some(drawn);
                    }
                    compared += 1;
                    if compared + 1 >= choices {
                        return best;
                    }
                }
            }
        }
        // Too few that could be compared: with some left out, the rest is looked at as a whole.
        if compared > 0 || group.range.len() == 1 { best } else { None }
    }

    /// Whether this request is to find out how the endpoint is: no comparison, which it would lose, for its past is all that is
    /// known of it.
    fn probes(&self, endpoint: &Endpoint, by_health: Option<u32>) -> bool {
        let load = &endpoint.load;
        load.unproven(self.now) || (by_health.is_some() && load.standing(self.now) == Standing::Probation)
    }

    /// When all that are left are unwell: the least unwell of the most preferred, the cheapest of those.
    fn least_unwell(&self) -> Option<&'s Arc<Endpoint>> {
        let order = |group: &Group, endpoint: &Endpoint| (endpoint.load.standing(self.now), self.cost(group, endpoint));
        self.set.tiers.iter().find_map(|tier| {
            let permitted = tier.groups.iter().flat_map(|group| {
                let endpoints = self.set.of(&group.range).iter().filter(|endpoint| self.permitted(endpoint));
                endpoints.map(move |endpoint| (order(group, endpoint), endpoint))
            });
            let least = permitted.min_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
            least.map(|(_, endpoint)| endpoint)
        })
    }

    fn at(&self, position: usize) -> Option<&'s Arc<Endpoint>> {
        self.set.endpoints.get(position)
    }

    fn cost(&self, group: &Group, endpoint: &Endpoint) -> f64 {
        endpoint.load.cost(group.weight(endpoint), self.now)
    }

    /// Neither tried already nor full.
    fn permitted(&self, endpoint: &Endpoint) -> bool {
        !self.wish.exclude.contains(&endpoint.address) && endpoint.load.live() < self.set.most_live
    }

    fn usable(&self, endpoint: &Endpoint) -> bool {
        self.permitted(endpoint) && !endpoint.load.paused(self.now)
    }

    /// Whether it takes this one: those that get less than the `best` of the tier decline the rest.
    fn takes(&mut self, endpoint: &Endpoint, by_health: Option<u32>) -> bool {
        self.usable(endpoint)
            && by_health.is_none_or(|best| match self.set.percent(endpoint, self.now) {
                0 => false,
                percent if percent >= best => true,
                percent => (self.random)(u64::from(best)) < u64::from(percent),
            })
    }

    /// The same, within the bound on the load of those that hold many keys.
    fn takes_key(&mut self, group: &Group, endpoint: &Endpoint, by_health: Option<u32>) -> bool {
        let bound = self.set.policy.algorithm.hashing().and_then(|hashing| hashing.bounded_load);
        let within = bound.is_none_or(|percent| {
            let endpoints = self.set.of(&group.range);
            let live: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.load.live())).sum();
            let mean = (live + 1) as f64 / endpoints.len().max(1) as f64;
            f64::from(endpoint.load.live()) < (mean * group.weight(endpoint) * f64::from(percent) / 100.0).ceil()
        });
        within && self.takes(endpoint, by_health)
    }
}

/// Points of a ring that are looked at for an endpoint that can serve.
const MOST_STEPS: usize = 4096;

impl EndpointSet {
    /// Whether an endpoint takes requests: it is neither full nor paused nor out.
    pub(super) fn serves(&self, endpoint: &Endpoint, now: Instant) -> bool {
        endpoint.load.live() < self.most_live
            && !endpoint.load.paused(now)
            && matches!(endpoint.load.standing(now), Standing::Available | Standing::Probation)
    }

    /// The part of its share that an endpoint gets now, in percent: less while it is unwell, new, or just back.
    pub(super) fn percent(&self, endpoint: &Endpoint, now: Instant) -> u32 {
        let at = endpoint.load.since_creation(now);
        match self.policy.slow_start {
            None => endpoint.load.health.percent(at, RETURN_WINDOW),
            Some(slow_start) => {
                let returned = endpoint.load.health.percent(at, slow_start.window);
                returned.min(ramp(at, slow_start.window, slow_start.minimum_percent))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::balance::LoadGuard;

    fn endpoint(last: u8, weight: u32, priority: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint { weight, priority, ..Endpoint::plain(SocketAddr::from(([10, 0, 0, last], 80))) })
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
                endpoint.load.succeeded(now - started, now);
                guard.discard();
            }
            let chosen = choose(set, Wish::default(), now, |bound| random.u64(..bound)).expect("an endpoint").clone();
            let last = last_octet(&chosen);
            *counts.entry(last).or_insert(0.0) += 1.0 / requests as f64;
            busy.push((now + latency(last), now, chosen.clone(), LoadGuard::new(chosen.clone(), now)));
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
    fn one_that_failed_or_stalled_shares_again_with_its_first_good_answer() {
        let second = Duration::from_secs(1);
        let latency = |_| Duration::from_millis(1);
        // Refused for a while: the pause decides, not what the failures made of the estimate.
        let set: EndpointSet = (1..=2).map(|n| endpoint(n, 1, 0)).collect();
        let long_ago = Instant::now().checked_sub(second).expect("the machine is up for a second");
        for _ in 0..10 {
            LoadGuard::new(set[1].clone(), long_ago).failed();
        }
        assert!(set[1].load.latency(Instant::now()) > second / 2);
        std::thread::sleep(Duration::from_millis(300));
        let shares = simulate(&set, latency, 4, 2000);
        assert!(shares[&2] > 0.4, "{shares:?}");
        // One answer of a second among ones of a millisecond: tried again when that is stale, no sooner.
        let set: EndpointSet = (1..=2).map(|n| endpoint(n, 1, 0)).collect();
        set[1].load.observe(second, Instant::now());
        let shares = simulate(&set, latency, 1, 20_000);
        assert!((0.2..0.3).contains(&shares[&2]), "half of 10 of 20 s: {shares:?}");
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
            choose(&set, Wish { exclude, key: None }, now, |bound| fastrand::u64(..bound))
                .map(|endpoint| last_octet(endpoint))
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
        let chosen = choose(&set, Wish::default(), now, |bound| fastrand::u64(..bound)).expect("one is left");
        assert_eq!(last_octet(chosen), 42);
        assert!(choose(&EndpointSet::default(), Wish::default(), now, |_| 0).is_none());
    }
}

//! What the algorithms promise, in simulated time: shares within binomial bounds, what a slow endpoint gets, where traffic goes when
//! a zone is unwell.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{EndpointSet, Feedback, LoadGuard, Standing, Verdict, Wish, choose};
use crate::policy::{Algorithm, Hashing, Locality, OutlierDetection, Place, Policy, SlowStart};
use crate::snapshot::Endpoint;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// An endpoint by its number, with a place and a weight.
#[derive(Clone, Copy)]
struct At(u8, &'static str, &'static str, u32);

fn place(region: &str, zone: &str) -> Place {
    (region.into(), zone.into())
}

fn set(endpoints: &[At], policy: Policy, own: &Place) -> EndpointSet {
    let outliers = policy.outliers.clone();
    let feedback = Arc::new(Feedback { cluster: "cart.shop:80".into(), outliers, ..Feedback::default() });
    let endpoint = |At(last, region, zone, weight): &At| {
        Arc::new(Endpoint {
            weight: *weight,
            locality: place(region, zone),
            feedback: feedback.clone(),
            ..Endpoint::plain(SocketAddr::from(([10, 0, 0, *last], 80)))
        })
    };
    let endpoints: Vec<Arc<Endpoint>> = endpoints.iter().map(endpoint).collect();
    feedback.watch.replace(endpoints.iter().map(|endpoint| (endpoint.address, endpoint.load.clone())).collect());
    EndpointSet::new(endpoints, policy.into(), feedback.watch.clone(), own, u32::MAX)
}

fn number(endpoint: &Endpoint) -> u8 {
    match endpoint.address {
        SocketAddr::V4(address) => address.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    }
}

/// Shares of so many choices, each answered at once.
fn shares(set: &EndpointSet, choices: usize, now: Instant) -> HashMap<u8, f64> {
    let mut random = fastrand::Rng::with_seed(42);
    let mut counts = HashMap::new();
    for _ in 0..choices {
        let chosen = choose(set, Wish::default(), now, |bound| random.u64(..bound)).expect("an endpoint");
        *counts.entry(number(chosen)).or_insert(0.0) += 1.0 / choices as f64;
    }
    counts
}

/// Whether a share is what `expected` gives by chance alone, but for one time in some millions (5.5 standard deviations).
#[track_caller]
fn assert_binomial(share: Option<&f64>, expected: f64, choices: usize) {
    let share = share.copied().unwrap_or(0.0);
    let deviation = (expected * (1.0 - expected) / choices as f64).sqrt();
    // Adding up tiny shares costs some of the last digits.
    assert!((share - expected).abs() <= 5.5 * deviation + 1e-9, "{share} is not {expected} ± {}", 5.5 * deviation);
}

fn eject(set: &EndpointSet, last: u8, now: Instant) {
    let endpoint = set.iter().find(|endpoint| number(endpoint) == last).expect("is there");
    (0..5).for_each(|_| endpoint.feedback.tell(endpoint, Verdict::GatewayFailure, MS, now));
    assert_eq!(endpoint.load.standing(now), Standing::Ejected);
}

fn ejecting() -> Policy {
    Policy { outliers: Some(OutlierDetection { max_percent: 100, ..OutlierDetection::default() }), ..Policy::default() }
}

const N: usize = 20_000;

#[test]
fn weights_are_within_binomial_bounds_for_each_algorithm_that_draws() {
    let endpoints = [At(1, "", "", 1), At(2, "", "", 2), At(3, "", "", 5)];
    for algorithm in [Algorithm::Random, Algorithm::RoundRobin] {
        let exact = algorithm == Algorithm::RoundRobin;
        let set = set(&endpoints, Policy { algorithm, ..Policy::default() }, &Place::default());
        let shares = shares(&set, N, Instant::now());
        for (last, weight) in [(1, 1.0), (2, 2.0), (3, 5.0)] {
            assert_binomial(shares.get(&last), weight / 8.0, N);
            assert!(!exact || (shares[&last] - weight / 8.0).abs() < 0.002, "{shares:?} in turn");
        }
    }
    let endpoints: Vec<At> = (1..=5).map(|last| At(last, "", "", 1)).collect();
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest { choices: 2 }] {
        let set = set(&endpoints, Policy { algorithm, ..Policy::default() }, &Place::default());
        let shares = shares(&set, N, Instant::now());
        (1..=5).for_each(|last| assert_binomial(shares.get(&last), 0.2, N));
    }
}

#[test]
fn least_request_prefers_the_idle_and_more_choices_more_so() {
    let endpoints: Vec<At> = (1..=10).map(|last| At(last, "", "", 1)).collect();
    let mut of_busy = Vec::new();
    for choices in [2, 5] {
        let policy = Policy { algorithm: Algorithm::LeastRequest { choices }, ..Policy::default() };
        let set = set(&endpoints, policy, &Place::default());
        let now = Instant::now();
        let busy = set.iter().filter(|endpoint| number(endpoint) <= 5);
        let _held: Vec<LoadGuard> = busy.map(|endpoint| LoadGuard::new(endpoint.clone(), now)).collect();
        let shares = shares(&set, N, now);
        of_busy.push((1..=5).filter_map(|last| shares.get(&last)).sum::<f64>());
    }
    // Two distinct endpoints are drawn: both are busy with probability 5/10 × 4/9.
    assert_binomial(of_busy.first(), 2.0 / 9.0, N);
    // Five draws, of which some may be of the same: all are busy with probability 1/2⁵ at most.
    assert!(of_busy[1] < 1.0 / 32.0, "{of_busy:?}");
}

/// A closed loop of clients over four endpoints, of which one is slower by a factor; returns the share of the slow one, and the
/// 99th percentile of all latencies. The first second does not count: it takes one answer of each to know.
fn slow_one(factor: u32) -> (f64, Duration) {
    let endpoints: Vec<At> = (1..=4).map(|last| At(last, "", "", 1)).collect();
    let set = set(&endpoints, Policy::default(), &Place::default());
    let mut random = fastrand::Rng::with_seed(7);
    let start = Instant::now();
    let mut now = start;
    let mut busy: Vec<(Instant, Instant, Arc<Endpoint>, LoadGuard)> = Vec::new();
    let (mut latencies, mut slow) = (Vec::new(), 0);
    while latencies.len() < 40_000 {
        if busy.len() == 8 {
            let next = busy.iter().enumerate().min_by_key(|(_, entry)| entry.0).map(|(at, _)| at).expect("busy");
            let (done, started, endpoint, mut guard) = busy.swap_remove(next);
            now = done;
            endpoint.load.observe(now - started, now);
            guard.discard();
            if started > start + SECOND {
                latencies.push(now - started);
                slow += u32::from(number(&endpoint) == 3);
            }
        }
        let chosen = choose(&set, Wish::default(), now, |bound| random.u64(..bound)).expect("an endpoint").clone();
        // 4 to 6 ms, as real services vary.
        let usual = 4 * MS + MS.mul_f64(2.0 * random.f64());
        let latency = if number(&chosen) == 3 { usual * factor } else { usual };
        busy.push((now + latency, now, chosen.clone(), LoadGuard::new(chosen, now)));
    }
    busy.into_iter().for_each(|(.., mut guard)| guard.discard());
    latencies.sort();
    (f64::from(slow) / latencies.len() as f64, latencies[latencies.len() * 99 / 100])
}

#[test]
fn one_endpoint_that_is_twenty_times_slower_is_hardly_noticed() {
    let (share, p99) = slow_one(20);
    let (_, healthy) = slow_one(1);
    assert!(share < 0.01, "{share} went to the slow one");
    assert!(p99 <= healthy.mul_f64(1.5), "p99 {p99:?}, with healthy endpoints {healthy:?}");
}

#[test]
fn a_key_stays_at_its_endpoint_and_goes_to_one_other_while_that_is_unwell() {
    let endpoints: Vec<At> = (1..=8).map(|last| At(last, "", "", 1)).collect();
    for algorithm in [
        Algorithm::RingHash { hash: Hashing::default(), minimum_size: 1024 },
        Algorithm::Maglev { hash: Hashing::default(), table_size: 65_537 },
    ] {
        let set = set(&endpoints, Policy { algorithm, ..ejecting() }, &Place::default());
        let now = Instant::now() + SECOND;
        let at = |key: u64| {
            let wish = Wish { exclude: &[], key: Some(super::hash::hash(&key.to_le_bytes())) };
            choose(&set, wish, now, |bound| fastrand::u64(..bound)).map(|endpoint| number(endpoint)).expect("one")
        };
        let before: Vec<u8> = (0..2000).map(at).collect();
        assert!(before.iter().enumerate().all(|(key, endpoint)| at(key as u64) == *endpoint), "a key stays");
        eject(&set, 5, now);
        let after: Vec<u8> = (0..2000).map(at).collect();
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        assert!(moved.clone().count() > 100, "those of the ejected one move");
        assert!(moved.clone().all(|(before, after)| *before == 5 && *after != 5), "and no others");
        assert!((0..2000).all(|key| at(key) == after[key as usize]), "to one other each");
    }
}

#[test]
fn a_bounded_load_sends_what_is_too_much_to_others() {
    let endpoints: Vec<At> = (1..=4).map(|last| At(last, "", "", 1)).collect();
    let hash = Hashing { on: Vec::new(), bounded_load: Some(125) };
    let algorithm = Algorithm::RingHash { hash, minimum_size: 1024 };
    let set = set(&endpoints, Policy { algorithm, ..Policy::default() }, &Place::default());
    let now = Instant::now();
    let wish = Wish { exclude: &[], key: Some(7) };
    let mut held = Vec::new();
    for _ in 0..100 {
        let chosen = choose(&set, wish, now, |bound| fastrand::u64(..bound)).expect("one").clone();
        held.push(LoadGuard::new(chosen, now));
    }
    let most = set.iter().map(|endpoint| endpoint.load.live()).max().expect("endpoints");
    assert!((26..=33).contains(&most), "{most} of 100, bound 1.25 × 25");
    held.into_iter().for_each(|mut guard| guard.discard());
}

/// Two endpoints in each of: the own zone, the own region, and another region.
const EVERYWHERE: [At; 6] = [
    At(1, "eu", "a", 1),
    At(2, "eu", "a", 1),
    At(3, "eu", "b", 1),
    At(4, "eu", "b", 1),
    At(5, "us", "c", 1),
    At(6, "us", "c", 1),
];

/// Shares of the three places.
fn by_place(set: &EndpointSet, now: Instant) -> [f64; 3] {
    let shares = shares(set, N, now);
    [(1, 2), (3, 4), (5, 6)].map(|(a, b)| [a, b].iter().filter_map(|last| shares.get(last)).sum())
}

fn per_mille(set: &EndpointSet, now: Instant) -> [u32; 3] {
    by_place(set, now).map(|share| (share * 1000.0).round() as u32)
}

#[test]
fn traffic_stays_near_while_seventy_percent_are_healthy_and_leaves_in_proportion() {
    let nearest = Locality { nearest: true, ..Locality::default() };
    let policy = || Policy { locality: nearest.clone(), ..ejecting() };
    let set = set(&EVERYWHERE, policy(), &place("eu", "a"));
    let now = Instant::now() + SECOND;
    assert_eq!(per_mille(&set, now), [1000, 0, 0]);
    // Half of the zone is left: it bears 50 / 70 of the traffic, the region the rest.
    eject(&set, 1, now);
    let [zone, region, rest] = by_place(&set, now);
    assert_binomial(Some(&zone), 0.714, N);
    assert_binomial(Some(&region), 0.286, N);
    assert_eq!(rest, 0.0);
    eject(&set, 2, now);
    let [zone, region, rest] = by_place(&set, now);
    assert!(zone == 0.0 && region > 0.999 && rest < 0.001, "a whole zone is gone: {zone} {region} {rest}");
    for (own, expected) in [(place("us", "x"), [0.0, 0.0, 1.0]), (place("", ""), [1.0, 1.0, 1.0].map(|one| one / 3.0))]
    {
        let set = self::set(&EVERYWHERE, policy(), &own);
        for (share, expected) in by_place(&set, now).iter().zip(expected) {
            assert_binomial(Some(share), expected, N);
        }
    }
}

#[test]
fn zones_alone_are_enough_to_stay_near() {
    let zones = [At(1, "", "a", 1), At(2, "", "a", 1), At(3, "", "b", 1), At(4, "", "b", 1), At(5, "", "", 1)];
    let nearest = || Policy { locality: Locality { nearest: true, ..Locality::default() }, ..ejecting() };
    let now = Instant::now() + SECOND;
    // Also for who knows its region besides; an endpoint of nowhere is no nearer than another zone.
    for own in [place("", "a"), place("eu", "a")] {
        let set = set(&zones, nearest(), &own);
        assert_eq!(per_mille(&set, now), [1000, 0, 0], "{own:?}");
        eject(&set, 1, now);
        eject(&set, 2, now);
        assert_eq!(by_place(&set, now)[0], 0.0, "a whole zone is gone");
    }
    let set = set(&EVERYWHERE, nearest(), &place("", "b"));
    assert_eq!(per_mille(&set, now), [0, 1000, 0], "regions that only the others know change nothing");
}

#[test]
fn regions_follow_in_their_order_and_shares_can_be_fixed() {
    let endpoints = [At(1, "eu", "a", 1), At(3, "us", "c", 1), At(5, "ap", "d", 1), At(6, "ap", "d", 1)];
    let failover = [("eu".into(), vec!["ap".into(), "us".into()])].into();
    let locality = Locality { nearest: true, failover, ..Locality::default() };
    let set = set(&endpoints, Policy { locality, ..ejecting() }, &place("eu", "a"));
    let now = Instant::now() + SECOND;
    assert_eq!(per_mille(&set, now), [1000, 0, 0]);
    eject(&set, 1, now);
    assert!(by_place(&set, now)[2] > 0.999, "ap comes before us");

    let to = vec![(place("eu", "a"), 80), (place("eu", ""), 15), (place("us", ""), 5)];
    let locality = Locality { distribute: [(place("eu", ""), to)].into(), ..Locality::default() };
    let set = self::set(&EVERYWHERE, Policy { locality, ..ejecting() }, &place("eu", "a"));
    for (share, expected) in by_place(&set, now).iter().zip([0.80, 0.15, 0.05]) {
        assert_binomial(Some(share), expected, N);
    }
}

#[test]
fn under_the_panic_threshold_health_is_not_believed() {
    let endpoints: Vec<At> = (1..=10).map(|last| At(last, "", "", 1)).collect();
    let now = Instant::now() + SECOND;
    for (ejected, panics) in [(5, false), (6, true)] {
        let set = set(&endpoints, ejecting(), &Place::default());
        (1..=ejected).for_each(|last| eject(&set, last, now));
        let to_ejected: f64 =
            shares(&set, N, now).iter().filter(|(last, _)| **last <= ejected).map(|(_, share)| share).sum();
        let expected = if panics { f64::from(ejected) / 10.0 } else { 0.0 };
        assert_binomial(Some(&to_ejected), expected, N);
    }
}

#[test]
fn an_ejected_endpoint_comes_back_by_a_tenth_and_then_by_and_by() {
    let endpoints: Vec<At> = (1..=4).map(|last| At(last, "", "", 1)).collect();
    let policy = Policy { algorithm: Algorithm::Random, ..ejecting() };
    let set = set(&endpoints, policy, &Place::default());
    let now = Instant::now() + SECOND;
    eject(&set, 1, now);
    assert_eq!(shares(&set, N, now + 10 * SECOND).get(&1), None);
    let on_probation = now + 34 * SECOND;
    let tenth = 0.1 / 3.1;
    assert_binomial(shares(&set, N, on_probation).get(&1), tenth, N);
    let endpoint = set.iter().find(|endpoint| number(endpoint) == 1).expect("is there");
    (0..3).for_each(|_| endpoint.feedback.tell(endpoint, Verdict::Success, MS, on_probation));
    let half_way = on_probation + 5 * SECOND;
    assert_binomial(shares(&set, N, half_way).get(&1), 0.55 / 3.55, N);
    assert_binomial(shares(&set, N, on_probation + 11 * SECOND).get(&1), 0.25, N);
    assert!(!set.watch.troubled(), "and choosing looks at health no longer");
}

#[test]
fn a_new_endpoint_gets_its_share_by_and_by() {
    let policy = || Policy {
        algorithm: Algorithm::Random,
        slow_start: Some(SlowStart { window: 60 * SECOND, minimum_percent: 10 }),
        ..Policy::default()
    };
    let first: Vec<Arc<Endpoint>> = set(&[At(1, "", "", 1), At(2, "", "", 1)], policy(), &Place::default()).to_vec();
    let feedback = first[0].feedback.clone();
    // The others became known long before: time is what passes for them, not for the newcomer.
    let later = Instant::now() + 3600 * SECOND;
    let newcomer =
        Endpoint { load: Arc::new(super::Load::known_since(later)), ..Endpoint::plain(([10, 0, 0, 3], 80).into()) };
    let all: Vec<_> = first.into_iter().chain([Arc::new(newcomer)]).collect();
    feedback.watch.replace(all.iter().map(|endpoint| (endpoint.address, endpoint.load.clone())).collect());
    let set = EndpointSet::new(all, policy().into(), feedback.watch.clone(), &Place::default(), u32::MAX);
    assert_binomial(shares(&set, N, later).get(&3), 0.1 / 2.1, N);
    assert_binomial(shares(&set, N, later + 30 * SECOND).get(&3), 0.55 / 2.55, N);
    assert_binomial(shares(&set, N, later + 61 * SECOND).get(&3), 1.0 / 3.0, N);
}

#[test]
fn an_endpoint_at_its_limit_is_left_out_and_all_at_theirs_are_none() {
    let endpoints: Vec<Arc<Endpoint>> =
        (1..=2).map(|last| Arc::new(Endpoint::plain(SocketAddr::from(([10, 0, 0, last], 80))))).collect();
    let set = EndpointSet::new(endpoints, Arc::default(), Arc::default(), &Place::default(), 1);
    let now = Instant::now();
    let pick = || choose(&set, Wish::default(), now, |bound| fastrand::u64(..bound)).cloned();
    let first = pick().expect("one");
    let _held = LoadGuard::new(first.clone(), now);
    let second = pick().expect("the other");
    assert!((0..50).all(|_| pick().is_some_and(|endpoint| endpoint.address == second.address)));
    let _also = LoadGuard::new(second, now);
    assert!(pick().is_none());
}

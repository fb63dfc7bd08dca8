//! The endpoints of a cluster, made ready for choosing: in tiers, the preferred first, each with what its algorithm needs.

use std::cmp::Reverse;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};

use super::hash::{Ring, Table};
use super::nearness::{Nearness, Rank};
use super::outlier::Watch;
use super::plan::Plan;
use super::stride::Stride;
use crate::policy::{Algorithm, Place, Policy};
use crate::snapshot::Endpoint;

/// The endpoints of a cluster.
#[derive(Debug)]
pub struct EndpointSet {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) tiers: Vec<Tier>,
    pub(super) policy: Arc<Policy>,
    pub(super) watch: Arc<Watch>,
    /// Requests or TCP connections that an endpoint takes at a time.
    pub(super) most_live: u32,
    plan: ArcSwap<Plan>,
}

/// The endpoints that are preferred alike.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) range: Range<usize>,
    /// One, unless shares of localities are fixed.
    pub(super) groups: Vec<Group>,
    /// Sum of the groups' shares.
    pub(super) total: u64,
}

/// Endpoints among which the algorithm chooses.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) range: Range<usize>,
    pub(super) share: u64,
    pub(super) weights: Weights,
    pub(super) method: Method,
}

#[derive(Debug)]
pub(super) enum Weights {
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

/// How one is chosen.
#[derive(Debug)]
pub(super) enum Method {
    /// The better of two by latency and load.
    PeakEwma,
    /// The least loaded of some.
    LeastRequest(u32),
    InTurn(Stride),
    Random,
    Ring(Ring),
    Maglev(Table),
}

impl Default for EndpointSet {
    fn default() -> Self {
        EndpointSet::new(Vec::new(), Arc::default(), Arc::default(), &Place::default(), u32::MAX)
    }
}

impl EndpointSet {
    /// Prepares endpoints in any order, for a sidecar at `own` place. `watch` knows their health; `most_live` are the requests or TCP
    /// connections that each takes at a time.
    pub fn new(
        mut endpoints: Vec<Arc<Endpoint>>,
        policy: Arc<Policy>,
        watch: Arc<Watch>,
        own: &Place,
        most_live: u32,
    ) -> Self {
        let nearness = Nearness::new(&policy.locality, own);
        let rank = |endpoint: &Arc<Endpoint>| -> Rank { nearness.rank(endpoint) };
        // The address last: every sidecar makes the same tables.
        endpoints.sort_by_cached_key(|endpoint| (rank(endpoint), endpoint.address));
        let mut tiers = Vec::new();
        let mut start = 0;
        for tier in endpoints.chunk_by(|a, b| rank(a).tier == rank(b).tier) {
            let mut groups = Vec::new();
            let range = start..start + tier.len();
            for group in tier.chunk_by(|a, b| rank(a) == rank(b)) {
                let share = group.first().map_or(1, |endpoint| nearness.share(rank(endpoint)));
                groups.push(Group::new(start..start + group.len(), group, share, &policy.algorithm));
                start += group.len();
            }
            let total = groups.iter().map(|group| group.share).sum();
            tiers.push(Tier { range, groups, total });
        }
        EndpointSet { endpoints, tiers, policy, watch, most_live, plan: ArcSwap::default() }
    }

    /// How the tiers share the traffic while not everybody is well; made anew when it is out of date.
    pub(super) fn plan(&self, now: Instant) -> Guard<Arc<Plan>> {
        let plan = self.plan.load();
        if plan.holds(self.watch.epoch(), now) {
            return plan;
        }
        self.plan.store(Arc::new(Plan::new(self, now)));
        self.plan.load()
    }

    pub(super) fn of(&self, range: &Range<usize>) -> &[Arc<Endpoint>] {
        self.endpoints.get(range.clone()).unwrap_or_default()
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
        let endpoints = endpoints.into_iter().collect();
        EndpointSet::new(endpoints, Arc::default(), Arc::default(), &Place::default(), u32::MAX)
    }
}

impl Group {
    fn new(range: Range<usize>, endpoints: &[Arc<Endpoint>], share: u64, algorithm: &Algorithm) -> Self {
        let method = match algorithm {
            Algorithm::PeakEwma => Method::PeakEwma,
            Algorithm::LeastRequest { choices } => Method::LeastRequest(*choices),
            Algorithm::RoundRobin => Method::InTurn(Stride::new(endpoints)),
            Algorithm::Random => Method::Random,
            Algorithm::RingHash { minimum_size, .. } => Method::Ring(Ring::new(endpoints, *minimum_size)),
            Algorithm::Maglev { table_size, .. } => Method::Maglev(Table::new(endpoints, *table_size)),
        };
        Group { range, share, weights: Weights::new(endpoints), method }
    }

    /// Position of an endpoint, drawn by weight.
    pub(super) fn draw(&self, random: &mut impl FnMut(u64) -> u64) -> usize {
        match &self.weights {
            Weights::Equal => self.range.start + random(self.range.len() as u64) as usize,
            Weights::Sums { sums, .. } => {
                let ticket = random(sums.last().copied().unwrap_or(1));
                self.range.start + sums.partition_point(|sum| *sum <= ticket)
            }
        }
    }

    /// Weight of an endpoint, relative to the mean one.
    pub(super) fn weight(&self, endpoint: &Endpoint) -> f64 {
        match &self.weights {
            Weights::Equal => 1.0,
            Weights::Sums { mean, .. } => f64::from(endpoint.weight.max(1)) / mean,
        }
    }
}

impl Weights {
    fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        if endpoints.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight)) {
            return Weights::Equal;
        }
        let running = |sum: &mut u64, endpoint: &Arc<Endpoint>| {
            *sum += u64::from(endpoint.weight.max(1));
            Some(*sum)
        };
        let sums: Vec<u64> = endpoints.iter().scan(0, running).collect();
        let mean = sums.last().copied().unwrap_or(1) as f64 / endpoints.len() as f64;
        Weights::Sums { sums, mean }
    }
}

impl Tier {
    /// The group whose turn it is, by share; then the others, the largest first.
    pub(super) fn groups(&self, random: &mut impl FnMut(u64) -> u64) -> impl Iterator<Item = &Group> {
        let first = match self.groups.len() {
            0 | 1 => 0,
            _ => {
                let mut ticket = random(self.total.max(1));
                let holds = |group: &Group| match ticket.checked_sub(group.share) {
                    Some(rest) => {
                        ticket = rest;
                        false
                    }
                    None => true,
                };
                self.groups.iter().position(holds).unwrap_or(0)
            }
        };
        let mut others: smallvec::SmallVec<[usize; 4]> = (0..self.groups.len()).filter(|at| *at != first).collect();
        others.sort_by_key(|at| Reverse(self.groups.get(*at).map_or(0, |group| group.share)));
        std::iter::once(first).chain(others).filter_map(|at| self.groups.get(at))
    }
}

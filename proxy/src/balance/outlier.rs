//! Outlier detection: what endpoints answer is told to their cluster, which ejects those that stand out.
//!
//! Failures in a row are judged by the answer that completes them, statistics by the first answer after an interval: there is no
//! task and no lock on the way of a request that changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::concurrency::Limiter;
use super::health::{Interval, Standing, nanoseconds};
use super::load::Load;
use crate::clock;
use crate::names::Name;
use crate::policy::{OutlierDetection, Statistics};
use crate::snapshot::Endpoint;

/// What an answer says about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Success,
    /// It answered with its own failure: a status of 500 and above.
    ServerError,
    /// It, or the way to it, is broken: 502, 503, 504, gRPC `UNAVAILABLE`, no connection, a reset, a time-out.
    GatewayFailure,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Gateway failures in a row.
    GatewayFailures,
    /// Statuses of 500 and above in a row.
    ServerErrors,
    /// Its success rate.
    SuccessRate,
    /// Its failure percentage.
    FailurePercentage,
    /// Its latency.
    Latency,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 5] =
        [Cause::GatewayFailures, Cause::ServerErrors, Cause::SuccessRate, Cause::FailurePercentage, Cause::Latency];

    /// For people and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Cause::GatewayFailures => "consecutive_gateway_failures",
            Cause::ServerErrors => "consecutive_5xx",
            Cause::SuccessRate => "success_rate",
            Cause::FailurePercentage => "failure_percentage",
            Cause::Latency => "latency",
        }
    }
}

/// What the health of a cluster's endpoints is, together; kept across snapshots.
#[derive(Debug)]
pub struct Watch {
    created: Instant,
    /// Whether any endpoint gets less than its share: only then does choosing look at health.
    troubled: AtomicBool,
    /// Rises with each change of any endpoint's standing.
    epoch: AtomicU64,
    /// When statistics are looked at next, nanoseconds after `created`.
    next_look: AtomicU64,
    /// The endpoints; locked when one is ejected, and once for each interval.
    members: Mutex<Vec<(SocketAddr, Arc<Load>)>>,
    ejections: [AtomicU64; Cause::ALL.len()],
    checks_passed: AtomicU64,
    checks_failed: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            created: clock::now(),
            troubled: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            next_look: AtomicU64::new(0),
            members: Mutex::default(),
            ejections: Default::default(),
            checks_passed: AtomicU64::new(0),
            checks_failed: AtomicU64::new(0),
        }
    }
}

impl Watch {
    /// Whether any endpoint gets less than its share.
    pub(super) fn troubled(&self) -> bool {
        self.troubled.load(Relaxed)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// The standing of an endpoint has changed.
    pub(crate) fn changed(&self) {
        self.epoch.fetch_add(1, Relaxed);
        self.troubled.store(true, Relaxed);
    }

    /// Nobody gets less than their share, as of `epoch`.
    pub(super) fn calm(&self, epoch: u64) {
        self.troubled.store(false, Relaxed);
        // A change that came in between wins.
        if self.epoch() != epoch {
            self.troubled.store(true, Relaxed);
        }
    }

    /// These are the endpoints from now on.
    pub(crate) fn replace(&self, members: Vec<(SocketAddr, Arc<Load>)>) {
        *self.members.lock() = members;
        self.changed();
    }

    /// A health check was made.
    pub(crate) fn count_check(&self, passed: bool) {
        let counter = if passed { &self.checks_passed } else { &self.checks_failed };
        counter.fetch_add(1, Relaxed);
    }

    /// Health checks that passed, and that failed.
    pub fn checks(&self) -> (u64, u64) {
        (self.checks_passed.load(Relaxed), self.checks_failed.load(Relaxed))
    }

    /// Ejections so far, for a cause.
    pub fn ejections(&self, cause: Cause) -> u64 {
        let at = Cause::ALL.iter().position(|other| *other == cause);
        at.and_then(|at| self.ejections.get(at)).map_or(0, |count| count.load(Relaxed))
    }

    fn count(&self, cause: Cause) {
        let at = Cause::ALL.iter().position(|other| *other == cause);
        if let Some(count) = at.and_then(|at| self.ejections.get(at)) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// Where the answers of a cluster's endpoints are told.
#[derive(Debug, Default)]
pub struct Feedback {
    /// The cluster.
    pub cluster: Name,
    /// What ejects; `None` is nothing.
    pub outliers: Option<OutlierDetection>,
    /// The endpoints together.
    pub watch: Arc<Watch>,
    /// The limit that follows latency.
    pub limiter: Option<Arc<Limiter>>,
}

impl Feedback {
    /// An endpoint answered like this, after `latency`.
    pub(super) fn tell(&self, endpoint: &Endpoint, verdict: Verdict, latency: Duration, now: Instant) {
        if let Some(limiter) = &self.limiter {
            limiter.observe(latency, now);
        }
        let Some(settings) = &self.outliers else { return };
        let load = &*endpoint.load;
        match load.health.count(verdict) {
            None => {
                if self.watch.troubled() && load.health.probed(load.since_creation(now)) {
                    load.begin_anew(latency, now);
                    self.watch.changed();
                    tracing::info!(cluster = %self.cluster, endpoint = %endpoint.address, "an ejected endpoint has come back");
                }
            }
            Some((gateway, errors)) => self.judge(endpoint, settings, verdict, gateway, errors, now),
        }
        if settings.success_rate.is_some() || settings.failure_percentage.is_some() || settings.latency.is_some() {
            load.health.sample(verdict, latency);
            self.look_if_due(settings, now);
        }
    }

    fn judge(
        &self,
        endpoint: &Endpoint,
        settings: &OutlierDetection,
        verdict: Verdict,
        gateway: u32,
        errors: u32,
        now: Instant,
    ) {
        let load = &*endpoint.load;
        let counts = |limit: u32| limit > 0;
        let reached = |limit: u32, number: u32| counts(limit) && number >= limit;
        let on_probation = load.health.standing(load.since_creation(now)) == Standing::Probation;
        let cause = if reached(settings.gateway_failures, gateway)
            || (on_probation && counts(settings.gateway_failures) && verdict == Verdict::GatewayFailure)
        {
            Cause::GatewayFailures
        } else if reached(settings.server_errors, errors) || (on_probation && counts(settings.server_errors)) {
            Cause::ServerErrors
        } else {
            return;
        };
        self.eject(endpoint.address, load, settings, cause, now);
        load.health.forgive();
    }

    /// Ejects an endpoint, unless as many are ejected as may be.
    fn eject(&self, address: SocketAddr, load: &Load, settings: &OutlierDetection, cause: Cause, now: Instant) {
        let members = self.watch.members.lock();
        self.eject_one_of(&members, address, load, settings, cause, now);
    }

    fn eject_one_of(
        &self,
        members: &[(SocketAddr, Arc<Load>)],
        address: SocketAddr,
        load: &Load,
        settings: &OutlierDetection,
        cause: Cause,
        now: Instant,
    ) {
        let standing = |load: &Load| load.health.standing(load.since_creation(now));
        if standing(load) == Standing::Ejected {
            return;
        }
        let ejected = members.iter().filter(|(_, load)| standing(load) == Standing::Ejected).count();
        let permitted = match (members.len() as u64 * u64::from(settings.max_percent)) / 100 {
            0 if members.len() > 1 && settings.max_percent > 0 => 1,
            permitted => permitted,
        };
        if ejected as u64 >= permitted {
            return;
        }
        let jitter = settings.jitter.mul_f64(fastrand::f64());
        let OutlierDetection { base_ejection, max_ejection, interval, .. } = settings;
        let time = load.health.eject(load.since_creation(now), *base_ejection, *max_ejection, *interval, jitter);
        self.watch.count(cause);
        self.watch.changed();
        tracing::warn!(cluster = %self.cluster, endpoint = %address, cause = cause.word(), seconds = time.as_secs(), "ejected an endpoint");
    }

    fn look_if_due(&self, settings: &OutlierDetection, now: Instant) {
        let at = nanoseconds(now.saturating_duration_since(self.watch.created));
        let due = self.watch.next_look.load(Relaxed);
        if at < due {
            return;
        }
        let next = at + nanoseconds(settings.interval);
        if self.watch.next_look.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return; // another worker looks
        }
        // The first look only begins an interval.
        let members = self.watch.members.lock();
        let intervals: Vec<Interval> = members.iter().map(|(_, load)| load.health.take_interval()).collect();
        if due == 0 {
            return;
        }
        for (at, cause) in outliers(settings, &intervals) {
            if let Some((address, load)) = members.get(at) {
                self.eject_one_of(&members, *address, load, settings, cause, now);
            }
        }
    }
}

/// Which endpoints stand out, and how; worst first within a cause.
fn outliers(settings: &OutlierDetection, intervals: &[Interval]) -> Vec<(usize, Cause)> {
    let mut found = Vec::new();
    let enough = |statistics: &Statistics| -> Vec<(usize, Interval)> {
        let volume = u64::from(statistics.request_volume.max(1));
        let busy = intervals.iter().copied().enumerate().filter(|(_, interval)| interval.requests() >= volume);
        let busy: Vec<_> = busy.collect();
        if busy.len() < statistics.minimum_endpoints as usize { Vec::new() } else { busy }
    };
    let mut add = |mut scored: Vec<(usize, f64)>, cause: Cause| {
        scored.sort_by(|a, b| b.1.total_cmp(&a.1));
        found.extend(scored.into_iter().map(|(at, _)| (at, cause)));
    };
    if let Some(statistics) = &settings.success_rate {
        let rates: Vec<(usize, f64)> = enough(statistics)
            .into_iter()
            .map(|(at, interval)| (at, interval.succeeded as f64 / interval.requests() as f64))
            .collect();
        let number = rates.len().max(1) as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / number;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / number;
        let least = mean - variance.sqrt() * f64::from(statistics.threshold) / 100.0;
        add(
            rates.into_iter().filter(|(_, rate)| *rate < least).map(|(at, rate)| (at, 1.0 - rate)).collect(),
            Cause::SuccessRate,
        );
    }
    if let Some(statistics) = &settings.failure_percentage {
        let most = f64::from(statistics.threshold) / 100.0;
        let shares = enough(statistics)
            .into_iter()
            .map(|(at, interval)| (at, interval.failed as f64 / interval.requests() as f64));
        add(shares.filter(|(_, share)| *share >= most).collect(), Cause::FailurePercentage);
    }
    if let Some(statistics) = &settings.latency {
        let means: Vec<(usize, f64)> = enough(statistics)
            .into_iter()
            .map(|(at, interval)| (at, interval.microseconds as f64 / interval.requests() as f64))
            .collect();
        let mut sorted: Vec<f64> = means.iter().map(|(_, mean)| *mean).collect();
        sorted.sort_by(f64::total_cmp);
        // With an even number the lower of the two in the middle: half of the endpoints being slow is not the norm.
        if let Some(median) = sorted.get(sorted.len().saturating_sub(1) / 2) {
            let most = median * f64::from(statistics.threshold) / 100.0;
            add(means.into_iter().filter(|(_, mean)| *mean > most).collect(), Cause::Latency);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::LoadGuard;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn cluster(number: u8, settings: OutlierDetection) -> Vec<Arc<Endpoint>> {
        let feedback =
            Arc::new(Feedback { cluster: "cart.shop:80".into(), outliers: Some(settings), ..Feedback::default() });
        let endpoints: Vec<Arc<Endpoint>> = (1..=number)
            .map(|last| {
                let plain = Endpoint::plain(SocketAddr::from(([10, 0, 0, last], 80)));
                Arc::new(Endpoint { feedback: feedback.clone(), ..plain })
            })
            .collect();
        feedback.watch.replace(endpoints.iter().map(|endpoint| (endpoint.address, endpoint.load.clone())).collect());
        endpoints
    }

    fn tell(endpoint: &Endpoint, verdict: Verdict, latency: Duration, now: Instant) {
        endpoint.feedback.tell(endpoint, verdict, latency, now);
    }

    fn standing(endpoint: &Endpoint, now: Instant) -> Standing {
        endpoint.load.health.standing(endpoint.load.since_creation(now))
    }

    #[test]
    fn five_gateway_failures_in_a_row_eject() {
        let endpoints = cluster(3, OutlierDetection::default());
        let now = Instant::now() + SECOND;
        for round in 0..3 {
            for _ in 0..4 {
                tell(&endpoints[0], Verdict::GatewayFailure, MS, now);
            }
            let between = if round == 0 { Verdict::Success } else { Verdict::ServerError };
            tell(&endpoints[0], between, MS, now);
        }
        assert_eq!(standing(&endpoints[0], now), Standing::Available, "not in a row");
        (0..5).for_each(|_| tell(&endpoints[0], Verdict::GatewayFailure, MS, now));
        assert_eq!(standing(&endpoints[0], now), Standing::Ejected);
        assert_eq!(endpoints[0].feedback.watch.ejections(Cause::GatewayFailures), 1);
        assert_eq!(standing(&endpoints[0], now + 34 * SECOND), Standing::Probation);
    }

    #[test]
    fn one_failure_on_probation_ejects_again_and_three_successes_end_it() {
        let endpoints = cluster(3, OutlierDetection::default());
        let mut now = Instant::now() + SECOND;
        (0..5).for_each(|_| tell(&endpoints[0], Verdict::GatewayFailure, MS, now));
        now += 34 * SECOND;
        tell(&endpoints[0], Verdict::Success, MS, now);
        tell(&endpoints[0], Verdict::GatewayFailure, MS, now);
        assert_eq!(standing(&endpoints[0], now + 59 * SECOND), Standing::Ejected, "the second time twice as long");
        now += 67 * SECOND;
        (0..3).for_each(|_| tell(&endpoints[0], Verdict::Success, MS, now));
        assert_eq!(standing(&endpoints[0], now), Standing::Available);
    }

    #[test]
    fn the_end_of_a_probation_ends_what_failures_made_of_the_estimate() {
        let endpoints = cluster(3, OutlierDetection::default());
        let mut now = Instant::now() + SECOND;
        for _ in 0..5 {
            endpoints[0].load.observe(SECOND, now);
            tell(&endpoints[0], Verdict::GatewayFailure, SECOND, now);
        }
        now += 34 * SECOND;
        (0..3).for_each(|_| tell(&endpoints[0], Verdict::Success, MS, now));
        assert_eq!(endpoints[0].load.latency(now), MS);
    }

    #[test]
    fn no_more_than_the_permitted_share_is_ejected() {
        for (number, percent, expected) in
            [(4, 50, 2), (3, 50, 1), (2, 10, 1), (1, 50, 0), (1, 100, 1), (4, 0, 0), (4, 100, 4)]
        {
            let endpoints = cluster(number, OutlierDetection { max_percent: percent, ..OutlierDetection::default() });
            let now = Instant::now() + SECOND;
            for endpoint in &endpoints {
                (0..5).for_each(|_| tell(endpoint, Verdict::GatewayFailure, MS, now));
            }
            let ejected = endpoints.iter().filter(|endpoint| standing(endpoint, now) == Standing::Ejected).count();
            assert_eq!(ejected, expected, "{number} endpoints, {percent} %");
        }
    }

    #[test]
    fn server_errors_eject_where_asked_for() {
        let settings = OutlierDetection { server_errors: 3, gateway_failures: 0, ..OutlierDetection::default() };
        let endpoints = cluster(3, settings);
        let now = Instant::now() + SECOND;
        for verdict in [Verdict::ServerError, Verdict::GatewayFailure, Verdict::ServerError] {
            tell(&endpoints[1], verdict, MS, now);
        }
        assert_eq!(endpoints[0].feedback.watch.ejections(Cause::ServerErrors), 1);
        let endpoints = cluster(3, OutlierDetection::default());
        (0..50).for_each(|_| tell(&endpoints[1], Verdict::ServerError, MS, now));
        assert_eq!(
            standing(&endpoints[1], now),
            Standing::Available,
            "an application's own errors say little by default"
        );
    }

    /// A hundred requests to each endpoint, of which some fail and all take their time; then the look at the end of the interval.
    fn interval(endpoints: &[Arc<Endpoint>], failures: &[usize], latencies: &[u64]) -> Vec<Standing> {
        let start = Instant::now() + SECOND;
        tell(&endpoints[0], Verdict::Success, MS, start);
        for (endpoint, (failures, latency)) in endpoints.iter().zip(failures.iter().zip(latencies)) {
            for request in 0..100 {
                let verdict = if request < *failures { Verdict::ServerError } else { Verdict::Success };
                tell(endpoint, verdict, Duration::from_millis(*latency), start + SECOND);
            }
        }
        let end = start + 11 * SECOND;
        tell(&endpoints[0], Verdict::Success, MS, end);
        endpoints.iter().map(|endpoint| standing(endpoint, end)).collect()
    }

    #[test]
    fn statistics_eject_who_stands_out() {
        use Standing::{Available, Ejected};
        let statistics =
            |threshold, minimum_endpoints| Some(Statistics { threshold, minimum_endpoints, request_volume: 100 });
        let off = || OutlierDetection { gateway_failures: 0, ..OutlierDetection::default() };
        let by_rate = OutlierDetection { success_rate: statistics(190, 5), ..off() };
        let expected = [Available, Available, Ejected, Available, Available];
        assert_eq!(interval(&cluster(5, by_rate.clone()), &[0, 1, 40, 2, 0], &[1; 5]), expected);
        assert_eq!(interval(&cluster(5, by_rate.clone()), &[30, 31, 29, 32, 30], &[1; 5]), [Available; 5], "all alike");
        assert_eq!(interval(&cluster(4, by_rate), &[0, 0, 90, 0], &[1; 4]), [Available; 4], "too few to compare");
        let by_share = OutlierDetection { failure_percentage: statistics(85, 2), ..off() };
        assert_eq!(interval(&cluster(3, by_share), &[84, 86, 0], &[1; 3]), [Available, Ejected, Available]);
        let by_latency = OutlierDetection { latency: statistics(500, 3), ..off() };
        assert_eq!(interval(&cluster(3, by_latency), &[0; 3], &[10, 70, 12]), [Available, Ejected, Available]);
    }

    #[test]
    fn a_guard_tells_how_its_endpoint_did() {
        let endpoints = cluster(2, OutlierDetection::default());
        for _ in 0..5 {
            LoadGuard::new(endpoints[0].clone(), Instant::now()).failed();
        }
        assert_eq!(standing(&endpoints[0], Instant::now()), Standing::Ejected);
        let mut bad_gateway = http::HeaderMap::new();
        for _ in 0..4 {
            LoadGuard::new(endpoints[1].clone(), Instant::now()).responded(http::StatusCode::BAD_GATEWAY, &bad_gateway);
        }
        bad_gateway.insert("grpc-status", http::HeaderValue::from_static("14"));
        let mut guard = LoadGuard::new(endpoints[1].clone(), Instant::now());
        guard.responded(http::StatusCode::OK, &bad_gateway);
        assert_eq!(endpoints[1].feedback.watch.ejections(Cause::GatewayFailures), 1, "one of two may be ejected");
    }
}

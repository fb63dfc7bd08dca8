//! The load of one endpoint: peak EWMA of its latency, requests at this moment, and a pause after failures.
//!
//! Peak: a slower answer than expected counts at once, a faster one by and by (decay 10 s), so that an endpoint that stalls
//! loses its traffic with the first slow answer. Idle endpoints are forgiven at the same rate. That alone would keep one that
//! once took a second from being cheaper than a neighbour of a millisecond for more than a minute; so one that was not heard of
//! for long or not at all, or whose pause is over, is tried with a single request, and the answer replaces what was thought of it.
//! So does the answer that ends the probation after an ejection. The time to connect is no latency: it is spent once, and would
//! keep an endpoint that has just come back from its share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::health::{Health, Standing};
use super::outlier::Verdict;
use crate::clock;
use crate::snapshot::Endpoint;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Longest time for which an endpoint may ask to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A failure counts as a latency so many times what was expected: answers that fail fast must not look good …
const FAILURE_FACTOR: u32 = 4;
/// … but not as more than this.
const LARGEST_PENALTY: Duration = Duration::from_secs(1);

/// What is assumed of an endpoint that has not answered yet.
const INITIAL_LATENCY: Duration = Duration::from_millis(30);
/// Time after which an observation has lost 63 % of its weight.
const DECAY: Duration = Duration::from_secs(10);
/// Pause after the first failure in a row, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// An estimate of this age says nothing any more: the endpoint is tried, whatever it would cost.
const STALE: Duration = DECAY;
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Load of an endpoint as this sidecar measures it, kept across snapshots.
#[derive(Debug)]
pub struct Load {
    created: Instant,
    /// Latency estimate in nanoseconds, as it was at `updated`.
    estimate: AtomicU64,
    /// Nanoseconds after `created`; zero before the first answer.
    updated: AtomicU64,
    live: AtomicU32,
    /// Pauses in a row, reset by a success.
    failures: AtomicU32,
    /// End of the pause, nanoseconds after `created`.
    paused_until: AtomicU64,
    /// What outlier detection and checks say; its time is nanoseconds after `created`.
    pub(crate) health: Health,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            created: clock::now(),
            estimate: AtomicU64::new(INITIAL_LATENCY.as_nanos() as u64),
            updated: AtomicU64::new(0),
            live: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            paused_until: AtomicU64::new(0),
            health: Health::default(),
        }
    }
}

impl Load {
    /// The load of an endpoint that became known at a given time.
    #[cfg(test)]
    pub(super) fn known_since(created: Instant) -> Self {
        Load { created, ..Load::default() }
    }

    /// Requests or connections at this moment.
    pub fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Latency expected of the next request, in nanoseconds.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_nanos((self.estimate.load(Relaxed) as f64 * remaining(self.idle(now))) as u64)
    }

    /// What one more request costs here: latency × (requests at this moment + 1). Less is better.
    ///
    /// `weight` is relative to the mean of the endpoints: one of twice the weight bears twice the requests. The added one is
    /// not divided, so that among idle endpoints weights count in the draw alone, not twice.
    pub fn cost(&self, weight: f64, now: Instant) -> f64 {
        (self.latency(now).as_nanos() as f64 + 1.0) * (f64::from(self.live()) / weight + 1.0)
    }

    /// Whether it failed so recently that others go first.
    pub fn paused(&self, now: Instant) -> bool {
        let until = self.paused_until.load(Relaxed);
        until != 0 && self.since_creation(now) < until
    }

    /// Whether the next request should go here to learn how it is: it failed and its pause is over, or nothing was heard of it
    /// for long. One request at a time, so that a return is not a rush.
    pub(super) fn unproven(&self, now: Instant) -> bool {
        let stale = || stale(self.updated.load(Relaxed), self.since_creation(now));
        self.live() == 0 && (self.failures.load(Relaxed) != 0 || stale()) && !self.paused(now)
    }

    /// Nanoseconds since the last observation.
    fn idle(&self, now: Instant) -> u64 {
        self.since_creation(now).saturating_sub(self.updated.load(Relaxed))
    }

    /// An answer took this long.
    ///
    /// Two workers may overwrite each other's update; the loser's observation is lost, which an average bears.
    pub fn observe(&self, latency: Duration, now: Instant) {
        let at = self.since_creation(now);
        let before = self.updated.swap(at, Relaxed);
        let (old, new) = (self.estimate.load(Relaxed) as f64, latency.as_nanos() as f64);
        let kept = remaining(at.saturating_sub(before));
        let estimate = if stale(before, at) || new > old * kept { new } else { old * kept + new * (1.0 - kept) };
        self.estimate.store(estimate as u64, Relaxed);
    }

    /// It answered after this long: a pause ends, and with it what the failures made of the estimate.
    pub fn succeeded(&self, latency: Duration, now: Instant) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.paused_until.store(0, Relaxed);
            self.begin_anew(latency, now);
        } else {
            self.observe(latency, now);
        }
    }

    /// It is well again: this answer takes the place of what its failures have made of the estimate.
    pub(super) fn begin_anew(&self, latency: Duration, now: Instant) {
        self.updated.store(self.since_creation(now), Relaxed);
        self.estimate.store(latency.as_nanos() as u64, Relaxed);
    }

    /// It could not be reached, or broke. Failures of requests that were under way together count once.
    pub fn failed(&self, now: Instant) {
        if self.paused(now) {
            return;
        }
        let in_a_row = self.failures.fetch_add(1, Relaxed).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << in_a_row).min(LONGEST_PAUSE);
        self.paused_until.store(self.since_creation(now) + pause.as_nanos() as u64, Relaxed);
    }

    /// It asks to be left alone for so long; others go first.
    fn pause(&self, time: Duration, now: Instant) {
        let until = self.since_creation(now) + time.as_nanos() as u64;
        self.paused_until.fetch_max(until, Relaxed);
    }

    /// As how slow a failure counts.
    fn penalty(&self, now: Instant) -> Duration {
        (self.latency(now) * FAILURE_FACTOR).min(LARGEST_PENALTY)
    }

    /// What it may get, by its answers and checks.
    pub fn standing(&self, now: Instant) -> Standing {
        self.health.standing(self.since_creation(now))
    }

    pub(crate) fn since_creation(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.created).as_nanos() as u64
    }
}

/// Whether an estimate of that time (zero: never) says nothing any more.
fn stale(updated: u64, now: u64) -> bool {
    updated == 0 || now.saturating_sub(updated) > STALE.as_nanos() as u64
}

/// Share of an old observation that is left after `idle` nanoseconds.
fn remaining(idle: u64) -> f64 {
    // Below 1 % of the decay, exp(-x) ≈ 1 - x is exact to 5e-5 and spares the call on busy endpoints.
    let x = idle as f64 / DECAY.as_nanos() as f64;
    if x < 0.01 { 1.0 - x } else { (-x).exp() }
}

/// One request, or one TCP connection, at an endpoint.
#[derive(Debug)]
pub struct LoadGuard {
    endpoint: Arc<Endpoint>,
    started: Instant,
    /// When an answer is too late.
    due: Option<Instant>,
    told: bool,
}

impl LoadGuard {
    /// Counts one more until dropped.
    pub fn new(endpoint: Arc<Endpoint>, now: Instant) -> Self {
        endpoint.load.live.fetch_add(1, Relaxed);
        LoadGuard { endpoint, started: now, due: None, told: false }
    }

    /// An answer that has not begun by then is a failure of the endpoint.
    pub fn due(mut self, due: Option<Instant>) -> Self {
        self.due = due;
        self
    }

    /// The connection that it goes over was waited for until then, if it was: the answer's time begins there.
    pub fn connected(&mut self, waited_until: Option<Instant>) {
        self.started = waited_until.unwrap_or(self.started);
    }

    /// A connection was made (TCP). Only the first call tells anything.
    pub fn answered(&mut self) {
        self.tell(Verdict::Success);
    }

    /// The head of a response has come. Only the first call tells anything, and returns when that was.
    pub fn responded(&mut self, status: StatusCode, headers: &HeaderMap) -> Option<Instant> {
        let verdict = verdict(status, headers);
        if verdict == Verdict::GatewayFailure
            && !self.told
            && let Some(later) = retry_after(headers)
        {
            self.endpoint.load.pause(later, clock::now());
        }
        self.tell(verdict)
    }

    /// The response ended with trailers: a gRPC call may have failed though its head was good.
    pub fn ended(&mut self, trailers: &HeaderMap) {
        let verdict = grpc_verdict(trailers);
        if verdict != Verdict::Success {
            self.judge(verdict);
        }
    }

    /// The response broke off.
    pub fn broke(&mut self) {
        self.judge(Verdict::GatewayFailure);
    }

    /// Ends the count without a measurement: what happened says nothing about the endpoint.
    pub fn discard(&mut self) {
        self.told = true;
    }

    /// The endpoint could not be reached, or broke before it answered.
    pub fn failed(&mut self) {
        self.endpoint.load.failed(clock::now());
        self.tell(Verdict::GatewayFailure);
    }

    fn tell(&mut self, verdict: Verdict) -> Option<Instant> {
        (!std::mem::replace(&mut self.told, true)).then(|| self.judge(verdict))
    }

    fn judge(&mut self, verdict: Verdict) -> Instant {
        let now = clock::now();
        let latency = now.saturating_duration_since(self.started);
        let load = &self.endpoint.load;
        if verdict == Verdict::GatewayFailure {
            load.observe(latency.max(load.penalty(now)), now);
        } else {
            load.succeeded(latency, now);
        }
        self.endpoint.feedback.tell(&self.endpoint, verdict, latency, now);
        now
    }
}

/// What the head of a response says about who sent it.
fn verdict(status: StatusCode, headers: &HeaderMap) -> Verdict {
    match status.as_u16() {
        502..=504 => Verdict::GatewayFailure,
        500.. => Verdict::ServerError,
        _ => grpc_verdict(headers),
    }
}

/// By gRPC status, as its mapping to HTTP says: UNAVAILABLE and DEADLINE_EXCEEDED are gateway failures, UNKNOWN, INTERNAL and
/// DATA_LOSS errors of the server.
fn grpc_verdict(headers: &HeaderMap) -> Verdict {
    match headers.get(GRPC_STATUS).map(HeaderValue::as_bytes) {
        Some(b"14" | b"4") => Verdict::GatewayFailure,
        Some(b"2" | b"13" | b"15") => Verdict::ServerError,
        _ => Verdict::Success,
    }
}

/// For how long the endpoint asks to be left alone (RFC 9110 §10.2.3, in seconds).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let load = &self.endpoint.load;
        load.live.fetch_sub(1, Relaxed);
        if !self.told {
            // The caller gave up. If it waited for longer than usual, the endpoint is slow; otherwise it says nothing.
            let now = clock::now();
            if self.due.is_some_and(|due| now >= due) {
                self.tell(Verdict::GatewayFailure);
                return;
            }
            let waited = now.saturating_duration_since(self.started);
            if waited > load.latency(now) {
                load.observe(waited, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::plain(([10, 0, 0, 1], 80).into()))
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgiven_slowly() {
        let load = Load::default();
        let start = load.created;
        load.observe(MS, start + DECAY * 10);
        assert!(load.latency(start + DECAY * 10) < 2 * MS, "ten decays forget the initial 30 ms");
        load.observe(100 * MS, start + DECAY * 10);
        assert_eq!(load.latency(start + DECAY * 10), 100 * MS);
        load.observe(MS, start + DECAY * 10 + MS);
        assert!(load.latency(start + DECAY * 10 + MS) > 99 * MS, "one fast answer does not wash it clean");
        let later = load.latency(start + DECAY * 11);
        assert!((35 * MS..38 * MS).contains(&later), "{later:?} is not 1/e of 100 ms");
    }

    #[test]
    fn cost_grows_with_what_is_under_way() {
        let endpoint = endpoint();
        let load = &endpoint.load;
        let now = Instant::now();
        let idle = load.cost(1.0, now);
        let guards = [LoadGuard::new(endpoint.clone(), now), LoadGuard::new(endpoint.clone(), now)];
        assert!((load.cost(1.0, now) / idle - 3.0).abs() < 0.01);
        assert!((load.cost(2.0, now) / idle - 2.0).abs() < 0.01);
        drop(guards);
        assert_eq!(load.live(), 0);
    }

    #[test]
    fn failures_pause_longer_each_time_and_a_success_ends_the_pause() {
        let load = Load::default();
        let mut now = load.created + MS;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            load.failed(now);
            load.failed(now);
            let mut pause = Duration::ZERO;
            while load.paused(now + pause) {
                pause += 250 * MS;
            }
            pauses.push(pause.as_millis());
            now += pause;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        load.failed(now);
        load.succeeded(MS, now);
        assert!(!load.paused(now));
    }

    #[test]
    fn giving_up_after_a_long_wait_counts_as_slow() {
        let slow = endpoint();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(5)).expect("the machine is up for 5 s");
        drop(LoadGuard::new(slow.clone(), long_ago));
        assert!(slow.load.latency(Instant::now()) > Duration::from_secs(4));
        let other = endpoint();
        drop(LoadGuard::new(other.clone(), Instant::now()));
        assert!(other.load.latency(Instant::now()) <= INITIAL_LATENCY);
    }

    #[test]
    fn the_time_to_connect_is_no_latency() {
        let endpoint = endpoint();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(5)).expect("the machine is up for 5 s");
        let mut guard = LoadGuard::new(endpoint.clone(), long_ago);
        guard.connected(Some(Instant::now()));
        guard.responded(StatusCode::OK, &HeaderMap::new());
        assert!(endpoint.load.latency(Instant::now()) < Duration::from_secs(1), "{:?}", endpoint.load);
    }

    #[test]
    fn a_fast_failure_looks_slow_and_a_server_error_does_not() {
        let (failing, erring) = (endpoint(), endpoint());
        for _ in 0..3 {
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            LoadGuard::new(failing.clone(), Instant::now()).responded(unavailable, &HeaderMap::new());
            LoadGuard::new(erring.clone(), Instant::now())
                .responded(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new());
        }
        assert!(failing.load.latency(Instant::now()) > Duration::from_millis(900));
        assert!(erring.load.latency(Instant::now()) <= INITIAL_LATENCY);
        assert!(!failing.load.paused(Instant::now()), "it was reached");
    }

    #[test]
    fn an_endpoint_that_asks_for_it_is_left_alone() {
        let mut headers = HeaderMap::new();
        for (status, value, seconds) in [
            (StatusCode::SERVICE_UNAVAILABLE, "5", 5),
            (StatusCode::SERVICE_UNAVAILABLE, "999999", 60),
            (StatusCode::SERVICE_UNAVAILABLE, "soon", 0),
            // Too many requests of one client say nothing about the others.
            (StatusCode::TOO_MANY_REQUESTS, "5", 0),
        ] {
            let endpoint = endpoint();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            let now = Instant::now();
            LoadGuard::new(endpoint.clone(), now).responded(status, &headers);
            let paused = |after: u64| endpoint.load.paused(now + Duration::from_secs(after));
            assert_eq!((seconds > 0 && paused(seconds - 1), paused(seconds + 1)), (seconds > 0, false), "{value}");
        }
    }
}

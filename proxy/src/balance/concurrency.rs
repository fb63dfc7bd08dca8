//! Adaptive concurrency: how many requests a service can have in flight, found by how its latency grows.
//!
//! A gradient: the latency of the last interval against that of the long run. As long as they are alike the limit grows by the
//! square root of itself; when requests begin to queue, latency grows and the limit shrinks with the ratio. The long run follows
//! slowly, so that a service which has become slower for good finds its new limit.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::health::nanoseconds;
use crate::clock;
use crate::policy::Overload;

/// Growth of latency that is borne before the limit shrinks.
const TOLERANCE: f64 = 1.5;
/// Share of a new limit that counts at once.
const SMOOTHING: f64 = 0.2;
/// Intervals over which the long run is averaged.
const LONG_RUN: f64 = 600.0;
/// Answers without which an interval says nothing.
const SAMPLES: u64 = 10;

/// How much a request matters, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Refused last.
    High,
    /// As most.
    Normal,
    /// Refused first.
    Low,
}

impl Priority {
    /// By the value of a header: `high`, `low`; anything else is normal.
    pub fn parse(value: Option<&http::HeaderValue>) -> Self {
        match value.map(http::HeaderValue::as_bytes) {
            Some(value) if value.eq_ignore_ascii_case(b"high") => Priority::High,
            Some(value) if value.eq_ignore_ascii_case(b"low") => Priority::Low,
            _ => Priority::Normal,
        }
    }

    /// The part of the limit that is for it.
    fn share(self) -> f64 {
        match self {
            Priority::High => 1.0,
            Priority::Normal => 0.9,
            Priority::Low => 0.7,
        }
    }
}

/// The limit of a cluster; kept across snapshots as long as its parameters are the same.
#[derive(Debug)]
pub struct Limiter {
    settings: Overload,
    created: Instant,
    /// `f64` as bits.
    limit: AtomicU64,
    /// Most requests in flight in this interval.
    busiest: AtomicU64,
    microseconds: AtomicU64,
    answers: AtomicU64,
    /// End of the interval, nanoseconds after `created`.
    until: AtomicU64,
    /// Mean latency of the long run in microseconds; locked once for each interval.
    long_run: Mutex<Option<f64>>,
}

impl Limiter {
    /// Begins at the least limit: what the service can bear is not known yet.
    pub fn new(settings: Overload) -> Self {
        let first = f64::from(settings.minimum).max(f64::from(settings.maximum.min(20)));
        let until = nanoseconds(settings.interval);
        Limiter {
            settings,
            created: clock::now(),
            limit: AtomicU64::new(first.to_bits()),
            busiest: AtomicU64::new(0),
            microseconds: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            until: AtomicU64::new(until),
            long_run: Mutex::default(),
        }
    }

    /// Its parameters.
    pub fn settings(&self) -> &Overload {
        &self.settings
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> f64 {
        f64::from_bits(self.limit.load(Relaxed))
    }

    /// Whether one more request may begin while `live`, itself among them, are in flight.
    pub fn admits(&self, live: u32, priority: Priority) -> bool {
        self.busiest.fetch_max(u64::from(live), Relaxed);
        // The least limit is for everybody.
        let share = if self.settings.priority_header.is_some() { priority.share() } else { 1.0 };
        f64::from(live) <= (self.limit() * share).max(1.0)
    }

    /// An answer took this long.
    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        self.microseconds.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.answers.fetch_add(1, Relaxed);
        let at = nanoseconds(now.saturating_duration_since(self.created));
        let until = self.until.load(Relaxed);
        if at < until {
            return;
        }
        let next = at + nanoseconds(self.settings.interval);
        if self.until.compare_exchange(until, next, Relaxed, Relaxed).is_ok() {
            self.end_interval();
        }
    }

    fn end_interval(&self) {
        let answers = self.answers.load(Relaxed);
        if answers < SAMPLES {
            return;
        }
        self.answers.store(0, Relaxed);
        let mean = self.microseconds.swap(0, Relaxed) as f64 / answers as f64;
        let busiest = self.busiest.swap(0, Relaxed) as f64;
        let mut long_run = self.long_run.lock();
        let long = long_run.map_or(mean, |long| long + (mean - long) / LONG_RUN);
        // Latency that has fallen for good is believed faster than one that has grown.
        let long = if mean < long { long * 0.95 + mean * 0.05 } else { long };
        *long_run = Some(long);
        let limit = self.limit();
        let gradient = (TOLERANCE * long / mean.max(1.0)).clamp(0.5, 1.0);
        // What is not used says nothing about what could be borne.
        if gradient >= 1.0 && busiest < limit / 2.0 {
            return;
        }
        let wanted = limit * gradient + limit.sqrt();
        let wanted = if gradient < 1.0 { limit * gradient } else { wanted };
        let smoothed = limit * (1.0 - SMOOTHING) + wanted * SMOOTHING;
        let bounded = smoothed.clamp(f64::from(self.settings.minimum), f64::from(self.settings.maximum));
        self.limit.store(bounded.to_bits(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(priority_header: Option<http::HeaderName>) -> Limiter {
        let interval = Duration::from_millis(100);
        Limiter::new(Overload { minimum: 5, maximum: 200, interval, priority_header })
    }

    /// A service that serves `capacity` requests at a time in 10 ms, and makes the rest wait; always as many callers as are let
    /// in, up to `offered`.
    fn serve(limiter: &Limiter, capacity: f64, offered: u32, intervals: u32, from: Instant) -> Instant {
        let mut now = from;
        for _ in 0..intervals {
            let live = (1..=offered).take_while(|live| limiter.admits(*live, Priority::High)).count() as f64;
            let latency = Duration::from_millis(10).mul_f64((live / capacity).max(1.0));
            now += Duration::from_millis(100);
            for _ in 0..20 {
                limiter.observe(latency, now);
            }
        }
        now
    }

    #[test]
    fn finds_what_a_service_can_bear_and_follows_it() {
        let limiter = limiter(None);
        let now = serve(&limiter, 50.0, 500, 300, Instant::now());
        assert!((40.0..110.0).contains(&limiter.limit()), "{} for a capacity of 50", limiter.limit());
        let now = serve(&limiter, 10.0, 500, 100, now);
        assert!(limiter.limit() < 30.0, "{} for a capacity of 10", limiter.limit());
        serve(&limiter, 100.0, 500, 300, now);
        assert!(limiter.limit() > 70.0, "{} for a capacity of 100", limiter.limit());
    }

    #[test]
    fn does_not_grow_while_nobody_needs_it() {
        let limiter = limiter(None);
        let first = limiter.limit();
        serve(&limiter, 50.0, 3, 100, Instant::now());
        assert_eq!(limiter.limit(), first);
    }

    #[test]
    fn what_matters_least_is_refused_first() {
        let limiter = limiter(Some(http::HeaderName::from_static("x-priority")));
        let most = |priority| (1..).take_while(|live| limiter.admits(*live, priority)).count();
        assert_eq!([Priority::High, Priority::Normal, Priority::Low].map(most), [20, 18, 14]);
        let value = |text| Priority::parse(Some(&http::HeaderValue::from_static(text)));
        assert_eq!(
            [value("HIGH"), value("low"), value("?"), Priority::parse(None)],
            [Priority::High, Priority::Low, Priority::Normal, Priority::Normal]
        );
    }
}

//! Whether an endpoint takes its share: ejected for its answers, on probation after that, or failing its checks.
//!
//! Atomics of one endpoint, kept across snapshots. Time is nanoseconds since the endpoint became known.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::outlier::Verdict;

/// Successes that end the probation after an ejection.
const PROBES: u32 = 3;
/// The share, in percent, that an endpoint on probation gets of its own.
const PROBATION_PERCENT: u32 = 10;
/// An endpoint that came back gets its whole share after this, where the policy says nothing else.
pub(crate) const RETURN_WINDOW: Duration = Duration::from_secs(10);

/// Health of an endpoint.
#[derive(Debug, Default)]
pub struct Health {
    /// Gateway failures in a row.
    gateway_failures: AtomicU32,
    /// Statuses of 500 and above in a row.
    server_errors: AtomicU32,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// End of the ejection; probation follows. Zero: neither.
    ejected_until: AtomicU64,
    /// Successes that the probation still needs.
    probes_left: AtomicU32,
    /// When it came back for good; zero: it was never away.
    returned_at: AtomicU64,
    failing_checks: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    microseconds: AtomicU64,
}

/// What an endpoint may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its share.
    Available,
    /// A small part of its share: it was ejected, and a few requests decide.
    Probation,
    /// Nothing: it does not pass its checks.
    FailingChecks,
    /// Nothing: it was ejected for its answers.
    Ejected,
}

impl Standing {
    /// For people and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Available => "available",
            Standing::Probation => "probation",
            Standing::FailingChecks => "failing_checks",
            Standing::Ejected => "ejected",
        }
    }
}

/// What happened in an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) microseconds: u64,
}

impl Interval {
    pub(super) fn requests(&self) -> u64 {
        self.succeeded + self.failed
    }
}

impl Health {
    /// What it may get.
    pub fn standing(&self, now: u64) -> Standing {
        let until = self.ejected_until.load(Relaxed);
        if until > now {
            Standing::Ejected
        } else if self.failing_checks.load(Relaxed) {
            Standing::FailingChecks
        } else if until != 0 {
            Standing::Probation
        } else {
            Standing::Available
        }
    }

    /// The part of its share that it gets now, in percent, as far as a past ejection decides.
    pub(super) fn percent(&self, now: u64, window: Duration) -> u32 {
        match self.standing(now) {
            Standing::Ejected | Standing::FailingChecks => 0,
            Standing::Probation => PROBATION_PERCENT,
            Standing::Available => match self.returned_at.load(Relaxed) {
                0 => 100,
                at => ramp(now.saturating_sub(at), window, PROBATION_PERCENT),
            },
        }
    }

    /// Counts an answer; `Some(number)` are the failures in a row, gateway failures and server errors.
    pub(super) fn count(&self, verdict: Verdict) -> Option<(u32, u32)> {
        match verdict {
            Verdict::Success => {
                // Written only when there is something to write: healthy endpoints share their line between workers.
                if self.gateway_failures.load(Relaxed) != 0 {
                    self.gateway_failures.store(0, Relaxed);
                }
                if self.server_errors.load(Relaxed) != 0 {
                    self.server_errors.store(0, Relaxed);
                }
                None
            }
            Verdict::ServerError => {
                self.gateway_failures.store(0, Relaxed);
                Some((0, self.server_errors.fetch_add(1, Relaxed) + 1))
            }
            Verdict::GatewayFailure => {
                let gateway = self.gateway_failures.fetch_add(1, Relaxed) + 1;
                Some((gateway, self.server_errors.fetch_add(1, Relaxed) + 1))
            }
        }
    }

    /// A success on probation; `true` if it was the last that was needed.
    pub(super) fn probed(&self, now: u64) -> bool {
        if self.standing(now) != Standing::Probation {
            return false;
        }
        let left = self.probes_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left.is_ok_and(|left| left > 1) {
            return false;
        }
        self.come_back(now);
        true
    }

    /// Ends a probation that nobody decides within `patience`: quiet services have few requests to probe with.
    pub(super) fn end_idle_probation(&self, now: u64, patience: Duration) {
        let until = self.ejected_until.load(Relaxed);
        if self.standing(now) == Standing::Probation && now.saturating_sub(until) > nanoseconds(patience) {
            self.come_back(now);
        }
    }

    fn come_back(&self, now: u64) {
        self.ejected_until.store(0, Relaxed);
        self.returned_at.store(now.max(1), Relaxed);
    }

    /// Ejects it; returns for how long. `earlier` ejections are forgotten one by one, each after `interval`.
    pub(super) fn eject(
        &self,
        now: u64,
        base: Duration,
        longest: Duration,
        interval: Duration,
        jitter: Duration,
    ) -> Duration {
        let since_return = match self.returned_at.load(Relaxed) {
            0 => 0,
            at => now.saturating_sub(at) / nanoseconds(interval).max(1),
        };
        let forgotten = u32::try_from(since_return).unwrap_or(u32::MAX);
        let number = self.ejections.load(Relaxed).saturating_sub(forgotten).saturating_add(1);
        self.ejections.store(number, Relaxed);
        self.gateway_failures.store(0, Relaxed);
        self.server_errors.store(0, Relaxed);
        self.probes_left.store(PROBES, Relaxed);
        let time = base.saturating_mul(number).min(longest) + jitter;
        self.ejected_until.store(now.saturating_add(nanoseconds(time)).max(1), Relaxed);
        time
    }

    /// Failures in a row begin anew.
    pub(super) fn forgive(&self) {
        self.gateway_failures.store(0, Relaxed);
        self.server_errors.store(0, Relaxed);
    }

    /// What its checks say; `true` if that is news.
    pub(crate) fn checked(&self, failing: bool) -> bool {
        self.failing_checks.swap(failing, Relaxed) != failing
    }

    /// Counts for the statistics of an interval.
    pub(super) fn sample(&self, verdict: Verdict, latency: Duration) {
        let counter = if verdict == Verdict::Success { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Relaxed);
        self.microseconds.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The interval that ends; the next one begins.
    pub(super) fn take_interval(&self) -> Interval {
        Interval {
            succeeded: self.succeeded.swap(0, Relaxed),
            failed: self.failed.swap(0, Relaxed),
            microseconds: self.microseconds.swap(0, Relaxed),
        }
    }
}

/// From `minimum` to 100 percent, over a window.
pub(super) fn ramp(age: u64, window: Duration, minimum: u32) -> u32 {
    let window = nanoseconds(window);
    if age >= window {
        return 100;
    }
    let risen = u128::from(100 - minimum.min(100)) * u128::from(age) / u128::from(window.max(1));
    minimum + u32::try_from(risen).unwrap_or(0)
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> u64 {
        seconds * 1_000_000_000
    }

    fn eject(health: &Health, now: u64) -> Duration {
        health.eject(now, 30 * SECOND, 300 * SECOND, 10 * SECOND, Duration::ZERO)
    }

    #[test]
    fn an_ejected_endpoint_comes_back_through_a_share_of_probes() {
        let health = Health::default();
        assert_eq!(eject(&health, at(1)), 30 * SECOND);
        assert_eq!((health.standing(at(30)), health.percent(at(30), RETURN_WINDOW)), (Standing::Ejected, 0));
        assert_eq!((health.standing(at(31)), health.percent(at(31), RETURN_WINDOW)), (Standing::Probation, 10));
        assert!(!health.probed(at(32)) && !health.probed(at(33)) && health.probed(at(34)));
        assert_eq!(health.standing(at(34)), Standing::Available);
        assert_eq!([34, 39, 44].map(|now| health.percent(at(now), RETURN_WINDOW)), [10, 55, 100]);
    }

    #[test]
    fn ejections_in_a_row_last_longer_and_are_forgotten_by_and_by() {
        let health = Health::default();
        let mut now = 1;
        let mut times = Vec::new();
        for _ in 0..12 {
            let time = eject(&health, at(now));
            times.push(time.as_secs());
            now += time.as_secs();
        }
        assert_eq!(times, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
        let probed = (0..3).filter(|_| health.probed(at(now))).count();
        assert_eq!(probed, 1);
        assert_eq!(eject(&health, at(now + 100)).as_secs(), 90, "ten of twelve were forgotten in 100 s");
    }

    #[test]
    fn a_quiet_probation_ends() {
        let health = Health::default();
        eject(&health, at(1));
        health.end_idle_probation(at(60), 30 * SECOND);
        assert_eq!(health.standing(at(60)), Standing::Probation);
        health.end_idle_probation(at(62), 30 * SECOND);
        assert_eq!(health.standing(at(62)), Standing::Available);
    }
}

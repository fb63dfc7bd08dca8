//! The retry budget of a cluster: retries may add a fifth to its live requests, and three per second in any case.
//!
//! The share (Envoy's `RetryBudget.budget_percent`) keeps retries from multiplying an outage; the floor keeps a quiet service
//! from having no retries at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Share of live requests that may be retries.
const SHARE: f64 = 0.2;
/// Retries that are always permitted: one per this interval …
const FLOOR_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 3);
/// … and this many at once.
const FLOOR_BURST: u64 = 3;

/// Retry budget of a cluster, shared by all routes to it and kept across snapshots.
#[derive(Debug)]
pub struct RetryBudget {
    created: Instant,
    retrying: AtomicU32,
    /// When the floor's bucket will be full again, nanoseconds after `created` (generic cell rate algorithm).
    full_at: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { created: Instant::now(), retrying: AtomicU32::new(0), full_at: AtomicU64::new(0) }
    }
}

impl RetryBudget {
    /// Permission for one retry while `live` requests are under way; hold the guard while the retry runs. `None` is
    /// `retry_budget_spent`.
    pub fn take(self: &Arc<Self>, live: u32) -> Option<RetryGuard> {
        self.take_at(live, Instant::now())
    }

    fn take_at(self: &Arc<Self>, live: u32, now: Instant) -> Option<RetryGuard> {
        let within_share = f64::from(self.retrying.fetch_add(1, Relaxed) + 1) <= f64::from(live) * SHARE;
        let guard = RetryGuard { budget: self.clone() };
        (within_share || self.take_from_floor(now)).then_some(guard)
    }

    fn take_from_floor(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.created).as_nanos() as u64;
        let interval = FLOOR_INTERVAL.as_nanos() as u64;
        self.full_at
            .fetch_update(Relaxed, Relaxed, |full_at| {
                let next = full_at.max(now) + interval;
                (next <= now + interval * FLOOR_BURST).then_some(next)
            })
            .is_ok()
    }

    /// Retries under way.
    pub fn retrying(&self) -> u32 {
        self.retrying.load(Relaxed)
    }
}

/// A retry that the budget permitted; ends with it.
#[derive(Debug)]
pub struct RetryGuard {
    budget: Arc<RetryBudget>,
}

impl Drop for RetryGuard {
    fn drop(&mut self) {
        self.budget.retrying.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_service_has_three_retries_per_second() {
        let budget = Arc::new(RetryBudget::default());
        let start = budget.created;
        let granted = |at: Duration| (0..10).filter(|_| budget.take_at(0, start + at).is_some()).count();
        assert_eq!(granted(Duration::ZERO), 3);
        assert_eq!(granted(Duration::from_millis(340)), 1);
        assert_eq!(granted(Duration::from_secs(60)), 3, "the bucket does not save up");
        assert_eq!(budget.retrying(), 0);
    }

    #[test]
    fn a_busy_service_may_retry_a_fifth_of_its_requests() {
        let budget = Arc::new(RetryBudget::default());
        let held: Vec<_> = (0..1000).filter_map(|_| budget.take_at(500, budget.created)).collect();
        assert_eq!(held.len(), 100 + 3);
        assert_eq!(budget.retrying(), 103);
        drop(held);
        assert!(budget.take_at(500, budget.created).is_some());
    }
}

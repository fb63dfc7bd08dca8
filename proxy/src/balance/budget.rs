//! The retry budget of a cluster: by default retries may add a fifth to its live requests, and three per second in any case.
//!
//! The share (Envoy's `RetryBudget.budget_percent`) keeps retries from multiplying an outage; the floor keeps a quiet service
//! from having no retries at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Share of live requests that may be retries, in percent.
const PERCENT: u32 = 20;
/// Retries per second that are permitted in any case, all of them at once if need be.
const PER_SECOND: u32 = 3;

/// Retry budget of a cluster, shared by all routes to it and kept across snapshots.
#[derive(Debug)]
pub struct RetryBudget {
    created: Instant,
    retrying: AtomicU32,
    /// When the floor's bucket will be full again, nanoseconds after `created` (generic cell rate algorithm).
    full_at: AtomicU64,
    percent: AtomicU32,
    per_second: AtomicU32,
    /// Most retries at a time, whatever the rest says.
    most: AtomicU32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget {
            created: Instant::now(),
            retrying: AtomicU32::new(0),
            full_at: AtomicU64::new(0),
            percent: AtomicU32::new(PERCENT),
            per_second: AtomicU32::new(PER_SECOND),
            most: AtomicU32::new(u32::MAX),
        }
    }
}

impl RetryBudget {
    /// From now on: retries in percent of live requests, retries per second in any case, and the most at a time.
    pub fn set(&self, percent: u32, per_second: u32, most: u32) {
        self.percent.store(percent, Relaxed);
        self.per_second.store(per_second, Relaxed);
        self.most.store(most, Relaxed);
    }

    /// What is set: percent, per second, most at a time.
    pub fn settings(&self) -> (u32, u32, u32) {
        (self.percent.load(Relaxed), self.per_second.load(Relaxed), self.most.load(Relaxed))
    }

    /// Permission for one retry while `live` requests are under way; hold the guard while the retry runs. `None` is
    /// `retry_budget_spent`.
    pub fn take(self: &Arc<Self>, live: u32) -> Option<RetryGuard> {
        self.take_at(live, Instant::now())
    }

    fn take_at(self: &Arc<Self>, live: u32, now: Instant) -> Option<RetryGuard> {
        let retrying = self.retrying.fetch_add(1, Relaxed) + 1;
        let guard = RetryGuard { budget: self.clone() };
        if retrying > self.most.load(Relaxed) {
            return None;
        }
        let within_share = u64::from(retrying) * 100 <= u64::from(live) * u64::from(self.percent.load(Relaxed));
        (within_share || self.take_from_floor(now)).then_some(guard)
    }

    fn take_from_floor(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.created).as_nanos() as u64;
        let burst = u64::from(self.per_second.load(Relaxed));
        let Some(interval) = SECOND.checked_div(burst) else { return false };
        self.full_at
            .fetch_update(Relaxed, Relaxed, |full_at| {
                let next = full_at.max(now) + interval;
                (next <= now + interval * burst).then_some(next)
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
    use std::time::Duration;

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

    #[test]
    fn a_policy_says_how_much_retries_may_add() {
        let budget = Arc::new(RetryBudget::default());
        let granted = |live| (0..1000).map(|_| budget.take_at(live, budget.created)).collect::<Vec<_>>();
        let number = |held: Vec<Option<RetryGuard>>| held.iter().flatten().count();
        budget.set(50, 0, u32::MAX);
        assert_eq!(number(granted(500)), 250);
        budget.set(0, 0, u32::MAX);
        assert_eq!(number(granted(500)), 0);
        budget.set(100, 1000, 7);
        assert_eq!(number(granted(500)), 7);
    }
}

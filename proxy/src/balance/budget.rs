//! The retry budget of a cluster: by default retries may add a fifth to its requests, and three per second in any case.
//!
//! The share is kept twice, because each alone has a gap. *Over time*: each request adds its share of a retry to what is saved, and a
//! retry spends a whole one; so a service that fails every request gets at most 1.2 times what is offered, however fast its
//! retries fail. *At a time*: retries in flight are at most that share of the first tries in flight (Envoy's
//! `RetryBudget.budget_percent`, whose base holds the retries too: a quarter instead of a fifth); so what a calm hour saved
//! does not come down at once. The floor keeps a quiet service from having no retries at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::clock;

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Retries in percent of requests.
const PERCENT: u32 = 20;
/// Retries per second that are permitted in any case, all of them at once if need be.
const PER_SECOND: u32 = 3;
/// What a retry spends: requests add their percentage.
const RETRY: u64 = 100;
/// Retries that are saved in any case; a busy service saves besides what may be in flight at a time.
const RESERVE: u64 = 10;

/// Retry budget of a cluster, shared by all routes to it and kept across snapshots.
#[derive(Debug)]
pub struct RetryBudget {
    created: Instant,
    retrying: AtomicU32,
    /// What requests have added and retries have not spent, in hundredths of a retry.
    saved: AtomicU64,
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
            created: clock::now(),
            retrying: AtomicU32::new(0),
            saved: AtomicU64::new(0),
            full_at: AtomicU64::new(0),
            percent: AtomicU32::new(PERCENT),
            per_second: AtomicU32::new(PER_SECOND),
            most: AtomicU32::new(u32::MAX),
        }
    }
}

impl RetryBudget {
    /// From now on: retries in percent of requests, retries per second in any case, and the most at a time.
    pub fn set(&self, percent: u32, per_second: u32, most: u32) {
        self.percent.store(percent, Relaxed);
        self.per_second.store(per_second, Relaxed);
        self.most.store(most, Relaxed);
    }

    /// What is set: percent, per second, most at a time.
    pub fn settings(&self) -> (u32, u32, u32) {
        (self.percent.load(Relaxed), self.per_second.load(Relaxed), self.most.load(Relaxed))
    }

    /// A request has come, the `live`th of those under way: its share is saved. Among the well, that is one load.
    pub fn offered(&self, live: u32) {
        let percent = u64::from(self.percent.load(Relaxed));
        if self.saved.load(Relaxed) < RESERVE * RETRY + u64::from(live) * percent {
            self.saved.fetch_add(percent, Relaxed);
        }
    }

    /// Permission for one retry while `live` requests are under way, those that are being retried among them; hold the guard while
    /// the retry runs. `None` is `retry_budget_spent`.
    pub fn take(self: &Arc<Self>, live: u32) -> Option<RetryGuard> {
        self.take_at(live, clock::now())
    }

    fn take_at(self: &Arc<Self>, live: u32, now: Instant) -> Option<RetryGuard> {
        let retrying = self.retrying.fetch_add(1, Relaxed) + 1;
        let guard = RetryGuard { budget: self.clone() };
        if retrying > self.most.load(Relaxed) {
            return None;
        }
        let permitted = (self.within_share(retrying, live) && self.spend()) || self.take_from_floor(now);
        permitted.then_some(guard)
    }

    /// Whether so many retries at a time are permitted. One always is: what is saved bounds how often.
    fn within_share(&self, retrying: u32, live: u32) -> bool {
        let first_tries = u64::from(live.saturating_sub(retrying));
        let percent = u64::from(self.percent.load(Relaxed));
        percent > 0 && (retrying == 1 || u64::from(retrying) * 100 <= first_tries * percent)
    }

    fn spend(&self) -> bool {
        self.saved.fetch_update(Relaxed, Relaxed, |saved| saved.checked_sub(RETRY)).is_ok()
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

    /// A budget that so many requests have added to.
    fn after(requests: u32) -> Arc<RetryBudget> {
        let budget = Arc::new(RetryBudget::default());
        (0..requests).for_each(|_| budget.offered(requests));
        budget
    }

    #[test]
    fn a_busy_service_may_retry_a_fifth_of_its_requests() {
        let budget = after(1000);
        let held: Vec<_> = (0..1000).filter_map(|_| budget.take_at(600, budget.created)).collect();
        assert_eq!(held.len(), 100 + 3, "to 500 first tries");
        assert_eq!(budget.retrying(), 103);
        drop(held);
        assert_eq!((0..1000).filter_map(|_| budget.take_at(600, budget.created)).count(), 100, "and no more in all");
    }

    #[test]
    fn a_calm_time_saves_up_ten_retries_and_what_may_be_in_flight() {
        let budget = Arc::new(RetryBudget::default());
        budget.set(20, 0, u32::MAX);
        (0..10_000).for_each(|_| budget.offered(100));
        assert_eq!((0..1000).filter(|_| budget.take(100).is_some()).count(), 10 + 20);
    }

    /// What is sent, as a multiple of what is offered, by `callers` that offer their next request when the last has failed, and try it
    /// `tries` times as far as the budget lets them. The first try takes `first` ticks, a further one takes one.
    fn amplification(callers: usize, tries: u32, first: u32) -> f64 {
        let budget = Arc::new(RetryBudget::default());
        budget.set(20, 0, u32::MAX);
        let live = u32::try_from(callers).expect("few");
        let (mut offered, mut sent) = (0_u32, 0_u32);
        // Each caller: ticks to go, tries left, the permission that it holds.
        let mut states: Vec<(u32, u32, Option<RetryGuard>)> = (0..live).map(|at| (at % first, 0, None)).collect();
        for _ in 0..200 * first {
            for (ticks, left, permission) in &mut states {
                if *ticks > 0 {
                    *ticks -= 1;
                    continue;
                }
                *permission = None;
                let retry = if *left > 0 { budget.take_at(live, budget.created) } else { None };
                if retry.is_some() {
                    (*left, *permission) = (*left - 1, retry);
                } else {
                    budget.offered(live);
                    offered += 1;
                    (*ticks, *left) = (first - 1, tries - 1);
                }
                sent += 1;
            }
        }
        f64::from(sent) / f64::from(offered)
    }

    #[test]
    fn a_service_that_fails_at_once_gets_a_fifth_more_than_what_is_offered_and_no_more() {
        for (callers, tries, first) in [(100, 2, 1), (100, 4, 1), (7, 4, 1), (1, 11, 1), (100, 4, 10), (100, 11, 50)] {
            let sent = amplification(callers, tries, first);
            let case = format!("{callers} callers, {tries} tries, the first {first} times as slow: {sent}");
            assert!(sent <= 1.2, "{case}");
            assert!(sent > 1.1, "the budget is used: {case}");
        }
    }

    #[test]
    fn a_policy_says_how_much_retries_may_add() {
        let budget = after(2000);
        let number = |live| {
            let held: Vec<_> = (0..1000).filter_map(|_| budget.take_at(live, budget.created)).collect();
            held.len()
        };
        budget.set(50, 0, u32::MAX);
        assert_eq!(number(600), 200, "to 400 first tries");
        budget.set(0, 0, u32::MAX);
        assert_eq!(number(600), 0);
        budget.set(100, 1000, 7);
        assert_eq!(number(600), 7);
    }
}

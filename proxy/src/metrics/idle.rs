//! Which series have stood still for so long that they go away: those of workloads that are no more would stay for ever otherwise.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A series that has stood still for so long goes away.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(3600);
/// How often it is looked for them, at most.
const PACE: Duration = Duration::from_secs(60);

/// How far each series was when it last moved.
#[derive(Debug)]
pub(super) struct Idle<K> {
    seen: HashMap<K, (u64, Instant)>,
    due: Option<Instant>,
}

impl<K> Default for Idle<K> {
    fn default() -> Self {
        Idle { seen: HashMap::new(), due: None }
    }
}

impl<K: Clone + Eq + Hash> Idle<K> {
    /// Whether it is time to look again.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.due.is_some_and(|due| now < due) {
            return false;
        }
        self.due = Some(now + PACE);
        true
    }

    /// Of all series, with how far they are, those that have stood still for long.
    pub(super) fn look(&mut self, now: Instant, series: impl Iterator<Item = (K, u64)>) -> HashSet<K> {
        let seen: HashMap<K, (u64, Instant)> = series
            .map(|(key, total)| {
                let since = self.seen.get(&key).filter(|(before, _)| *before == total).map_or(now, |(_, since)| *since);
                (key, (total, since))
            })
            .collect();
        let still = |since: &Instant| now.saturating_duration_since(*since) >= FORGOTTEN;
        let quiet = seen.iter().filter(|(_, (_, since))| still(since)).map(|(key, _)| key.clone()).collect();
        self.seen = seen;
        quiet
    }
}

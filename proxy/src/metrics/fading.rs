//! Families of counters whose series go away when they have stood still for long.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::idle::Idle;

/// `N` families with the same labels. A series of theirs comes and goes in all of them at once, so that what one says less what
/// another says stays true.
pub(super) struct Fading<L, const N: usize = 1> {
    families: [Family<L, Counter>; N],
    known: Mutex<HashMap<L, [Counter; N]>>,
    idle: Mutex<Idle<L>>,
}

impl<L: Clone + Eq + Hash, const N: usize> Fading<L, N> {
    /// To be registered, in the order of the counters.
    pub(super) fn families(&self) -> [Family<L, Counter>; N] {
        self.families.clone()
    }

    /// The counters of these labels.
    pub(super) fn of(&self, labels: L) -> [Counter; N] {
        let made = |labels: &L| self.families.each_ref().map(|family| family.get_or_create_owned(labels));
        self.known.lock().entry(labels).or_insert_with_key(made).clone()
    }

    /// Takes out the series that have stood still for long, if they may go.
    pub(super) fn forget_idle(&self, now: Instant, may_go: impl Fn(&[Counter; N]) -> bool) {
        let mut idle = self.idle.lock();
        if !idle.is_due(now) {
            return;
        }
        let mut known = self.known.lock();
        let moved = |counters: &[Counter; N]| counters.iter().fold(0_u64, |sum, one| sum.wrapping_add(one.get()));
        let quiet = idle.look(now, known.iter().map(|(labels, counters)| (labels.clone(), moved(counters))));
        known.retain(|labels, counters| {
            let goes = quiet.contains(labels) && may_go(counters);
            if goes {
                for family in &self.families {
                    family.remove(labels);
                }
            }
            !goes
        });
    }
}

impl<L: Clone + Eq + Hash, const N: usize> Default for Fading<L, N> {
    fn default() -> Self {
        let families = std::array::from_fn(|_| Family::default());
        Fading { families, known: Mutex::default(), idle: Mutex::default() }
    }
}

impl<L: fmt::Debug, const N: usize> fmt::Debug for Fading<L, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fading").field("known", &self.known).finish_non_exhaustive()
    }
}

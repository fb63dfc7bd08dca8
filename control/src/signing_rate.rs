//! How many certificates an identity may have in a while: enough for all replicas of a workload to start at once, too few to keep the
//! authority busy. Identities that ask for nothing cost nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use malla_xds::SpiffeId;
use parking_lot::Mutex;

/// At once.
const BURST: f64 = 500.0;
/// In the long run, each second.
const RATE: f64 = 20.0;
/// How often those are forgotten that have not asked for long.
const SWEEP: Duration = Duration::from_secs(60);

/// A bucket of tokens for each identity.
#[derive(Debug, Default)]
pub(crate) struct SigningRate {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    buckets: HashMap<SpiffeId, Bucket>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn tokens(&self, now: Instant) -> f64 {
        (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * RATE).min(BURST)
    }
}

impl SigningRate {
    /// Whether another certificate may be issued now; if so, it counts.
    pub(crate) fn admits(&self, identity: &SpiffeId, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        if inner.swept.is_none_or(|swept| now.saturating_duration_since(swept) > SWEEP) {
            inner.swept = Some(now);
            inner.buckets.retain(|_, bucket| bucket.tokens(now) < BURST);
        }
        let bucket = inner.buckets.entry(identity.clone()).or_insert(Bucket { tokens: BURST, at: now });
        let tokens = bucket.tokens(now);
        let admitted = tokens >= 1.0;
        *bucket = Bucket { tokens: if admitted { tokens - 1.0 } else { tokens }, at: now };
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_that_asks_without_end_is_stopped_and_others_are_not() {
        let rate = SigningRate::default();
        let identity = |account| SpiffeId::new("cluster.local", "shop", account).expect("valid");
        let (greedy, modest) = (identity("greedy"), identity("modest"));
        let start = Instant::now();
        let admitted = (0..10_000).filter(|_| rate.admits(&greedy, start)).count();
        assert_eq!(admitted, 500);
        assert!(rate.admits(&modest, start));
        let later = start + Duration::from_secs(1);
        let admitted = (0..10_000).filter(|_| rate.admits(&greedy, later)).count();
        assert_eq!(admitted, 20);
        // Who has not asked for long is forgotten.
        rate.admits(&modest, start + Duration::from_secs(120));
        assert_eq!(rate.inner.lock().buckets.len(), 1);
    }
}

//! Rate limits: token buckets without a lock.
//!
//! A bucket is one number, the moment when it will be full again (generic cell rate algorithm): taking a token moves it on, and
//! a request that would move it beyond the burst is refused and learns when to come back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clock;

/// The most specific bucket that a request has counts it: of its header's value, of its client, of all others.
#[derive(Debug)]
pub struct RateLimit {
    /// Its name, for logs.
    pub name: Box<str>,
    /// Of all requests without another.
    pub bucket: Bucket,
    /// Of clients, by `namespace/service account`.
    pub clients: Vec<(Box<str>, Bucket)>,
    /// Of values of a header.
    pub header: Option<HeaderLimits>,
}

/// The buckets of a header's values.
#[derive(Debug, Clone)]
pub struct HeaderLimits {
    /// The header.
    pub name: HeaderName,
    /// Whole values.
    pub values: Vec<(HeaderValue, Bucket)>,
}

/// How many are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens added in each interval, at least one.
    pub tokens: u32,
    /// The interval, above zero.
    pub interval: Duration,
    /// The most that there are, at least one.
    pub burst: u32,
}

/// A bucket in use.
#[derive(Debug)]
pub struct Bucket {
    limit: TokenBucket,
    created: Instant,
    /// Nanoseconds after `created`.
    full_at: AtomicU64,
}

/// Clones the limit, not what was taken: a route that is decoded anew has its bucket to itself.
impl Clone for Bucket {
    fn clone(&self) -> Self {
        Bucket::new(self.limit)
    }
}

impl RateLimit {
    /// Lets a request of a client (`namespace/service account`) through.
    ///
    /// # Errors
    /// It is one too many; the time after which there is room again.
    pub fn take(&self, headers: &HeaderMap, client: impl FnOnce() -> Box<str>, now: Instant) -> Result<(), Duration> {
        let by_header = self.header.as_ref().and_then(|limits| {
            let value = headers.get(&limits.name)?;
            limits.values.iter().find(|(known, _)| known == value).map(|(_, bucket)| bucket)
        });
        let bucket = match by_header {
            Some(bucket) => bucket,
            None if self.clients.is_empty() => &self.bucket,
            None => {
                let client = client();
                self.clients.iter().find(|(known, _)| *known == client).map_or(&self.bucket, |(_, bucket)| bucket)
            }
        };
        bucket.take(now)
    }

    /// Whether both limit the same requests in the same way: then what was taken from one counts for the other.
    pub fn is_same(&self, other: &RateLimit) -> bool {
        fn limits<K: PartialEq>(one: &[(K, Bucket)], other: &[(K, Bucket)]) -> bool {
            one.len() == other.len()
                && one.iter().zip(other).all(|((a, one), (b, other))| a == b && one.limit == other.limit)
        }
        let headers = match (&self.header, &other.header) {
            (None, None) => true,
            (Some(one), Some(other)) => one.name == other.name && limits(&one.values, &other.values),
            _ => false,
        };
        self.name == other.name
            && self.bucket.limit == other.bucket.limit
            && limits(&self.clients, &other.clients)
            && headers
    }
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: TokenBucket) -> Self {
        Bucket { limit, created: clock::now(), full_at: AtomicU64::new(0) }
    }

    fn take(&self, now: Instant) -> Result<(), Duration> {
        let TokenBucket { tokens, interval, burst } = self.limit;
        let per_token =
            interval.as_nanos().checked_div(tokens.into()).unwrap_or(u128::MAX).clamp(1, u128::from(u64::MAX)) as u64;
        let room = per_token.saturating_mul(burst.max(1).into());
        let now = now.saturating_duration_since(self.created).as_nanos() as u64;
        let next = |full_at: u64| full_at.max(now).saturating_add(per_token);
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            Some(next(full_at)).filter(|next| *next <= now.saturating_add(room))
        });
        taken.map(drop).map_err(|full_at| Duration::from_nanos(next(full_at).saturating_sub(now.saturating_add(room))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(tokens: u32, interval: Duration, burst: u32) -> Bucket {
        Bucket::new(TokenBucket { tokens, interval, burst })
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let bucket = bucket(10, SECOND, 20);
        let start = bucket.created + SECOND;
        let passed = |at: Duration| (0..100).filter(|_| bucket.take(start + at).is_ok()).count();
        assert_eq!(passed(Duration::ZERO), 20);
        assert_eq!(passed(SECOND), 10);
        assert_eq!(passed(SECOND * 100), 20, "a pause fills no more than the burst");
    }

    #[test]
    fn the_refused_learn_when_to_come_back() {
        let bucket = bucket(1, SECOND * 10, 1);
        let start = bucket.created;
        assert_eq!(bucket.take(start), Ok(()));
        let wait = bucket.take(start + SECOND).expect_err("empty");
        assert_eq!(wait, SECOND * 9);
        assert_eq!(bucket.take(start + SECOND + wait), Ok(()));
    }

    #[test]
    fn the_most_specific_bucket_counts() {
        let one = |count| bucket(count, SECOND, count);
        let limit = RateLimit {
            name: "shop/l".into(),
            bucket: one(1),
            clients: vec![("web/front".into(), one(2))],
            header: Some(HeaderLimits {
                name: HeaderName::from_static("x-tenant"),
                values: vec![(HeaderValue::from_static("gold"), one(3))],
            }),
        };
        let now = Instant::now();
        let passed = |tenant: &'static str, client: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-tenant", HeaderValue::from_static(tenant));
            (0..10).filter(|_| limit.take(&headers, || client.into(), now).is_ok()).count()
        };
        assert_eq!(passed("gold", "web/front"), 3);
        assert_eq!(passed("tin", "web/front"), 2);
        assert_eq!(passed("tin", "web/other"), 1);
        assert_eq!(passed("lead", "web/third"), 0, "all others share one");
    }
}

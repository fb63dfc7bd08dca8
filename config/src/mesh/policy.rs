//! What a rule asks for when things fail, or are made to fail: retries, faults, rate limits, sessions, mirrors, CORS.

use std::sync::Arc;
use std::time::Duration;

/// Retries of a rule. What certainly was not processed is tried again in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Further tries after the first; zero means none.
    pub attempts: u8,
    /// Which failures besides those that are safe.
    pub on: RetryOn,
    /// Wait before the second try.
    pub base: Option<Duration>,
    /// The longest wait.
    pub max: Option<Duration>,
    /// When a second try goes beside the first; never, where nothing is said.
    pub hedging: Option<Hedging>,
}

/// A second try beside the first, of the methods that [`RetryOn`] permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedging {
    /// After so much time as this share of the answers takes. Default 95 %.
    pub quantile: Share,
    /// Never sooner. Default 10 ms.
    pub minimum_delay: Duration,
    /// Answers that must have been measured. Default 100.
    pub minimum_samples: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Hedging {
            quantile: Share::per_million(950_000),
            minimum_delay: Duration::from_millis(10),
            minimum_samples: 100,
        }
    }
}

/// Failures that are tried again although the request may have been processed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryOn {
    /// The endpoint went away, or the try timed out, before the answer began.
    pub resets: bool,
    /// HTTP statuses, from 400 to 599.
    pub statuses: Vec<u16>,
    /// gRPC statuses: of 1, 4, 8, 13, 14.
    pub grpc_statuses: Vec<u8>,
    /// Whether `resets`, `statuses` and hedging are for all methods, instead of the idempotent ones.
    pub any_method: bool,
}

/// A share of requests, in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share(u32);

impl Share {
    /// All of them.
    pub const ALL: Share = Share(1_000_000);

    /// So many parts of a million; more are all.
    pub fn per_million(parts: u32) -> Share {
        Share(parts.min(1_000_000))
    }

    /// Parts of a million.
    pub fn parts(self) -> u32 {
        self.0
    }
}

/// `FaultInjection`: at least one of `delay` and `abort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Requests wait.
    pub delay: Option<Delay>,
    /// Requests fail.
    pub abort: Option<Abort>,
    /// Only requests with this header, name and whole value.
    pub only_with_header: Option<(Arc<str>, Arc<str>)>,
}

/// How long how many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// The time.
    pub time: Duration,
    /// Of how many requests.
    pub share: Share,
}

/// How, and how many fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort {
    /// The status.
    pub status: AbortStatus,
    /// Of how many requests.
    pub share: Share,
}

/// How a request is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// From 400 to 599.
    Http(u16),
    /// From 1 to 16.
    Grpc(u8),
}

/// `RateLimit`: the most specific bucket that a request has counts it: of its header's value, of its client, of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// `namespace/name`, for metrics and logs.
    pub name: Arc<str>,
    /// Of all requests without another.
    pub bucket: TokenBucket,
    /// Of service accounts (`namespace/name`).
    pub clients: Vec<(Arc<str>, TokenBucket)>,
    /// Of values of a header.
    pub header: Option<HeaderBuckets>,
}

/// The buckets of a header's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderBuckets {
    /// Name of the header, lower case.
    pub name: Arc<str>,
    /// Whole values and their buckets, at least one.
    pub buckets: Vec<(Arc<str>, TokenBucket)>,
}

/// How many requests are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// So many in each interval, at least one.
    pub requests: u32,
    /// From 10 ms to an hour.
    pub interval: Duration,
    /// So many at once after a pause, at least one.
    pub burst: u32,
}

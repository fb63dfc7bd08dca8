//! What policies say that Envoy's types have no field for: messages of our own, which others skip.
//!
//! Field numbers are the contract between control servers and sidecars of different releases: they are never used again for
//! something else. Durations are milliseconds.

use prost::Message;

use crate::envoy::core;
use crate::envoy::protobuf::Any;
use crate::names::{METADATA, PEAK_EWMA};

/// Type URL of [`ClusterPolicy`].
pub const CLUSTER_POLICY: &str = "malla.dev/malla.cluster.v1.Policy";

/// Type URL of [`Session`].
pub const SESSION: &str = "malla.dev/malla.session.v1.Session";

/// Session persistence as gRPC does not know it, in `Route.typed_per_filter_config`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Session {
    /// The header that carries the token; empty where a cookie does.
    #[prost(string, tag = "1")]
    pub header: String,
    /// The cookie that carries it.
    #[prost(string, tag = "2")]
    pub cookie: String,
    /// How long a session lasts, in milliseconds; zero is for as long as the client has the token.
    #[prost(uint64, tag = "3")]
    pub lifetime: u64,
    /// How long it lasts without a request, in milliseconds; zero is for ever.
    #[prost(uint64, tag = "4")]
    pub idle: u64,
    /// Whether the client keeps the cookie until the end of the lifetime; else as long as it runs.
    #[prost(bool, tag = "5")]
    pub permanent: bool,
}

/// Type URL of [`Hedging`].
pub const HEDGING: &str = "malla.dev/malla.hedging.v1.Hedging";

/// A second try beside the first, in `Route.typed_per_filter_config`. Of which methods, the route's `RetryPolicy` says.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Hedging {
    /// After so much time as this share of the answers takes, in parts per million.
    #[prost(uint32, tag = "1")]
    pub quantile: u32,
    /// Never sooner.
    #[prost(uint64, tag = "2")]
    pub minimum_delay: u64,
    /// Answers that must have been measured.
    #[prost(uint32, tag = "3")]
    pub minimum_samples: u32,
}

/// Parameters of the peak-EWMA balancing policy, in `Cluster.load_balancing_policy`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PeakEwma {
    /// Until a new endpoint has its whole share; absent is at once.
    #[prost(message, optional, tag = "1")]
    pub slow_start: Option<SlowStart>,
}

/// A new endpoint gets its share by and by.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SlowStart {
    /// Until it has its whole share.
    #[prost(uint64, tag = "1")]
    pub window: u64,
    /// The share that it begins with, in percent.
    #[prost(uint32, tag = "2")]
    pub minimum_percent: u32,
}

/// What else there is to say about a cluster, in `Cluster.metadata.typed_filter_metadata["malla.dev"]`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClusterPolicy {
    /// How long a request waits for a connection where a limit keeps it from one; zero is the sidecar's default.
    #[prost(uint64, tag = "1")]
    pub pending_timeout: u64,
    /// Preference by locality; absent is none, priorities alone count.
    #[prost(message, optional, tag = "2")]
    pub locality: Option<Locality>,
    /// Ejection by latency; absent is off.
    #[prost(message, optional, tag = "3")]
    pub latency_outlier: Option<LatencyOutlier>,
    /// A limit on requests that follows latency; absent is off.
    #[prost(message, optional, tag = "4")]
    pub overload: Option<Overload>,
    /// A request on whose stream nothing moves for so long ends; zero is never.
    #[prost(uint64, tag = "5")]
    pub request_idle: u64,
    /// Slow start with a balancing policy of Envoy's that has no field for it (random, ring hash, Maglev); absent is at once.
    #[prost(message, optional, tag = "6")]
    pub slow_start: Option<SlowStart>,
}

/// Preference by locality.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Locality {
    /// The same zone, then the same region, then all.
    #[prost(bool, tag = "1")]
    pub nearest: bool,
    /// Under this share of healthy endpoints, in percent, traffic leaves the nearer ones.
    #[prost(uint32, tag = "2")]
    pub minimum_healthy_percent: u32,
    /// Which regions come after which.
    #[prost(message, repeated, tag = "3")]
    pub failover: Vec<Failover>,
    /// Fixed shares.
    #[prost(message, repeated, tag = "4")]
    pub distribute: Vec<Distribute>,
}

/// Which regions come after a caller's own.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Failover {
    /// The caller's region.
    #[prost(string, tag = "1")]
    pub from: String,
    /// The regions to go to, in this order.
    #[prost(string, repeated, tag = "2")]
    pub to: Vec<String>,
}

/// Shares of localities, for callers of a locality.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Distribute {
    /// The caller's region.
    #[prost(string, tag = "1")]
    pub region: String,
    /// The caller's zone; empty for all.
    #[prost(string, tag = "2")]
    pub zone: String,
    /// The shares.
    #[prost(message, repeated, tag = "3")]
    pub to: Vec<Share>,
}

/// The share of a locality.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Share {
    /// The region.
    #[prost(string, tag = "1")]
    pub region: String,
    /// The zone; empty for all.
    #[prost(string, tag = "2")]
    pub zone: String,
    /// In percent.
    #[prost(uint32, tag = "3")]
    pub percent: u32,
}

/// Ejection by latency.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LatencyOutlier {
    /// Mean latency in percent of the median of the endpoints' means.
    #[prost(uint32, tag = "1")]
    pub threshold_percent: u32,
    /// Endpoints that must have had enough requests.
    #[prost(uint32, tag = "2")]
    pub minimum_endpoints: u32,
    /// Requests in an interval that are enough.
    #[prost(uint32, tag = "3")]
    pub request_volume: u32,
}

/// A limit on requests in flight that follows latency.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Overload {
    /// Least limit.
    #[prost(uint32, tag = "1")]
    pub minimum: u32,
    /// Greatest limit.
    #[prost(uint32, tag = "2")]
    pub maximum: u32,
    /// How often the limit is set anew.
    #[prost(uint64, tag = "3")]
    pub interval: u64,
    /// The header that says how much a request matters; empty is none.
    #[prost(string, tag = "4")]
    pub priority_header: String,
}

impl Session {
    /// As the configuration of a filter.
    pub fn pack(&self) -> Any {
        Any { type_url: SESSION.into(), value: self.encode_to_vec() }
    }
}

impl Hedging {
    /// As the configuration of a filter.
    pub fn pack(&self) -> Any {
        Any { type_url: HEDGING.into(), value: self.encode_to_vec() }
    }
}

impl PeakEwma {
    /// As an entry of a list of balancing policies.
    pub fn pack(&self) -> Any {
        Any { type_url: PEAK_EWMA.into(), value: self.encode_to_vec() }
    }
}

impl ClusterPolicy {
    /// As metadata of a cluster.
    pub fn metadata(&self) -> core::Metadata {
        let any = Any { type_url: CLUSTER_POLICY.into(), value: self.encode_to_vec() };
        core::Metadata { typed_filter_metadata: [(METADATA.to_owned(), any)].into(), ..Default::default() }
    }
}

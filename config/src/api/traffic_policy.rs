//! `TrafficPolicy`: balancing, limits, time-outs, retry budget, health and overload of the traffic to services.
//!
//! Each parameter says its default, its unit and its bounds; the generated reference lists them from here. Percentages are
//! whole numbers, durations are those of Gateway API (`250ms`, `1m30s`).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How sidecars balance, limit and watch the traffic to services.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced,
    derive = "PartialEq",
    doc = "How sidecars balance, limit and watch the traffic to services."
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The services that it is about, in its own namespace. A policy for one port (`sectionName`) takes the place of the one for
    /// the whole service; two policies for the same are refused.
    pub target_refs: Vec<PolicyTarget>,
    /// How an endpoint is chosen. Default `algorithm: peakEwma`, nearest endpoints first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Limits of each sidecar towards the service (circuit breaking); beyond them requests fail at once with `circuit_open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Time-outs of connections, and of requests that stand still. Those of whole requests are the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How much retries may add to the load of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// When failing endpoints are left out. On by default, with the defaults below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Active health checks by each sidecar. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What happens when the service cannot keep up. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,
    /// Parts of the endpoints, by labels of their workloads. A route sends requests to one of them with a backend of the kind
    /// `Subset` in the group `malla.dev`, whose name is `service.subset`. Everything else here holds in each of them, counted
    /// apart. At most 16. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
}

/// A part of the endpoints of a service.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// Its name: lower-case letters, digits and `-`, at most 63.
    pub name: String,
    /// The labels that a workload must have, all of them; at least one.
    pub labels: BTreeMap<String, String>,
    /// What is used while no endpoint of the subset takes requests. Default `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<SubsetFallback>,
}

/// What is used while no endpoint of a subset takes requests.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SubsetFallback {
    /// Nothing: requests fail with `no_endpoints`.
    None,
    /// All endpoints of the service.
    All,
}

/// What a policy is about.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// API group of the target. For a `Service`: the empty string.
    pub group: String,
    /// Kind of the target: `Service`; for an `AuthorizationPolicy` also `HTTPRoute` and `GRPCRoute`.
    pub kind: String,
    /// Name of the target.
    pub name: String,
    /// Name of one of a service's ports; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// How an endpoint is chosen.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// The algorithm. Default `peakEwma`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Algorithms `ringHash` and `maglev`: what is hashed. The first entry that the request has decides; a request that has none of
    /// them goes anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<HashOn>,
    /// Algorithm `leastRequest`: endpoints drawn at random, of which the least loaded is taken. Default 2, 2 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 10))]
    pub choices: Option<u32>,
    /// Algorithm `ringHash`: least number of points on the ring. Default 1024, 1 to 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub minimum_ring_size: Option<u32>,
    /// Algorithm `maglev`: size of the table, a prime number much larger than the number of endpoints. Default 65537, 101 to
    /// 5000011.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 101, max = 5_000_011))]
    pub table_size: Option<u32>,
    /// Algorithms `ringHash` and `maglev`: an endpoint takes at most this share of the mean load, in percent; what is beyond goes
    /// to the next. Default: unbounded; 110 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 110, max = 1000))]
    pub bounded_load_percent: Option<u32>,
    /// A new endpoint gets its share by and by. Default: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Which endpoints are preferred by where they are. Default: the same zone, then the same region, then all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityPolicy>,
    /// When fewer of the endpoints than this are healthy, in percent, health is not believed and all are used: better some
    /// failures than everything on too few. Default 50, 0 (never) to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold_percent: Option<u32>,
}

/// Balancing algorithms.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    /// The better of two random endpoints by latency and load; failures and `retry-after` count against it.
    PeakEwma,
    /// The least loaded of some random endpoints.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// The same endpoint for the same key, by a hash ring.
    RingHash,
    /// The same endpoint for the same key, by Maglev's table: evener than a ring, moves a few more keys when endpoints change.
    Maglev,
}

/// What is hashed; exactly one of the fields.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HashOn {
    /// The value of this request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The value of this cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The value of this query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_parameter: Option<String>,
    /// `true`: the client's IP address, as the sidecar sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<bool>,
}

/// A new endpoint gets its share by and by.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    /// Until it has its whole share. 1s to 1h.
    #[schemars(extend("format" = "duration"))]
    pub window: String,
    /// The share that it begins with, in percent of its own. Default 10, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub minimum_percent: Option<u32>,
}

/// Which endpoints are preferred by where they are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct LocalityPolicy {
    /// Default `nearest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<LocalityPreference>,
    /// Traffic leaves the nearer endpoints, in proportion, when fewer of them than this are healthy, in percent. Default 70, 1 to
    /// 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub minimum_healthy_percent: Option<u32>,
    /// Which regions come after the own one, in this order; those that are not named come last. Default: all at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
    /// Fixed shares instead of a preference, for callers of a region or zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<Distribute>,
}

/// What nearness means.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LocalityPreference {
    /// The same zone first, then the same region, then all.
    Nearest,
    /// All alike.
    None,
}

/// Where the traffic of a region goes when the region cannot take it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// The region of the caller.
    pub from: String,
    /// The regions to go to, in this order.
    pub to: Vec<String>,
}

/// Shares of localities for callers of a locality.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Distribute {
    /// Where the caller is: `region` or `region/zone`.
    pub from: String,
    /// Share in percent by `region` or `region/zone`; together 100. Localities that are not named get nothing.
    pub to: BTreeMap<String, u32>,
}

/// Limits of each sidecar towards a service.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections. Default 1024, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection. Default 1024; 0 lets none wait that could not begin to connect at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    /// How long a request waits for a connection where a limit keeps it from one. Default `1s`, 1ms to 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub pending_timeout: Option<String>,
    /// Requests in flight. Default 10000, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
    /// Retries in flight, besides what the retry budget says. Default: the budget alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// The same for each endpoint; an endpoint at its limit is left out. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_endpoint: Option<EndpointLimits>,
}

/// Limits of each sidecar towards each endpoint.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct EndpointLimits {
    /// Connections of HTTP, of each worker thread. Default: no limit, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// Requests, or TCP connections, in flight. Default: no limit, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
}

/// Time-outs of connections.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For TCP and TLS together. Default `1s`, 1ms to 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub connect: Option<String>,
    /// A connection without a request, or a TCP connection without a byte, is closed after this. Default `1h`, 1s to 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub idle: Option<String>,
    /// A request on whose stream nothing was sent or received for so long ends with `idle_timeout`. Default: none, 10ms to 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub request_idle: Option<String>,
}

/// How much retries may add.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Retries in percent of requests: of all that came, and of the first tries in flight. Default 20, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u32>,
    /// Retries per second that are allowed in any case. Default 3, 0 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_retries_per_second: Option<u32>,
}

/// When failing endpoints are left out. Each sidecar judges by what it sees itself.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// `true`: no endpoint is left out for its answers. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Gateway failures in a row: statuses 502, 503 and 504, gRPC `UNAVAILABLE`, connections that fail or break, time-outs. Default 5;
    /// 0 switches it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_failures: Option<u32>,
    /// Statuses of 500 and above in a row, gateway failures among them. Default 0, which is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "consecutive5xx")]
    pub consecutive_5xx: Option<u32>,
    /// How often success rate, failure percentage and latency are looked at. Default `10s`, 1s to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub interval: Option<String>,
    /// How long an endpoint is left out the first time; the n-th time in a row n times as long, and up to a tenth longer at random.
    /// Default `30s`, 1s to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub base_ejection_time: Option<String>,
    /// How long at most. Default `300s`, 1s to 24h, not below `baseEjectionTime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub max_ejection_time: Option<String>,
    /// The share of endpoints that may be left out at the same time, in percent; of two or more endpoints, always one. Default 50, 0
    /// to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<u32>,
    /// Leaves out endpoints whose success rate is far below that of the others. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Leaves out endpoints that fail more than a share of requests. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
    /// Leaves out endpoints that are much slower than the others. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyOutlier>,
}

/// Leaves out endpoints whose success rate is far below that of the others.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SuccessRate {
    /// How far below the mean, in percent of the standard deviation. Default 190, 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub deviation_percent: Option<u32>,
    /// Endpoints that must have had enough requests. Default 5, at least 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub minimum_endpoints: Option<u32>,
    /// Requests in an interval that are enough. Default 100, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub request_volume: Option<u32>,
}

/// Leaves out endpoints that fail more than a share of requests.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FailurePercentage {
    /// The share, in percent. Default 85, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub threshold: Option<u32>,
    /// Endpoints that must have had enough requests. Default 5, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub minimum_endpoints: Option<u32>,
    /// Requests in an interval that are enough. Default 50, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub request_volume: Option<u32>,
}

/// Leaves out endpoints that are much slower than the others.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct LatencyOutlier {
    /// Mean latency in percent of the median of the endpoints' means. Default 500, 150 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 150, max = 10000))]
    pub threshold_percent: Option<u32>,
    /// Endpoints that must have had enough requests. Default 3, at least 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3))]
    pub minimum_endpoints: Option<u32>,
    /// Requests in an interval that are enough. Default 50, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub request_volume: Option<u32>,
}

/// Active health checks; exactly one of `http`, `grpc` and `tcp`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// By an HTTP request: statuses from 200 to 299 are healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealthCheck>,
    /// By `grpc.health.v1.Health/Check`: `SERVING` is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcHealthCheck>,
    /// By a connection: one that is made is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpHealthCheck>,
    /// How often each sidecar asks each endpoint, up to a tenth sooner or later at random. Default `10s`, 100ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub interval: Option<String>,
    /// How long an answer may take. Default `1s`, 1ms to 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    /// Failures in a row that make an endpoint unhealthy. Default 3, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: Option<u32>,
    /// Successes in a row that make it healthy again. Default 2, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: Option<u32>,
}

/// A health check by an HTTP request.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHealthCheck {
    /// The path that is asked with `GET`.
    pub path: String,
    /// The `Host` of the request. Default: the name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// A health check by gRPC's own protocol.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct GrpcHealthCheck {
    /// The service that is asked about. Default: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A health check by a connection.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct TcpHealthCheck {}

/// What happens when the service cannot keep up.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overload {
    /// Finds by itself how many requests the service can have in flight, by how its latency grows (gradient), and refuses more with
    /// `overloaded`.
    pub adaptive_concurrency: AdaptiveConcurrency,
    /// The request header that says how much a request matters: `high`, `low`; anything else is normal. At the limit `low` is
    /// refused first (from 70 %), then normal (from 90 %). Default: all alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_header: Option<String>,
}

/// A limit on requests in flight that follows latency.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct AdaptiveConcurrency {
    /// The limit never falls below this. Default 10, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub minimum: Option<u32>,
    /// The limit never rises above this. Default 1000, at least 1, not below `minimum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub maximum: Option<u32>,
    /// How often the limit is set anew. Default `100ms`, 10ms to 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub interval: Option<String>,
}

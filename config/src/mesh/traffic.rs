//! `TrafficPolicy`, ready: every value within its bounds, every default filled in. The defaults are those of a service that
//! no policy is about.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Locality, Mesh, ServiceName};

/// What a policy is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrafficTarget {
    /// The service.
    pub service: ServiceName,
    /// One of its ports; `None` for all that have no policy of their own.
    pub port: Option<u16>,
}

/// How the traffic to a service is balanced, limited and watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// Limits of each sidecar.
    pub limits: TrafficLimits,
    /// For TCP and TLS together. Default 1 s.
    pub connect_timeout: Duration,
    /// Without a request, or a byte. Default 1 h.
    pub idle_timeout: Duration,
    /// A request on whose stream nothing moves for so long ends. Default none.
    pub request_idle_timeout: Option<Duration>,
    /// How much retries may add.
    pub retry_budget: RetryBudget,
    /// When failing endpoints are left out; `None` is never. Default on.
    pub outlier_detection: Option<OutlierDetection>,
    /// Active health checks. Default none.
    pub health_check: Option<HealthCheck>,
    /// What happens when the service cannot keep up. Default nothing.
    pub overload: Option<Overload>,
    /// Parts of the endpoints that routes can name. Default none.
    pub subsets: BTreeMap<Arc<str>, Subset>,
}

/// A part of the endpoints of a service, by the labels of their workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// All of them; at least one.
    pub labels: BTreeMap<String, String>,
    /// What is used while none of them takes requests. Default [`SubsetFallback::None`].
    pub fallback: SubsetFallback,
}

/// What is used while no endpoint of a subset takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetFallback {
    /// Nothing.
    None,
    /// All endpoints of the service.
    All,
}

impl Default for TrafficPolicy {
    fn default() -> Self {
        TrafficPolicy {
            load_balancer: LoadBalancer::default(),
            limits: TrafficLimits::default(),
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(3600),
            request_idle_timeout: None,
            retry_budget: RetryBudget::default(),
            outlier_detection: Some(OutlierDetection::default()),
            health_check: None,
            overload: None,
            subsets: BTreeMap::new(),
        }
    }
}

impl Mesh {
    /// The policy for a port of a service: its own, else that of the service, else the defaults.
    pub fn traffic_policy(&self, service: &ServiceName, port: u16) -> Arc<TrafficPolicy> {
        let of = |port| self.traffic_policies.get(&TrafficTarget { service: service.clone(), port });
        of(Some(port)).or_else(|| of(None)).cloned().unwrap_or_default()
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadBalancer {
    /// The algorithm. Default [`Algorithm::PeakEwma`].
    pub algorithm: Algorithm,
    /// Until a new endpoint has its whole share. Default at once.
    pub slow_start: Option<SlowStart>,
    /// Which endpoints are preferred by where they are.
    pub locality: LocalityPolicy,
    /// Under this share of healthy endpoints, in percent, health is not believed. Default 50.
    pub panic_threshold_percent: u32,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        LoadBalancer {
            algorithm: Algorithm::PeakEwma,
            slow_start: None,
            locality: LocalityPolicy::default(),
            panic_threshold_percent: 50,
        }
    }
}

/// A balancing algorithm with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// The better of two random endpoints by latency and load.
    PeakEwma,
    /// The least loaded of `choices` random endpoints.
    LeastRequest {
        /// Endpoints drawn; 2 to 10, default 2.
        choices: u32,
    },
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// By a hash ring.
    RingHash {
        /// What is hashed, at least one thing.
        hash: Vec<HashOn>,
        /// Least number of points. Default 1,024.
        minimum_size: u32,
        /// Most load of an endpoint in percent of the mean.
        bounded_load_percent: Option<u32>,
    },
    /// By Maglev's table.
    Maglev {
        /// What is hashed, at least one thing.
        hash: Vec<HashOn>,
        /// Size of the table, a prime number. Default 65,537.
        table_size: u32,
        /// Most load of an endpoint in percent of the mean.
        bounded_load_percent: Option<u32>,
    },
}

impl Algorithm {
    /// What is hashed, by those that hash.
    pub fn hash(&self) -> &[HashOn] {
        match self {
            Algorithm::RingHash { hash, .. } | Algorithm::Maglev { hash, .. } => hash,
            Algorithm::PeakEwma | Algorithm::LeastRequest { .. } | Algorithm::RoundRobin | Algorithm::Random => &[],
        }
    }
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// The value of a header; its name in lower case.
    Header(Arc<str>),
    /// The value of a cookie.
    Cookie(Arc<str>),
    /// The value of a query parameter.
    QueryParameter(Arc<str>),
    /// The client's address.
    SourceAddress,
}

/// A new endpoint gets its share by and by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowStart {
    /// Until it has its whole share; 1 s to 1 h.
    pub window: Duration,
    /// What it begins with, in percent. Default 10.
    pub minimum_percent: u32,
}

/// Which endpoints are preferred by where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalityPolicy {
    /// Default [`LocalityPreference::Nearest`].
    pub preference: LocalityPreference,
    /// Under this share of healthy endpoints, in percent, traffic leaves the nearer ones. Default 70.
    pub minimum_healthy_percent: u32,
    /// By the caller's region: the regions that come after it, in this order.
    pub failover: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// By the caller's region or zone (whose zone may be empty, for all of the region): shares in percent, together 100.
    pub distribute: BTreeMap<Locality, BTreeMap<Locality, u32>>,
}

impl Default for LocalityPolicy {
    fn default() -> Self {
        LocalityPolicy {
            preference: LocalityPreference::Nearest,
            minimum_healthy_percent: 70,
            failover: BTreeMap::new(),
            distribute: BTreeMap::new(),
        }
    }
}

/// What nearness means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalityPreference {
    /// The same zone, then the same region, then all.
    Nearest,
    /// All alike.
    None,
}

/// Limits of each sidecar towards a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficLimits {
    /// Connections. Default 1,024.
    pub connections: u32,
    /// Requests that wait for a connection. Default 1,024.
    pub pending: u32,
    /// How long they wait. Default 1 s.
    pub pending_timeout: Duration,
    /// Requests in flight. Default 10,000.
    pub requests: u32,
    /// Retries in flight. Default what the budget permits.
    pub retries: Option<u32>,
    /// For each endpoint. Default none.
    pub per_endpoint: EndpointLimits,
}

impl Default for TrafficLimits {
    fn default() -> Self {
        TrafficLimits {
            connections: 1_024,
            pending: 1_024,
            pending_timeout: Duration::from_secs(1),
            requests: 10_000,
            retries: None,
            per_endpoint: EndpointLimits::default(),
        }
    }
}

/// Limits of each sidecar towards each endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointLimits {
    /// HTTP connections of each worker thread.
    pub connections: Option<u32>,
    /// Requests, or TCP connections, in flight.
    pub requests: Option<u32>,
}

/// How much retries may add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries in flight in percent of requests in flight. Default 20.
    pub percent: u32,
    /// Retries per second in any case. Default 3.
    pub min_retries_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { percent: 20, min_retries_per_second: 3 }
    }
}

/// When failing endpoints are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Gateway failures in a row; zero is off. Default 5.
    pub consecutive_gateway_failures: u32,
    /// Statuses of 500 and above in a row; zero is off. Default 0.
    pub consecutive_5xx: u32,
    /// How often statistics are looked at. Default 10 s.
    pub interval: Duration,
    /// First ejection. Default 30 s.
    pub base_ejection_time: Duration,
    /// Longest ejection. Default 300 s.
    pub max_ejection_time: Duration,
    /// Share that may be ejected, in percent. Default 50.
    pub max_ejection_percent: u32,
    /// By success rate. Default off.
    pub success_rate: Option<SuccessRate>,
    /// By failure percentage. Default off.
    pub failure_percentage: Option<FailurePercentage>,
    /// By latency. Default off.
    pub latency: Option<LatencyOutlier>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_gateway_failures: 5,
            consecutive_5xx: 0,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 50,
            success_rate: None,
            failure_percentage: None,
            latency: None,
        }
    }
}

/// Ejection by success rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuccessRate {
    /// How far below the mean, in percent of the standard deviation. Default 190.
    pub deviation_percent: u32,
    /// Endpoints that must have had enough requests. Default 5.
    pub minimum_endpoints: u32,
    /// Requests in an interval that are enough. Default 100.
    pub request_volume: u32,
}

/// Ejection by failure percentage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The share in percent. Default 85.
    pub threshold: u32,
    /// Endpoints that must have had enough requests. Default 5.
    pub minimum_endpoints: u32,
    /// Requests in an interval that are enough. Default 50.
    pub request_volume: u32,
}

/// Ejection by latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatencyOutlier {
    /// Mean latency in percent of the median of the endpoints' means. Default 500.
    pub threshold_percent: u32,
    /// Endpoints that must have had enough requests. Default 3.
    pub minimum_endpoints: u32,
    /// Requests in an interval that are enough. Default 50.
    pub request_volume: u32,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// By what.
    pub kind: HealthCheckKind,
    /// How often. Default 10 s.
    pub interval: Duration,
    /// How long an answer may take. Default 1 s.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy. Default 3.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again. Default 2.
    pub healthy_threshold: u32,
}

/// By what health is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// An HTTP request.
    Http {
        /// Path.
        path: Arc<str>,
        /// `Host`; empty for the service's name.
        host: Arc<str>,
    },
    /// gRPC's health protocol.
    Grpc {
        /// The service; empty for the server.
        service: Arc<str>,
    },
    /// A connection.
    Tcp,
}

/// What happens when the service cannot keep up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overload {
    /// A limit on requests in flight that follows latency.
    pub adaptive_concurrency: AdaptiveConcurrency,
    /// The header that says how much a request matters, in lower case.
    pub priority_header: Option<Arc<str>>,
}

/// A limit on requests in flight that follows latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    /// Least limit. Default 10.
    pub minimum: u32,
    /// Greatest limit. Default 1,000.
    pub maximum: u32,
    /// How often the limit is set anew. Default 100 ms.
    pub interval: Duration,
}

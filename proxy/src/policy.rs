//! What a traffic policy says, as `decode` reads it and `balance`, `pool` and `health` carry it out. Data only.
//!
//! The defaults are those of a cluster that says nothing: the control server of Malla says everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Region and zone; empty where unknown.
pub type Place = (Arc<str>, Arc<str>);

/// How the traffic of a cluster is balanced and watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// A new endpoint gets its share by and by; `None` is at once.
    pub slow_start: Option<SlowStart>,
    /// Which endpoints are preferred by where they are.
    pub locality: Locality,
    /// Under this share of healthy endpoints, in percent, health is not believed. Default 50 (Envoy,
    /// `CommonLbConfig.healthy_panic_threshold`).
    pub panic_threshold: u32,
    /// When endpoints are ejected; `None` is never.
    pub outliers: Option<OutlierDetection>,
    /// Active health checks.
    pub health_check: Option<HealthCheck>,
    /// A limit on requests that follows latency.
    pub overload: Option<Overload>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            algorithm: Algorithm::PeakEwma,
            slow_start: None,
            locality: Locality::default(),
            panic_threshold: 50,
            outliers: None,
            health_check: None,
            overload: None,
        }
    }
}

/// A balancing algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// Power of two choices on peak EWMA.
    PeakEwma,
    /// The least loaded of some drawn at random.
    LeastRequest {
        /// How many are drawn, 2 to 10.
        choices: u32,
    },
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// A hash ring.
    RingHash {
        /// What is hashed.
        hash: Hashing,
        /// Least number of points.
        minimum_size: u32,
    },
    /// Maglev's table.
    Maglev {
        /// What is hashed.
        hash: Hashing,
        /// Entries, a prime number.
        table_size: u32,
    },
}

impl Algorithm {
    /// What is hashed, by those that hash.
    pub fn hashing(&self) -> Option<&Hashing> {
        match self {
            Algorithm::RingHash { hash, .. } | Algorithm::Maglev { hash, .. } => Some(hash),
            Algorithm::PeakEwma | Algorithm::LeastRequest { .. } | Algorithm::RoundRobin | Algorithm::Random => None,
        }
    }

    /// As in a configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Algorithm::PeakEwma => "peakEwma",
            Algorithm::LeastRequest { .. } => "leastRequest",
            Algorithm::RoundRobin => "roundRobin",
            Algorithm::Random => "random",
            Algorithm::RingHash { .. } => "ringHash",
            Algorithm::Maglev { .. } => "maglev",
        }
    }
}

/// What is hashed, and how much an endpoint takes of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hashing {
    /// The first that a request has decides.
    pub on: Vec<HashOn>,
    /// Most load of an endpoint, in percent of the mean.
    pub bounded_load: Option<u32>,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// The value of a header.
    Header(http::HeaderName),
    /// The value of a cookie.
    Cookie(Arc<str>),
    /// The value of a query parameter.
    Query(Arc<str>),
    /// The client's address.
    Source,
}

/// A new endpoint gets its share by and by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowStart {
    /// Until it has its whole share.
    pub window: Duration,
    /// What it begins with, in percent.
    pub minimum_percent: u32,
}

/// Which endpoints are preferred by where they are. The default prefers none: priorities alone count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locality {
    /// The same zone, then the same region, then all.
    pub nearest: bool,
    /// Under this share of healthy endpoints, in percent, traffic leaves the nearer ones.
    pub minimum_healthy: u32,
    /// By the own region: those that come after it.
    pub failover: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// By the own place (whose zone may be empty, for the whole region): shares in percent.
    pub distribute: HashMap<Place, Vec<(Place, u32)>>,
}

impl Default for Locality {
    fn default() -> Self {
        Locality { nearest: false, minimum_healthy: 70, failover: HashMap::new(), distribute: HashMap::new() }
    }
}

/// When endpoints are ejected (Envoy, `OutlierDetection`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Gateway failures in a row; zero is off.
    pub gateway_failures: u32,
    /// Statuses of 500 and above in a row; zero is off.
    pub server_errors: u32,
    /// How often statistics are looked at.
    pub interval: Duration,
    /// First ejection.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Longer by up to this, at random.
    pub jitter: Duration,
    /// Share of endpoints, in percent, that may be ejected.
    pub max_percent: u32,
    /// By success rate.
    pub success_rate: Option<Statistics>,
    /// By failure percentage.
    pub failure_percentage: Option<Statistics>,
    /// By latency.
    pub latency: Option<Statistics>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            gateway_failures: 5,
            server_errors: 0,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            jitter: Duration::from_secs(3),
            max_percent: 50,
            success_rate: None,
            failure_percentage: None,
            latency: None,
        }
    }
}

/// A detector that compares endpoints over an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Success rate: percent of the standard deviation below the mean. Failure percentage: the share. Latency: percent of the
    /// median.
    pub threshold: u32,
    /// Endpoints that must have had enough requests.
    pub minimum_endpoints: u32,
    /// Requests that are enough.
    pub request_volume: u32,
}

/// Active health checks (Envoy, `HealthCheck`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// By what.
    pub kind: CheckKind,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_threshold: u32,
}

/// By what health is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// `GET`; a status from 200 to 299 is healthy.
    Http {
        /// Path.
        path: Arc<str>,
        /// `Host`; empty for the service's name.
        host: Arc<str>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service; empty for the server.
        service: Arc<str>,
    },
    /// A connection.
    Tcp,
}

/// A limit on requests that follows latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overload {
    /// Least limit.
    pub minimum: u32,
    /// Greatest limit.
    pub maximum: u32,
    /// How often it is set anew.
    pub interval: Duration,
    /// The header that says how much a request matters.
    pub priority_header: Option<http::HeaderName>,
}

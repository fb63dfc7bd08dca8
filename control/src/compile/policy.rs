//! A traffic policy → the fields of a cluster. What Envoy's types have no field for goes into metadata of our own.

use std::collections::HashMap;
use std::time::Duration;

use malla_config::mesh::{
    Algorithm, HashOn, HealthCheck, HealthCheckKind, Locality, LocalityPolicy, LocalityPreference, OutlierDetection,
    SlowStart, TrafficLimits, TrafficPolicy,
};
use malla_xds::envoy::cluster::circuit_breakers::{Thresholds, thresholds::RetryBudget};
use malla_xds::envoy::cluster::cluster::{CommonLbConfig, DiscoveryType, LbPolicy};
use malla_xds::envoy::cluster::load_balancing_policy::Policy;
use malla_xds::envoy::cluster::{self, CircuitBreakers, Cluster, LoadBalancingPolicy};
use malla_xds::envoy::core::health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck};
use malla_xds::envoy::http_protocol_options::HttpProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::{
    UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use malla_xds::envoy::lb_common::{ConsistentHashingLbConfig, SlowStartConfig};
use malla_xds::envoy::least_request::LeastRequest;
use malla_xds::envoy::maglev::Maglev;
use malla_xds::envoy::random::Random;
use malla_xds::envoy::ring_hash::{RingHash, ring_hash::HashFunction};
use malla_xds::envoy::round_robin::RoundRobin;
use malla_xds::envoy::route::RouteConfiguration;
use malla_xds::envoy::route::route::Action;
use malla_xds::envoy::route::route_action::{ClusterSpecifier, HashPolicy, hash_policy};
use malla_xds::envoy::{core, pack_any, protobuf, types};
use malla_xds::names;
use malla_xds::policy::{self, ClusterPolicy, PeakEwma};
use prost::Message;

use super::cluster::HTTP_OPTIONS;
use super::filters::{duration, number};
use crate::world::World;

/// Envoy's default too: said only where it is another.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Writes what a policy says into a cluster.
pub(super) fn apply(policy: &TrafficPolicy, kind: DiscoveryType, cluster: &mut Cluster) {
    let several = kind != DiscoveryType::LogicalDns;
    cluster.connect_timeout = Some(duration(policy.connect_timeout));
    cluster.circuit_breakers = Some(circuit_breakers(policy));
    cluster.lb_policy = LbPolicy::RoundRobin.into();
    cluster.load_balancing_policy = Some(balancing(policy));
    cluster.metadata = Some(extension(policy, several).metadata());
    if policy.idle_timeout != IDLE_TIMEOUT {
        idle_timeout(policy.idle_timeout, cluster);
    }
    if several {
        let panic = types::Percent { value: policy.load_balancer.panic_threshold_percent.into() };
        cluster.common_lb_config = Some(CommonLbConfig { healthy_panic_threshold: Some(panic), ..Default::default() });
        cluster.outlier_detection = policy.outlier_detection.as_ref().map(outlier_detection);
        cluster.health_checks = policy.health_check.iter().map(health_check).collect();
    }
}

fn circuit_breakers(policy: &TrafficPolicy) -> CircuitBreakers {
    let TrafficLimits { connections, pending, pending_timeout: _, requests, retries, per_endpoint } = &policy.limits;
    let limits = Thresholds {
        priority: core::RoutingPriority::Default.into(),
        max_connections: number(*connections),
        max_pending_requests: number(*pending),
        max_requests: number(*requests),
        max_retries: retries.and_then(number),
        retry_budget: Some(RetryBudget {
            budget_percent: Some(types::Percent { value: policy.retry_budget.percent.into() }),
            min_retry_concurrency: number(policy.retry_budget.min_retries_per_second),
            ..Default::default()
        }),
        ..Default::default()
    };
    let each = Thresholds {
        max_connections: per_endpoint.connections.and_then(number),
        max_requests: per_endpoint.requests.and_then(number),
        ..Default::default()
    };
    let per_host_thresholds = if each == Thresholds::default() { Vec::new() } else { vec![each] };
    CircuitBreakers { thresholds: vec![limits], per_host_thresholds }
}

/// The chosen algorithm first, for those who know it; the rest skip to round robin.
fn balancing(policy: &TrafficPolicy) -> LoadBalancingPolicy {
    let balancer = &policy.load_balancer;
    let slow_start = || {
        balancer.slow_start.as_ref().map(|slow_start| SlowStartConfig {
            slow_start_window: Some(duration(slow_start.window)),
            min_weight_percent: Some(types::Percent { value: slow_start.minimum_percent.into() }),
            ..Default::default()
        })
    };
    let round_robin = || pack_any(RoundRobin { slow_start_config: slow_start(), ..Default::default() });
    let hashing = |bounded: Option<u32>| {
        Some(ConsistentHashingLbConfig {
            hash_balance_factor: bounded.and_then(number),
            hash_policy: hash_policies(&balancer.algorithm),
            ..Default::default()
        })
    };
    let ring = |minimum_size: u32, bounded: Option<u32>| {
        pack_any(RingHash {
            hash_function: HashFunction::XxHash.into(),
            minimum_ring_size: Some(protobuf::UInt64Value { value: minimum_size.into() }),
            consistent_hashing_lb_config: hashing(bounded),
            ..Default::default()
        })
    };
    let mut policies = match &balancer.algorithm {
        Algorithm::PeakEwma => {
            let slow_start = balancer.slow_start.as_ref().map(own_slow_start);
            vec![("peak_ewma", PeakEwma { slow_start }.pack())]
        }
        Algorithm::LeastRequest { choices } => {
            let choice_count = number(*choices);
            let least = LeastRequest { choice_count, slow_start_config: slow_start(), ..Default::default() };
            vec![("least_request", pack_any(least))]
        }
        Algorithm::RoundRobin => Vec::new(),
        Algorithm::Random => vec![("random", pack_any(Random::default()))],
        Algorithm::RingHash { minimum_size, bounded_load_percent, .. } => {
            vec![("ring_hash", ring(*minimum_size, *bounded_load_percent))]
        }
        Algorithm::Maglev { table_size, bounded_load_percent, .. } => {
            let maglev = Maglev {
                table_size: Some(protobuf::UInt64Value { value: (*table_size).into() }),
                consistent_hashing_lb_config: hashing(*bounded_load_percent),
                ..Default::default()
            };
            // gRPC knows no Maglev, but the ring, which keeps the same promise.
            vec![("maglev", pack_any(maglev)), ("ring_hash", ring(1024, *bounded_load_percent))]
        }
    };
    policies.push(("round_robin", round_robin()));
    let policy = |(name, config): (&str, protobuf::Any)| Policy {
        typed_extension_config: Some(core::TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) }),
    };
    LoadBalancingPolicy { policies: policies.into_iter().map(policy).collect() }
}

/// The clusters that hash, with what they hash.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Hashing(HashMap<String, Vec<HashPolicy>>);

impl Hashing {
    pub(super) fn new(world: &World) -> Self {
        let mut clusters = HashMap::new();
        for (name, port) in &world.ports {
            let on = hash_policies(&port.policy.load_balancer.algorithm);
            if on.is_empty() {
                continue;
            }
            let name = name.to_string();
            for subset in port.policy.subsets.keys() {
                clusters.insert(names::subset(&name, subset), on.clone());
            }
            clusters.insert(name, on);
        }
        Hashing(clusters)
    }

    /// Says it in the routes to them too: gRPC reads it there, the sidecar in the cluster.
    pub(super) fn tell(&self, routes: &mut RouteConfiguration) {
        let routes = routes.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes);
        for route in routes {
            let Some(Action::Route(action)) = &mut route.action else { continue };
            let first = match &action.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => Some(name),
                Some(ClusterSpecifier::WeightedClusters(split)) => split.clusters.first().map(|cluster| &cluster.name),
                _ => None,
            };
            if let Some(on) = first.and_then(|name| self.0.get(name)) {
                action.hash_policy.clone_from(on);
            }
        }
    }
}

/// What is hashed: the first thing that a request has.
fn hash_policies(algorithm: &Algorithm) -> Vec<HashPolicy> {
    use hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter};
    let policy = |on: &HashOn| HashPolicy {
        terminal: true,
        policy_specifier: Some(match on {
            HashOn::Header(name) => {
                PolicySpecifier::Header(Header { header_name: name.to_string(), ..Default::default() })
            }
            HashOn::Cookie(name) => PolicySpecifier::Cookie(Cookie { name: name.to_string(), ..Default::default() }),
            HashOn::QueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.to_string() }),
            HashOn::SourceAddress => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        }),
    };
    algorithm.hash().iter().map(policy).collect()
}

fn outlier_detection(written: &OutlierDetection) -> cluster::OutlierDetection {
    let on = |on: bool| number(if on { 100 } else { 0 });
    let success = written.success_rate.as_ref();
    let failure = written.failure_percentage.as_ref();
    cluster::OutlierDetection {
        consecutive_gateway_failure: number(written.consecutive_gateway_failures.max(1)),
        enforcing_consecutive_gateway_failure: on(written.consecutive_gateway_failures > 0),
        consecutive_5xx: number(written.consecutive_5xx.max(1)),
        enforcing_consecutive_5xx: on(written.consecutive_5xx > 0),
        interval: Some(duration(written.interval)),
        base_ejection_time: Some(duration(written.base_ejection_time)),
        max_ejection_time: Some(duration(written.max_ejection_time)),
        max_ejection_time_jitter: Some(duration(written.base_ejection_time / 10)),
        max_ejection_percent: number(written.max_ejection_percent),
        // Said in any case: their absence means 100 to some.
        enforcing_success_rate: on(success.is_some()),
        enforcing_failure_percentage: on(failure.is_some()),
        success_rate_stdev_factor: success.and_then(|rate| number(rate.deviation_percent * 10)),
        success_rate_minimum_hosts: success.and_then(|rate| number(rate.minimum_endpoints)),
        success_rate_request_volume: success.and_then(|rate| number(rate.request_volume)),
        failure_percentage_threshold: failure.and_then(|failure| number(failure.threshold)),
        failure_percentage_minimum_hosts: failure.and_then(|failure| number(failure.minimum_endpoints)),
        failure_percentage_request_volume: failure.and_then(|failure| number(failure.request_volume)),
        ..Default::default()
    }
}

fn health_check(written: &HealthCheck) -> core::HealthCheck {
    let checker = match &written.kind {
        HealthCheckKind::Http { path, host } => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: path.to_string(),
            host: host.to_string(),
            ..Default::default()
        }),
        HealthCheckKind::Grpc { service } => {
            HealthChecker::GrpcHealthCheck(GrpcHealthCheck { service_name: service.to_string(), ..Default::default() })
        }
        HealthCheckKind::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    core::HealthCheck {
        timeout: Some(duration(written.timeout)),
        interval: Some(duration(written.interval)),
        interval_jitter_percent: 10,
        unhealthy_threshold: number(written.unhealthy_threshold),
        healthy_threshold: number(written.healthy_threshold),
        health_checker: Some(checker),
        ..Default::default()
    }
}

/// A connection without a request is closed after this.
fn idle_timeout(limit: Duration, cluster: &mut Cluster) {
    let any = cluster.typed_extension_protocol_options.entry(HTTP_OPTIONS.to_owned()).or_default();
    let mut options = HttpProtocolOptions::decode(any.value.as_slice()).unwrap_or_default();
    let common = core::HttpProtocolOptions { idle_timeout: Some(duration(limit)), ..Default::default() };
    options.common_http_protocol_options = Some(common);
    // The version must be said too: as the client spoke.
    options.upstream_protocol_options.get_or_insert_with(|| {
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig::default())
    });
    *any = pack_any(options);
}

fn extension(policy: &TrafficPolicy, several: bool) -> ClusterPolicy {
    let outliers = policy.outlier_detection.as_ref();
    let balancer = &policy.load_balancer;
    let says_itself =
        matches!(balancer.algorithm, Algorithm::PeakEwma | Algorithm::LeastRequest { .. } | Algorithm::RoundRobin);
    ClusterPolicy {
        pending_timeout: milliseconds(policy.limits.pending_timeout),
        request_idle: policy.request_idle_timeout.map_or(0, milliseconds),
        locality: several.then(|| locality(&balancer.locality)),
        slow_start: balancer.slow_start.as_ref().filter(|_| several && !says_itself).map(own_slow_start),
        latency_outlier: outliers.and_then(|outliers| outliers.latency.as_ref()).map(|latency| {
            policy::LatencyOutlier {
                threshold_percent: latency.threshold_percent,
                minimum_endpoints: latency.minimum_endpoints,
                request_volume: latency.request_volume,
            }
        }),
        overload: policy.overload.as_ref().map(|overload| policy::Overload {
            minimum: overload.adaptive_concurrency.minimum,
            maximum: overload.adaptive_concurrency.maximum,
            interval: milliseconds(overload.adaptive_concurrency.interval),
            priority_header: overload.priority_header.as_deref().unwrap_or_default().to_owned(),
        }),
    }
}

fn own_slow_start(written: &SlowStart) -> policy::SlowStart {
    policy::SlowStart { window: milliseconds(written.window), minimum_percent: written.minimum_percent }
}

fn locality(written: &LocalityPolicy) -> policy::Locality {
    let failover = written.failover.iter().map(|(from, to)| policy::Failover {
        from: from.to_string(),
        to: to.iter().map(ToString::to_string).collect(),
    });
    let share = |(place, percent): (&Locality, &u32)| policy::Share {
        region: place.region.to_string(),
        zone: place.zone.to_string(),
        percent: *percent,
    };
    let distribute = written.distribute.iter().map(|(from, to)| policy::Distribute {
        region: from.region.to_string(),
        zone: from.zone.to_string(),
        to: to.iter().map(share).collect(),
    });
    policy::Locality {
        nearest: written.preference == LocalityPreference::Nearest,
        minimum_healthy_percent: written.minimum_healthy_percent,
        failover: failover.collect(),
        distribute: distribute.collect(),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

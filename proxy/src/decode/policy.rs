//! What a cluster says about balancing, health and overload.
//!
//! Of a list of balancing policies the first that is known counts, as for every xDS client; parameters that it does not
//! understand are refused where they would send requests elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use malla_xds::envoy::cluster::cluster::LbPolicy;
use malla_xds::envoy::cluster::load_balancing_policy;
use malla_xds::envoy::cluster::{self, Cluster};
use malla_xds::envoy::core;
use malla_xds::envoy::core::health_check::HealthChecker;
use malla_xds::envoy::lb_common::{ConsistentHashingLbConfig, SlowStartConfig};
use malla_xds::envoy::least_request::LeastRequest;
use malla_xds::envoy::maglev::Maglev;
use malla_xds::envoy::protobuf::{Any, UInt32Value, UInt64Value};
use malla_xds::envoy::ring_hash::RingHash;
use malla_xds::envoy::round_robin::RoundRobin;
use malla_xds::envoy::route::route_action::HashPolicy;
use malla_xds::envoy::route::route_action::hash_policy::PolicySpecifier;
use malla_xds::names::{METADATA, PEAK_EWMA};
use malla_xds::policy as wire;

use super::fault::{At, Fault, each};
use super::{duration, message, optional_duration, type_name, unsupported};
use crate::policy::{
    Algorithm, CheckKind, HashOn, Hashing, HealthCheck, Locality, OutlierDetection, Overload, Policy, SlowStart,
    Statistics,
};

/// The policy, and what metadata say besides.
pub(super) struct Decoded {
    pub(super) policy: Policy,
    pub(super) pending_timeout: Duration,
    pub(super) request_idle: Option<Duration>,
}

/// Where a control server says nothing.
const PENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the policy of a cluster.
pub(super) fn decode(written: &Cluster) -> Result<Decoded, Fault> {
    let own = own(written).at("metadata.typed_filter_metadata[\"malla.dev\"]")?;
    let (algorithm, slow_start) = balancing(written)?;
    let locality = own.locality.as_ref().map(locality).transpose().at("metadata.locality")?.unwrap_or_default();
    let mut outliers = written.outlier_detection.as_ref().map(outlier_detection).transpose().at("outlier_detection")?;
    if let Some(latency) = &own.latency_outlier {
        outliers.get_or_insert_with(nothing_ejects).latency = Some(Statistics {
            threshold: latency.threshold_percent.max(100),
            minimum_endpoints: latency.minimum_endpoints.max(1),
            request_volume: latency.request_volume.max(1),
        });
    }
    let panic = written.common_lb_config.as_ref().and_then(|common| common.healthy_panic_threshold.as_ref());
    Ok(Decoded {
        policy: Policy {
            algorithm,
            slow_start: slow_start.or(own.slow_start.as_ref().map(own_slow_start)),
            locality,
            panic_threshold: panic.map_or(50, |percent| percent.value.clamp(0.0, 100.0) as u32),
            outliers,
            health_check: health_check(&written.health_checks)?,
            overload: own.overload.as_ref().map(overload).transpose().at("metadata.overload")?,
        },
        request_idle: (own.request_idle > 0).then(|| Duration::from_millis(own.request_idle)),
        pending_timeout: Some(Duration::from_millis(own.pending_timeout))
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(PENDING_TIMEOUT)
            .min(LONGEST),
    })
}

/// No time-out or interval is longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

fn own(written: &Cluster) -> Result<wire::ClusterPolicy, Fault> {
    let any = written.metadata.as_ref().and_then(|metadata| metadata.typed_filter_metadata.get(METADATA));
    any.map_or_else(|| Ok(wire::ClusterPolicy::default()), |any| message(&any.value))
}

type Balancing = (Algorithm, Option<SlowStart>);

/// The first policy of the list that is known; without a list, what `lb_policy` says.
fn balancing(written: &Cluster) -> Result<Balancing, Fault> {
    let Some(list) = &written.load_balancing_policy else {
        return match LbPolicy::try_from(written.lb_policy) {
            // Ours serves all that spread requests: the field is what is left when nobody chose.
            Ok(LbPolicy::RoundRobin | LbPolicy::ClusterProvided) => Ok((Algorithm::PeakEwma, None)),
            Ok(LbPolicy::LeastRequest) => Ok((Algorithm::LeastRequest { choices: 2 }, None)),
            Ok(LbPolicy::Random) => Ok((Algorithm::Random, None)),
            Ok(other) => Err(Fault::new(format!("{} is not supported", other.as_str_name())).within("lb_policy")),
            Err(_) => Err(Fault::new(format!("{} is unknown", written.lb_policy)).within("lb_policy")),
        };
    };
    for (at, policy) in list.policies.iter().enumerate() {
        if let Some(found) = known(policy).at(format_args!("load_balancing_policy.policies[{at}]"))? {
            return Ok(found);
        }
    }
    let problem = "holds no policy that is supported; end it with round_robin";
    Err(Fault::new(problem).within("load_balancing_policy.policies"))
}

/// A policy, if it is one that this sidecar knows.
fn known(written: &load_balancing_policy::Policy) -> Result<Option<Balancing>, Fault> {
    let any: Option<&Any> = written.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref());
    let Some(any) = any else { return Ok(None) };
    if any.type_url.ends_with(PEAK_EWMA) {
        let ours: wire::PeakEwma = message(&any.value)?;
        return Ok(Some((Algorithm::PeakEwma, ours.slow_start.as_ref().map(own_slow_start))));
    }
    let Some(name) = type_name(&any.type_url).strip_prefix("envoy.extensions.load_balancing_policies.") else {
        return Ok(None);
    };
    Ok(Some(match name {
        "round_robin.v3.RoundRobin" => {
            let RoundRobin { slow_start_config, .. } = message(&any.value)?;
            (Algorithm::RoundRobin, slow_start(slow_start_config.as_ref())?)
        }
        "least_request.v3.LeastRequest" => {
            let LeastRequest { choice_count, slow_start_config, .. } = message(&any.value)?;
            let choices = choice_count.map_or(2, |count| count.value).clamp(2, 10);
            (Algorithm::LeastRequest { choices }, slow_start(slow_start_config.as_ref())?)
        }
        "random.v3.Random" => (Algorithm::Random, None),
        "ring_hash.v3.RingHash" => {
            let RingHash { minimum_ring_size, consistent_hashing_lb_config, .. } = message(&any.value)?;
            let minimum_size = within(minimum_ring_size, 1024, 1..=8_388_608).at("minimum_ring_size")?;
            (Algorithm::RingHash { hash: hashing(consistent_hashing_lb_config)?, minimum_size }, None)
        }
        "maglev.v3.Maglev" => {
            let Maglev { table_size, consistent_hashing_lb_config, .. } = message(&any.value)?;
            let table_size = within(table_size, 65_537, 2..=5_000_011).at("table_size")?;
            (Algorithm::Maglev { hash: hashing(consistent_hashing_lb_config)?, table_size }, None)
        }
        _ => return Ok(None),
    }))
}

fn within(written: Option<UInt64Value>, default: u32, bounds: std::ops::RangeInclusive<u64>) -> Result<u32, Fault> {
    let Some(UInt64Value { value }) = written else { return Ok(default) };
    let fits = bounds.contains(&value).then_some(value).and_then(|value| u32::try_from(value).ok());
    fits.ok_or_else(|| Fault::new(format!("{value} is not from {} to {}", bounds.start(), bounds.end())))
}

fn own_slow_start(written: &wire::SlowStart) -> SlowStart {
    SlowStart {
        window: Duration::from_millis(written.window).min(LONGEST),
        minimum_percent: written.minimum_percent.clamp(1, 100),
    }
}

fn slow_start(written: Option<&SlowStartConfig>) -> Result<Option<SlowStart>, Fault> {
    let Some(written) = written else { return Ok(None) };
    let window = optional_duration(written.slow_start_window.as_ref()).at("slow_start_config.slow_start_window")?;
    let minimum = written.min_weight_percent.as_ref().map_or(10.0, |percent| percent.value);
    let minimum_percent = minimum.clamp(1.0, 100.0) as u32;
    Ok(window.map(|window| SlowStart { window: window.min(LONGEST), minimum_percent }))
}

/// What is hashed. Where a server says it in its routes alone, nothing is: the policy spreads keys like requests.
fn hashing(written: Option<ConsistentHashingLbConfig>) -> Result<Hashing, Fault> {
    let Some(written) = written else { return Ok(Hashing::default()) };
    let on = each("consistent_hashing_lb_config.hash_policy", &written.hash_policy, hash_on)?;
    let bounded_load = written.hash_balance_factor.map(|factor| factor.value.max(100));
    Ok(Hashing { on, bounded_load })
}

fn hash_on(written: &HashPolicy) -> Result<HashOn, Fault> {
    match &written.policy_specifier {
        Some(PolicySpecifier::Header(header)) => {
            unsupported("header.regex_rewrite", header.regex_rewrite.is_some())?;
            let name = header.header_name.parse();
            name.map(HashOn::Header).map_err(|_| Fault::new("is not a header's name").within("header.header_name"))
        }
        Some(PolicySpecifier::Cookie(cookie)) => Ok(HashOn::Cookie(cookie.name.as_str().into())),
        Some(PolicySpecifier::QueryParameter(parameter)) => Ok(HashOn::Query(parameter.name.as_str().into())),
        Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => Ok(HashOn::Source),
        _ => Err(Fault::new("hashes something that is not supported").within("policy_specifier")),
    }
}

fn locality(written: &wire::Locality) -> Result<Locality, Fault> {
    let distribute: HashMap<_, _> = written
        .distribute
        .iter()
        .map(|from| {
            let shares = from.to.iter().map(|to| ((to.region.as_str().into(), to.zone.as_str().into()), to.percent));
            ((from.region.as_str().into(), from.zone.as_str().into()), shares.collect())
        })
        .collect();
    let failover = written.failover.iter().map(|entry| {
        let to: Vec<Arc<str>> = entry.to.iter().map(|region| region.as_str().into()).collect();
        (entry.from.as_str().into(), to)
    });
    if !(1..=100).contains(&written.minimum_healthy_percent) {
        return Err(Fault::new("is not from 1 to 100").within("minimum_healthy_percent"));
    }
    Ok(Locality {
        nearest: written.nearest,
        minimum_healthy: written.minimum_healthy_percent,
        failover: failover.collect(),
        distribute,
    })
}

/// What only the absence of a message means.
fn nothing_ejects() -> OutlierDetection {
    OutlierDetection { gateway_failures: 0, ..OutlierDetection::default() }
}

/// A share to which a detector is enforced is taken as on or off: half an ejection is none.
fn outlier_detection(written: &cluster::OutlierDetection) -> Result<OutlierDetection, Fault> {
    let default = OutlierDetection::default();
    let number = |written: &Option<UInt32Value>, default: u32| written.as_ref().map_or(default, |number| number.value);
    let enforced = |written: &Option<UInt32Value>, default: u32| number(written, default) > 0;
    let or = |written, default: Duration, field: &'static str| {
        Ok(optional_duration(written).at(field)?.unwrap_or(default).min(LONGEST))
    };
    let base = or(written.base_ejection_time.as_ref(), default.base_ejection, "base_ejection_time")?;
    let longest = or(written.max_ejection_time.as_ref(), default.max_ejection, "max_ejection_time")?.max(base);
    let jitter = written.max_ejection_time_jitter.as_ref().map(duration).transpose().at("max_ejection_time_jitter")?;
    let statistics = |threshold, endpoints, volume| {
        Some(Statistics { threshold, minimum_endpoints: endpoints, request_volume: volume })
    };
    Ok(OutlierDetection {
        gateway_failures: if enforced(&written.enforcing_consecutive_gateway_failure, 0) {
            number(&written.consecutive_gateway_failure, 5)
        } else {
            0
        },
        server_errors: if enforced(&written.enforcing_consecutive_5xx, 100) {
            number(&written.consecutive_5xx, 5)
        } else {
            0
        },
        interval: or(written.interval.as_ref(), default.interval, "interval")?,
        base_ejection: base,
        max_ejection: longest,
        jitter: jitter.unwrap_or_default().min(LONGEST),
        max_percent: number(&written.max_ejection_percent, 10).min(100),
        success_rate: statistics(
            number(&written.success_rate_stdev_factor, 1900) / 10,
            number(&written.success_rate_minimum_hosts, 5),
            number(&written.success_rate_request_volume, 100),
        )
        .filter(|_| enforced(&written.enforcing_success_rate, 100)),
        failure_percentage: statistics(
            number(&written.failure_percentage_threshold, 85),
            number(&written.failure_percentage_minimum_hosts, 5),
            number(&written.failure_percentage_request_volume, 50),
        )
        .filter(|_| enforced(&written.enforcing_failure_percentage, 0)),
        latency: None,
    })
}

fn health_check(written: &[core::HealthCheck]) -> Result<Option<HealthCheck>, Fault> {
    match written {
        [] => Ok(None),
        [only] => one_health_check(only).at("health_checks[0]").map(Some),
        _ => Err(Fault::new("more than one is not supported").within("health_checks")),
    }
}

fn one_health_check(written: &core::HealthCheck) -> Result<HealthCheck, Fault> {
    unsupported("alt_port", written.alt_port.is_some())?;
    unsupported("tls_options", written.tls_options.is_some())?;
    unsupported("transport_socket_match_criteria", written.transport_socket_match_criteria.is_some())?;
    let kind = match &written.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => {
            unsupported("http_health_check.send", http.send.is_some())?;
            unsupported("http_health_check.receive", !http.receive.is_empty())?;
            unsupported("http_health_check.expected_statuses", !http.expected_statuses.is_empty())?;
            unsupported("http_health_check.request_headers_to_add", !http.request_headers_to_add.is_empty())?;
            unsupported("http_health_check.method", http.method != 0)?;
            CheckKind::Http { path: http.path.as_str().into(), host: http.host.as_str().into() }
        }
        Some(HealthChecker::GrpcHealthCheck(grpc)) => {
            unsupported("grpc_health_check.initial_metadata", !grpc.initial_metadata.is_empty())?;
            CheckKind::Grpc { service: grpc.service_name.as_str().into() }
        }
        Some(HealthChecker::TcpHealthCheck(tcp)) => {
            unsupported("tcp_health_check.send", tcp.send.is_some())?;
            unsupported("tcp_health_check.receive", !tcp.receive.is_empty())?;
            CheckKind::Tcp
        }
        Some(HealthChecker::CustomHealthCheck(_)) | None => {
            return Err(
                Fault::new("must be http_health_check, grpc_health_check or tcp_health_check").within("health_checker")
            );
        }
    };
    let time = |written, field: &'static str| {
        let time = optional_duration(written).at(field)?;
        time.ok_or_else(|| Fault::new("is missing").within(field)).map(|time| time.min(LONGEST))
    };
    let threshold = |written: &Option<UInt32Value>| written.as_ref().map_or(1, |number| number.value).max(1);
    Ok(HealthCheck {
        kind,
        // However often somebody asks for it.
        interval: time(written.interval.as_ref(), "interval")?.max(Duration::from_millis(10)),
        timeout: time(written.timeout.as_ref(), "timeout")?,
        unhealthy_threshold: threshold(&written.unhealthy_threshold),
        healthy_threshold: threshold(&written.healthy_threshold),
    })
}

fn overload(written: &wire::Overload) -> Result<Overload, Fault> {
    let priority_header = match written.priority_header.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|_| Fault::new("is not a header's name").within("priority_header"))?),
    };
    if written.minimum == 0 || written.maximum < written.minimum || written.interval == 0 {
        return Err(Fault::new("its bounds contradict each other"));
    }
    let interval = Duration::from_millis(written.interval).min(LONGEST);
    Ok(Overload { minimum: written.minimum, maximum: written.maximum, interval, priority_header })
}

#[cfg(test)]
mod tests {
    use malla_xds::envoy::cluster::LoadBalancingPolicy;
    use malla_xds::envoy::core::TypedExtensionConfig;
    use malla_xds::envoy::pack_any;
    use malla_xds::envoy::types::Percent;

    use super::*;

    fn policies(configs: Vec<Any>) -> Cluster {
        let policy = |config: Any| load_balancing_policy::Policy {
            typed_extension_config: Some(TypedExtensionConfig { typed_config: Some(config), ..Default::default() }),
        };
        let policies = configs.into_iter().map(policy).collect();
        Cluster { load_balancing_policy: Some(LoadBalancingPolicy { policies }), ..Default::default() }
    }

    fn unknown() -> Any {
        Any { type_url: "foreign/policy".into(), ..Default::default() }
    }

    #[track_caller]
    fn algorithm(cluster: &Cluster) -> Algorithm {
        decode(cluster).unwrap_or_else(|fault| panic!("{fault}")).policy.algorithm
    }

    #[test]
    fn the_first_known_policy_counts() {
        let round_robin = || pack_any(RoundRobin::default());
        assert_eq!(algorithm(&policies(vec![wire::PeakEwma::default().pack(), round_robin()])), Algorithm::PeakEwma);
        assert_eq!(algorithm(&policies(vec![unknown(), round_robin()])), Algorithm::RoundRobin);
        let least = LeastRequest { choice_count: Some(UInt32Value { value: 4 }), ..Default::default() };
        assert_eq!(algorithm(&policies(vec![pack_any(least), round_robin()])), Algorithm::LeastRequest { choices: 4 });
        assert!(decode(&policies(vec![unknown()])).is_err());
        assert_eq!(algorithm(&Cluster::default()), Algorithm::PeakEwma);
        assert!(decode(&Cluster { lb_policy: LbPolicy::Maglev as i32, ..Default::default() }).is_err());
        assert!(decode(&Cluster { lb_policy: 77, ..Default::default() }).is_err());
    }

    #[test]
    fn hashing_says_on_what_and_refuses_what_it_does_not_know() {
        let header = |name: &str| HashPolicy {
            policy_specifier: Some(PolicySpecifier::Header(
                malla_xds::envoy::route::route_action::hash_policy::Header {
                    header_name: name.into(),
                    ..Default::default()
                },
            )),
            terminal: true,
        };
        let maglev = |hash_policy: Vec<HashPolicy>, size: u64| {
            policies(vec![pack_any(Maglev {
                table_size: Some(UInt64Value { value: size }),
                consistent_hashing_lb_config: Some(ConsistentHashingLbConfig {
                    hash_policy,
                    hash_balance_factor: Some(UInt32Value { value: 125 }),
                    ..Default::default()
                }),
                ..Default::default()
            })])
        };
        let hash = Hashing { on: vec![HashOn::Header("x-user".parse().expect("a name"))], bounded_load: Some(125) };
        assert_eq!(algorithm(&maglev(vec![header("X-User")], 101)), Algorithm::Maglev { hash, table_size: 101 });
        for bad in [maglev(vec![header("a b")], 101), maglev(vec![HashPolicy::default()], 101), maglev(vec![], 1)] {
            assert!(decode(&bad).is_err());
        }
    }

    #[test]
    fn outlier_detection_has_envoys_defaults_where_it_says_nothing() {
        let decoded = |written| decode(&Cluster { outlier_detection: written, ..Default::default() });
        let outliers = |written| decoded(written).unwrap_or_else(|fault| panic!("{fault}")).policy.outliers;
        assert_eq!(outliers(None), None);
        let envoy = outliers(Some(cluster::OutlierDetection::default())).expect("present");
        assert_eq!((envoy.gateway_failures, envoy.server_errors, envoy.max_percent), (0, 5, 10));
        assert!(envoy.success_rate.is_some() && envoy.failure_percentage.is_none());
        let negative = malla_xds::envoy::protobuf::Duration { seconds: -1, nanos: 0 };
        assert!(decoded(Some(cluster::OutlierDetection { interval: Some(negative), ..Default::default() })).is_err());
    }

    #[test]
    fn health_checks_are_of_three_kinds_and_whole() {
        let second = || Some(malla_xds::envoy::protobuf::Duration { seconds: 1, nanos: 0 });
        let check = |health_checker| core::HealthCheck {
            timeout: second(),
            interval: second(),
            health_checker,
            ..Default::default()
        };
        let tcp = Some(HealthChecker::TcpHealthCheck(Default::default()));
        let decoded = |checks: Vec<core::HealthCheck>| decode(&Cluster { health_checks: checks, ..Default::default() });
        let kind = decoded(vec![check(tcp.clone())]).unwrap_or_else(|fault| panic!("{fault}")).policy.health_check;
        assert_eq!(kind.map(|check| check.kind), Some(CheckKind::Tcp));
        let redis = Some(HealthChecker::CustomHealthCheck(Default::default()));
        let no_interval = core::HealthCheck { interval: None, ..check(tcp.clone()) };
        for bad in [vec![check(redis)], vec![no_interval], vec![check(None)], vec![check(tcp.clone()), check(tcp)]] {
            assert!(decoded(bad).is_err());
        }
    }

    #[test]
    fn what_has_no_field_is_in_metadata() {
        let own = wire::ClusterPolicy {
            pending_timeout: 250,
            request_idle: 1500,
            locality: Some(wire::Locality { nearest: true, minimum_healthy_percent: 80, ..Default::default() }),
            latency_outlier: Some(wire::LatencyOutlier {
                threshold_percent: 300,
                minimum_endpoints: 3,
                request_volume: 9,
            }),
            overload: Some(wire::Overload {
                minimum: 5,
                maximum: 50,
                interval: 100,
                priority_header: "x-priority".into(),
            }),
            slow_start: Some(wire::SlowStart { window: 6000, minimum_percent: 5 }),
        };
        let with =
            |own: &wire::ClusterPolicy| decode(&Cluster { metadata: Some(own.metadata()), ..Default::default() });
        let Decoded { policy, pending_timeout, request_idle } = with(&own).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((pending_timeout, request_idle), (Duration::from_millis(250), Some(Duration::from_millis(1500))));
        assert!(policy.locality.nearest && policy.locality.minimum_healthy == 80);
        assert_eq!(policy.outliers.and_then(|outliers| outliers.latency).map(|latency| latency.threshold), Some(300));
        let window = Duration::from_secs(6);
        assert_eq!(policy.slow_start, Some(SlowStart { window, minimum_percent: 5 }));
        assert_eq!(policy.overload.map(|overload| (overload.minimum, overload.maximum)), Some((5, 50)));
        let upside_down = wire::Overload { minimum: 9, maximum: 5, interval: 1, priority_header: String::new() };
        assert!(with(&wire::ClusterPolicy { overload: Some(upside_down), ..own }).is_err());
        let percent = Some(Percent { value: 0.0 });
        let common = cluster::cluster::CommonLbConfig { healthy_panic_threshold: percent, ..Default::default() };
        let cluster = Cluster { common_lb_config: Some(common), ..Default::default() };
        assert_eq!(decode(&cluster).map(|decoded| decoded.policy.panic_threshold).ok(), Some(0));
    }
}

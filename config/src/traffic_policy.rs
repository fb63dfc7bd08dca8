//! `TrafficPolicy` → [`TrafficPolicy`](mesh::TrafficPolicy): bounds, contradictions, targets.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::api::TrafficPolicySpec;
use crate::api::traffic_policy as api;
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::{Index, port_listing};
use crate::mesh::{self, EndpointSource, Service, ServiceName, TrafficPolicy, TrafficTarget};
use crate::names;
use crate::object::Object;
use crate::subset;
use crate::suggest::{self, shown};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// The policies so far, with the places of their targets.
#[derive(Default)]
pub(crate) struct Policies<'a> {
    pub(crate) ready: BTreeMap<TrafficTarget, Arc<TrafficPolicy>>,
    places: HashMap<TrafficTarget, Cursor<'a>>,
}

impl<'a> Policies<'a> {
    /// Checks a policy, and attaches it to what it is about.
    pub(crate) fn add(&mut self, object: &'a Object, index: &Index<'_>, diagnostics: &mut Diagnostics) {
        let Some(spec) = object.typed::<TrafficPolicySpec>(diagnostics) else { return };
        let cursor = object.cursor();
        let policy = Arc::new(policy(cursor, &spec, diagnostics));
        let list = cursor.field("targetRefs");
        if spec.target_refs.is_empty() {
            let help = "write the services that the policy is about";
            list.error(diagnostics, Code::MissingField, "a policy needs a target", help);
        }
        let mut services = Vec::new();
        for (at, target) in spec.target_refs.iter().enumerate() {
            let Some((service, target)) = target_of(object, list.item(at), target, index, diagnostics) else {
                continue;
            };
            services.push(service);
            if matches!(service.endpoints, EndpointSource::ExternalName(_)) {
                without_endpoints(cursor, service, diagnostics);
            }
            match self.ready.entry(target) {
                Entry::Vacant(vacant) => {
                    self.places.insert(vacant.key().clone(), list.item(at));
                    vacant.insert(policy.clone());
                }
                Entry::Occupied(taken) => {
                    let Some(first) = self.places.get(taken.key()) else { continue };
                    report_second(*first, list.item(at), taken.key(), diagnostics);
                }
            }
        }
        subset::doubt(cursor.field("subsets"), &spec.subsets, &services, index, diagnostics);
    }
}

fn report_second(first: Cursor<'_>, second: Cursor<'_>, target: &TrafficTarget, diagnostics: &mut Diagnostics) {
    let TrafficTarget { service, port } = target;
    let what = port.map_or_else(|| service.to_string(), |port| format!("{service}:{port}"));
    let message = format!("{what} has a traffic policy already, {}", first.resource());
    let help = "write everything about it in one policy, or name one port of the service with `sectionName`";
    let problem = second.problem(Code::Conflict, message).help(help);
    second
        .report(diagnostics, problem.related(first.place(), format!("{what} is taken here, by {}", first.resource())));
}

/// What a target names. A service that is not there is a warning: policies are often written before what they are about.
fn target_of<'i>(
    object: &Object,
    cursor: Cursor<'_>,
    written: &api::PolicyTarget,
    index: &'i Index<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<(&'i Service, TrafficTarget)> {
    let api::PolicyTarget { group, kind, name, section_name } = written;
    if !group.is_empty() || kind != "Service" {
        let message = format!("a target of the kind `{}` is not supported yet", shown(kind));
        cursor.error(diagnostics, Code::NotSupported, message, "write `group: \"\"` and `kind: Service`");
        return None;
    }
    let name = ServiceName::new(object.namespace.clone(), name.as_str());
    let service = index.service_of_policy(cursor.field("name"), &name, diagnostics)?;
    if !Index::is_no_other_name(cursor.field("name"), service, diagnostics) {
        return None;
    }
    let Some(section) = section_name else {
        return Some((service, TrafficTarget { service: name, port: None }));
    };
    if let Some(port) = service.ports.iter().find(|port| *port.name == **section) {
        return Some((service, TrafficTarget { service: name, port: Some(port.port) }));
    }
    let help = match suggest::nearest(section, service.ports.iter().map(|port| &*port.name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its ports: {}", port_listing(service)),
    };
    let message = format!("the service {name} has no port named `{}`", shown(section));
    cursor.field("sectionName").error(diagnostics, Code::DanglingReference, message, help);
    None
}

/// A name outside the mesh has no endpoints to choose among.
fn without_endpoints(spec: Cursor<'_>, service: &Service, diagnostics: &mut Diagnostics) {
    for field in ["loadBalancer", "outlierDetection", "healthCheck", "overload", "subsets"] {
        if spec.has(field) {
            let message =
                format!("`{field}` has no effect: {} is a name outside the mesh, without endpoints", service.name);
            let help = "remove it; limits, time-outs and retry budget apply";
            spec.field(field).key().error(diagnostics, Code::NoEffect, message, help);
        }
    }
}

fn policy(cursor: Cursor<'_>, spec: &TrafficPolicySpec, diagnostics: &mut Diagnostics) -> TrafficPolicy {
    let TrafficPolicySpec {
        target_refs: _,
        load_balancer,
        limits,
        timeouts,
        retry_budget,
        outlier_detection,
        health_check,
        overload,
        subsets,
    } = spec;
    let default = TrafficPolicy::default();
    let mut policy = TrafficPolicy {
        retry_budget: retry_budget.as_ref().map_or(default.retry_budget, |written| {
            let default = mesh::RetryBudget::default();
            mesh::RetryBudget {
                percent: written.percent.unwrap_or(default.percent),
                min_retries_per_second: written.min_retries_per_second.unwrap_or(default.min_retries_per_second),
            }
        }),
        subsets: subset::ready(cursor.field("subsets"), subsets, diagnostics),
        ..TrafficPolicy::default()
    };
    if let Some(written) = limits {
        policy.limits = self::limits(cursor.field("limits"), written, diagnostics);
    }
    if let Some(api::Timeouts { connect, idle, request_idle }) = timeouts {
        let mut at = Durations { cursor: cursor.field("timeouts"), diagnostics };
        policy.connect_timeout = at.within("connect", connect, default.connect_timeout, MILLISECOND, 10 * MINUTE);
        policy.idle_timeout = at.within("idle", idle, default.idle_timeout, SECOND, 24 * HOUR);
        let least = 10 * MILLISECOND;
        policy.request_idle_timeout =
            request_idle.as_ref().map(|_| at.within("requestIdle", request_idle, HOUR, least, 24 * HOUR));
    }
    if let Some(written) = load_balancer {
        policy.load_balancer = self::load_balancer(cursor.field("loadBalancer"), written, diagnostics);
    }
    if let Some(written) = outlier_detection {
        policy.outlier_detection = self::outlier_detection(cursor.field("outlierDetection"), written, diagnostics);
    }
    if let Some(written) = health_check {
        policy.health_check = self::health_check(cursor.field("healthCheck"), written, diagnostics);
    }
    if let Some(written) = overload {
        policy.overload = self::overload(cursor.field("overload"), written, diagnostics);
    }
    policy
}

/// Reads durations within bounds.
struct Durations<'a, 'd> {
    cursor: Cursor<'a>,
    diagnostics: &'d mut Diagnostics,
}

impl Durations<'_, '_> {
    fn within(
        &mut self,
        field: &str,
        written: &Option<String>,
        default: Duration,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let Some(text) = written else { return default };
        let cursor = self.cursor.field(field);
        let Some(duration) = names::duration(text) else {
            let message = format!("`{}` is not a duration", shown(text));
            cursor.error(self.diagnostics, Code::InvalidValue, message, names::DURATION_HELP);
            return default;
        };
        if duration < least || duration > most {
            let message = format!("`{}` is out of bounds", shown(text));
            let help = format!("write a duration from {} to {}", in_units(least), in_units(most));
            cursor.error(self.diagnostics, Code::InvalidValue, message, help);
            return default;
        }
        duration
    }
}

/// `1h`, `10m`, `5s`, `250ms`: the largest unit that divides it.
fn in_units(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if milliseconds.is_multiple_of(size) {
            return format!("{}{unit}", milliseconds / size);
        }
    }
    format!("{milliseconds}ms")
}

fn limits(cursor: Cursor<'_>, written: &api::Limits, diagnostics: &mut Diagnostics) -> mesh::TrafficLimits {
    let default = mesh::TrafficLimits::default();
    let api::Limits { max_connections, max_pending_requests, pending_timeout, max_requests, max_retries, per_endpoint } =
        written;
    let mut at = Durations { cursor, diagnostics };
    mesh::TrafficLimits {
        connections: max_connections.unwrap_or(default.connections),
        pending: max_pending_requests.unwrap_or(default.pending),
        pending_timeout: at.within("pendingTimeout", pending_timeout, default.pending_timeout, MILLISECOND, MINUTE),
        requests: max_requests.unwrap_or(default.requests),
        retries: *max_retries,
        per_endpoint: per_endpoint.as_ref().map_or(default.per_endpoint, |each| mesh::EndpointLimits {
            connections: each.max_connections,
            requests: each.max_requests,
        }),
    }
}

fn load_balancer(cursor: Cursor<'_>, written: &api::LoadBalancer, diagnostics: &mut Diagnostics) -> mesh::LoadBalancer {
    let default = mesh::LoadBalancer::default();
    mesh::LoadBalancer {
        algorithm: algorithm(cursor, written, diagnostics),
        slow_start: written.slow_start.as_ref().map(|api::SlowStart { window, minimum_percent }| {
            let mut at = Durations { cursor: cursor.field("slowStart"), diagnostics };
            mesh::SlowStart {
                window: at.within("window", &Some(window.clone()), SECOND, SECOND, HOUR),
                minimum_percent: minimum_percent.unwrap_or(10),
            }
        }),
        locality: written
            .locality
            .as_ref()
            .map(|written| locality(cursor.field("locality"), written, diagnostics))
            .unwrap_or_default(),
        panic_threshold_percent: written.panic_threshold_percent.unwrap_or(default.panic_threshold_percent),
    }
}

fn algorithm(cursor: Cursor<'_>, written: &api::LoadBalancer, diagnostics: &mut Diagnostics) -> mesh::Algorithm {
    use api::Algorithm::{LeastRequest, Maglev, PeakEwma, Random, RingHash, RoundRobin};
    let chosen = written.algorithm.unwrap_or(PeakEwma);
    let hashes = matches!(chosen, RingHash | Maglev);
    // What another algorithm would read has no effect with this one.
    for (field, has_effect, of) in [
        ("hash", hashes, "ringHash` and `maglev"),
        ("choices", chosen == LeastRequest, "leastRequest"),
        ("minimumRingSize", chosen == RingHash, "ringHash"),
        ("tableSize", chosen == Maglev, "maglev"),
        ("boundedLoadPercent", hashes, "ringHash` and `maglev"),
    ] {
        if cursor.has(field) && !has_effect {
            let message = format!("`{field}` has an effect with the algorithms `{of}` only");
            cursor.field(field).key().error(diagnostics, Code::NoEffect, message, "remove it, or change the algorithm");
        }
    }
    if hashes && written.hash.is_empty() {
        let message = "this algorithm needs something to hash";
        let help = "write `hash:` with entries like `header: x-user`, `cookie: session` or `sourceAddress: true`";
        cursor.error(diagnostics, Code::MissingField, message, help);
    }
    let list = cursor.field("hash");
    let each = written.hash.iter().enumerate();
    let hash = each.filter_map(|(at, written)| hash_on(list.item(at), written, diagnostics)).collect();
    let bounded_load_percent = written.bounded_load_percent;
    match chosen {
        PeakEwma => mesh::Algorithm::PeakEwma,
        LeastRequest => mesh::Algorithm::LeastRequest { choices: written.choices.unwrap_or(2) },
        RoundRobin => mesh::Algorithm::RoundRobin,
        Random => mesh::Algorithm::Random,
        RingHash => {
            let minimum_size = written.minimum_ring_size.unwrap_or(1024);
            mesh::Algorithm::RingHash { hash, minimum_size, bounded_load_percent }
        }
        Maglev => {
            let table_size = written.table_size.unwrap_or(65_537);
            if !is_prime(table_size) {
                let message = format!("{table_size} is not a prime number");
                let help = "write a prime number, for example 65537, 131071 or 655373";
                cursor.field("tableSize").error(diagnostics, Code::InvalidValue, message, help);
            }
            mesh::Algorithm::Maglev { hash, table_size, bounded_load_percent }
        }
    }
}

fn is_prime(number: u32) -> bool {
    let number = u64::from(number);
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

fn hash_on(cursor: Cursor<'_>, written: &api::HashOn, diagnostics: &mut Diagnostics) -> Option<mesh::HashOn> {
    let api::HashOn { header, cookie, query_parameter, source_address } = written;
    let source = (*source_address == Some(true)).then_some(mesh::HashOn::SourceAddress);
    let named = |name: &String| Arc::<str>::from(name.as_str());
    let chosen: Vec<mesh::HashOn> = header
        .iter()
        .map(|name| mesh::HashOn::Header(name.to_ascii_lowercase().into()))
        .chain(cookie.iter().map(|name| mesh::HashOn::Cookie(named(name))))
        .chain(query_parameter.iter().map(|name| mesh::HashOn::QueryParameter(named(name))))
        .chain(source)
        .collect();
    for (field, name) in [("header", header), ("cookie", cookie)] {
        token(cursor, field, name.as_deref(), diagnostics);
    }
    if query_parameter.as_deref() == Some("") {
        let message = "a query parameter without a name";
        cursor.field("queryParameter").error(diagnostics, Code::InvalidValue, message, "write its name");
    }
    let [only] = <[mesh::HashOn; 1]>::try_from(chosen)
        .map_err(|_| {
            let help = "write one of `header`, `cookie`, `queryParameter` and `sourceAddress: true`; several things as \
                        several entries";
            cursor.error(diagnostics, Code::InvalidValue, "an entry hashes exactly one thing", help);
        })
        .ok()?;
    Some(only)
}

fn token(cursor: Cursor<'_>, field: &str, name: Option<&str>, diagnostics: &mut Diagnostics) {
    if let Some(name) = name
        && let Err(fault) = names::http_token(name)
    {
        let message = format!("`{}` cannot be a name here: {fault}", shown(name));
        cursor.field(field).error(diagnostics, Code::InvalidValue, message, "write letters, digits and `-`");
    }
}

fn locality(cursor: Cursor<'_>, written: &api::LocalityPolicy, diagnostics: &mut Diagnostics) -> mesh::LocalityPolicy {
    let api::LocalityPolicy { preference, minimum_healthy_percent, failover, distribute } = written;
    let default = mesh::LocalityPolicy::default();
    let none = *preference == Some(api::LocalityPreference::None);
    for field in ["minimumHealthyPercent", "failover"] {
        if none && cursor.has(field) {
            let message = format!("`{field}` has no effect with `preference: none`");
            cursor.field(field).key().error(diagnostics, Code::NoEffect, message, "remove one of the two");
        }
    }
    mesh::LocalityPolicy {
        preference: if none { mesh::LocalityPreference::None } else { mesh::LocalityPreference::Nearest },
        minimum_healthy_percent: minimum_healthy_percent.unwrap_or(default.minimum_healthy_percent),
        failover: self::failover(cursor.field("failover"), failover, diagnostics),
        distribute: self::distribute(cursor.field("distribute"), distribute, diagnostics),
    }
}

fn failover(
    cursor: Cursor<'_>,
    written: &[api::Failover],
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
    let mut failover = BTreeMap::new();
    for (at, api::Failover { from, to }) in written.iter().enumerate() {
        let cursor = cursor.item(at);
        let mut regions: Vec<Arc<str>> = Vec::with_capacity(to.len());
        for (at, region) in to.iter().enumerate() {
            let repeated = regions.iter().any(|known| **known == **region) || region == from;
            if region.is_empty() || repeated {
                let message = format!("`{}` cannot come after `{}` here", shown(region), shown(from));
                let help = "write other regions than the caller's, each once";
                cursor.field("to").item(at).error(diagnostics, Code::InvalidValue, message, help);
            }
            regions.push(region.as_str().into());
        }
        if from.is_empty() || to.is_empty() {
            let help = "write `{from: region, to: [other-region]}`";
            cursor.error(diagnostics, Code::InvalidValue, "an entry needs a region and where to go from there", help);
        }
        if failover.insert(from.as_str().into(), regions).is_some() {
            let message = format!("the order for the region `{}` is written already", shown(from));
            cursor.field("from").error(diagnostics, Code::Duplicate, message, "write one entry for each region");
        }
    }
    failover
}

fn distribute(
    cursor: Cursor<'_>,
    written: &[api::Distribute],
    diagnostics: &mut Diagnostics,
) -> BTreeMap<mesh::Locality, BTreeMap<mesh::Locality, u32>> {
    let mut distribute = BTreeMap::new();
    for (at, api::Distribute { from, to }) in written.iter().enumerate() {
        let cursor = cursor.item(at);
        let place = |text: &str, cursor: Cursor<'_>, diagnostics: &mut Diagnostics| {
            let (region, zone) = text.split_once('/').unwrap_or((text, ""));
            if region.is_empty() || (text.contains('/') && zone.is_empty()) || zone.contains('/') {
                let message = format!("`{}` is not a place", shown(text));
                cursor.error(diagnostics, Code::InvalidValue, message, "write `region` or `region/zone`");
            }
            mesh::Locality { region: region.into(), zone: zone.into() }
        };
        let caller = place(from, cursor.field("from"), diagnostics);
        let shares =
            to.iter().map(|(to, share)| (place(to, cursor.field("to").field(to), diagnostics), *share)).collect();
        let total: u64 = to.values().map(|share| u64::from(*share)).sum();
        if total != 100 {
            let message = format!("the shares add up to {total}, not 100");
            cursor.field("to").error(diagnostics, Code::InvalidValue, message, "write shares that add up to 100");
        }
        if distribute.insert(caller, shares).is_some() {
            let message = format!("the shares for `{}` are written already", shown(from));
            cursor.field("from").error(diagnostics, Code::Duplicate, message, "write one entry for each place");
        }
    }
    distribute
}

fn outlier_detection(
    cursor: Cursor<'_>,
    written: &api::OutlierDetection,
    diagnostics: &mut Diagnostics,
) -> Option<mesh::OutlierDetection> {
    let default = mesh::OutlierDetection::default();
    let mut at = Durations { cursor, diagnostics };
    let interval = at.within("interval", &written.interval, default.interval, SECOND, HOUR);
    let base_ejection_time =
        at.within("baseEjectionTime", &written.base_ejection_time, default.base_ejection_time, SECOND, HOUR);
    let longest = default.max_ejection_time.max(base_ejection_time);
    let max_ejection_time = at.within("maxEjectionTime", &written.max_ejection_time, longest, SECOND, 24 * HOUR);
    if max_ejection_time < base_ejection_time {
        let message = "the longest ejection is shorter than the first one";
        let help = format!("write at least {}", in_units(base_ejection_time));
        cursor.field("maxEjectionTime").error(diagnostics, Code::InvalidValue, message, help);
    }
    let detection = mesh::OutlierDetection {
        consecutive_gateway_failures: written
            .consecutive_gateway_failures
            .unwrap_or(default.consecutive_gateway_failures),
        consecutive_5xx: written.consecutive_5xx.unwrap_or(default.consecutive_5xx),
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent: written.max_ejection_percent.unwrap_or(default.max_ejection_percent),
        success_rate: written.success_rate.as_ref().map(|written| mesh::SuccessRate {
            deviation_percent: written.deviation_percent.unwrap_or(190),
            minimum_endpoints: written.minimum_endpoints.unwrap_or(5),
            request_volume: written.request_volume.unwrap_or(100),
        }),
        failure_percentage: written.failure_percentage.as_ref().map(|written| mesh::FailurePercentage {
            threshold: written.threshold.unwrap_or(85),
            minimum_endpoints: written.minimum_endpoints.unwrap_or(5),
            request_volume: written.request_volume.unwrap_or(50),
        }),
        latency: written.latency.as_ref().map(|written| mesh::LatencyOutlier {
            threshold_percent: written.threshold_percent.unwrap_or(500),
            minimum_endpoints: written.minimum_endpoints.unwrap_or(3),
            request_volume: written.request_volume.unwrap_or(50),
        }),
    };
    if written.disabled != Some(true) {
        return Some(detection);
    }
    let alone = api::OutlierDetection { disabled: Some(true), ..Default::default() };
    if *written != alone {
        let message = "with `disabled: true` nothing else here has an effect";
        cursor.field("disabled").key().error(
            diagnostics,
            Code::NoEffect,
            message,
            "remove it, or everything beside it",
        );
    }
    None
}

fn health_check(
    cursor: Cursor<'_>,
    written: &api::HealthCheck,
    diagnostics: &mut Diagnostics,
) -> Option<mesh::HealthCheck> {
    let api::HealthCheck { http, grpc, tcp, interval, timeout, unhealthy_threshold, healthy_threshold } = written;
    let kind = match (http, grpc, tcp) {
        (Some(api::HttpHealthCheck { path, host }), None, None) => {
            let fits = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if !fits {
                let message = format!("`{}` is not a path", shown(path));
                let help = "write a path that begins with `/`, without spaces; other characters percent-encoded";
                cursor.field("http").field("path").error(diagnostics, Code::InvalidValue, message, help);
            }
            let host = host.as_deref().unwrap_or_default();
            if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte)) {
                let message = format!("`{}` is not a host", shown(host));
                let help = "write a host name, with a port if it needs one";
                cursor.field("http").field("host").error(diagnostics, Code::InvalidValue, message, help);
            }
            mesh::HealthCheckKind::Http { path: path.as_str().into(), host: host.into() }
        }
        (None, Some(api::GrpcHealthCheck { service }), None) => {
            mesh::HealthCheckKind::Grpc { service: service.as_deref().unwrap_or_default().into() }
        }
        (None, None, Some(api::TcpHealthCheck {})) => {
            if !cursor.field("tcp").is_empty() {
                let message = "a check by connection has no parameters";
                cursor.field("tcp").error(diagnostics, Code::UnknownField, message, "write `tcp: {}`");
            }
            mesh::HealthCheckKind::Tcp
        }
        _ => {
            let help = "write one of `http: {path: /healthz}`, `grpc: {}` and `tcp: {}`";
            cursor.error(diagnostics, Code::InvalidValue, "a health check is made in exactly one way", help);
            return None;
        }
    };
    let mut at = Durations { cursor, diagnostics };
    Some(mesh::HealthCheck {
        kind,
        interval: at.within("interval", interval, 10 * SECOND, 100 * MILLISECOND, HOUR),
        timeout: at.within("timeout", timeout, SECOND, MILLISECOND, MINUTE),
        unhealthy_threshold: unhealthy_threshold.unwrap_or(3),
        healthy_threshold: healthy_threshold.unwrap_or(2),
    })
}

fn overload(cursor: Cursor<'_>, written: &api::Overload, diagnostics: &mut Diagnostics) -> Option<mesh::Overload> {
    let api::Overload { adaptive_concurrency, priority_header } = written;
    token(cursor, "priorityHeader", priority_header.as_deref(), diagnostics);
    let api::AdaptiveConcurrency { minimum, maximum, interval } = adaptive_concurrency;
    let cursor = cursor.field("adaptiveConcurrency");
    let (least, most) = (minimum.unwrap_or(10), maximum.unwrap_or(1000.max(minimum.unwrap_or(0))));
    if most < least {
        let message = format!("the greatest limit, {most}, is below the least, {least}");
        let help = format!("write at least {least}, or a smaller `minimum`");
        cursor.field("maximum").error(diagnostics, Code::InvalidValue, message, help);
    }
    let mut at = Durations { cursor, diagnostics };
    let interval = at.within("interval", interval, 100 * MILLISECOND, 10 * MILLISECOND, 10 * SECOND);
    Some(mesh::Overload {
        adaptive_concurrency: mesh::AdaptiveConcurrency { minimum: least, maximum: most, interval },
        priority_header: priority_header.as_ref().map(|name| name.to_ascii_lowercase().into()),
    })
}

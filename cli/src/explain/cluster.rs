//! What holds for the requests to a cluster, in words: balancing, limits, time-outs, and when its endpoints are left out.

use std::sync::Arc;
use std::time::Duration;

use malla_control::resources::Resources;
use malla_proxy::decode::cluster::Discovery;
use malla_proxy::decode::{ClusterSpec, Decoded};
use malla_proxy::policy::{
    Algorithm, CheckKind, HashOn, Hashing, HealthCheck, Locality, OutlierDetection, Overload, Policy, Statistics,
};
use malla_proxy::snapshot::Limits;
use malla_xds::ResourceType;

use super::{Client, read};

/// Region and zone; no zone is all of the region.
type Place = (Arc<str>, Arc<str>);

/// What holds for a cluster; nothing if the control server does not know it.
pub(super) fn policy(resources: &Resources, client: &Client, cluster: &str) -> anyhow::Result<Vec<String>> {
    Ok(match read(resources, client, ResourceType::Cluster, cluster)? {
        Some(Decoded::Cluster(cluster)) => words(&cluster),
        _ => Vec::new(),
    })
}

fn words(cluster: &ClusterSpec) -> Vec<String> {
    let Policy { algorithm, slow_start, locality, panic_threshold, outliers, health_check, overload } =
        &*cluster.policy;
    let mut words = Vec::new();
    if let Discovery::Dns { host, port } = &cluster.discovery {
        words.push(format!("outside the mesh, at {host}:{port}"));
    } else {
        let slow_start = slow_start.map_or_else(String::new, |slow_start| {
            let (window, share) = (time(slow_start.window), slow_start.minimum_percent);
            format!(", new endpoints by and by within {window} from {share} % on")
        });
        let nearness = self::nearness(locality);
        words.push(format!("balanced by {}{nearness}{slow_start}", balanced(algorithm)));
        words.push(format!("health not believed under {panic_threshold} % healthy"));
    }
    words.push(limits(&cluster.limits));
    let (percent, per_second, most) = cluster.retry_budget;
    let most = if most == u32::MAX { String::new() } else { format!(", {most} at a time") };
    words.push(format!("retries and hedges: {percent} % of requests, {per_second} per second in any case{most}"));
    let idle = cluster
        .request_idle_timeout
        .map_or_else(String::new, |limit| format!(", of a request on which nothing moves {}", time(limit)));
    let (connect, unused) = (time(cluster.connect_timeout), time(cluster.idle_timeout));
    words.push(format!("time-outs: to connect {connect}, of an idle connection {unused}{idle}"));
    if !matches!(cluster.discovery, Discovery::Dns { .. }) {
        words.push(outliers.as_ref().map_or_else(|| "no outlier detection".to_owned(), ejections));
        words.push(health_check.as_ref().map_or_else(|| "no active health checks".to_owned(), checks));
    }
    words.extend(overload.as_ref().map(overloaded));
    words
}

fn balanced(algorithm: &Algorithm) -> String {
    let hashed = |Hashing { on, bounded_load }: &Hashing| {
        let on: Vec<String> = on.iter().map(hashed_on).collect();
        let bound = bounded_load.map_or_else(String::new, |percent| format!(", at most {percent} % of the mean load"));
        format!(" of {}{bound}", on.join(", else "))
    };
    let parameters = match algorithm {
        Algorithm::PeakEwma | Algorithm::RoundRobin | Algorithm::Random => String::new(),
        Algorithm::LeastRequest { choices } => format!(" of {choices} at random"),
        Algorithm::RingHash { hash, minimum_size } => format!("{}, {minimum_size} points", hashed(hash)),
        Algorithm::Maglev { hash, table_size } => format!("{}, {table_size} places", hashed(hash)),
    };
    format!("{}{parameters}", algorithm.word())
}

fn hashed_on(on: &HashOn) -> String {
    match on {
        HashOn::Header(name) => format!("the header {name}"),
        HashOn::Cookie(name) => format!("the cookie {name}"),
        HashOn::Query(name) => format!("the query parameter {name}"),
        HashOn::Source => "the client's address".to_owned(),
    }
}

fn nearness(Locality { nearest, minimum_healthy, failover, distribute }: &Locality) -> String {
    let mut words = match nearest {
        true => format!(", the nearest first (zone, region, all) while {minimum_healthy} % of them are healthy"),
        false => String::new(),
    };
    if !failover.is_empty() {
        let mut orders: Vec<String> =
            failover.iter().map(|(from, to)| format!("{from} to {}", to.join(", "))).collect();
        orders.sort();
        words += &format!(", failing over from {}", orders.join("; from "));
    }
    if !distribute.is_empty() {
        let place = |(region, zone): &Place| match &**zone {
            "" => region.to_string(),
            zone => format!("{region}/{zone}"),
        };
        let shares = |to: &[(Place, u32)]| {
            let each: Vec<String> = to.iter().map(|(to, percent)| format!("{percent} % {}", place(to))).collect();
            each.join(", ")
        };
        let mut each: Vec<String> =
            distribute.iter().map(|(from, to)| format!("from {}: {}", place(from), shares(to))).collect();
        each.sort();
        words += &format!(", shared out {}", each.join("; "));
    }
    words
}

fn limits(limits: &Limits) -> String {
    let Limits { connections, pending, pending_timeout, requests, endpoint_connections, endpoint_requests } = limits;
    let waiting = time(*pending_timeout);
    let each = |limit: u32, what: &str| match limit {
        u32::MAX => String::new(),
        limit => format!(", {limit} {what} of each endpoint"),
    };
    format!(
        "at most {connections} connections, {requests} requests at once, {pending} waiting for {waiting}{}{}",
        each(*endpoint_connections, "connections"),
        each(*endpoint_requests, "requests")
    )
}

fn ejections(written: &OutlierDetection) -> String {
    let OutlierDetection {
        gateway_failures,
        server_errors,
        interval,
        base_ejection,
        max_ejection,
        jitter: _,
        max_percent,
        success_rate,
        failure_percentage,
        latency,
    } = written;
    let mut causes = Vec::new();
    if *gateway_failures > 0 {
        causes.push(format!("{gateway_failures} gateway failures in a row"));
    }
    if *server_errors > 0 {
        causes.push(format!("{server_errors} statuses from 500 on in a row"));
    }
    let mut compared = |statistics: &Option<Statistics>, what: &dyn Fn(u32) -> String| {
        causes.extend(statistics.map(|Statistics { threshold, minimum_endpoints, request_volume }| {
            let enough = format!("{minimum_endpoints} endpoints of {request_volume} requests in {}", time(*interval));
            format!("{} ({enough})", what(threshold))
        }));
    };
    compared(success_rate, &|percent| format!("a success rate {percent} % of the deviation below the mean"));
    compared(failure_percentage, &|percent| format!("{percent} % failures"));
    compared(latency, &|percent| format!("{percent} % of the median latency"));
    if causes.is_empty() {
        return "no outlier detection".to_owned();
    }
    let (base, longest) = (time(*base_ejection), time(*max_ejection));
    format!(
        "left out for {base} to {longest}, at most {max_percent} % of the endpoints, after {}",
        causes.join(", or ")
    )
}

fn checks(written: &HealthCheck) -> String {
    let HealthCheck { kind, interval, timeout, unhealthy_threshold, healthy_threshold } = written;
    let by = match kind {
        CheckKind::Http { path, host } if host.is_empty() => format!("GET {path}"),
        CheckKind::Http { path, host } => format!("GET {path} of {host}"),
        CheckKind::Grpc { service } if service.is_empty() => "gRPC's own protocol".to_owned(),
        CheckKind::Grpc { service } => format!("gRPC's own protocol about {service}"),
        CheckKind::Tcp => "a connection".to_owned(),
    };
    let (interval, timeout) = (time(*interval), time(*timeout));
    format!(
        "checked by {by} every {interval} within {timeout}: out after {unhealthy_threshold} failures, back after \
         {healthy_threshold} successes"
    )
}

fn overloaded(Overload { minimum, maximum, interval, priority_header }: &Overload) -> String {
    let first = priority_header.as_ref().map_or_else(String::new, |name| format!(", low {name} refused first"));
    format!("requests at once follow latency every {}, {minimum} to {maximum}{first}", time(*interval))
}

/// `1h`, `10m`, `5s`, `250ms`: as one would write it.
fn time(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let whole = units.into_iter().find(|(_, size)| milliseconds > 0 && milliseconds.is_multiple_of(*size));
    whole.map_or_else(|| format!("{time:?}"), |(unit, size)| format!("{}{unit}", milliseconds / size))
}

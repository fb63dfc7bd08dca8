//! What is applied, as data: the source of both forms of `/config`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use serde::Serialize;

use crate::authorize::{Action, Authorization, Enforcement, RuleSet};
use crate::balance::Cause;
use crate::explain::words;
use crate::shared::Shared;
use crate::snapshot::{
    Cluster, Endpoints, HttpRoutes, Outbound, OutboundService, Plaintext, Protocol, Route, RouteAction, TcpRoute,
    UnknownDestination, UpstreamHttp, WeightedClusters,
};
use crate::subscribe::status::Connection;
use crate::tls;

/// Everything that `/config` shows.
#[derive(Debug, Serialize)]
pub(super) struct Config {
    pub(super) workload: String,
    pub(super) version: &'static str,
    pub(super) ready: bool,
    /// Why it is not ready.
    pub(super) missing: Option<String>,
    pub(super) control: Control,
    pub(super) identity: Identity,
    pub(super) inbound: Option<Vec<InboundPort>>,
    pub(super) outbound: Vec<Destination>,
    pub(super) clusters: Vec<ClusterView>,
}

#[derive(Debug, Serialize)]
pub(super) struct Control {
    pub(super) address: String,
    pub(super) connection: &'static str,
    pub(super) since: Option<String>,
    pub(super) problem: Option<String>,
    pub(super) responses: u64,
    pub(super) rejections: u64,
    pub(super) last_rejection: Option<Dated>,
    pub(super) problems: Vec<Problem>,
    pub(super) subscriptions: BTreeMap<&'static str, usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Dated {
    pub(super) at: String,
    pub(super) text: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) problem: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Identity {
    pub(super) spiffe_id: Option<String>,
    pub(super) not_before: Option<String>,
    pub(super) not_after: Option<String>,
    pub(super) seconds_left: Option<u64>,
    pub(super) trust_anchors: usize,
    /// What is presented, the leaf first, and what peers are verified against.
    pub(super) chain: Vec<Certificate>,
    pub(super) anchors: Vec<Certificate>,
    pub(super) last_failure: Option<Dated>,
}

/// A certificate, for people.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) serial: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
}

#[derive(Debug, Serialize)]
pub(super) struct InboundPort {
    pub(super) service: String,
    pub(super) port: u16,
    pub(super) server_name: String,
    pub(super) protocol: &'static str,
    pub(super) plaintext: &'static str,
    pub(super) cluster: String,
    /// The policies about who may, in the order in which they decide; none where everybody may.
    pub(super) authorization: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Destination {
    /// As it was asked for.
    pub(super) name: String,
    /// What it is: a service's canonical name, or what happens to what the mesh does not know.
    pub(super) is: String,
    pub(super) protocol: Option<&'static str>,
    pub(super) routes: Vec<RouteView>,
}

#[derive(Debug, Serialize)]
pub(super) struct RouteView {
    pub(super) name: String,
    pub(super) when: String,
    pub(super) to: Vec<Target>,
    pub(super) timeout: Option<String>,
    pub(super) try_timeout: Option<String>,
    pub(super) retries: Option<u8>,
}

#[derive(Debug, Serialize)]
pub(super) struct Target {
    pub(super) cluster: String,
    pub(super) weight: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct ClusterView {
    pub(super) name: String,
    pub(super) server_name: Option<String>,
    pub(super) identities: Vec<String>,
    pub(super) http: &'static str,
    pub(super) requests: u32,
    pub(super) connections: u32,
    pub(super) algorithm: &'static str,
    /// Whether endpoints are ejected for their answers.
    pub(super) outlier_detection: bool,
    pub(super) ejections: u64,
    /// Requests in flight that the adaptive limit permits.
    pub(super) concurrency_limit: Option<u64>,
    pub(super) endpoints: EndpointsView,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EndpointsView {
    Known(Vec<EndpointView>),
    Dns(String),
    OriginalDestination,
}

#[derive(Debug, Serialize)]
pub(super) struct EndpointView {
    pub(super) address: String,
    pub(super) workload: String,
    pub(super) identity: Option<String>,
    pub(super) weight: u32,
    pub(super) priority: u32,
    pub(super) zone: String,
    pub(super) standing: &'static str,
    pub(super) live: u32,
    pub(super) latency_ms: f64,
    pub(super) paused: bool,
}

impl Config {
    /// What is applied now.
    pub(super) fn of(shared: &Shared) -> Config {
        let snapshot = shared.directory.snapshot();
        let mut clusters: BTreeMap<String, Arc<Cluster>> = BTreeMap::new();
        let mut outbound: Vec<Destination> =
            snapshot.outbound.iter().map(|(name, known)| destination(name, &known.outbound, &mut clusters)).collect();
        outbound.sort_by(|a, b| a.name.cmp(&b.name));
        let inbound = snapshot.inbound.as_ref().map(|inbound| {
            let ports = inbound.ports.iter().map(|port| {
                clusters.insert(port.upstream.name.to_string(), port.upstream.clone());
                InboundPort {
                    service: port.service.to_string(),
                    port: port.port,
                    server_name: port.sni.to_string(),
                    protocol: protocol(port.protocol),
                    plaintext: match port.plaintext {
                        Plaintext::Refused => "refused",
                        Plaintext::Accepted => "accepted",
                    },
                    cluster: port.upstream.name.to_string(),
                    authorization: port.authorization.as_deref().map(rules).unwrap_or_default(),
                }
            });
            ports.collect()
        });
        let missing = super::not_ready(shared);
        Config {
            workload: shared.settings.node_id(),
            version: env!("CARGO_PKG_VERSION"),
            ready: missing.is_none(),
            missing,
            control: control(shared),
            identity: identity(shared),
            inbound,
            outbound,
            clusters: clusters.into_values().map(|cluster| view(&cluster)).collect(),
        }
    }
}

/// `deny shop/p/0`, `audited: allow nobody`.
fn rules(authorization: &Authorization) -> Vec<String> {
    let set = |set: &RuleSet| {
        let audited = if set.enforcement == Enforcement::Shadow { "audited: " } else { "" };
        let action = if set.action == Action::Allow { "allow" } else { "deny" };
        let names: Vec<&str> = set.policies.iter().map(|policy| &*policy.name).collect();
        let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        format!("{audited}{action} {names}")
    };
    authorization.sets.iter().map(set).collect()
}

fn control(shared: &Shared) -> Control {
    let state = shared.directory.status().state();
    let (connection, since, problem) = match state.connection {
        Connection::WaitingForCertificate => ("waiting for a certificate", None, None),
        Connection::Connecting => ("connecting", None, None),
        Connection::Connected(since) => ("connected", Some(since), None),
        Connection::Failed(since, problem) => ("lost", Some(since), Some(problem)),
    };
    let problems = state.problems.into_iter();
    Control {
        address: shared.settings.control.to_string(),
        connection,
        since: since.map(date),
        problem,
        responses: state.responses,
        rejections: state.rejections,
        last_rejection: state.last_rejection.map(|(at, text)| Dated { at: date(at), text }),
        problems: problems
            .map(|((kind, name), problem)| Problem { kind: kind.word(), name: name.to_string(), problem })
            .collect(),
        subscriptions: state.subscriptions.into_iter().map(|(kind, number)| (kind.word(), number)).collect(),
    }
}

fn identity(shared: &Shared) -> Identity {
    let last_failure = shared.identity.failure().map(|(at, text)| Dated { at: date(at), text });
    let Some(last) = shared.identity.last() else { return Identity { last_failure, ..Default::default() } };
    Identity {
        spiffe_id: Some(last.spiffe_id.to_string()),
        not_before: Some(date(last.not_before)),
        not_after: Some(date(last.not_after)),
        seconds_left: last.not_after.duration_since(SystemTime::now()).ok().map(|left| left.as_secs()),
        trust_anchors: last.trust_certificates.len(),
        chain: last.certified_key.cert.iter().filter_map(certificate).collect(),
        anchors: last.trust_certificates.iter().filter_map(certificate).collect(),
        last_failure,
    }
}

/// `None` for what cannot be read, which never comes this far.
fn certificate(written: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, parsed) = x509_parser::parse_x509_certificate(written).ok()?;
    let time = |seconds: i64| {
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        // A date that no clock reaches is shown as the last one that can be.
        let latest = Duration::from_secs(253_402_300_799);
        date(SystemTime::UNIX_EPOCH + since.min(latest))
    };
    let name = parsed.subject().to_string();
    Some(Certificate {
        // Leaves of the mesh have no name but their identity.
        subject: if name.is_empty() { tls::spiffe_id(written).map_or(name, |id| id.to_string()) } else { name },
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
    })
}

fn destination(name: &str, outbound: &Outbound, clusters: &mut BTreeMap<String, Arc<Cluster>>) -> Destination {
    let unknown =
        |is: &str| Destination { name: name.to_owned(), is: is.to_owned(), protocol: None, routes: Vec::new() };
    match outbound {
        Outbound::Unknown(UnknownDestination::PassThrough) => unknown("not of the mesh, passed through"),
        Outbound::Unknown(UnknownDestination::Deny) => unknown("not of the mesh, refused"),
        Outbound::Service(service) => Destination {
            name: name.to_owned(),
            is: service.name.to_string(),
            protocol: Some(protocol(service.protocol)),
            routes: routes(service, clusters),
        },
    }
}

fn routes(service: &OutboundService, clusters: &mut BTreeMap<String, Arc<Cluster>>) -> Vec<RouteView> {
    let mut routes = Vec::new();
    if let Some(http) = &service.http {
        http_routes(http, clusters, &mut routes);
    }
    for (names, route) in &service.sni {
        routes.push(tcp_route(route, format!("TLS for {}", names.join(", ")), clusters));
    }
    if let Some(route) = &service.tcp {
        let when = if service.http.is_some() { "not HTTP" } else { "everything" };
        routes.push(tcp_route(route, when.to_owned(), clusters));
    }
    routes
}

fn http_routes(http: &HttpRoutes, clusters: &mut BTreeMap<String, Arc<Cluster>>, routes: &mut Vec<RouteView>) {
    for host in &http.virtual_hosts {
        for route in &host.routes {
            let mut when = words(&route.matcher);
            if !host.domains.iter().any(|domain| &**domain == "*") {
                when = format!("host {}, {when}", host.domains.join(" or "));
            }
            routes.push(http_route(route, when, clusters));
        }
    }
}

fn http_route(route: &Route, when: String, clusters: &mut BTreeMap<String, Arc<Cluster>>) -> RouteView {
    RouteView {
        name: route.name.to_string(),
        when,
        to: match &route.action {
            RouteAction::Forward(weighted) => targets(weighted, clusters),
            RouteAction::Redirect(_) | RouteAction::NoBackend => Vec::new(),
        },
        timeout: route.timeout.map(|timeout| format!("{timeout:?}")),
        try_timeout: route.try_timeout.map(|timeout| format!("{timeout:?}")),
        retries: Some(route.retry.attempts),
    }
}

fn tcp_route(route: &TcpRoute, when: String, clusters: &mut BTreeMap<String, Arc<Cluster>>) -> RouteView {
    let to = route.clusters.as_ref().map(|weighted| targets(weighted, clusters)).unwrap_or_default();
    RouteView { name: route.name.to_string(), when, to, timeout: None, try_timeout: None, retries: None }
}

fn targets(weighted: &WeightedClusters, clusters: &mut BTreeMap<String, Arc<Cluster>>) -> Vec<Target> {
    let target = |(cluster, weight): &(Arc<Cluster>, u32)| {
        clusters.insert(cluster.name.to_string(), cluster.clone());
        Target { cluster: cluster.name.to_string(), weight: *weight }
    };
    weighted.clusters.iter().map(target).collect()
}

fn view(cluster: &Cluster) -> ClusterView {
    let now = Instant::now();
    ClusterView {
        name: cluster.name.to_string(),
        server_name: cluster.tls.as_ref().map(|tls| tls.sni.to_string()),
        identities: cluster.tls.iter().flat_map(|tls| &tls.identities).map(|identity| identity.to_string()).collect(),
        http: match cluster.http {
            UpstreamHttp::Http1 => "HTTP/1.1",
            UpstreamHttp::Http2 => "HTTP/2",
            UpstreamHttp::AsReceived => "as received",
        },
        requests: cluster.usage.requests(),
        connections: cluster.usage.connections(),
        algorithm: cluster.policy.algorithm.word(),
        outlier_detection: cluster.feedback.outliers.is_some(),
        ejections: Cause::ALL.iter().map(|cause| cluster.feedback.watch.ejections(*cause)).sum(),
        concurrency_limit: cluster.feedback.limiter.as_ref().map(|limiter| limiter.limit() as u64),
        endpoints: match &cluster.endpoints {
            Endpoints::Dns { host, port } => EndpointsView::Dns(format!("{host}:{port}")),
            Endpoints::OriginalDst => EndpointsView::OriginalDestination,
            Endpoints::Set(endpoints) => EndpointsView::Known(
                endpoints
                    .iter()
                    .map(|endpoint| EndpointView {
                        address: endpoint.address.to_string(),
                        workload: endpoint.workload.to_string(),
                        identity: endpoint.identity.as_ref().map(|identity| identity.to_string()),
                        weight: endpoint.weight,
                        priority: endpoint.priority,
                        zone: endpoint.locality.1.to_string(),
                        standing: endpoint.load.standing(now).word(),
                        live: endpoint.load.live(),
                        latency_ms: (endpoint.load.latency(now).as_secs_f64() * 1e6).round() / 1e3,
                        paused: endpoint.load.paused(now),
                    })
                    .collect(),
            ),
        },
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Tcp => "TCP",
        Protocol::Tls => "TLS",
        Protocol::Detect => "detected",
    }
}

fn date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at)
}

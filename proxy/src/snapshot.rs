//! What the sidecar knows: compact, immutable, swapped as a whole.
//!
//! Built by `decode` from xDS, read by every connection and request through one `Arc<Snapshot>` for its whole life.
//! Holds no protobuf and does no I/O. State that must outlive a change of configuration (the load of an endpoint, the retry
//! budget of a cluster) sits behind `Arc`s that the next snapshot takes over.

mod routes;
mod weighted;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

pub use self::routes::Routes;
pub use self::weighted::WeightedClusters;
use crate::authorize::Authorization;
use crate::balance::{EndpointSet, Feedback, Latencies, Load, RetryBudget};
use crate::filter::{Filters, RateLimit, Redirect, Share};
use crate::names::{Name, SpiffeId};
use crate::policy::{Place, Policy};

/// Everything that is applied at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Destinations asked for, by the name that was asked (`cart.shop:80`, `10.96.0.7:80`).
    pub outbound: HashMap<Name, Destination>,
    /// This workload's own ports; `None` until the control server has answered.
    pub inbound: Option<Arc<Inbound>>,
}

impl Snapshot {
    /// Every cluster that a destination or a port of this workload leads to, by name.
    pub fn clusters(&self) -> BTreeMap<Name, Arc<Cluster>> {
        let mut clusters = BTreeMap::new();
        let mut add = |cluster: &Arc<Cluster>| {
            clusters.insert(cluster.name.clone(), cluster.clone());
        };
        for destination in self.outbound.values() {
            let Outbound::Service(service) = &*destination.outbound else { continue };
            let hosts = service.http.iter().flat_map(|http| &http.virtual_hosts);
            for route in hosts.flat_map(|host| &host.routes) {
                if let RouteAction::Forward(weighted) = &route.action {
                    weighted.clusters.iter().for_each(|(cluster, _)| add(cluster));
                }
            }
            let streams = service.tcp.iter().chain(service.sni.iter().map(|(_, tcp)| tcp));
            for weighted in streams.filter_map(|tcp| tcp.clusters.as_ref()) {
                weighted.clusters.iter().for_each(|(cluster, _)| add(cluster));
            }
        }
        for port in self.inbound.iter().flat_map(|inbound| &inbound.ports) {
            add(&port.upstream);
        }
        clusters
    }
}

/// What is known of a destination, and whether anybody still asks for it.
#[derive(Debug, Clone)]
pub struct Destination {
    /// What the name resolved to.
    pub outbound: Arc<Outbound>,
    /// When the name was last looked up, in ticks of the directory; kept across snapshots.
    pub last_used: Arc<AtomicU32>,
}

impl From<Outbound> for Destination {
    fn from(outbound: Outbound) -> Self {
        Destination { outbound: Arc::new(outbound), last_used: Arc::default() }
    }
}

/// What a destination name resolved to.
#[derive(Debug)]
pub enum Outbound {
    /// The mesh does not know it.
    Unknown(UnknownDestination),
    /// A service, or one endpoint of it.
    Service(OutboundService),
}

/// What to do with a destination outside the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownDestination {
    /// Forward untouched, count.
    PassThrough,
    /// Refuse with `no_route`.
    Deny,
}

/// A destination of the mesh.
#[derive(Debug)]
pub struct OutboundService {
    /// Canonical name: `cart.shop:80`.
    pub name: Name,
    /// What is spoken there.
    pub protocol: Protocol,
    /// HTTP routes, in the order of precedence; present unless the protocol is TCP or TLS.
    pub http: Option<Arc<HttpRoutes>>,
    /// Where raw TCP goes; present unless the protocol is HTTP.
    pub tcp: Option<TcpRoute>,
    /// Routes by SNI of the application's own TLS: that with the most specific name; else `tcp`.
    pub sni: Vec<(Vec<Arc<str>>, TcpRoute)>,
}

/// Protocol of a port, as declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1 or HTTP/2, told apart by the first bytes.
    Http,
    /// Not HTTP: do not peek, the server may speak first.
    Tcp,
    /// The application's own TLS: read the ClientHello's SNI, carry it untouched.
    Tls,
    /// Not declared: peek for at most a second.
    Detect,
}

/// A route configuration.
#[derive(Debug)]
pub struct HttpRoutes {
    /// xDS name of the route configuration.
    pub name: Name,
    /// Virtual hosts.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// Routes for some hosts.
#[derive(Debug)]
pub struct VirtualHost {
    /// Exact names, `*.suffix`, or `*`; lower case, without port.
    pub domains: Vec<Arc<str>>,
    /// Routes in the order of precedence: the first match wins.
    pub routes: Routes,
}

/// One match and where it leads.
#[derive(Debug)]
pub struct Route {
    /// Label for metrics: `kind/namespace/name/rule`, or `default`.
    pub name: Arc<str>,
    /// What must hold.
    pub matcher: RouteMatch,
    /// Clusters by weight; the sum is above zero, otherwise [`RouteAction::NoBackend`].
    pub action: RouteAction,
    /// `timeouts.request`: from the first byte of the request to the last of the response.
    pub timeout: Option<Duration>,
    /// `timeouts.backendRequest`.
    pub try_timeout: Option<Duration>,
    /// Retries, the safe default unless configured.
    pub retry: Retry,
    /// What is done to requests and answers besides; `None` is nothing.
    pub filters: Option<Arc<Filters>>,
    /// Who gets copies of requests.
    pub mirrors: Vec<Mirror>,
    /// How many requests are let through; all limits must.
    pub limits: Vec<Arc<RateLimit>>,
}

/// A cluster that gets copies of requests, whose answers nobody sees.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Of how many requests.
    pub share: Share,
}

/// Where a route leads.
#[derive(Debug)]
pub enum RouteAction {
    /// To clusters by weight.
    Forward(WeightedClusters),
    /// Elsewhere: the sidecar answers.
    Redirect(Arc<Redirect>),
    /// Nowhere: 500, `no_endpoints`.
    NoBackend,
}

/// A TCP route.
#[derive(Debug)]
pub struct TcpRoute {
    /// Label for metrics.
    pub name: Arc<str>,
    /// Clusters by weight; `None` when every weight is zero.
    pub clusters: Option<WeightedClusters>,
}

/// Conditions of a route; all must hold.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// Path.
    pub path: PathMatch,
    /// Method.
    pub method: Option<http::Method>,
    /// Headers.
    pub headers: Vec<(http::HeaderName, ValueMatch)>,
    /// Query parameters.
    pub query: Vec<(Arc<str>, ValueMatch)>,
}

/// How a path matches.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// Everything.
    Any,
    /// The whole path.
    Exact(Arc<str>),
    /// Leading characters (`/x/` in the pair `path: /x` + `prefix: /x/`).
    Prefix(Arc<str>),
    /// The whole path, by regular expression.
    Regex(regex::Regex),
}

/// How a value matches.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// The whole value.
    Exact(Arc<str>),
    /// The whole value, by regular expression.
    Regex(regex::Regex),
    /// Any value, if present.
    Present,
}

/// Retry policy of a route. The default (one retry of what provably was not processed) needs no configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Retries after the first try. Default 1.
    pub attempts: u8,
    /// What is retried besides what provably was not processed. Default nothing.
    pub on: RetryOn,
    /// First back-off; doubled each time, jittered. Default 25 ms.
    pub base_interval: Duration,
    /// Longest back-off. Default 250 ms.
    pub max_interval: Duration,
    /// When a second try goes beside the first, of the methods that `on` permits. Default never.
    pub hedge: Option<Hedge>,
}

/// When a second try goes beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hedge {
    /// After so much time as a share of the service's answers takes.
    Quantile {
        /// The share.
        share: Share,
        /// Never sooner.
        least: Duration,
        /// Answers that must have been measured.
        samples: u32,
    },
    /// After this (Envoy's `hedge_on_per_try_timeout`).
    After(Duration),
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 1,
            on: RetryOn::default(),
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            hedge: None,
        }
    }
}

/// What is retried although it may have been processed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryOn {
    /// The upstream went away, or the try timed out, before the answer began.
    pub resets: bool,
    /// Ranges of HTTP statuses.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// gRPC statuses, one bit each, in answers without a message.
    pub grpc_statuses: u32,
    /// Whether `resets`, `statuses` and second tries are for idempotent methods only (RFC 9110 §9.2.2).
    pub idempotent_only: bool,
}

impl RetryOn {
    /// Whether anything is.
    pub fn is_nothing(&self) -> bool {
        !self.resets && self.statuses.is_empty() && self.grpc_statuses == 0
    }

    /// Whether a lost try of this method is retried.
    pub fn reset(&self, method: &http::Method) -> bool {
        self.resets && self.permits(method)
    }

    /// Whether an answer is retried. `grpc_status` is that of an answer without a message.
    pub fn answer(&self, method: &http::Method, status: u16, grpc_status: Option<u8>) -> bool {
        let grpc =
            grpc_status.is_some_and(|status| self.grpc_statuses.checked_shr(status.into()).unwrap_or(0) & 1 == 1);
        grpc || (self.permits(method) && self.statuses.iter().any(|range| range.contains(&status)))
    }

    /// Whether requests of this method may be processed twice.
    pub fn permits(&self, method: &http::Method) -> bool {
        !self.idempotent_only || method.is_idempotent()
    }
}

/// A set of endpoints and how to reach them.
#[derive(Debug)]
pub struct Cluster {
    /// xDS name: `cart.shop:80`, `endpoint/10.1.2.3:8080`, `inbound/cart-1.shop/8080`.
    pub name: Name,
    /// Where connections go.
    pub endpoints: Endpoints,
    /// HTTP version towards an upstream *without* a sidecar, or towards the local application.
    pub http: UpstreamHttp,
    /// TLS towards endpoints that have a sidecar.
    pub tls: Option<UpstreamTls>,
    /// Connect time-out. Default 1 s.
    pub connect_timeout: Duration,
    /// Connections without a request, or a byte, are closed after this. Default 1 h.
    pub idle_timeout: Duration,
    /// A request on whose stream nothing moves for so long ends. Default none.
    pub request_idle_timeout: Option<Duration>,
    /// How its endpoints are balanced and watched.
    pub policy: Arc<Policy>,
    /// Where the answers of its endpoints are told; its state is kept across snapshots.
    pub feedback: Arc<Feedback>,
    /// Circuit breaking.
    pub limits: Limits,
    /// Retry budget, shared by all routes to this cluster and kept across snapshots.
    pub retry_budget: Arc<RetryBudget>,
    /// Requests, connections and waiting at this moment; kept across snapshots.
    pub usage: Arc<crate::balance::Usage>,
    /// How long answers take, where routes hedge; kept across snapshots.
    pub latencies: Arc<Latencies>,
}

impl Default for Cluster {
    /// Without endpoints, and with every default.
    fn default() -> Self {
        Cluster {
            name: Name::default(),
            endpoints: Endpoints::Set(EndpointSet::default()),
            http: UpstreamHttp::AsReceived,
            tls: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(3600),
            request_idle_timeout: None,
            policy: Arc::default(),
            feedback: Arc::default(),
            limits: Limits::default(),
            retry_budget: Arc::default(),
            usage: Arc::default(),
            latencies: Arc::default(),
        }
    }
}

/// Where the connections of a cluster go.
#[derive(Debug)]
pub enum Endpoints {
    /// Known addresses, ready for choosing.
    Set(EndpointSet),
    /// A DNS name (`ExternalName`), resolved by the sidecar.
    Dns {
        /// Host.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// The original destination of the connection (transparent inbound, pass through).
    OriginalDst,
}

/// An endpoint of a cluster; the same `Arc` in the next snapshot if nothing about it changed.
#[derive(Debug)]
pub struct Endpoint {
    /// Address to connect to.
    pub address: SocketAddr,
    /// Identity of the sidecar there; `None` is an endpoint without a sidecar, reached in plaintext.
    pub identity: Option<SpiffeId>,
    /// Workload (`name.namespace`) for labels; empty if unknown.
    pub workload: Arc<str>,
    /// Relative weight, above zero.
    pub weight: u32,
    /// Region and zone.
    pub locality: Place,
    /// Locality priority, 0 first.
    pub priority: u32,
    /// Its load, measured by this sidecar.
    pub load: Arc<Load>,
    /// Where its answers are told.
    pub feedback: Arc<Feedback>,
}

/// HTTP version towards plaintext upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The version in which the request came in at the first sidecar.
    AsReceived,
}

/// TLS towards the sidecars of a cluster.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// SNI: `80.cart.shop.mesh`.
    pub sni: Arc<str>,
    /// Identities that the cluster as a whole may present; an endpoint's own identity is checked besides.
    pub identities: Vec<SpiffeId>,
}

/// Circuit breaking limits of a cluster (Envoy `CircuitBreakers.Thresholds`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections. Default 1,024.
    pub connections: u32,
    /// Requests waiting for a connection. Default 1,024.
    pub pending: u32,
    /// How long a request waits where a limit keeps it from a connection. Default 1 s.
    pub pending_timeout: Duration,
    /// Requests at once. Default 10,000.
    pub requests: u32,
    /// HTTP connections of each worker to each endpoint. Default no limit.
    pub endpoint_connections: u32,
    /// Requests, or TCP connections, at each endpoint. Default no limit.
    pub endpoint_requests: u32,
}

impl Limits {
    /// For the application beside the sidecar, whose connections are bounded where they come in.
    pub const NONE: Limits = Limits {
        connections: u32::MAX,
        pending: u32::MAX,
        pending_timeout: PENDING_TIMEOUT,
        requests: u32::MAX,
        endpoint_connections: u32::MAX,
        endpoint_requests: u32::MAX,
    };
}

/// DESIGN: pending is bounded in time.
const PENDING_TIMEOUT: Duration = Duration::from_secs(1);

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 1024, pending: 1024, requests: 10_000, ..Limits::NONE }
    }
}

/// This workload's own ports.
#[derive(Debug)]
pub struct Inbound {
    /// xDS name of the listener: `inbound/cart-1.shop`.
    pub name: Name,
    /// Its ports.
    pub ports: Vec<InboundPort>,
}

/// A port of this workload.
#[derive(Debug)]
pub struct InboundPort {
    /// Service port behind it, for labels: `cart.shop:80`.
    pub service: Name,
    /// SNI that selects it: `80.cart.shop.mesh`.
    pub sni: Arc<str>,
    /// The application's port: selects it by original destination where the mode is transparent.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether plaintext is taken.
    pub plaintext: Plaintext,
    /// Where the application listens: a cluster of one address, or of the original destination.
    pub upstream: Arc<Cluster>,
    /// Who may; nothing where everybody may.
    pub authorization: Option<Arc<Authorization>>,
}

/// Whether plaintext is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plaintext {
    /// Refused with `plaintext_refused`.
    Refused,
    /// Accepted and counted.
    Accepted,
}

impl Inbound {
    /// The port that an SNI of the mesh names.
    pub fn by_sni(&self, sni: &str) -> Option<&InboundPort> {
        self.ports.iter().find(|port| &*port.sni == sni)
    }

    /// The port that an original destination names (transparent mode).
    pub fn by_port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.iter().find(|candidate| candidate.port == port)
    }
}

impl Endpoint {
    /// An endpoint of which nothing but its address is known.
    pub fn plain(address: SocketAddr) -> Self {
        Endpoint {
            address,
            identity: None,
            workload: "".into(),
            weight: 1,
            locality: Place::default(),
            priority: 0,
            load: Arc::default(),
            feedback: Arc::default(),
        }
    }

    /// Its IP address.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

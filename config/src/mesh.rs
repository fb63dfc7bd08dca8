//! The ready configuration: what the rest of Malla works with.
//!
//! Every value here is valid and every reference inside it resolves: a [`Mesh`] exists only if loading found no error.
//! Nothing downstream checks again what this module's types guarantee.

mod authorization;
mod filter;
mod policy;
mod route_test;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::authorization::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, AuthorizationTarget, Caller, CallerCondition,
    DefaultAuthorization, IdentityMatch, Operation,
};
pub use self::filter::{
    BackendFilters, Cors, Filters, HeaderChanges, Mirror, PathRewrite, Redirect, Rewrite, Scheme, Session,
    SessionCarrier,
};
pub use self::policy::{
    Abort, AbortStatus, Delay, Fault, HeaderBuckets, Hedging, RateLimit, Retry, RetryOn, Share, TokenBucket,
};
pub use self::route_test::{Expectation, ExpectedBackend, RouteTest};
pub use self::traffic::{
    AdaptiveConcurrency, Algorithm, EndpointLimits, FailurePercentage, HashOn, HealthCheck, HealthCheckKind,
    LatencyOutlier, LoadBalancer, LocalityPolicy, LocalityPreference, OutlierDetection, Overload, RetryBudget,
    SlowStart, Subset, SubsetFallback, SuccessRate, TrafficLimits, TrafficPolicy, TrafficTarget,
};

/// A whole configuration, validated.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mesh {
    /// Mesh-wide settings: the `Mesh` kind, or its defaults.
    pub settings: MeshSettings,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// Processes with (or without) a sidecar, by namespace and name.
    pub workloads: BTreeMap<WorkloadName, Workload>,
    /// Explicit endpoints of services (`EndpointSlice`), in file order.
    pub endpoint_slices: Vec<EndpointSlice>,
    /// `HTTPRoute`s and `GRPCRoute`s attached to services, in the order of Gateway API precedence between routes
    /// (creation order: file order here).
    pub http_routes: Vec<HttpRoute>,
    /// `TCPRoute`s attached to services.
    pub tcp_routes: Vec<TcpRoute>,
    /// `TLSRoute`s attached to services.
    pub tls_routes: Vec<TlsRoute>,
    /// `AuthorizationPolicy`s, in file order.
    pub authorization_policies: Vec<AuthorizationPolicy>,
    /// What `TrafficPolicy`s say, by service and port; no two of them say something about the same.
    pub traffic_policies: BTreeMap<TrafficTarget, Arc<TrafficPolicy>>,
    /// Promises about requests, for programs that check them.
    pub route_tests: Vec<RouteTest>,
}

/// Mesh-wide settings (kind `Mesh`).
#[derive(Debug, Clone, PartialEq)]
pub struct MeshSettings {
    /// SPIFFE trust domain. Default `cluster.local`.
    pub trust_domain: Arc<str>,
    /// mTLS for all workloads that say nothing themselves. Default strict.
    pub mtls: MtlsMode,
    /// mTLS per namespace; wins over `mtls`, loses to a workload's own.
    pub namespace_mtls: BTreeMap<Arc<str>, MtlsMode>,
    /// Namespaces of a cluster whose workloads get no sidecars; empty outside of clusters.
    pub outside: BTreeSet<Arc<str>>,
    /// What a sidecar does with destinations outside the mesh. Default pass through.
    pub unknown_destinations: UnknownDestinations,
    /// What happens to a request where no policy that allows is about its port. Default allow.
    pub default_authorization: DefaultAuthorization,
    /// Other trust domains, none of them the mesh's own, with their roots (PEM, at least one certificate each).
    pub federation: BTreeMap<Arc<str>, Arc<str>>,
    /// Service accounts of the mesh's trust domain, as namespace and name, that may look at traffic from elsewhere. Default: none.
    pub observers: BTreeSet<(Arc<str>, Arc<str>)>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        MeshSettings {
            trust_domain: "cluster.local".into(),
            mtls: MtlsMode::Strict,
            namespace_mtls: BTreeMap::new(),
            outside: BTreeSet::new(),
            unknown_destinations: UnknownDestinations::PassThrough,
            default_authorization: DefaultAuthorization::Allow,
            federation: BTreeMap::new(),
            observers: BTreeSet::new(),
        }
    }
}

impl MeshSettings {
    /// What holds for a workload with a sidecar that says nothing itself.
    pub fn mtls_in(&self, namespace: &str) -> MtlsMode {
        self.namespace_mtls.get(namespace).copied().unwrap_or(self.mtls)
    }

    /// The same for what has no sidecar: where nobody gets one, plaintext is how it is reached.
    pub fn mtls_without_sidecar(&self, namespace: &str) -> MtlsMode {
        if self.outside.contains(namespace) { MtlsMode::Permissive } else { self.mtls_in(namespace) }
    }
}

/// Whether a workload takes plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtlsMode {
    /// Mesh mTLS only; plaintext is refused.
    #[default]
    Strict,
    /// Plaintext is accepted and counted: for migration.
    Permissive,
}

/// What happens to destinations that the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownDestinations {
    /// Forward untouched, count.
    #[default]
    PassThrough,
    /// Refuse with `no_route`.
    Deny,
}

macro_rules! namespaced_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            /// Namespace.
            pub namespace: Arc<str>,
            /// Name within the namespace.
            pub name: Arc<str>,
        }
        impl $name {
            /// A name from its two parts.
            pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
                $name { namespace: namespace.into(), name: name.into() }
            }
        }
        /// `name.namespace`, as it appears in xDS resource names.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.name, self.namespace)
            }
        }
    };
}
namespaced_name!(
    /// `name.namespace` of a `Service`.
    ServiceName
);
namespaced_name!(
    /// `name.namespace` of a `Workload`.
    WorkloadName
);
namespaced_name!(
    /// `name.namespace` of a route.
    RouteName
);

/// A `Service`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Virtual addresses (`clusterIP`, `clusterIPs`, `externalIPs`); empty for headless services.
    pub addresses: Vec<IpAddr>,
    /// Ports in file order, at least one unless `ExternalName`; of another name, those of the service that it stands for.
    pub ports: Vec<ServicePort>,
    /// Where its endpoints come from.
    pub endpoints: EndpointSource,
}

/// Where the endpoints of a service come from.
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointSource {
    /// Workloads of the same namespace that carry all these labels.
    Selector(BTreeMap<String, String>),
    /// `EndpointSlice`s labelled with the service's name.
    Slices,
    /// `ExternalName`: a DNS name outside the mesh.
    ExternalName(Arc<str>),
    /// `ExternalName` of a service of the mesh: another name for it. That service is none itself.
    Service(ServiceName),
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    /// Name; empty if the only port has none.
    pub name: Arc<str>,
    /// The port that clients use.
    pub port: u16,
    /// The port of the endpoints.
    pub target: TargetPort,
    /// Declared by `appProtocol`, the port's name prefix (`http-`, `grpc-`, `http2-`, `tcp-` …), or a known server-first
    /// port number; otherwise [`AppProtocol::Detect`].
    pub protocol: AppProtocol,
}

/// `targetPort` of a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number (also when `targetPort` is absent: the service port itself).
    Number(u16),
    /// The workload's port of this name.
    Name(Arc<str>),
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.x (`http`, `http1`).
    Http1,
    /// HTTP/2 with prior knowledge (`http2`, `kubernetes.io/h2c`).
    Http2,
    /// gRPC: HTTP/2 whose errors are answered in gRPC's form.
    Grpc,
    /// Raw TCP (`tcp`, `mysql`, `redis`, `mongo`, `postgres`, `kafka` …).
    Tcp,
    /// The application's own TLS (`https`, `tls`): carried untouched, routed by SNI.
    Tls,
    /// Not declared: the sidecar peeks.
    Detect,
}

/// A process of the mesh outside (or inside) Kubernetes.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Its name; the sidecar is started with it.
    pub name: WorkloadName,
    /// Labels that services select.
    pub labels: BTreeMap<String, String>,
    /// Service account: with the namespace and the trust domain, its SPIFFE identity.
    pub service_account: Arc<str>,
    /// Its trust domain, if that is another mesh's: one of [`MeshSettings::federation`].
    pub trust_domain: Option<Arc<str>>,
    /// Address at which other workloads reach its sidecar (or the process itself, if it has none).
    pub address: IpAddr,
    /// Named ports, for services whose `targetPort` is a name.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// How its sidecar receives traffic.
    pub sidecar: Sidecar,
    /// Its own mTLS mode, if it says one.
    pub mtls: Option<MtlsMode>,
    /// Relative weight among the endpoints of a service. Default 1; zero receives nothing.
    pub weight: u32,
    /// Where it runs.
    pub locality: Locality,
}

/// How a workload's sidecar receives traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sidecar {
    /// Redirection on the workload's host or network namespace: mTLS on the application's own port.
    Transparent,
    /// No redirection: the sidecar listens at `address:inbound_port` and forwards to the application.
    Explicit {
        /// Inbound listener of the sidecar. Default 15006.
        inbound_port: u16,
        /// Where the application itself listens. Default 127.0.0.1.
        application: IpAddr,
    },
    /// No sidecar: reached in plaintext, and only where the mode is permissive.
    None,
}

/// Region and zone; empty where unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
}

/// Explicit endpoints of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    /// The service they belong to (label `kubernetes.io/service-name`).
    pub service: ServiceName,
    /// Port name → port number.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of an `EndpointSlice`.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; default true. Endpoints that are not ready receive nothing.
    pub ready: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// The workload behind it (`targetRef` of kind `Workload` or `Pod`); without one it has no sidecar.
    pub workload: Option<WorkloadName>,
    /// `hostname`: of a headless service, it is reached under this name too (`db-0.db.shop`).
    pub hostname: Option<Arc<str>>,
    /// Where it runs.
    pub locality: Locality,
}

/// What kind of route a rule came from: it decides the form of generated errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// `HTTPRoute`.
    Http,
    /// `GRPCRoute`.
    Grpc,
}

/// An `HTTPRoute` or `GRPCRoute`, attached.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// Which of the two.
    pub kind: RouteKind,
    /// Its name.
    pub name: RouteName,
    /// Services and ports it attaches to, at least one.
    pub parents: Vec<ParentRef>,
    /// `hostnames`, lower case, `*.` prefix for wildcards; empty means all.
    pub hostnames: Vec<Arc<str>>,
    /// Its rules in file order, at least one.
    pub rules: Vec<HttpRule>,
}

/// A service (and port) that a route attaches to. If it is of another namespace than the route, the route is for the clients of its
/// own namespace only (a "consumer route" of GAMMA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The service.
    pub service: ServiceName,
    /// One port, or all.
    pub port: Option<u16>,
}

/// One rule: any of `matches`, to `backends`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRule {
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// Alternatives, at least one (an absent list is one match for prefix `/`).
    pub matches: Vec<HttpMatch>,
    /// What is done besides.
    pub filters: Filters,
    /// Where to. Empty or all of weight zero: 500 with `no_endpoints` (Gateway API, `HTTPRouteRule.backendRefs`), unless the
    /// filters answer.
    pub backends: Vec<Backend>,
    /// `timeouts.request`; none unless set, zero means none.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`: each try.
    pub backend_request_timeout: Option<Duration>,
    /// `retry`, or a `RetryPolicy`; without, what certainly was not processed is tried again once.
    pub retry: Option<Retry>,
}

/// One alternative of a rule; all of its parts must match.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpMatch {
    /// Path.
    pub path: PathMatch,
    /// Headers, names in lower case.
    pub headers: Vec<(Arc<str>, ValueMatch)>,
    /// Query parameters.
    pub query: Vec<(Arc<str>, ValueMatch)>,
    /// Method, upper case.
    pub method: Option<Arc<str>>,
}

/// How a path matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// Leading segments: `/a` matches `/a` and `/a/b`, not `/ab`. Without trailing slash, except `/` itself.
    Prefix(Arc<str>),
    /// The whole path, by a regular expression that `regex` accepts.
    Regex(Arc<str>),
}

/// How a header or query value matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// The whole value.
    Exact(Arc<str>),
    /// The whole value, by a regular expression.
    Regex(Arc<str>),
}

/// A weighted backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// A part of its endpoints, which its policy has; `None` for all.
    pub subset: Option<Arc<str>>,
    /// Share among the backends of the rule. Default 1; zero receives nothing.
    pub weight: u32,
    /// What is done to its requests and answers; nothing in routes of streams.
    pub filters: BackendFilters,
}

/// A `TCPRoute`: one rule, weighted backends.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpRoute {
    /// Its name.
    pub name: RouteName,
    /// Services and ports it attaches to.
    pub parents: Vec<ParentRef>,
    /// Weighted backends.
    pub backends: Vec<Backend>,
}

/// A `TLSRoute`: by SNI, without decryption.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsRoute {
    /// Its name.
    pub name: RouteName,
    /// Services and ports it attaches to.
    pub parents: Vec<ParentRef>,
    /// Server names, `*.` prefix for wildcards.
    pub hostnames: Vec<Arc<str>>,
    /// Weighted backends.
    pub backends: Vec<Backend>,
}

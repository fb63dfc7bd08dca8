//! From resources that name each other to a snapshot whose parts hold each other.
//!
//! A destination becomes visible when everything it needs has arrived (warming); until then the one before it serves, with
//! fresh endpoints. What has not changed stays the same `Arc`, so that a change of one endpoint set rebuilds one cluster and
//! what leads to it, and loads, limits and budgets live on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::store::{Known, Store};
use crate::balance::{EndpointSet, Feedback, Limiter, RetryBudget};
use crate::decode::cluster::Discovery;
use crate::decode::endpoints::Sidecar;
use crate::decode::listener::{RouteSource, ServiceSpec, TcpSpec};
use crate::decode::{ClusterSpec, EndpointSpec, InboundSpec, ListenerSpec, RouteTable};
use crate::filter::{RateLimit, Share};
use crate::names::{Name, SpiffeId};
use crate::policy::{Place, Policy};
use crate::snapshot::{
    Cluster, Endpoint, Endpoints, HttpRoutes, Inbound, InboundPort, Mirror, Outbound, OutboundService, Route,
    RouteAction, TcpRoute, VirtualHost, WeightedClusters,
};

/// What was linked last.
#[derive(Debug, Default)]
pub(super) struct Linker {
    clusters: HashMap<Name, LinkedCluster>,
    routes: HashMap<Name, LinkedRoutes>,
    outbound: HashMap<Name, LinkedOutbound>,
    inbound: Option<LinkedInbound>,
    /// Where this workload runs, as its own ports say.
    place: Place,
}

/// The endpoints of a cluster, as one response told them.
type EndpointSpecs = Arc<Vec<EndpointSpec>>;

#[derive(Debug)]
struct LinkedCluster {
    from: Option<(Arc<ClusterSpec>, Option<EndpointSpecs>)>,
    cluster: Arc<Cluster>,
    /// Whether it was linked for another place.
    stale: bool,
}

#[derive(Debug)]
struct LinkedRoutes {
    table: Arc<RouteTable>,
    clusters: Vec<Arc<Cluster>>,
    routes: Arc<HttpRoutes>,
}

#[derive(Debug)]
struct LinkedOutbound {
    spec: Arc<ListenerSpec>,
    table: Option<Arc<RouteTable>>,
    parts: Parts,
    outbound: Arc<Outbound>,
}

/// What a destination is made of, for comparison by identity.
#[derive(Debug, Default)]
struct Parts {
    http: Option<Arc<HttpRoutes>>,
    clusters: Vec<Arc<Cluster>>,
}

#[derive(Debug)]
struct LinkedInbound {
    spec: Arc<InboundSpec>,
    clusters: Vec<Arc<Cluster>>,
    inbound: Arc<Inbound>,
}

/// What became of a destination.
#[derive(Debug)]
pub(super) enum Link {
    /// It can be used.
    Ready(Arc<Outbound>),
    /// Something has not arrived yet and nothing served before.
    Waiting,
    /// There is nothing that can be used.
    Nothing,
}

/// Something it needs has not arrived yet.
struct Waiting;

impl Linker {
    /// The destination of a name, from the newest of what has arrived completely.
    pub(super) fn outbound(&mut self, name: &Name, store: &Store) -> Link {
        let newest = match store.listeners.get(name) {
            Known::Nothing => {
                self.outbound.remove(name);
                return Link::Nothing;
            }
            Known::Waiting(_) => Err(Waiting),
            Known::Ready(spec) => table_of(spec, store).and_then(|table| self.link(name, spec, table, store)),
        };
        if let Ok(outbound) = newest {
            return Link::Ready(outbound);
        }
        let Some(before) = self.outbound.get(name) else { return Link::Waiting };
        let (spec, table, outbound) = (before.spec.clone(), before.table.clone(), before.outbound.clone());
        Link::Ready(self.link(name, &spec, table, store).unwrap_or(outbound))
    }

    /// Where this workload runs. When that changes, every cluster is linked anew.
    pub(super) fn place(&mut self, place: &Place) {
        if self.place != *place {
            self.place = place.clone();
            self.clusters.values_mut().for_each(|linked| linked.stale = true);
        }
    }

    /// This workload's own ports, when everything they need has arrived.
    pub(super) fn inbound(&mut self, name: &str, store: &Store) -> Option<Arc<Inbound>> {
        let before = self.inbound.as_ref().map(|linked| linked.spec.clone());
        for spec in store.inbound.ready(name).cloned().into_iter().chain(before) {
            let clusters: Result<Vec<_>, Waiting> =
                spec.ports.iter().map(|port| self.cluster(&port.cluster, store)).collect();
            let Ok(clusters) = clusters else { continue };
            if let Some(linked) = &self.inbound
                && Arc::ptr_eq(&linked.spec, &spec)
                && same(&linked.clusters, &clusters)
            {
                return Some(linked.inbound.clone());
            }
            let ports = spec.ports.iter().zip(&clusters).map(|(port, cluster)| InboundPort {
                service: port.service.clone(),
                sni: port.sni.clone(),
                port: port.port,
                protocol: port.protocol,
                plaintext: port.plaintext,
                upstream: cluster.clone(),
                authorization: port.authorization.clone(),
            });
            let inbound = Arc::new(Inbound { name: spec.name.clone(), ports: ports.collect() });
            self.inbound = Some(LinkedInbound { spec, clusters, inbound: inbound.clone() });
            return Some(inbound);
        }
        self.inbound.as_ref().map(|linked| linked.inbound.clone())
    }

    /// What serves still refers to these: the specifications that were linked last.
    pub(super) fn serving(&self) -> impl Iterator<Item = (&Arc<ListenerSpec>, Option<&Arc<RouteTable>>)> {
        self.outbound.values().map(|linked| (&linked.spec, linked.table.as_ref()))
    }

    /// The ports that serve.
    pub(super) fn serving_inbound(&self) -> Option<&Arc<InboundSpec>> {
        self.inbound.as_ref().map(|linked| &linked.spec)
    }

    /// Forgets destinations that are no longer asked for, and what only they used.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool, store: &Store) {
        self.outbound.retain(|name, _| wanted(name));
        self.routes.retain(|name, _| !matches!(store.routes.get(name), Known::Waiting(None)));
        self.clusters.retain(|name, _| !matches!(store.clusters.get(name), Known::Waiting(None)));
    }

    fn link(
        &mut self,
        name: &Name,
        spec: &Arc<ListenerSpec>,
        table: Option<Arc<RouteTable>>,
        store: &Store,
    ) -> Result<Arc<Outbound>, Waiting> {
        let parts = match &**spec {
            ListenerSpec::Unknown(_) => Parts::default(),
            ListenerSpec::Service(service) => self.parts(service, table.as_ref(), store)?,
        };
        if let Some(linked) = self.outbound.get_mut(name)
            && Arc::ptr_eq(&linked.spec, spec)
            && parts.same(&linked.parts)
        {
            linked.table = table;
            return Ok(linked.outbound.clone());
        }
        let outbound = Arc::new(match &**spec {
            ListenerSpec::Unknown(unknown) => Outbound::Unknown(*unknown),
            ListenerSpec::Service(service) => Outbound::Service(assemble(service, &parts)),
        });
        let linked = LinkedOutbound { spec: spec.clone(), table, parts, outbound: outbound.clone() };
        self.outbound.insert(name.clone(), linked);
        Ok(outbound)
    }

    fn parts(
        &mut self,
        service: &ServiceSpec,
        table: Option<&Arc<RouteTable>>,
        store: &Store,
    ) -> Result<Parts, Waiting> {
        let http = match (&service.http, table) {
            (None, _) => None,
            (Some(RouteSource::Inline(table)), _) | (Some(_), Some(table)) => Some(self.routes(table, store)?),
            // Refused or absent: an empty table routes nothing, and says so with a word.
            (Some(RouteSource::Named(name)), None) => {
                Some(Arc::new(HttpRoutes { name: name.clone(), virtual_hosts: Vec::new() }))
            }
        };
        let tcp = service.tcp.iter().chain(service.sni.iter().map(|(_, tcp)| tcp));
        let clusters =
            tcp.flat_map(|tcp| &tcp.clusters).map(|(name, _)| self.cluster(name, store)).collect::<Result<_, _>>()?;
        Ok(Parts { http, clusters })
    }

    fn routes(&mut self, table: &Arc<RouteTable>, store: &Store) -> Result<Arc<HttpRoutes>, Waiting> {
        let clusters: Vec<Arc<Cluster>> =
            table.clusters().map(|name| self.cluster(name, store)).collect::<Result<_, _>>()?;
        if let Some(linked) = self.routes.get(&table.name)
            && Arc::ptr_eq(&linked.table, table)
            && same(&linked.clusters, &clusters)
        {
            return Ok(linked.routes.clone());
        }
        let before = self.routes.get(&table.name).map(|linked| &*linked.routes);
        let routes = Arc::new(table.linked(before, clusters.iter().cloned()));
        self.routes.insert(table.name.clone(), LinkedRoutes { table: table.clone(), clusters, routes: routes.clone() });
        Ok(routes)
    }

    fn cluster(&mut self, name: &Name, store: &Store) -> Result<Arc<Cluster>, Waiting> {
        let before = self.clusters.get(name);
        let from = match store.clusters.get(name) {
            Known::Waiting(_) => Err(Waiting),
            Known::Nothing => Ok(None),
            Known::Ready(spec) => match &spec.discovery {
                Discovery::Named(service) => match store.endpoints.get(service) {
                    Known::Waiting(_) => Err(Waiting),
                    Known::Nothing => Ok(Some((spec.clone(), None))),
                    Known::Ready(endpoints) => Ok(Some((spec.clone(), Some(endpoints.clone())))),
                },
                Discovery::Static(endpoints) => Ok(Some((spec.clone(), Some(endpoints.clone())))),
                Discovery::Dns { .. } | Discovery::OriginalDst => Ok(Some((spec.clone(), None))),
            },
        };
        let Ok(from) = from else { return before.map(|linked| linked.cluster.clone()).ok_or(Waiting) };
        if let Some(linked) = before.filter(|linked| !linked.stale && same_source(&linked.from, &from)) {
            return Ok(linked.cluster.clone());
        }
        let source = from.as_ref().map(|(spec, endpoints)| (&**spec, endpoints.as_ref().map(|list| list.as_slice())));
        let cluster = Arc::new(build(name, source, before.map(|linked| &*linked.cluster), &self.place));
        self.clusters.insert(name.clone(), LinkedCluster { from, cluster: cluster.clone(), stale: false });
        Ok(cluster)
    }
}

impl RouteTable {
    /// The routes as requests choose from them. `clusters` are those that [`RouteTable::clusters`] names, in that order; a
    /// route whose clusters are not among them leads nowhere. `before` is what serves: unchanged rate limits live on.
    pub fn linked(&self, before: Option<&HttpRoutes>, mut clusters: impl Iterator<Item = Arc<Cluster>>) -> HttpRoutes {
        let mut limits = Limiters::of(before);
        let virtual_hosts = self.virtual_hosts.iter().map(|host| {
            let routes = host.routes.iter().map(|route| Route {
                name: route.name.clone(),
                matcher: route.matcher.clone(),
                action: match (&route.redirect, weighted(&route.clusters, &mut clusters)) {
                    (Some(redirect), _) => RouteAction::Redirect(redirect.clone()),
                    (None, Some(clusters)) => RouteAction::Forward(clusters),
                    (None, None) => RouteAction::NoBackend,
                },
                timeout: route.timeout,
                try_timeout: route.try_timeout,
                retry: route.retry.clone(),
                filters: route.filters.clone(),
                mirrors: mirrors(&route.mirrors, &mut clusters),
                limits: route.limits.iter().map(|limit| limits.shared(&route.name, limit)).collect(),
            });
            VirtualHost { domains: host.domains.clone(), routes: routes.collect() }
        });
        HttpRoutes { name: self.name.clone(), virtual_hosts: virtual_hosts.collect() }
    }
}

/// The rate limits of a route configuration: one for all entries of a rule, and the same as before if it has not changed, so that a
/// change elsewhere gives nobody a full bucket.
struct Limiters(Vec<(Name, Arc<RateLimit>)>);

impl Limiters {
    fn of(before: Option<&HttpRoutes>) -> Self {
        let routes = before.into_iter().flat_map(|routes| &routes.virtual_hosts).flat_map(|host| &host.routes);
        Limiters(
            routes.flat_map(|route| route.limits.iter().map(|limit| (route.name.clone(), limit.clone()))).collect(),
        )
    }

    fn shared(&mut self, route: &Name, limit: &Arc<RateLimit>) -> Arc<RateLimit> {
        let known = self.0.iter().find(|(name, known)| name == route && known.is_same(limit));
        if let Some((_, known)) = known {
            return known.clone();
        }
        self.0.push((route.clone(), limit.clone()));
        limit.clone()
    }
}

impl Parts {
    fn same(&self, other: &Parts) -> bool {
        let http = match (&self.http, &other.http) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.virtual_hosts.is_empty() && b.virtual_hosts.is_empty()),
            (None, None) => true,
            _ => false,
        };
        http && same(&self.clusters, &other.clusters)
    }
}

/// The route configuration that a listener refers to: `None` if it refers to none or there is none that can be used.
fn table_of(spec: &ListenerSpec, store: &Store) -> Result<Option<Arc<RouteTable>>, Waiting> {
    match spec {
        ListenerSpec::Service(ServiceSpec { http: Some(RouteSource::Named(name)), .. }) => match store.routes.get(name)
        {
            Known::Waiting(_) => Err(Waiting),
            Known::Ready(table) => Ok(Some(table.clone())),
            Known::Nothing => Ok(None),
        },
        _ => Ok(None),
    }
}

fn assemble(service: &ServiceSpec, parts: &Parts) -> OutboundService {
    let mut clusters = parts.clusters.iter().cloned();
    let mut route =
        |tcp: &TcpSpec| TcpRoute { name: tcp.name.clone(), clusters: weighted(&tcp.clusters, &mut clusters) };
    OutboundService {
        name: service.name.clone(),
        protocol: service.protocol,
        http: parts.http.clone(),
        tcp: service.tcp.as_ref().map(&mut route),
        sni: service.sni.iter().map(|(names, tcp)| (names.clone(), route(tcp))).collect(),
    }
}

/// Takes as many clusters as there are weights; they were linked in the same order.
fn weighted(weights: &[(Name, u32)], clusters: &mut impl Iterator<Item = Arc<Cluster>>) -> Option<WeightedClusters> {
    // The weights first: whoever asks for a cluster when no weight is left takes the next route's.
    WeightedClusters::new(weights.iter().zip(clusters).map(|((_, weight), cluster)| (cluster, *weight)))
}

/// Takes as many clusters as there are mirrors; they were linked in the same order.
fn mirrors(shares: &[(Name, Share)], clusters: &mut impl Iterator<Item = Arc<Cluster>>) -> Vec<Mirror> {
    shares.iter().zip(clusters).map(|((_, share), cluster)| Mirror { cluster, share: *share }).collect()
}

/// A cluster, with the loads, limits and budgets of the one before it.
fn build(
    name: &Name,
    source: Option<(&ClusterSpec, Option<&[EndpointSpec]>)>,
    before: Option<&Cluster>,
    own: &Place,
) -> Cluster {
    let Some((spec, listed)) = source else { return Cluster { name: name.clone(), ..Cluster::default() } };
    let policy = spec.policy.clone();
    let feedback = feedback(name, &policy, before);
    let endpoints = match &spec.discovery {
        Discovery::Dns { host, port } => Endpoints::Dns { host: host.clone(), port: *port },
        Discovery::OriginalDst => Endpoints::OriginalDst,
        Discovery::Named(_) | Discovery::Static(_) => {
            let identities = spec.tls.as_ref().map(|tls| tls.identities.as_slice());
            let endpoints = endpoints(listed.unwrap_or_default(), identities, &feedback, before);
            feedback.watch.replace(endpoints.iter().map(|one| (one.address, one.load.clone())).collect());
            let watch = feedback.watch.clone();
            Endpoints::Set(EndpointSet::new(endpoints, policy.clone(), watch, own, spec.limits.endpoint_requests))
        }
    };
    let retry_budget: Arc<RetryBudget> = before.map(|before| before.retry_budget.clone()).unwrap_or_default();
    let (percent, per_second, most) = spec.retry_budget;
    retry_budget.set(percent, per_second, most);
    Cluster {
        name: name.clone(),
        endpoints,
        http: spec.http,
        tls: spec.tls.clone(),
        connect_timeout: spec.connect_timeout,
        idle_timeout: spec.idle_timeout,
        request_idle_timeout: spec.request_idle_timeout,
        policy,
        feedback,
        limits: spec.limits,
        retry_budget,
        usage: before.map(|before| before.usage.clone()).unwrap_or_default(),
        latencies: before.map(|before| before.latencies.clone()).unwrap_or_default(),
    }
}

/// The same as before if the policy says the same; what is known of the endpoints' health in any case.
fn feedback(name: &Name, policy: &Policy, before: Option<&Cluster>) -> Arc<Feedback> {
    let settings = |limiter: &Arc<Limiter>| limiter.settings().clone();
    let before = before.map(|before| &before.feedback);
    if let Some(before) = before
        && before.outliers == policy.outliers
        && before.limiter.as_ref().map(settings) == policy.overload
    {
        return before.clone();
    }
    let limiter =
        before.and_then(|before| before.limiter.clone()).filter(|limiter| Some(settings(limiter)) == policy.overload);
    Arc::new(Feedback {
        cluster: name.clone(),
        outliers: policy.outliers.clone(),
        watch: before.map(|before| before.watch.clone()).unwrap_or_default(),
        limiter: limiter.or_else(|| policy.overload.clone().map(|overload| Arc::new(Limiter::new(overload)))),
    })
}

/// Endpoints in the form that is balanced over. `identities` are those of the cluster, if it has TLS.
fn endpoints(
    listed: &[EndpointSpec],
    identities: Option<&[SpiffeId]>,
    feedback: &Arc<Feedback>,
    before: Option<&Cluster>,
) -> Vec<Arc<Endpoint>> {
    let before: HashMap<SocketAddr, &Arc<Endpoint>> = match before.map(|before| &before.endpoints) {
        Some(Endpoints::Set(set)) => set.iter().map(|endpoint| (endpoint.address, endpoint)).collect(),
        _ => HashMap::new(),
    };
    let link = |spec: &EndpointSpec| {
        let identity = identity(spec, identities)?;
        let before = before.get(&spec.address);
        let same = |endpoint: &&&Arc<Endpoint>| {
            unchanged(endpoint, spec, identity.as_ref()) && Arc::ptr_eq(&endpoint.feedback, feedback)
        };
        if let Some(endpoint) = before.filter(same) {
            return Some(Arc::clone(endpoint));
        }
        Some(Arc::new(Endpoint {
            address: spec.address,
            identity,
            workload: spec.workload.clone(),
            weight: spec.weight,
            locality: spec.locality.clone(),
            priority: spec.priority,
            load: before.map(|endpoint| endpoint.load.clone()).unwrap_or_default(),
            feedback: feedback.clone(),
        }))
    };
    listed.iter().filter_map(link).collect()
}

/// The identity that an endpoint must present; `Some(None)` is plaintext, `None` an endpoint that cannot be used: the cluster
/// has TLS and nobody says who the endpoint is, or the endpoint has an identity and the cluster has no TLS. Better no connection than
/// one in plaintext by mistake.
fn identity(spec: &EndpointSpec, identities: Option<&[SpiffeId]>) -> Option<Option<SpiffeId>> {
    match (&spec.sidecar, identities) {
        (Sidecar::Identity(identity), Some(_)) => Some(Some(identity.clone())),
        (Sidecar::Identity(_), None) => None,
        (Sidecar::Absent, _) | (Sidecar::Unsaid, None) => Some(None),
        (Sidecar::Unsaid, Some([identity])) => Some(Some(identity.clone())),
        (Sidecar::Unsaid, Some(_)) => None,
    }
}

fn unchanged(endpoint: &Endpoint, spec: &EndpointSpec, identity: Option<&SpiffeId>) -> bool {
    endpoint.identity.as_ref() == identity
        && endpoint.workload == spec.workload
        && endpoint.weight == spec.weight
        && endpoint.locality == spec.locality
        && endpoint.priority == spec.priority
}

fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

type Source = Option<(Arc<ClusterSpec>, Option<Arc<Vec<EndpointSpec>>>)>;

fn same_source(a: &Source, b: &Source) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some((a, a_endpoints)), Some((b, b_endpoints))) => {
            let endpoints = match (a_endpoints, b_endpoints) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            };
            endpoints && Arc::ptr_eq(a, b)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_takes_its_own_clusters_and_no_others() {
        let cluster = |name: &str| Arc::new(crate::http::testing::cluster(name, Vec::new()));
        let mut linked = ["a", "b", "c", "d"].map(cluster).into_iter();
        for expected in [&["a"][..], &["b", "c"], &[], &["d"]] {
            let weights: Vec<(Name, u32)> = expected.iter().map(|name| (Name::from(*name), 1)).collect();
            let taken = weighted(&weights, &mut linked).map_or_else(Vec::new, |weighted| weighted.clusters);
            let taken: Vec<&str> = taken.iter().map(|(cluster, _)| &*cluster.name).collect();
            assert_eq!(taken, expected);
        }
    }

    #[test]
    fn plaintext_needs_the_control_servers_word_where_the_cluster_has_tls() {
        let id = |account: &str| SpiffeId::new("td", "shop", account).expect("valid");
        let (cart, other) = (id("cart"), id("other"));
        let of = |sidecar: Sidecar, identities: Option<&[SpiffeId]>| {
            let spec = EndpointSpec {
                address: SocketAddr::from(([10, 0, 0, 1], 80)),
                sidecar,
                workload: "".into(),
                weight: 1,
                locality: ("".into(), "".into()),
                priority: 0,
            };
            identity(&spec, identities)
        };
        let (one, two) = ([cart.clone()], [cart.clone(), other]);
        let plaintext = Some(None);
        assert_eq!(of(Sidecar::Identity(cart.clone()), Some(&two)), Some(Some(cart.clone())));
        assert_eq!(of(Sidecar::Identity(cart.clone()), None), None);
        assert_eq!(of(Sidecar::Absent, Some(&two)), plaintext);
        assert_eq!(of(Sidecar::Absent, None), plaintext);
        assert_eq!(of(Sidecar::Unsaid, None), plaintext);
        assert_eq!(of(Sidecar::Unsaid, Some(&one)), Some(Some(cart)));
        assert_eq!(of(Sidecar::Unsaid, Some(&two)), None);
        assert_eq!(of(Sidecar::Unsaid, Some(&[])), None);
    }
}

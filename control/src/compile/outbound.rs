//! What clients ask for: each service port as listener, routes, cluster and endpoints; each workload port by its address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use malla_config::mesh::{AppProtocol, HttpRoute, Mesh, Sidecar, Subset, SubsetFallback, TlsRoute, Workload};
use malla_xds::envoy::listener::{ApiListener, FilterChain, FilterChainMatch, Listener};
use malla_xds::envoy::pack_any;
use malla_xds::envoy::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use malla_xds::envoy::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
use malla_xds::{Name, Resource, ResourceType, names};

use super::attached::{Attachments, Routes};
use super::endpoints::load_assignment;
use super::memory::{Addresses, Known, OfPort};
use super::policy::Hashing;
use super::split::Split;
use super::{cluster, filters, inbound, overrides, route};
use crate::world::{Endpoint, ResolvedPort, ServedPort, ServicePortName, Upstream, World, WorldError, of_workload};

/// What each service port is to its clients.
pub(super) fn services(world: &World, hashing: &Hashing, known: Known<'_>) -> HashMap<ServicePortName, Arc<OfPort>> {
    let mut aliases: BTreeMap<&ServicePortName, Vec<Name>> = BTreeMap::new();
    for (address, name) in &world.virtual_addresses {
        aliases.entry(name).or_default().push(names::original_destination(*address).into());
    }
    for (name, others) in &world.other_names {
        aliases.entry(name).or_default().extend(others.iter().map(|other| Name::from(other.to_string())));
    }
    let attachments = Attachments::new(&world.mesh);
    let of_port = |name: &ServicePortName, port: &ResolvedPort, aliases: Vec<Name>| {
        let mut resources = routed(name, port.protocol, &attachments.to(name, port.protocol), hashing, &aliases);
        let mut for_namespaces = Vec::new();
        for (namespace, routes) in attachments.of_consumers(name, port.protocol) {
            let own = routed(name, port.protocol, &routes, hashing, &aliases);
            let differs = |resource: &Resource| {
                !resources.iter().any(|other| (other.kind, &other.version) == (resource.kind, &resource.version))
            };
            let own = own.into_iter().filter(differs).map(Arc::new);
            for_namespaces.extend(own.map(|resource| (Name::from(namespace.as_ref()), resource)));
        }
        endpoints(name, port, &world.mesh, &mut resources);
        OfPort { aliases, resources: resources.into_iter().map(Arc::new).collect(), for_namespaces }
    };
    let rendered = world.ports.iter().map(|(name, port)| {
        let aliases = aliases.remove(name).unwrap_or_default();
        let known = known.port(name, port, &aliases);
        (name.clone(), known.unwrap_or_else(|| Arc::new(of_port(name, port, aliases))))
    });
    rendered.collect()
}

/// The listener of a service port, and its routes.
fn routed(
    name: &ServicePortName,
    protocol: AppProtocol,
    routes: &Routes<'_>,
    hashing: &Hashing,
    aliases: &[Name],
) -> Vec<Resource> {
    let text = name.to_string();
    let carries = Carries::new(protocol, routes);
    let listener = Listener {
        name: text.clone(),
        api_listener: carries.requests().then(|| api_listener(&text, &routes.http)),
        filter_chains: server_name_chains(&text, &routes.tls),
        default_filter_chain: carries.streams().then(|| {
            let split = routes.tcp.first().map(|tcp| Split::new(&tcp.backends));
            stream_chain(&text, split.unwrap_or_else(|| Split::One(text.clone())))
        }),
        ..Default::default()
    };
    let mut resources = vec![Resource::new(ResourceType::Listener, text.as_str(), aliases.iter().cloned(), &listener)];
    if carries.requests() {
        resources.push(route::configuration(&text, &routes.http, hashing));
    }
    resources
}

/// The cluster of a service port, and its endpoints; and those of its subsets, which are services to whoever uses them: balanced,
/// limited and watched each by itself.
fn endpoints(name: &ServicePortName, port: &ResolvedPort, mesh: &Mesh, resources: &mut Vec<Resource>) {
    let text = name.to_string();
    match &port.upstream {
        Upstream::Endpoints(endpoints) => {
            // Of what may ever be behind a cluster its TLS knows the identities, whoever is there now.
            let mut render = |text: &str, possible: &[Endpoint], now: &[Endpoint]| {
                resources.push(cluster::of_endpoints(text, name.server_name(), port, possible));
                resources.push(Resource::new(ResourceType::Endpoints, text, [], &load_assignment(text, now)));
            };
            render(&text, endpoints, endpoints);
            for (subset, Subset { labels, fallback }) in &port.policy.subsets {
                let labelled = |endpoint: &&Endpoint| carries(mesh, endpoint, labels);
                let members: Vec<Endpoint> = endpoints.iter().filter(labelled).cloned().collect();
                let text = names::subset(&text, subset);
                match fallback {
                    SubsetFallback::None => render(&text, &members, &members),
                    SubsetFallback::All if members.iter().any(Endpoint::receives) => render(&text, endpoints, &members),
                    SubsetFallback::All => render(&text, endpoints, endpoints),
                }
            }
        }
        Upstream::Dns { host, port: target } => resources.push(cluster::of_dns_name(&text, host, *target, port)),
    }
}

/// Whether the workload of an endpoint has all these labels. An endpoint whose workload is not known has none.
fn carries(mesh: &Mesh, endpoint: &Endpoint, labels: &BTreeMap<String, String>) -> bool {
    let workload = endpoint.workload.as_ref().and_then(|name| mesh.workloads.get(name));
    workload.is_some_and(|workload| labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
}

/// A workload reached by its own address (headless services, interception that sees the chosen pod), without the routes of any
/// service.
pub(super) fn workload_ports(
    world: &World,
    workload: &Workload,
    ports: &BTreeMap<u16, ServedPort>,
    addresses: &Addresses,
    resources: &mut Vec<Resource>,
) -> Result<(), WorldError> {
    for (address, other_names) in addresses {
        let Some(served) = ports.get(&address.port()) else { continue };
        let text = names::endpoint(*address);
        let carries = Carries::new(served.protocol(), &Routes::default());
        let listener = Listener {
            name: text.clone(),
            api_listener: carries.requests().then(|| api_listener(&text, &[])),
            default_filter_chain: carries.streams().then(|| stream_chain(&text, Split::One(text.clone()))),
            ..Default::default()
        };
        let other_names = other_names.iter().map(|name| Name::from(name.as_str()));
        let aliases = [names::original_destination(*address).into()].into_iter().chain(other_names);
        resources.push(Resource::new(ResourceType::Listener, text.as_str(), aliases, &listener));
        if carries.requests() {
            resources.push(route::configuration(&text, &[], &Hashing::default()));
        }
        let server_name = inbound::server_name(&workload.name, address.port(), ports);
        let mut endpoint = of_workload(&world.mesh, workload, address.port())?;
        if !matches!(workload.sidecar, Sidecar::Explicit { .. }) {
            endpoint.address = *address;
        }
        resources.push(cluster::of_one(&text, server_name, served.protocol(), &endpoint));
    }
    Ok(())
}

/// What a destination carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    Requests,
    Streams,
    Either,
}

impl Carries {
    /// A port without declared protocol to which only a `TCPRoute` is attached carries streams: detecting HTTP would lead
    /// past that route.
    fn new(protocol: AppProtocol, routes: &Routes<'_>) -> Self {
        match protocol {
            AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => Carries::Requests,
            AppProtocol::Tcp | AppProtocol::Tls => Carries::Streams,
            AppProtocol::Detect if routes.http.is_empty() && !routes.tcp.is_empty() => Carries::Streams,
            AppProtocol::Detect => Carries::Either,
        }
    }

    fn requests(self) -> bool {
        self != Carries::Streams
    }

    fn streams(self) -> bool {
        self != Carries::Requests
    }
}

fn api_listener(name: &str, routes: &[&HttpRoute]) -> ApiListener {
    let manager = filters::http_manager(name, filters::routes_by_name(name), overrides::filters(routes));
    ApiListener { api_listener: Some(pack_any(manager)) }
}

/// One chain per `TLSRoute`. Of routes that claim the same server name, the oldest has it.
fn server_name_chains(listener: &str, routes: &[&TlsRoute]) -> Vec<FilterChain> {
    let mut taken = BTreeSet::new();
    let mut chains = Vec::new();
    for route in routes {
        let server_names: Vec<String> =
            route.hostnames.iter().filter(|name| taken.insert(*name)).map(ToString::to_string).collect();
        if !server_names.is_empty() {
            chains.push(FilterChain {
                name: format!("TLSRoute/{}/{}", route.name.namespace, route.name.name),
                filter_chain_match: Some(FilterChainMatch { server_names, ..Default::default() }),
                ..stream_chain(listener, Split::new(&route.backends))
            });
        }
    }
    chains
}

fn stream_chain(listener: &str, split: Split<'_>) -> FilterChain {
    let clusters = match split {
        Split::Nowhere => ClusterSpecifier::Cluster(names::NO_BACKEND.into()),
        Split::One(cluster) => ClusterSpecifier::Cluster(cluster),
        Split::Weighted(clusters) => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: clusters
                .into_iter()
                .map(|share| ClusterWeight { name: share.cluster, weight: share.weight, ..Default::default() })
                .collect(),
        }),
    };
    FilterChain {
        name: listener.to_owned(),
        filters: vec![filters::tcp_filter(listener, clusters)],
        ..Default::default()
    }
}

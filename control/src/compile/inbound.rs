//! What a workload's own sidecar serves: one filter chain per service port that leads to it (told apart by the server name of
//! the mesh's TLS), one for each port that is only declared, and the clusters that lead to the application.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use malla_config::mesh::{AppProtocol, MtlsMode, Sidecar, Workload, WorkloadName};
use malla_xds::envoy::core;
use malla_xds::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use malla_xds::envoy::listener::{Filter, FilterChain, FilterChainMatch, Listener};
use malla_xds::envoy::tcp_proxy::tcp_proxy::ClusterSpecifier;
use malla_xds::resource::string_struct;
use malla_xds::{Resource, ResourceType, names};

use super::authorization::Rules;
use super::filters::number;
use super::{authorization, cluster, filters, route, tls};
use crate::world::{ServedPort, World};

/// Renders the ports of a workload; nothing for one without a sidecar.
pub(super) fn render(
    world: &World,
    workload: &Workload,
    ports: &BTreeMap<u16, ServedPort>,
    resources: &mut Vec<Resource>,
) {
    if workload.trust_domain.is_some() {
        // Its sidecar asks its own control server.
        return;
    }
    let application = match workload.sidecar {
        Sidecar::None => return,
        Sidecar::Transparent => None,
        Sidecar::Explicit { application, .. } => Some(application),
    };
    let permissive = world.mode(workload) == MtlsMode::Permissive;
    let mut chains = Vec::new();
    for (port, served) in ports {
        let cluster_name = names::inbound_cluster(&workload.name, *port);
        let address = application.map(|application| SocketAddr::new(application, *port));
        resources.push(cluster::to_application(&cluster_name, address, served.agreed_protocol()));

        let rules = authorization::rules(world, workload, served);
        let first = chains.len();
        for service in &served.services {
            let filters = chain_filters(&service.name.to_string(), &cluster_name, service.protocol, &rules);
            chains.push(mesh_chain(service.name.to_string(), *port, service.name.server_name(), filters));
        }
        if served.services.is_empty() {
            let name = names::service_port(&workload.name, *port);
            let filters = chain_filters(&name, &cluster_name, AppProtocol::Detect, &rules);
            chains.push(mesh_chain(name, *port, server_name(&workload.name, *port, ports), filters));
        }
        if permissive {
            chains.extend(chains.get(first).map(plaintext_chain));
        }
    }
    let name = names::inbound_listener(&workload.name);
    let listener = Listener {
        name: name.clone(),
        filter_chains: chains,
        metadata: Some(locality(workload)),
        ..Default::default()
    };
    resources.push(Resource::new(ResourceType::Listener, name, [], &listener));
}

/// Where the workload runs: its sidecar prefers what is near.
fn locality(workload: &Workload) -> core::Metadata {
    let fields =
        [(names::METADATA_REGION, &*workload.locality.region), (names::METADATA_ZONE, &*workload.locality.zone)];
    let fields = string_struct(fields.into_iter().filter(|(_, value)| !value.is_empty()));
    core::Metadata { filter_metadata: [(names::METADATA.to_owned(), fields)].into(), ..Default::default() }
}

/// The server name under which a workload's port is reached by address: that of the first service port which leads there,
/// else one of the workload's own. Services and workloads often share a name: where the workload's own server name is taken
/// by a service that leads to another port, the word `workload` tells them apart.
pub(super) fn server_name(workload: &WorkloadName, port: u16, ports: &BTreeMap<u16, ServedPort>) -> String {
    if let Some(first) = ports.get(&port).and_then(|served| served.services.first()) {
        return first.name.server_name();
    }
    let own = names::mesh_server_name(workload, port);
    let taken = ports.values().flat_map(|served| &served.services).any(|service| service.name.server_name() == own);
    if taken { names::mesh_server_name(format_args!("{workload}.workload"), port) } else { own }
}

fn mesh_chain(name: String, port: u16, server_name: String, filters: Vec<Filter>) -> FilterChain {
    FilterChain {
        name,
        filter_chain_match: Some(FilterChainMatch {
            destination_port: number(port.into()),
            server_names: vec![server_name],
            transport_protocol: "tls".into(),
            ..Default::default()
        }),
        transport_socket: Some(tls::downstream()),
        filters,
        ..Default::default()
    }
}

/// The same without TLS. Plaintext carries no server name: each port has one such chain, that of its first service.
fn plaintext_chain(chain: &FilterChain) -> FilterChain {
    let matching = chain.filter_chain_match.as_ref().map(|matching| FilterChainMatch {
        server_names: Vec::new(),
        transport_protocol: "raw_buffer".into(),
        ..matching.clone()
    });
    FilterChain {
        name: format!("{}/plaintext", chain.name),
        filter_chain_match: matching,
        transport_socket: None,
        ..chain.clone()
    }
}

/// Requests, streams, or both: then the sidecar chooses by what arrives. The rules who may are in front of each.
fn chain_filters(name: &str, cluster: &str, protocol: AppProtocol, rules: &Rules) -> Vec<Filter> {
    let requests = || {
        let routes = RouteSpecifier::RouteConfig(route::to_cluster(name, cluster));
        let mut manager = filters::http_manager(name, routes, Vec::new());
        manager.http_filters.splice(0..0, rules.http_filters());
        filters::http_filter(manager)
    };
    let streams = || {
        let proxy = filters::tcp_filter(name, ClusterSpecifier::Cluster(cluster.to_owned()));
        rules.network_filters(name).chain([proxy])
    };
    match protocol {
        AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => vec![requests()],
        AppProtocol::Tcp | AppProtocol::Tls => streams().collect(),
        AppProtocol::Detect => [requests()].into_iter().chain(streams()).collect(),
    }
}

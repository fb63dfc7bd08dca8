//! Clusters: where to find the endpoints of a destination, how to speak to them, and within what limits.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use malla_config::mesh::{AppProtocol, TrafficPolicy};
use malla_xds::envoy::cluster::Cluster;
use malla_xds::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy};
use malla_xds::envoy::endpoint::{
    ClusterLoadAssignment, Endpoint as Host, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use malla_xds::envoy::http_protocol_options::HttpProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use malla_xds::envoy::{core, pack_any, protobuf};
use malla_xds::{Resource, ResourceType};

use super::endpoints::load_assignment;
use super::filters::{duration, host_and_port, number, over_ads, socket_address};
use super::{policy, tls};
use crate::world::{Endpoint, ResolvedPort};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster of a service port, its endpoints told apart from it (EDS). The identities are those of all endpoints, ready
/// or not: so that it does not change with each that comes and goes.
pub(super) fn of_endpoints(name: &str, server_name: String, port: &ResolvedPort, endpoints: &[Endpoint]) -> Resource {
    let eds = EdsClusterConfig { eds_config: Some(over_ads()), service_name: name.to_owned() };
    rendered(Cluster {
        eds_cluster_config: Some(eds),
        transport_socket: mesh_tls(server_name, endpoints),
        ..outbound(name, DiscoveryType::Eds, port.protocol, &port.policy)
    })
}

/// The cluster of one workload's port.
pub(super) fn of_one(name: &str, server_name: String, protocol: AppProtocol, endpoint: &Endpoint) -> Resource {
    rendered(Cluster {
        load_assignment: Some(load_assignment(name, [endpoint])),
        transport_socket: mesh_tls(server_name, std::slice::from_ref(endpoint)),
        ..outbound(name, DiscoveryType::Static, protocol, &TrafficPolicy::default())
    })
}

/// The cluster of a DNS name outside the mesh: plaintext, as the client speaks.
pub(super) fn of_dns_name(name: &str, host: &Arc<str>, target: u16, port: &ResolvedPort) -> Resource {
    rendered(Cluster {
        load_assignment: Some(one_host(name, host_and_port(host.to_string(), target))),
        ..outbound(name, DiscoveryType::LogicalDns, port.protocol, &port.policy)
    })
}

/// The way from an inbound sidecar to its own application: at a fixed address, or at the connection's original
/// destination.
pub(super) fn to_application(name: &str, address: Option<SocketAddr>, protocol: AppProtocol) -> Resource {
    let kind = if address.is_some() { DiscoveryType::Static } else { DiscoveryType::OriginalDst };
    let lb_policy = if address.is_some() { LbPolicy::RoundRobin } else { LbPolicy::ClusterProvided };
    rendered(Cluster {
        load_assignment: address.map(|address| one_host(name, socket_address(address))),
        lb_policy: lb_policy.into(),
        ..plain(name, kind, protocol)
    })
}

fn rendered(cluster: Cluster) -> Resource {
    Resource::new(ResourceType::Cluster, cluster.name.as_str(), [], &cluster)
}

/// None where no endpoint has a sidecar. Where some have, each endpoint's metadata says whether it does.
fn mesh_tls(server_name: String, endpoints: &[Endpoint]) -> Option<core::TransportSocket> {
    let identities: BTreeSet<_> = endpoints.iter().filter_map(|endpoint| endpoint.identity.as_ref()).collect();
    (!identities.is_empty()).then(|| tls::upstream(server_name, &identities))
}

fn one_host(cluster: &str, address: core::Address) -> ClusterLoadAssignment {
    let host = Host { address: Some(address), ..Default::default() };
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            locality: Some(core::Locality::default()),
            load_balancing_weight: number(1),
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(host)),
                load_balancing_weight: number(1),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// What all clusters of other workloads share: what the policy says.
fn outbound(name: &str, kind: DiscoveryType, protocol: AppProtocol, policy: &TrafficPolicy) -> Cluster {
    let mut cluster = plain(name, kind, protocol);
    policy::apply(policy, kind, &mut cluster);
    cluster
}

fn plain(name: &str, kind: DiscoveryType, protocol: AppProtocol) -> Cluster {
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        typed_extension_protocol_options: http_version(protocol),
        ..Default::default()
    }
}

/// Key of the HTTP options of a cluster.
pub(super) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The HTTP version that the application speaks; nothing where it is as received.
fn http_version(protocol: AppProtocol) -> std::collections::HashMap<String, protobuf::Any> {
    let version = match protocol {
        AppProtocol::Http1 => ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()),
        AppProtocol::Http2 | AppProtocol::Grpc => {
            ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default())
        }
        AppProtocol::Tcp | AppProtocol::Tls | AppProtocol::Detect => return Default::default(),
    };
    let explicit = ExplicitHttpConfig { protocol_config: Some(version) };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    [(HTTP_OPTIONS.to_owned(), pack_any(options))].into()
}

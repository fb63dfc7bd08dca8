//! A small mesh as a control server renders it, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use malla_xds::envoy::cluster::Cluster;
use malla_xds::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use malla_xds::envoy::core::config_source::ConfigSourceSpecifier;
use malla_xds::envoy::core::socket_address::PortSpecifier;
use malla_xds::envoy::core::{Address, AggregatedConfigSource, ConfigSource, Metadata, SocketAddress, address};
use malla_xds::envoy::endpoint::lb_endpoint::HostIdentifier;
use malla_xds::envoy::endpoint::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use malla_xds::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use malla_xds::envoy::http_connection_manager::http_filter::ConfigType;
use malla_xds::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds};
use malla_xds::envoy::listener::{ApiListener, FilterChain, Listener, filter};
use malla_xds::envoy::pack_any;
use malla_xds::envoy::protobuf::UInt32Value;
use malla_xds::envoy::route::route::Action;
use malla_xds::envoy::route::route_action::ClusterSpecifier;
use malla_xds::envoy::route::route_match::PathSpecifier;
use malla_xds::envoy::route::weighted_cluster::ClusterWeight;
use malla_xds::envoy::route::{Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster};
use malla_xds::envoy::router::Router;
use malla_xds::envoy::tcp_proxy::TcpProxy;
use malla_xds::resource::string_struct;
use malla_xds::{Answer, Resource, ResourceType, View};
use prost::Message;

use crate::names::Name;

/// What a server knows.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    resources: BTreeMap<(ResourceType, Name), Arc<Resource>>,
}

impl Mesh {
    pub(crate) fn set(&mut self, kind: ResourceType, name: &str, aliases: &[&str], message: &impl Message) {
        let aliases = aliases.iter().map(|alias| Name::from(*alias));
        self.resources.insert((kind, name.into()), Resource::new(kind, name, aliases, message).into());
    }

    pub(crate) fn remove(&mut self, kind: ResourceType, name: &str) {
        self.resources.remove(&(kind, Name::from(name)));
    }

    /// A service whose one route leads to clusters by weight.
    pub(crate) fn http(&mut self, name: &str, aliases: &[&str], clusters: &[(&str, u32)]) {
        self.set(ResourceType::Listener, name, aliases, &http_listener(name));
        self.set(ResourceType::Route, name, &[], &routes(name, clusters));
    }

    /// A cluster with endpoints, all without sidecars, on port 8080.
    pub(crate) fn cluster(&mut self, name: &str, endpoints: &[&str]) {
        self.set(ResourceType::Cluster, name, &[], &cluster(name));
        self.endpoints(name, endpoints);
    }

    pub(crate) fn endpoints(&mut self, name: &str, endpoints: &[&str]) {
        self.set(ResourceType::Endpoints, name, &[], &assignment(name, endpoints));
    }
}

impl View for Mesh {
    fn version(&self) -> &str {
        "1"
    }

    fn resource(&self, kind: ResourceType, name: &str) -> Answer {
        let found = self.resources.values().find(|resource| {
            resource.kind == kind && (*resource.name == *name || resource.aliases.iter().any(|alias| **alias == *name))
        });
        found.map_or(Answer::Absent, |resource| Answer::Found(resource.clone()))
    }

    fn stub(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        Resource::empty(kind, name).map(Arc::new)
    }

    fn all(&self, kind: ResourceType) -> Vec<Arc<Resource>> {
        self.resources.values().filter(|resource| resource.kind == kind).cloned().collect()
    }
}

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    })
}

pub(crate) fn http_listener(name: &str) -> Listener {
    let manager = HttpConnectionManager {
        http_filters: vec![HttpFilter {
            name: "router".into(),
            config_type: Some(ConfigType::TypedConfig(pack_any(Router::default()))),
            ..Default::default()
        }],
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: name.into() })),
        ..Default::default()
    };
    Listener {
        name: name.into(),
        api_listener: Some(ApiListener { api_listener: Some(pack_any(manager)) }),
        ..Default::default()
    }
}

pub(crate) fn tcp_chain(cluster: &str) -> FilterChain {
    let proxy = TcpProxy {
        stat_prefix: "tcp".into(),
        cluster_specifier: Some(malla_xds::envoy::tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    FilterChain {
        filters: vec![malla_xds::envoy::listener::Filter {
            name: "tcp".into(),
            config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy))),
        }],
        ..Default::default()
    }
}

pub(crate) fn tcp_listener(name: &str, cluster: &str) -> Listener {
    Listener { name: name.into(), default_filter_chain: Some(tcp_chain(cluster)), ..Default::default() }
}

pub(crate) fn routes(name: &str, clusters: &[(&str, u32)]) -> RouteConfiguration {
    let weights = clusters.iter().map(|(cluster, weight)| ClusterWeight {
        name: (*cluster).into(),
        weight: Some(UInt32Value { value: *weight }),
        ..Default::default()
    });
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: weights.collect(),
            ..Default::default()
        })),
        ..Default::default()
    };
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: "all".into(),
            domains: vec!["*".into()],
            routes: vec![Route {
                r#match: Some(RouteMatch {
                    path_specifier: Some(PathSpecifier::Prefix("/".into())),
                    ..Default::default()
                }),
                action: Some(Action::Route(action)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn assignment(name: &str, endpoints: &[&str]) -> ClusterLoadAssignment {
    let endpoint = |ip: &&str| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: (*ip).into(),
                    port_specifier: Some(PortSpecifier::PortValue(8080)),
                    ..Default::default()
                })),
            }),
            ..Default::default()
        })),
        metadata: Some(Metadata {
            filter_metadata: [("malla.dev".to_owned(), string_struct([("workload", *ip)]))].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: endpoints.iter().map(endpoint).collect(),
            load_balancing_weight: Some(UInt32Value { value: 1 }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

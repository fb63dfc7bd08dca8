//! Listeners of destinations, and the network filters that they share with inbound ones.

use std::sync::Arc;

use malla_xds::envoy::core::ConfigSource;
use malla_xds::envoy::core::config_source::ConfigSourceSpecifier;
use malla_xds::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use malla_xds::envoy::http_connection_manager::http_filter::ConfigType as HttpConfigType;
use malla_xds::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter};
use malla_xds::envoy::listener::filter::ConfigType;
use malla_xds::envoy::listener::{Filter, FilterChain, FilterChainMatch, Listener};
use malla_xds::envoy::tcp_proxy::TcpProxy;
use malla_xds::envoy::tcp_proxy::tcp_proxy::ClusterSpecifier;
use malla_xds::names::{NO_BACKEND, PASSTHROUGH};

use super::fault::{At, Fault, each};
use super::route::{self, RouteTable};
use super::{message, type_name, unpack, unsupported};
use crate::names::Name;
use crate::snapshot::{Protocol, UnknownDestination};

/// What a destination is, with references as names.
#[derive(Debug)]
pub enum ListenerSpec {
    /// The mesh does not know it.
    Unknown(UnknownDestination),
    /// A service, or one endpoint of it.
    Service(ServiceSpec),
}

/// A destination of the mesh.
#[derive(Debug)]
pub struct ServiceSpec {
    /// Canonical name.
    pub name: Name,
    /// What is spoken there.
    pub protocol: Protocol,
    /// HTTP routes.
    pub http: Option<RouteSource>,
    /// Raw TCP.
    pub tcp: Option<TcpSpec>,
    /// Routes by SNI.
    pub sni: Vec<(Vec<Arc<str>>, TcpSpec)>,
}

/// Where HTTP routes are.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// In a route configuration of this name.
    Named(Name),
    /// In the listener.
    Inline(Arc<RouteTable>),
}

/// Where raw TCP goes.
#[derive(Debug, Clone)]
pub struct TcpSpec {
    /// Label for metrics.
    pub name: Arc<str>,
    /// Clusters and weights above zero; empty leads nowhere.
    pub clusters: Vec<(Name, u32)>,
}

impl ServiceSpec {
    /// Clusters that it names itself, not through a route configuration; with repetitions.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        let inline = match &self.http {
            Some(RouteSource::Inline(table)) => Some(table),
            _ => None,
        };
        let tcp = self.tcp.iter().chain(self.sni.iter().map(|(_, tcp)| tcp));
        inline
            .into_iter()
            .flat_map(|table| table.clusters())
            .chain(tcp.flat_map(|tcp| tcp.clusters.iter().map(|(name, _)| name)))
    }
}

/// Checks the listener of a destination.
pub(super) fn decode(name: &str, written: Listener) -> Result<ListenerSpec, Fault> {
    common(&written)?;
    let http = match written.api_listener {
        None => None,
        Some(api) => {
            let manager: HttpConnectionManager =
                unpack(api.api_listener.as_ref(), HTTP_CONNECTION_MANAGER).at("api_listener.api_listener")?;
            Some(routes(name, manager).at("api_listener.api_listener.typed_config")?)
        }
    };
    let default = written.default_filter_chain.as_ref().map(outbound_tcp).transpose().at("default_filter_chain")?;
    let nothing_routed = match &http {
        None => true,
        Some(RouteSource::Inline(table)) => table.virtual_hosts.is_empty(),
        Some(RouteSource::Named(_)) => false,
    };
    let sni = each("filter_chains", &written.filter_chains, |chain| {
        let matched =
            chain.filter_chain_match.as_ref().ok_or_else(|| Fault::new("is missing").within("filter_chain_match"))?;
        Ok((server_names(matched).at("filter_chain_match")?, outbound_tcp(chain)?))
    })?;
    if nothing_routed && sni.is_empty() {
        match default.as_ref().map(|tcp| tcp.clusters.as_slice()) {
            None => return Ok(ListenerSpec::Unknown(UnknownDestination::Deny)),
            Some([(cluster, _)]) if **cluster == *PASSTHROUGH => {
                return Ok(ListenerSpec::Unknown(UnknownDestination::PassThrough));
            }
            Some(_) => {}
        }
    }
    let protocol = match (&http, &default, sni.is_empty()) {
        (Some(_), None, true) => Protocol::Http,
        (Some(_), Some(_), true) => Protocol::Detect,
        (None, Some(_), true) => Protocol::Tcp,
        (None, _, false) => Protocol::Tls,
        (Some(_), _, false) => {
            return Err(Fault::new("is not supported together with api_listener").within("filter_chains"));
        }
        (None, None, true) => return Ok(ListenerSpec::Unknown(UnknownDestination::Deny)),
    };
    Ok(ListenerSpec::Service(ServiceSpec { name: name.into(), protocol, http, tcp: default, sni }))
}

/// Fields of any listener that would change what is served.
pub(super) fn common(written: &Listener) -> Result<(), Fault> {
    unsupported("filter_chain_matcher", written.filter_chain_matcher.is_some())?;
    unsupported("fcds_config", written.fcds_config.is_some())?;
    unsupported("listener_filters", !written.listener_filters.is_empty())?;
    unsupported("udp_listener_config", written.udp_listener_config.is_some())?;
    unsupported("listener_specifier", written.listener_specifier.is_some())
}

/// A chain that holds one TCP proxy and nothing else.
fn outbound_tcp(chain: &FilterChain) -> Result<TcpSpec, Fault> {
    unsupported("transport_socket", chain.transport_socket.is_some())?;
    match network_filters(&chain.filters)? {
        NetworkFilters { http: None, tcp: Some(tcp) } => Ok(tcp),
        _ => Err(Fault::new("must be one tcp_proxy").within("filters")),
    }
}

/// SNI of an outbound chain, and nothing else, in lower case.
fn server_names(written: &FilterChainMatch) -> Result<Vec<Arc<str>>, Fault> {
    only_ports_and_names(written)?;
    unsupported("destination_port", written.destination_port.is_some())?;
    if written.server_names.is_empty() {
        return Err(Fault::new("is empty").within("server_names"));
    }
    Ok(written.server_names.iter().map(|name| name.to_ascii_lowercase().into()).collect())
}

/// Conditions that neither side supports.
pub(super) fn only_ports_and_names(written: &FilterChainMatch) -> Result<(), Fault> {
    unsupported("prefix_ranges", !written.prefix_ranges.is_empty())?;
    unsupported("address_suffix", !written.address_suffix.is_empty() || written.suffix_len.is_some())?;
    unsupported("direct_source_prefix_ranges", !written.direct_source_prefix_ranges.is_empty())?;
    unsupported("source_type", written.source_type != 0)?;
    unsupported("source_prefix_ranges", !written.source_prefix_ranges.is_empty())?;
    unsupported("source_ports", !written.source_ports.is_empty())?;
    unsupported("application_protocols", !written.application_protocols.is_empty())
}

/// The network filters that a chain may hold: HTTP, TCP, or both (then the protocol is detected).
pub(super) struct NetworkFilters {
    pub(super) http: Option<HttpConnectionManager>,
    pub(super) tcp: Option<TcpSpec>,
}

/// Reads the filters of a chain; any other filter may be one that protects, and is refused.
pub(super) fn network_filters(written: &[Filter]) -> Result<NetworkFilters, Fault> {
    let mut found = NetworkFilters { http: None, tcp: None };
    for (index, filter) in written.iter().enumerate() {
        let field = format!("filters[{index}]");
        let any = match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            _ => return Err(Fault::new("typed_config is missing").within(field)),
        };
        match type_name(&any.type_url) {
            HTTP_CONNECTION_MANAGER if found.http.is_none() && found.tcp.is_none() => {
                found.http = Some(message(&any.value).at(&field)?);
            }
            TCP_PROXY if found.tcp.is_none() => {
                found.tcp = Some(message(&any.value).and_then(|proxy| tcp(&proxy)).at(&field)?);
            }
            other => return Err(Fault::new(format!("{other} is not supported here")).within(field)),
        }
    }
    Ok(found)
}

const HTTP_CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// Where a TCP proxy leads.
fn tcp(written: &TcpProxy) -> Result<TcpSpec, Fault> {
    unsupported("on_demand", written.on_demand.is_some())?;
    unsupported("metadata_match", written.metadata_match.is_some())?;
    unsupported("tunneling_config", written.tunneling_config.is_some())?;
    unsupported("proxy_protocol_tlvs", !written.proxy_protocol_tlvs.is_empty())?;
    let name = if written.stat_prefix.is_empty() { "default" } else { &written.stat_prefix };
    let clusters = match &written.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) if cluster.is_empty() => {
            return Err(Fault::new("is empty").within("cluster"));
        }
        Some(ClusterSpecifier::Cluster(cluster)) if cluster == NO_BACKEND => Vec::new(),
        Some(ClusterSpecifier::Cluster(cluster)) => vec![(cluster.as_str().into(), 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                unsupported("metadata_match", cluster.metadata_match.is_some())
                    .at(format_args!("weighted_clusters.clusters[{index}]"))?;
            }
            let clusters = weighted.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.weight));
            route::weights(clusters).at("weighted_clusters")?
        }
        None => return Err(Fault::new("is missing").within("cluster_specifier")),
    };
    Ok(TcpSpec { name: name.into(), clusters })
}

/// Where the routes of an HTTP connection manager are.
pub(super) fn routes(name: &str, written: HttpConnectionManager) -> Result<RouteSource, Fault> {
    unsupported("xff_num_trusted_hops", written.xff_num_trusted_hops != 0)?;
    unsupported("original_ip_detection_extensions", !written.original_ip_detection_extensions.is_empty())?;
    unsupported("early_header_mutation_extensions", !written.early_header_mutation_extensions.is_empty())?;
    let limit = written.common_http_protocol_options.as_ref().and_then(|options| options.max_stream_duration.as_ref());
    unsupported("common_http_protocol_options.max_stream_duration", limit.is_some())?;
    http_filters(&written.http_filters)?;
    match written.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            ads(rds.config_source.as_ref()).at("rds.config_source")?;
            if rds.route_config_name.is_empty() {
                return Err(Fault::new("is missing").within("rds.route_config_name"));
            }
            Ok(RouteSource::Named(rds.route_config_name.into()))
        }
        Some(RouteSpecifier::RouteConfig(table)) => {
            Ok(RouteSource::Inline(route::decode(name, table).at("route_config")?.into()))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => Err(Fault::new("is not supported").within("scoped_routes")),
        None => Err(Fault::new("is missing").within("route_specifier")),
    }
}

/// The router, last, and before it only filters that may be skipped.
fn http_filters(written: &[HttpFilter]) -> Result<(), Fault> {
    let router = |filter: &HttpFilter| match &filter.config_type {
        Some(HttpConfigType::TypedConfig(any)) => type_name(&any.type_url) == ROUTER,
        _ => false,
    };
    let Some((last, before)) = written.split_last() else {
        return Err(Fault::new("is empty, the router is missing").within("http_filters"));
    };
    if !router(last) {
        return Err(
            Fault::new(format!("the last filter must be the router, not {:?}", last.name)).within("http_filters")
        );
    }
    for (index, filter) in before.iter().enumerate() {
        if router(filter) || !filter.is_optional {
            let problem = format!("filter {:?} is not supported and not optional", filter.name);
            return Err(Fault::new(problem).within(format_args!("http_filters[{index}]")));
        }
    }
    Ok(())
}

/// Resources come over the one stream there is.
pub(super) fn ads(source: Option<&ConfigSource>) -> Result<(), Fault> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        Some(_) => Err(Fault::new("only ads and self are supported")),
        None => Err(Fault::new("is missing")),
    }
}

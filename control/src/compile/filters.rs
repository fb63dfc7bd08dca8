//! The small building blocks that several resources share: HTTP connection manager, TCP proxy, addresses, sources.

use std::net::SocketAddr;
use std::time::Duration;

use malla_xds::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use malla_xds::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use malla_xds::envoy::listener::{Filter, filter};
use malla_xds::envoy::tcp_proxy::{TcpProxy, tcp_proxy};
use malla_xds::envoy::{core, pack_any, protobuf, router};

/// An HTTP connection manager with the router as its last filter, after others for those who have them.
pub(super) fn http_manager(
    stat_prefix: &str,
    routes: RouteSpecifier,
    optional: Vec<(&'static str, protobuf::Any)>,
) -> HttpConnectionManager {
    let filter = |name: &str, config, is_optional| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        is_optional,
        ..Default::default()
    };
    let router = filter("router", pack_any(router::Router::default()), false);
    HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters: optional.into_iter().map(|(name, config)| filter(name, config, true)).chain([router]).collect(),
        ..Default::default()
    }
}

/// Routes that are a resource of their own.
pub(super) fn routes_by_name(name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds { config_source: Some(over_ads()), route_config_name: name.to_owned() })
}

/// The manager as a network filter.
pub(super) fn http_filter(manager: HttpConnectionManager) -> Filter {
    let config = filter::ConfigType::TypedConfig(pack_any(manager));
    Filter { name: "http_connection_manager".into(), config_type: Some(config) }
}

/// A TCP proxy to one or several clusters.
pub(super) fn tcp_filter(stat_prefix: &str, clusters: tcp_proxy::ClusterSpecifier) -> Filter {
    let proxy =
        TcpProxy { stat_prefix: stat_prefix.to_owned(), cluster_specifier: Some(clusters), ..Default::default() };
    Filter { name: "tcp_proxy".into(), config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy))) }
}

/// "From the stream that brought this".
pub(super) fn over_ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    }
}

pub(super) fn socket_address(address: SocketAddr) -> core::Address {
    host_and_port(address.ip().to_string(), address.port())
}

/// An address whose host may be a DNS name.
pub(super) fn host_and_port(host: String, port: u16) -> core::Address {
    let address = core::SocketAddress {
        address: host,
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(address)) }
}

pub(super) fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

/// Durations beyond what protobuf can say (292 billion years) become its longest.
pub(super) fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

//! Resources as short text, for tests: what was rendered, decoded from its bytes.

mod route;

use malla_xds::envoy::cluster::Cluster;
use malla_xds::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use malla_xds::envoy::core::socket_address::PortSpecifier;
use malla_xds::envoy::core::{self, address};
use malla_xds::envoy::endpoint::{ClusterLoadAssignment, lb_endpoint};
use malla_xds::envoy::http_connection_manager::HttpConnectionManager;
use malla_xds::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use malla_xds::envoy::http_protocol_options::HttpProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::UpstreamProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::explicit_http_config::ProtocolConfig;
use malla_xds::envoy::listener::{FilterChain, Listener, filter};
use malla_xds::envoy::matcher::{StringMatcher, string_matcher::MatchPattern};
use malla_xds::envoy::protobuf;
use malla_xds::envoy::tcp_proxy::{TcpProxy, tcp_proxy};
use malla_xds::envoy::tls::common_tls_context::ValidationContextType;
use malla_xds::envoy::tls::{CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext};
use malla_xds::resource::struct_string;
use malla_xds::{Resource, ResourceType, names};
use prost::Message;

use self::route::routes;
use crate::resources::Resources;

/// A resource of a set, as text; panics if there is none of that name.
pub(super) fn text(resources: &Resources, kind: ResourceType, name: &str) -> String {
    let resource = resources.get(kind, name).unwrap_or_else(|| panic!("{kind} {name} is there"));
    of(&resource)
}

/// A resource as text.
pub(super) fn of(resource: &Resource) -> String {
    let bytes = resource.body.clone();
    match resource.kind {
        ResourceType::Listener => listener(&decode(bytes)),
        ResourceType::Route => routes(&decode(bytes)),
        ResourceType::Cluster => cluster(&decode(bytes)),
        ResourceType::Endpoints => endpoints(&decode(bytes)),
        ResourceType::Secret => "secret\n".to_owned(),
    }
}

pub(super) fn decode<M: Message + Default>(bytes: impl prost::bytes::Buf) -> M {
    M::decode(bytes).expect("what was rendered decodes")
}

fn listener(listener: &Listener) -> String {
    let mut text = String::new();
    if let Some(api) = &listener.api_listener {
        let manager = api.api_listener.as_ref().map(unpack::<HttpConnectionManager>).expect("is set");
        text += &format!("api {}\n", manager_text(&manager));
    }
    listener.filter_chains.iter().for_each(|chain| text += &chain_text(chain));
    if let Some(chain) = &listener.default_filter_chain {
        text += &format!("default {}", filters(chain));
    }
    text
}

fn chain_text(chain: &FilterChain) -> String {
    let matched = chain.filter_chain_match.clone().unwrap_or_default();
    let port = matched.destination_port.map_or(String::new(), |port| format!(":{} ", port.value));
    let tls = chain.transport_socket.as_ref().map_or(String::new(), |socket| {
        let context: DownstreamTlsContext = unpack(typed(socket));
        assert!(context.require_client_certificate.is_some_and(|required| required.value));
        format!("mtls{} ", tls(context.common_tls_context))
    });
    let names = matched.server_names.join(",");
    format!("{} | {port}{} {names} {tls}{}", chain.name, matched.transport_protocol, filters(chain))
}

fn filters(chain: &FilterChain) -> String {
    let mut text = String::new();
    for filter in &chain.filters {
        let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("is typed") };
        if filter.name == "tcp_proxy" {
            let clusters = match unpack::<TcpProxy>(any).cluster_specifier {
                Some(tcp_proxy::ClusterSpecifier::Cluster(cluster)) => cluster,
                Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
                    let parts: Vec<_> = weighted.clusters.iter().map(|c| format!("{}*{}", c.name, c.weight)).collect();
                    parts.join(" ")
                }
                None => panic!("leads somewhere"),
            };
            text += &format!("tcp {clusters} ");
        } else {
            text += &format!("http {} ", manager_text(&unpack(any)));
        }
    }
    format!("{}\n", text.trim_end())
}

fn manager_text(manager: &HttpConnectionManager) -> String {
    assert_eq!(manager.http_filters.last().map(|filter| filter.name.as_str()), Some("router"));
    let optional: String = manager
        .http_filters
        .iter()
        .filter(|filter| filter.is_optional)
        .map(|filter| format!(" {}", filter.name.trim_start_matches("envoy.filters.http.")))
        .collect();
    match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            assert!(is_ads(rds.config_source.as_ref()));
            format!("rds {}{optional}", rds.route_config_name)
        }
        Some(RouteSpecifier::RouteConfig(config)) => routes(config).replace('\n', " ").trim().to_owned(),
        _ => panic!("has routes"),
    }
}

fn cluster(cluster: &Cluster) -> String {
    let Some(ClusterDiscoveryType::Type(kind)) = cluster.cluster_discovery_type else { panic!("has a type") };
    let kind = DiscoveryType::try_from(kind).expect("is known");
    let mut text = kind.as_str_name().to_owned();
    if let Some(eds) = &cluster.eds_cluster_config {
        assert!(is_ads(eds.eds_config.as_ref()));
        text += &format!(" {}", eds.service_name);
    }
    for any in cluster.typed_extension_protocol_options.values() {
        let options: HttpProtocolOptions = unpack(any);
        if let Some(idle) = options.common_http_protocol_options.and_then(|common| common.idle_timeout) {
            text += &format!(" idle {}", seconds(&idle));
        }
        let Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) = options.upstream_protocol_options else {
            continue;
        };
        text += match explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => " http1",
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => " http2",
            other => panic!("{other:?}"),
        };
    }
    if let Some(socket) = &cluster.transport_socket {
        let context: UpstreamTlsContext = unpack(typed(socket));
        text += &format!(" mtls {}{}", context.sni, tls(context.common_tls_context));
    }
    text.push('\n');
    cluster.load_assignment.iter().for_each(|assignment| text += &endpoints(assignment));
    text
}

#[allow(deprecated, reason = "gRPC enforces the deprecated list")]
fn tls(context: Option<CommonTlsContext>) -> String {
    let context = context.expect("is set");
    assert_eq!(context.tls_certificate_provider_instance.expect("for gRPC").instance_name, names::CERTIFICATE_PROVIDER);
    let [sds] = context.tls_certificate_sds_secret_configs.as_slice() else { panic!("one certificate, for Envoy") };
    assert!(sds.name == names::CERTIFICATE_PROVIDER && is_ads(sds.sds_config.as_ref()));
    let Some(ValidationContextType::CombinedValidationContext(combined)) = context.validation_context_type else {
        panic!("is combined")
    };
    let sds = combined.validation_context_sds_secret_config.expect("for Envoy");
    assert!(sds.name == names::ROOT_CA && is_ads(sds.sds_config.as_ref()));
    let context = combined.default_validation_context.expect("for gRPC");
    assert!(context.ca_certificate_provider_instance.is_some());
    let legacy: Vec<_> = context.match_subject_alt_names.iter().map(string).collect();
    let typed: Vec<_> =
        context.match_typed_subject_alt_names.iter().map(|san| string(san.matcher.as_ref().expect("is set"))).collect();
    assert_eq!(legacy, typed, "both lists say the same");
    legacy.iter().map(|identity| format!(" {}", identity.trim_start_matches('='))).collect()
}

fn endpoints(assignment: &ClusterLoadAssignment) -> String {
    let mut text = String::new();
    for group in &assignment.endpoints {
        let locality = group.locality.as_ref().expect("gRPC requires it");
        let weight = group.load_balancing_weight.as_ref().expect("gRPC drops the locality without").value;
        assert_eq!(group.priority, 0);
        text += &format!("({}/{} *{weight})", locality.region, locality.zone);
        for endpoint in &group.lb_endpoints {
            let Some(lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
                panic!("an address")
            };
            let weight = endpoint.load_balancing_weight.as_ref().expect("is set").value;
            text += &format!(" {}*{weight}", address(host.address.as_ref()));
            let fields = endpoint.metadata.as_ref().and_then(|all| all.filter_metadata.get(names::METADATA));
            let field = |key| fields.and_then(|fields| struct_string(fields, key));
            let workload = field(names::METADATA_WORKLOAD);
            let identity = field(names::METADATA_IDENTITY);
            text += &format!(" {} {}", workload.unwrap_or("-"), identity.unwrap_or("plaintext"));
        }
        text.push('\n');
    }
    text
}

fn address(written: Option<&core::Address>) -> String {
    let Some(address::Address::SocketAddress(socket)) = written.and_then(|written| written.address.as_ref()) else {
        panic!("a socket address")
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!("a port") };
    format!("{}:{port}", socket.address)
}

fn string(matcher: &StringMatcher) -> String {
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) => format!("={text}"),
        Some(MatchPattern::SafeRegex(regex)) => format!("~{}", regex.regex),
        other => panic!("{other:?}"),
    }
}

fn seconds(duration: &protobuf::Duration) -> String {
    format!("{}.{:03}s", duration.seconds, duration.nanos / 1_000_000)
}

fn is_ads(source: Option<&core::ConfigSource>) -> bool {
    let specifier = source.and_then(|source| source.config_source_specifier.as_ref());
    matches!(specifier, Some(core::config_source::ConfigSourceSpecifier::Ads(_)))
}

fn typed(socket: &core::TransportSocket) -> &protobuf::Any {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else { panic!("is typed") };
    any
}

pub(super) fn unpack<M: Message + Default + prost::Name>(any: &protobuf::Any) -> M {
    assert_eq!(any.type_url, M::type_url());
    decode(any.value.as_slice())
}

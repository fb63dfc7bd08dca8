//! Clusters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use malla_xds::envoy::cluster::Cluster;
use malla_xds::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy};
use malla_xds::envoy::cluster::{CircuitBreakers, LoadBalancingPolicy};
use malla_xds::envoy::endpoint::ClusterLoadAssignment;
use malla_xds::envoy::endpoint::lb_endpoint::HostIdentifier;
use malla_xds::envoy::http_protocol_options::HttpProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::UpstreamProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::explicit_http_config::ProtocolConfig;
use malla_xds::envoy::protobuf::Any;
use malla_xds::names::PEAK_EWMA;

use super::endpoints::{self, EndpointSpec, socket_address};
use super::fault::{At, Fault, each};
use super::listener::ads;
use super::{duration, message, tls, type_name, unsupported};
use crate::names::Name;
use crate::snapshot::{Limits, UpstreamHttp, UpstreamTls};

/// A cluster whose endpoints may come later.
#[derive(Debug)]
pub struct ClusterSpec {
    /// Name.
    pub name: Name,
    /// Where its endpoints are.
    pub discovery: Discovery,
    /// HTTP version towards plaintext upstreams.
    pub http: UpstreamHttp,
    /// TLS towards endpoints with a sidecar.
    pub tls: Option<UpstreamTls>,
    /// Connect time-out.
    pub connect_timeout: Duration,
    /// Circuit breaking.
    pub limits: Limits,
}

/// Where the endpoints of a cluster are.
#[derive(Debug)]
pub enum Discovery {
    /// In an assignment of this name.
    Named(Name),
    /// In the cluster.
    Static(Arc<Vec<EndpointSpec>>),
    /// Behind a DNS name.
    Dns {
        /// Host.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// Where the connection wanted to go.
    OriginalDst,
}

/// Default time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks a cluster.
pub(super) fn decode(name: &str, written: &Cluster) -> Result<ClusterSpec, Fault> {
    unsupported("transport_socket_matches", !written.transport_socket_matches.is_empty())?;
    unsupported("transport_socket_matcher", written.transport_socket_matcher.is_some())?;
    unsupported("lb_subset_config", written.lb_subset_config.is_some())?;
    unsupported("filters", !written.filters.is_empty())?;
    unsupported("upstream_config", written.upstream_config.is_some())?;
    balancing(written)?;
    let tls = written.transport_socket.as_ref().map(tls::upstream).transpose().at("transport_socket")?;
    let connect_timeout = written.connect_timeout.as_ref().map(duration).transpose().at("connect_timeout")?;
    let discovery = discovery(name, written)?;
    if tls.is_some() && matches!(discovery, Discovery::Dns { .. } | Discovery::OriginalDst) {
        return Err(Fault::new("is supported only for clusters with known endpoints").within("transport_socket"));
    }
    Ok(ClusterSpec {
        name: name.into(),
        discovery,
        http: http(written)?,
        tls,
        connect_timeout: connect_timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(CONNECT_TIMEOUT),
        limits: match &written.circuit_breakers {
            Some(written) => limits(written),
            None if name.starts_with("inbound/") => Limits::NONE,
            None => Limits::default(),
        },
    })
}

fn discovery(name: &str, written: &Cluster) -> Result<Discovery, Fault> {
    let kind = match &written.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => *kind,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return Err(Fault::new(format!("{:?} is not supported", custom.name)).within("cluster_type"));
        }
        None => DiscoveryType::Static as i32,
    };
    match DiscoveryType::try_from(kind) {
        Ok(DiscoveryType::Eds) => {
            let config = written.eds_cluster_config.as_ref();
            let config = config.ok_or_else(|| Fault::new("is missing").within("eds_cluster_config"))?;
            ads(config.eds_config.as_ref()).at("eds_cluster_config.eds_config")?;
            let service = if config.service_name.is_empty() { name } else { &config.service_name };
            Ok(Discovery::Named(service.into()))
        }
        Ok(DiscoveryType::Static) => {
            let assignment = written.load_assignment.as_ref();
            let assignment = assignment.ok_or_else(|| Fault::new("is missing").within("load_assignment"))?;
            Ok(Discovery::Static(endpoints::decode(assignment).at("load_assignment")?.into()))
        }
        Ok(DiscoveryType::LogicalDns) => dns(written.load_assignment.as_ref()).at("load_assignment"),
        Ok(DiscoveryType::OriginalDst) => match &written.lb_config {
            None => Ok(Discovery::OriginalDst),
            Some(LbConfig::OriginalDstLbConfig(config)) if *config == Default::default() => Ok(Discovery::OriginalDst),
            Some(_) => Err(Fault::new("is not supported").within("lb_config")),
        },
        Ok(DiscoveryType::StrictDns) => Err(Fault::new("STRICT_DNS is not supported, only LOGICAL_DNS").within("type")),
        Err(_) => Err(Fault::new(format!("{kind} is unknown")).within("type")),
    }
}

/// The one host of a DNS cluster.
fn dns(written: Option<&ClusterLoadAssignment>) -> Result<Discovery, Fault> {
    let written = written.ok_or_else(|| Fault::new("is missing"))?;
    let one = || Fault::new("must hold one endpoint");
    let [locality] = written.endpoints.as_slice() else { return Err(one().within("endpoints")) };
    let [endpoint] = locality.lb_endpoints.as_slice() else { return Err(one().within("endpoints[0].lb_endpoints")) };
    let field = "endpoints[0].lb_endpoints[0].endpoint";
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
        return Err(Fault::new("is missing").within(field));
    };
    let (address, port) = socket_address(endpoint.address.as_ref()).at("address").at(field)?;
    if address.address.is_empty() || address.address.len() > 253 {
        return Err(Fault::new("is not a host name").within("address.socket_address.address").within(field));
    }
    Ok(Discovery::Dns { host: address.address.to_ascii_lowercase().into(), port })
}

/// Every policy that spreads requests is served by ours; one that sends equal requests to equal endpoints is not.
fn balancing(written: &Cluster) -> Result<(), Fault> {
    if let Some(LoadBalancingPolicy { policies }) = &written.load_balancing_policy {
        let type_url = |policy: &malla_xds::envoy::cluster::load_balancing_policy::Policy| {
            let config = policy.typed_extension_config.as_ref()?;
            Some(config.typed_config.as_ref()?.type_url.clone())
        };
        let known = policies.iter().filter_map(type_url).any(|type_url| {
            type_url == PEAK_EWMA || SPREADING.contains(&type_name(&type_url)) || type_url.ends_with(PEAK_EWMA)
        });
        return if known {
            Ok(())
        } else {
            Err(Fault::new("holds no policy that is supported; end it with round_robin")
                .within("load_balancing_policy.policies"))
        };
    }
    match LbPolicy::try_from(written.lb_policy) {
        Ok(LbPolicy::RoundRobin | LbPolicy::LeastRequest | LbPolicy::Random | LbPolicy::ClusterProvided) => Ok(()),
        Ok(other) => Err(Fault::new(format!("{} is not supported", other.as_str_name())).within("lb_policy")),
        Err(_) => Err(Fault::new(format!("{} is unknown", written.lb_policy)).within("lb_policy")),
    }
}

const SPREADING: [&str; 3] = [
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
];

/// HTTP version towards plaintext upstreams.
fn http(written: &Cluster) -> Result<UpstreamHttp, Fault> {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let field = || format!("typed_extension_protocol_options[{OPTIONS:?}]");
    let options: &HashMap<String, Any> = &written.typed_extension_protocol_options;
    let Some(any) = options.get(OPTIONS) else {
        #[allow(deprecated, reason = "the older way to say HTTP/2, still sent")]
        let http2 = written.http2_protocol_options.is_some();
        return Ok(if http2 { UpstreamHttp::Http2 } else { UpstreamHttp::AsReceived });
    };
    let options: HttpProtocolOptions = message(&any.value).at(field())?;
    each("http_filters", &options.http_filters, |filter| {
        if filter.is_optional { Ok(()) } else { Err(Fault::new(format!("{:?} is not supported", filter.name))) }
    })
    .at(field())?;
    let unsupported = |what: &str| Err(Fault::new(format!("{what} is not supported")).within(field()));
    match options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) | None => Ok(UpstreamHttp::Http1),
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Ok(UpstreamHttp::Http2),
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => unsupported("HTTP/3"),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) | None => Ok(UpstreamHttp::AsReceived),
        Some(UpstreamProtocolOptions::AutoConfig(_)) => unsupported("auto_config"),
    }
}

/// Limits of the default priority.
fn limits(written: &CircuitBreakers) -> Limits {
    let default = Limits::default();
    let Some(thresholds) = written.thresholds.iter().find(|thresholds| thresholds.priority == 0) else {
        return default;
    };
    Limits {
        connections: thresholds.max_connections.as_ref().map_or(default.connections, |limit| limit.value),
        pending: thresholds.max_pending_requests.as_ref().map_or(default.pending, |limit| limit.value),
        requests: thresholds.max_requests.as_ref().map_or(default.requests, |limit| limit.value),
    }
}

#[cfg(test)]
mod tests {
    use malla_xds::envoy::cluster::cluster::EdsClusterConfig;
    use malla_xds::envoy::cluster::load_balancing_policy::Policy;
    use malla_xds::envoy::core::TypedExtensionConfig;

    use super::super::endpoints::examples::{assignment, endpoint};
    use super::super::tls::examples::{ads_source, mesh, upstream_socket};
    use super::*;

    fn eds() -> Cluster {
        Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads_source()), ..Default::default() }),
            ..Default::default()
        }
    }

    fn policies(type_urls: &[&str]) -> Option<LoadBalancingPolicy> {
        let policy = |type_url: &&str| Policy {
            typed_extension_config: Some(TypedExtensionConfig {
                typed_config: Some(Any { type_url: (*type_url).into(), value: Vec::new() }),
                ..Default::default()
            }),
        };
        Some(LoadBalancingPolicy { policies: type_urls.iter().map(policy).collect() })
    }

    #[test]
    fn defaults_are_those_of_the_mesh() {
        let cluster = decode("cart.shop:80", &eds()).expect("valid");
        assert!(matches!(&cluster.discovery, Discovery::Named(name) if &**name == "cart.shop:80"));
        assert_eq!(cluster.limits, Limits::default());
        assert_eq!(decode("inbound/cart-1.shop/80", &eds()).expect("valid").limits, Limits::NONE);
        assert_eq!(cluster.connect_timeout, Duration::from_secs(1));
        assert!(cluster.tls.is_none());
    }

    #[test]
    fn knows_the_transport_socket_or_refuses() {
        let tls = Cluster { transport_socket: Some(upstream_socket(mesh(&[]))), ..eds() };
        assert!(decode("x", &tls).expect("valid").tls.is_some());
        let unknown = Cluster { transport_socket: Some(Default::default()), ..eds() };
        assert_eq!(decode("x", &unknown).expect_err("refused").to_string(), "transport_socket: is missing");
    }

    #[test]
    fn takes_the_first_policy_that_spreads_and_refuses_affinity() {
        let ring = "type.googleapis.com/envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash";
        let round = "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
        let with = |load_balancing_policy| decode("x", &Cluster { load_balancing_policy, ..eds() });
        assert!(with(policies(&[PEAK_EWMA, round])).is_ok());
        assert!(with(policies(&["foreign/policy", round])).is_ok());
        assert!(with(policies(&[ring])).is_err());
        assert!(decode("x", &Cluster { lb_policy: LbPolicy::Maglev as i32, ..eds() }).is_err());
        assert!(decode("x", &Cluster { lb_policy: 77, ..eds() }).is_err());
    }

    #[test]
    fn a_dns_cluster_has_one_host() {
        let dns = |endpoints: &[&str]| Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32)),
            load_assignment: Some(assignment(0, endpoints.iter().map(|host| endpoint(host, None)).collect())),
            ..Default::default()
        };
        let cluster = decode("x", &dns(&["db.example.org"])).expect("valid");
        assert!(matches!(&cluster.discovery, Discovery::Dns { host, port: 8080 } if &**host == "db.example.org"));
        assert!(decode("x", &dns(&["a.example.org", "b.example.org"])).is_err());
        assert!(decode("x", &dns(&[])).is_err());
    }

    #[test]
    fn refuses_types_it_does_not_know() {
        let of =
            |kind| Cluster { cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind)), ..Default::default() };
        assert!(decode("x", &of(1)).is_err());
        assert!(decode("x", &of(99)).is_err());
        assert_eq!(decode("x", &of(0)).expect_err("refused").to_string(), "load_assignment: is missing");
    }
}

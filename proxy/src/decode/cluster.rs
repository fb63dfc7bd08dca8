//! Clusters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use malla_xds::envoy::cluster::CircuitBreakers;
use malla_xds::envoy::cluster::Cluster;
use malla_xds::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig};
use malla_xds::envoy::endpoint::ClusterLoadAssignment;
use malla_xds::envoy::endpoint::lb_endpoint::HostIdentifier;
use malla_xds::envoy::http_protocol_options::HttpProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::UpstreamProtocolOptions;
use malla_xds::envoy::http_protocol_options::http_protocol_options::explicit_http_config::ProtocolConfig;
use malla_xds::envoy::protobuf::{Any, UInt32Value};

use super::endpoints::{self, EndpointSpec, socket_address};
use super::fault::{At, Fault, each};
use super::listener::ads;
use super::{duration, message, policy, tls, unsupported};
use crate::names::Name;
use crate::policy::Policy;
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
    /// Connections without a request, or a byte, are closed after this.
    pub idle_timeout: Duration,
    /// A request on whose stream nothing moves for so long ends.
    pub request_idle_timeout: Option<Duration>,
    /// Circuit breaking.
    pub limits: Limits,
    /// Retries: in percent of requests, per second in any case, most at a time.
    pub retry_budget: (u32, u32, u32),
    /// How its endpoints are balanced and watched.
    pub policy: Arc<Policy>,
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
/// Default time without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Checks a cluster.
pub(super) fn decode(name: &str, written: &Cluster) -> Result<ClusterSpec, Fault> {
    unsupported("transport_socket_matches", !written.transport_socket_matches.is_empty())?;
    unsupported("transport_socket_matcher", written.transport_socket_matcher.is_some())?;
    unsupported("lb_subset_config", written.lb_subset_config.is_some())?;
    unsupported("filters", !written.filters.is_empty())?;
    unsupported("upstream_config", written.upstream_config.is_some())?;
    let tls = written.transport_socket.as_ref().map(tls::upstream).transpose().at("transport_socket")?;
    let connect_timeout = written.connect_timeout.as_ref().map(duration).transpose().at("connect_timeout")?;
    let discovery = discovery(name, written)?;
    let (http, idle_timeout) = http(written)?;
    let own = policy::decode(written)?;
    if tls.is_some() && matches!(discovery, Discovery::Dns { .. } | Discovery::OriginalDst) {
        return Err(Fault::new("is supported only for clusters with known endpoints").within("transport_socket"));
    }
    Ok(ClusterSpec {
        name: name.into(),
        discovery,
        http,
        tls,
        connect_timeout: connect_timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(CONNECT_TIMEOUT),
        idle_timeout: idle_timeout.unwrap_or(IDLE_TIMEOUT),
        request_idle_timeout: own.request_idle,
        limits: Limits { pending_timeout: own.pending_timeout, ..limits(name, written.circuit_breakers.as_ref())? },
        retry_budget: retry_budget(written.circuit_breakers.as_ref()),
        policy: own.policy.into(),
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

/// HTTP version towards plaintext upstreams, and how long connections may be idle.
fn http(written: &Cluster) -> Result<(UpstreamHttp, Option<Duration>), Fault> {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let field = || format!("typed_extension_protocol_options[{OPTIONS:?}]");
    let options: &HashMap<String, Any> = &written.typed_extension_protocol_options;
    let Some(any) = options.get(OPTIONS) else {
        #[allow(deprecated, reason = "the older way to say HTTP/2, still sent")]
        let http2 = written.http2_protocol_options.is_some();
        return Ok((if http2 { UpstreamHttp::Http2 } else { UpstreamHttp::AsReceived }, None));
    };
    let options: HttpProtocolOptions = message(&any.value).at(field())?;
    each("http_filters", &options.http_filters, |filter| {
        if filter.is_optional { Ok(()) } else { Err(Fault::new(format!("{:?} is not supported", filter.name))) }
    })
    .at(field())?;
    let unsupported = |what: &str| Err(Fault::new(format!("{what} is not supported")).within(field()));
    let version = match options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) | None => UpstreamHttp::Http1,
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => UpstreamHttp::Http2,
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => return unsupported("HTTP/3"),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) | None => UpstreamHttp::AsReceived,
        Some(UpstreamProtocolOptions::AutoConfig(_)) => return unsupported("auto_config"),
    };
    let common = options.common_http_protocol_options.as_ref();
    let idle = super::optional_duration(common.and_then(|common| common.idle_timeout.as_ref()));
    Ok((version, idle.at("common_http_protocol_options.idle_timeout").at(field())?))
}

/// Limits of the default priority.
fn limits(name: &str, written: Option<&CircuitBreakers>) -> Result<Limits, Fault> {
    // The application beside the sidecar is bounded where its connections come in.
    let default = if name.starts_with("inbound/") { Limits::NONE } else { Limits::default() };
    let Some(written) = written else { return Ok(default) };
    let or = |written: &Option<UInt32Value>, default: u32| written.as_ref().map_or(default, |limit| limit.value);
    let mut limits = default;
    if let Some(thresholds) = written.thresholds.iter().find(|thresholds| thresholds.priority == 0) {
        limits.connections = or(&thresholds.max_connections, default.connections);
        limits.pending = or(&thresholds.max_pending_requests, default.pending);
        limits.requests = or(&thresholds.max_requests, default.requests);
    }
    if let Some(each) = written.per_host_thresholds.iter().find(|thresholds| thresholds.priority == 0) {
        limits.endpoint_connections = or(&each.max_connections, u32::MAX);
        limits.endpoint_requests = or(&each.max_requests, u32::MAX);
        if limits.endpoint_connections == 0 || limits.endpoint_requests == 0 {
            return Err(
                Fault::new("a limit of zero lets nothing through").within("circuit_breakers.per_host_thresholds")
            );
        }
    }
    Ok(limits)
}

/// Retries: in percent of requests, per second in any case, most at a time.
fn retry_budget(written: Option<&CircuitBreakers>) -> (u32, u32, u32) {
    let thresholds = written.iter().flat_map(|written| &written.thresholds).find(|thresholds| thresholds.priority == 0);
    let budget = thresholds.and_then(|thresholds| thresholds.retry_budget.as_ref());
    let percent = budget.and_then(|budget| budget.budget_percent.as_ref()).map_or(20.0, |percent| percent.value);
    let per_second = budget.and_then(|budget| budget.min_retry_concurrency.as_ref()).map_or(3, |number| number.value);
    let most = thresholds.and_then(|thresholds| thresholds.max_retries.as_ref()).map_or(u32::MAX, |most| most.value);
    (percent.clamp(0.0, 100.0) as u32, per_second.min(1_000_000), most)
}

#[cfg(test)]
mod tests {
    use malla_xds::envoy::cluster::cluster::EdsClusterConfig;

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

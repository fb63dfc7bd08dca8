//! The listener of this workload's own ports: who may come in, and to which port of the application.
//!
//! Stricter than the rest: whatever is not understood here might have kept somebody out.

use malla_xds::envoy::http_connection_manager::HttpConnectionManager;
use malla_xds::envoy::listener::{Filter, FilterChain, Listener};
use malla_xds::names::{
    METADATA, METADATA_REGION, METADATA_WORKLOAD, METADATA_ZONE, UNKNOWN_WORKLOAD, is_mesh_server_name,
};
use malla_xds::resource::struct_string;
use std::sync::Arc;

use super::authorization::{self, Rules};
use super::fault::{At, Fault};
use super::listener::{self, RouteSource};
use super::{tls, unsupported};
use crate::authorize::Authorization;
use crate::names::Name;
use crate::policy::Place;
use crate::snapshot::{PathMatch, Plaintext, Protocol};

/// This workload's own ports, with clusters as names.
#[derive(Debug)]
pub struct InboundSpec {
    /// Name of the listener.
    pub name: Name,
    /// Ports.
    pub ports: Vec<InboundPortSpec>,
    /// Whether the control server says that it has no workload of this name.
    pub unknown_workload: bool,
    /// Where the workload runs.
    pub place: Place,
}

/// A port of this workload.
#[derive(Debug)]
pub struct InboundPortSpec {
    /// Service port behind it.
    pub service: Name,
    /// SNI that selects it.
    pub sni: Arc<str>,
    /// The application's port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether plaintext is taken.
    pub plaintext: Plaintext,
    /// Cluster of the local application.
    pub cluster: Name,
    /// Who may; nothing where everybody may.
    pub authorization: Option<Arc<Authorization>>,
}

/// Suffix of the name of a chain that takes plaintext.
const PLAINTEXT: &str = "/plaintext";

/// Checks the listener.
pub(super) fn decode(name: &str, written: &Listener) -> Result<InboundSpec, Fault> {
    listener::common(written)?;
    unsupported("default_filter_chain", written.default_filter_chain.is_some())?;
    unsupported("api_listener", written.api_listener.is_some())?;
    let mut ports: Vec<InboundPortSpec> = Vec::new();
    let mut permissive: Vec<(String, u16, Name)> = Vec::new();
    for (index, chain) in written.filter_chains.iter().enumerate() {
        match self::chain(chain).at(format_args!("filter_chains[{index}]"))? {
            Chain::Tls(port) => {
                if ports.iter().any(|other| other.sni == port.sni) {
                    return Err(Fault::new(format!("{} is matched by another chain too", port.sni))
                        .within(format_args!("filter_chains[{index}].filter_chain_match.server_names")));
                }
                ports.push(port);
            }
            Chain::Plaintext { service, port, cluster } => permissive.push((service, port, cluster)),
        }
    }
    for (service, port, cluster) in permissive {
        let same = |known: &&mut InboundPortSpec| *known.service == service && known.port == port;
        match ports.iter_mut().find(same) {
            Some(known) if known.cluster == cluster => known.plaintext = Plaintext::Accepted,
            _ => {
                let problem = format!("{service}{PLAINTEXT} belongs to no chain with TLS of the same port and cluster");
                return Err(Fault::new(problem).within("filter_chains"));
            }
        }
    }
    let ours = written.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(METADATA));
    let field = |key| ours.and_then(|fields| struct_string(fields, key));
    Ok(InboundSpec {
        name: name.into(),
        ports,
        unknown_workload: field(METADATA_WORKLOAD).is_some_and(|said| said == UNKNOWN_WORKLOAD),
        place: (field(METADATA_REGION).unwrap_or_default().into(), field(METADATA_ZONE).unwrap_or_default().into()),
    })
}

enum Chain {
    Tls(InboundPortSpec),
    Plaintext { service: String, port: u16, cluster: Name },
}

fn chain(written: &FilterChain) -> Result<Chain, Fault> {
    let matched =
        written.filter_chain_match.as_ref().ok_or_else(|| Fault::new("is missing").within("filter_chain_match"))?;
    listener::only_ports_and_names(matched).at("filter_chain_match")?;
    let port = matched.destination_port.as_ref().map(|port| port.value);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let port = port.ok_or_else(|| Fault::new("is not a port").within("filter_chain_match.destination_port"))?;
    let (filters, rules) = without_rules(&written.filters)?;
    let (protocol, cluster, http_rules) = upstream(&filters)?;
    let rules = match protocol {
        Protocol::Http => http_rules,
        Protocol::Detect if http_rules != rules => {
            return Err(Fault::new("the rules for HTTP and for TCP differ").within("filters"));
        }
        _ => rules,
    };
    let authorization = authorization::compile(&rules).at("filters")?;
    if written.name.is_empty() {
        return Err(Fault::new("is missing").within("name"));
    }
    match (matched.transport_protocol.as_str(), &written.transport_socket) {
        ("tls", Some(socket)) => {
            tls::downstream(socket).at("transport_socket")?;
            let [sni] = matched.server_names.as_slice() else {
                return Err(Fault::new("must be one name").within("filter_chain_match.server_names"));
            };
            if !is_mesh_server_name(sni) {
                let problem = format!("{sni:?} is not <port>.<service>.<namespace>.mesh");
                return Err(Fault::new(problem).within("filter_chain_match.server_names"));
            }
            Ok(Chain::Tls(InboundPortSpec {
                service: written.name.as_str().into(),
                sni: sni.as_str().into(),
                port,
                protocol,
                plaintext: Plaintext::Refused,
                cluster,
                authorization,
            }))
        }
        ("raw_buffer", None) => {
            let service = written.name.strip_suffix(PLAINTEXT);
            let service = service.ok_or_else(|| Fault::new(format!("must end in {PLAINTEXT}")).within("name"))?;
            unsupported("filter_chain_match.server_names", !matched.server_names.is_empty())?;
            Ok(Chain::Plaintext { service: service.to_owned(), port, cluster })
        }
        ("tls", None) => Err(Fault::new("is missing, TLS is expected").within("transport_socket")),
        ("raw_buffer", Some(_)) => {
            Err(Fault::new("contradicts transport_protocol raw_buffer").within("transport_socket"))
        }
        (other, _) => {
            let problem = format!("{other:?} is not supported, only tls and raw_buffer");
            Err(Fault::new(problem).within("filter_chain_match.transport_protocol"))
        }
    }
}

/// Network filters without those of RBAC, and these. They must be directly before the filter for raw streams: what is before
/// both would be asked about requests, too, in another way than the rules of HTTP.
fn without_rules(written: &[Filter]) -> Result<(Vec<Filter>, Vec<Rules>), Fault> {
    let (mut filters, mut rules) = (Vec::with_capacity(written.len()), Vec::new());
    for (index, filter) in written.iter().enumerate() {
        match authorization::from_network(filter).at(format_args!("filters[{index}]"))? {
            Some(found) => rules.push(found),
            None => filters.push(filter.clone()),
        }
    }
    Ok((filters, rules))
}

/// What is spoken, the one cluster of the local application, and the rules of requests.
fn upstream(written: &[Filter]) -> Result<(Protocol, Name, Vec<Rules>), Fault> {
    let filters = listener::network_filters(written)?;
    let mut rules = Vec::new();
    let http = filters.http.map(|mut manager| {
        rules = authorization::from_http(&mut manager.http_filters)?;
        http_cluster(manager)
    });
    let http = http.transpose().at("filters[0]")?;
    let tcp = match filters.tcp.as_ref().map(|tcp| tcp.clusters.as_slice()) {
        None => None,
        Some([(cluster, _)]) => Some(cluster.clone()),
        Some(_) => return Err(Fault::new("tcp_proxy must lead to one cluster").within("filters")),
    };
    match (http, tcp) {
        (Some(http), None) => Ok((Protocol::Http, http, rules)),
        (None, Some(tcp)) => Ok((Protocol::Tcp, tcp, rules)),
        (Some(http), Some(tcp)) if http == tcp => Ok((Protocol::Detect, http, rules)),
        (Some(_), Some(_)) => Err(Fault::new("HTTP and TCP lead to different clusters").within("filters")),
        (None, None) => Err(Fault::new("is empty").within("filters")),
    }
}

/// The cluster of the one route that an inbound port has: every host, every path, no conditions.
fn http_cluster(written: HttpConnectionManager) -> Result<Name, Fault> {
    let problem = |problem: &str| Fault::new(problem).within("route_config");
    let RouteSource::Inline(table) = listener::routes("inbound", written)? else {
        return Err(Fault::new("is not supported here, only route_config").within("rds"));
    };
    let [host] = table.virtual_hosts.as_slice() else { return Err(problem("must have one virtual host")) };
    let [route] = host.routes.as_slice() else { return Err(problem("must have one route")) };
    let unconditional = matches!(route.matcher.path, PathMatch::Any)
        && route.matcher.method.is_none()
        && route.matcher.headers.is_empty()
        && route.matcher.query.is_empty()
        && host.domains.iter().any(|domain| &**domain == "*");
    if route.filters.as_ref().is_some_and(|filters| filters.sampling.is_some()) {
        return Err(problem("tracing is not supported on the routes of an inbound listener"));
    }
    match route.clusters.as_slice() {
        [(cluster, _)] if unconditional => Ok(cluster.clone()),
        [_] => Err(problem("conditions are not supported on the routes of an inbound listener")),
        _ => Err(problem("must lead to one cluster")),
    }
}

//! Names on the wire: resources, server names, metadata keys. Both sides build them here and nowhere else.
//! Refuses nothing: what a name may contain is decided where configuration is read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A resource name, cheap to clone.
pub type Name = Arc<str>;

/// Name of the secret that holds the trust bundle of the mesh.
pub const ROOT_CA: &str = "ROOTCA";
/// Name of the validator of that secret which holds the roots of other trust domains.
pub const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
/// Certificate provider instance of the bootstrap file, for a workload's own certificate and the roots.
pub const CERTIFICATE_PROVIDER: &str = "default";
/// Cluster that leads to a connection's original destination, untouched.
pub const PASSTHROUGH: &str = "passthrough";
/// Cluster that leads nowhere: every weight of the route is zero.
pub const NO_BACKEND: &str = "none";
/// The HTTP filter that injects faults, in listeners and in overrides of routes.
pub const FAULT_FILTER: &str = "envoy.filters.http.fault";
/// The HTTP filter that answers browsers about other origins.
pub const CORS_FILTER: &str = "envoy.filters.http.cors";
/// The HTTP filter that limits rates.
pub const RATE_LIMIT_FILTER: &str = "envoy.filters.http.local_ratelimit";
/// The HTTP filter that keeps clients at their endpoints.
pub const SESSION_FILTER: &str = "envoy.filters.http.stateful_session";
/// The same for what Envoy's configuration has no words for: others skip it.
pub const OWN_SESSION_FILTER: &str = "malla.dev/session";
/// Second tries beside first ones, for which Envoy's `HedgePolicy` knows no quantile: others skip it.
pub const HEDGING_FILTER: &str = "malla.dev/hedging";
/// Key of a rate limit's descriptor for who calls. In Malla's sidecars its value is `namespace/service account`.
pub const RATE_LIMIT_CLIENT: &str = "source_cluster";
/// Condition of a retry policy that asks for no retries at all. (gRPC refuses `num_retries: 0`, and takes no part in conditions
/// that it does not know.)
pub const NO_RETRIES: &str = "none";
/// The expression for methods that mean the same when a request is processed twice (RFC 9110 §9.2.2).
pub const IDEMPOTENT_METHODS: &str = "DELETE|GET|HEAD|OPTIONS|PUT|TRACE";
/// The expression of a path rewrite that replaces the whole path.
pub const WHOLE_PATH: &str = "^/.*$";

/// Key of Malla's endpoint metadata in `filter_metadata`.
pub const METADATA: &str = "malla.dev";
/// Metadata field: the workload behind an endpoint, `name.namespace`.
pub const METADATA_WORKLOAD: &str = "workload";
/// What [`METADATA_WORKLOAD`] says on the own listener of a workload that the configuration does not have.
pub const UNKNOWN_WORKLOAD: &str = "unknown";
/// Metadata field: the SPIFFE ID that the endpoint's sidecar presents; absent where there is no sidecar.
pub const METADATA_IDENTITY: &str = "identity";

/// Field of a listener's metadata: the region in which the workload runs, which serves it.
pub const METADATA_REGION: &str = "region";
/// Field of a listener's metadata: the zone within the region.
pub const METADATA_ZONE: &str = "zone";

/// ALPN between sidecars for HTTP.
pub const ALPN_HTTP: &[u8] = b"h2";
/// ALPN between sidecars for raw TCP streams.
pub const ALPN_TCP: &[u8] = b"malla-tcp";

/// Type URL of the peak-EWMA balancing policy: first in `load_balancing_policy`, skipped by whoever does not know it.
pub const PEAK_EWMA: &str = "malla.dev/malla.lb.v1.PeakEwma";

/// Name of a service port: listener, route configuration and cluster alike (`cart.shop:80`).
/// `service` is `name.namespace`.
pub fn service_port(service: impl fmt::Display, port: u16) -> String {
    format!("{service}:{port}")
}

/// Name of the cluster, and of the endpoints, of a part of a service (`cart.shop:80/v2`).
pub fn subset(service_port: &str, subset: &str) -> String {
    format!("{service_port}/{subset}")
}

/// Name of a destination known by address only, as a sidecar asks for it (`10.96.0.7:80`, `[fd00::7]:80`).
pub fn original_destination(address: SocketAddr) -> String {
    address.to_string()
}

/// Name of one workload's endpoint (`endpoint/10.1.2.3:8080`): listener, route configuration and cluster.
pub fn endpoint(address: SocketAddr) -> String {
    format!("endpoint/{address}")
}

/// Name of the listener with a workload's own ports (`inbound/cart-1.shop`). `workload` is `name.namespace`.
pub fn inbound_listener(workload: impl fmt::Display) -> String {
    format!("{INBOUND}{workload}")
}

/// Name of the cluster that leads to a port of the local application (`inbound/cart-1.shop/8080`).
pub fn inbound_cluster(workload: impl fmt::Display, target_port: u16) -> String {
    format!("{INBOUND}{workload}/{target_port}")
}

const INBOUND: &str = "inbound/";

/// The `name.namespace` (and port) in the name of an inbound resource, or `None` for any other name.
pub fn inbound_workload(resource: &str) -> Option<&str> {
    let rest = resource.strip_prefix(INBOUND)?;
    Some(rest.split_once('/').map_or(rest, |(workload, _port)| workload))
}

/// The name under which a service's or workload's port is reached between sidecars (`80.cart.shop.mesh`).
/// `owner` is `name.namespace`.
pub fn mesh_server_name(owner: impl fmt::Display, port: u16) -> String {
    format!("{port}.{owner}{MESH_SUFFIX}")
}

const MESH_SUFFIX: &str = ".mesh";

/// Whether a server name says that the TLS is the mesh's, not the application's.
pub fn is_mesh_server_name(server_name: &str) -> bool {
    server_name
        .strip_suffix(MESH_SUFFIX)
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(port, owner)| port.parse::<u16>().is_ok() && owner.contains('.'))
}

/// Whether a destination name is an address and a port rather than a service.
pub fn is_address(destination: &str) -> bool {
    destination.parse::<SocketAddr>().is_ok()
}

/// Node id of a sidecar, `workload.namespace`.
pub fn node_id(workload: &str, namespace: &str) -> String {
    format!("{workload}.{namespace}")
}

/// An address without the IPv4-in-IPv6 mapping that dual-stack sockets report: one destination has one name.
pub fn canonical_address(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, |v4| SocketAddr::new(v4.into(), address.port())),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_agreed_form() {
        assert_eq!(service_port("cart.shop", 80), "cart.shop:80");
        assert_eq!(mesh_server_name("cart.shop", 80), "80.cart.shop.mesh");
        assert_eq!(inbound_cluster("cart-1.shop", 8080), "inbound/cart-1.shop/8080");
        assert_eq!(inbound_workload("inbound/cart-1.shop/8080"), Some("cart-1.shop"));
        assert_eq!(inbound_workload("inbound/cart-1.shop"), Some("cart-1.shop"));
        assert_eq!(inbound_workload("cart.shop:80"), None);
        assert_eq!(endpoint("[fd00::7]:80".parse().expect("an address")), "endpoint/[fd00::7]:80");
    }

    #[test]
    fn tells_mesh_server_names_from_those_of_applications() {
        assert!(is_mesh_server_name("80.cart.shop.mesh"));
        for foreign in ["cart.shop.mesh", "80.mesh", "example.org", "99999.cart.shop.mesh", "80.cart.shop.mesh.org", ""]
        {
            assert!(!is_mesh_server_name(foreign), "{foreign}");
        }
    }
}

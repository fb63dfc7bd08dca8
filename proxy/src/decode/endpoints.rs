//! Endpoints of a cluster.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use malla_xds::envoy::core::address;
use malla_xds::envoy::core::socket_address::PortSpecifier;
use malla_xds::envoy::core::{Address, HealthStatus, SocketAddress};
use malla_xds::envoy::endpoint::lb_endpoint::HostIdentifier;
use malla_xds::envoy::endpoint::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use malla_xds::names::{METADATA, METADATA_IDENTITY, METADATA_WORKLOAD};
use malla_xds::resource::struct_string;

use super::fault::{At, Fault, each};
use super::unsupported;
use crate::names::SpiffeId;

/// An endpoint without what the sidecar itself knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Address.
    pub address: SocketAddr,
    /// Whether it speaks mesh mTLS.
    pub sidecar: Sidecar,
    /// Workload for labels; empty if unknown.
    pub workload: Arc<str>,
    /// Weight, above zero.
    pub weight: u32,
    /// Region and zone.
    pub locality: (Arc<str>, Arc<str>),
    /// Priority, 0 first.
    pub priority: u32,
}

/// Whether an endpoint speaks mesh mTLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sidecar {
    /// It presents this identity.
    Identity(SpiffeId),
    /// The control server says that there is none: plaintext.
    Absent,
    /// The control server says nothing: whatever the cluster says, and never plaintext where the cluster has TLS.
    Unsaid,
}

/// Endpoints that one assignment may hold.
const LIMIT: usize = 100_000;

/// Checks an assignment; leaves out endpoints that do not take new requests.
pub(super) fn decode(written: &ClusterLoadAssignment) -> Result<Vec<EndpointSpec>, Fault> {
    let number: usize = written.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum();
    if number > LIMIT {
        return Err(Fault::new(format!("{number} endpoints are more than {LIMIT}")).within("endpoints"));
    }
    let localities = each("endpoints", &written.endpoints, locality)?;
    let priorities: BTreeSet<u32> = localities.iter().map(|(priority, _)| *priority).collect();
    if priorities.iter().enumerate().any(|(expected, priority)| u32::try_from(expected) != Ok(*priority)) {
        return Err(Fault::new("priorities have a gap").within("endpoints"));
    }
    let endpoints: Vec<EndpointSpec> = localities.into_iter().flat_map(|(_, endpoints)| endpoints).flatten().collect();
    let mut seen = HashSet::with_capacity(endpoints.len());
    if let Some(double) = endpoints.iter().find(|endpoint| !seen.insert(endpoint.address)) {
        return Err(Fault::new(format!("{} occurs more than once", double.address)).within("endpoints"));
    }
    let mut total: u32 = 0;
    for endpoint in &endpoints {
        let sum = total.checked_add(endpoint.weight);
        total = sum.ok_or_else(|| Fault::new("the sum of the weights exceeds 4294967295").within("endpoints"))?;
    }
    Ok(endpoints)
}

type Locality = (u32, Vec<Option<EndpointSpec>>);

fn locality(written: &LocalityLbEndpoints) -> Result<Locality, Fault> {
    unsupported("lb_config", written.lb_config.is_some())?;
    if written.priority > 127 {
        return Err(Fault::new(format!("{} is more than 127", written.priority)).within("priority"));
    }
    let place = written.locality.as_ref().map_or(("", ""), |place| (place.region.as_str(), place.zone.as_str()));
    let place: (Arc<str>, Arc<str>) = (place.0.into(), place.1.into());
    let priority = written.priority;
    let endpoints = each("lb_endpoints", &written.lb_endpoints, |written| endpoint(written, &place, priority))?;
    Ok((priority, endpoints))
}

/// An endpoint, or nothing if it does not take new requests.
fn endpoint(
    written: &LbEndpoint,
    locality: &(Arc<str>, Arc<str>),
    priority: u32,
) -> Result<Option<EndpointSpec>, Fault> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &written.host_identifier else {
        return Err(Fault::new("is missing").within("endpoint"));
    };
    let address = address(endpoint.address.as_ref()).at("endpoint.address")?;
    let weight = written.load_balancing_weight.as_ref().map_or(1, |weight| weight.value);
    if weight == 0 {
        return Err(Fault::new("must be above zero").within("load_balancing_weight"));
    }
    let ours = written.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(METADATA));
    let sidecar = match ours.map(|fields| struct_string(fields, METADATA_IDENTITY)) {
        Some(Some(identity)) => Sidecar::Identity(
            SpiffeId::parse(identity).map_err(|cause| Fault::new(cause.to_string()).within("metadata.identity"))?,
        ),
        Some(None) if ours.is_some_and(|fields| fields.fields.contains_key(METADATA_IDENTITY)) => {
            return Err(Fault::new("is not a text").within("metadata.identity"));
        }
        Some(None) => Sidecar::Absent,
        None => Sidecar::Unsaid,
    };
    let usable = matches!(
        HealthStatus::try_from(written.health_status),
        Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded)
    );
    let workload = ours.and_then(|fields| struct_string(fields, METADATA_WORKLOAD)).unwrap_or_default();
    Ok(usable.then(|| EndpointSpec {
        address,
        sidecar,
        workload: workload.into(),
        weight,
        locality: locality.clone(),
        priority,
    }))
}

/// An IP address and a port.
fn address(written: Option<&Address>) -> Result<SocketAddr, Fault> {
    let (address, port) = socket_address(written)?;
    let ip: IpAddr = address.address.parse().map_err(|_| {
        Fault::new(format!("{:?} is not an IP address", address.address)).within("socket_address.address")
    })?;
    Ok(SocketAddr::new(ip, port))
}

/// A TCP address, whose host may be a name.
pub(super) fn socket_address(written: Option<&Address>) -> Result<(&SocketAddress, u16), Fault> {
    let Some(address::Address::SocketAddress(address)) = written.and_then(|address| address.address.as_ref()) else {
        return Err(Fault::new("is missing, other kinds are not supported").within("socket_address"));
    };
    unsupported("socket_address.protocol", address.protocol != 0)?;
    unsupported("socket_address.resolver_name", !address.resolver_name.is_empty())?;
    unsupported("socket_address.network_namespace_filepath", !address.network_namespace_filepath.is_empty())?;
    let port = match address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok().filter(|port| *port != 0),
        _ => None,
    };
    let port = port.ok_or_else(|| Fault::new("is not a port").within("socket_address.port_value"))?;
    Ok((address, port))
}

#[cfg(test)]
pub(super) mod examples {
    use malla_xds::envoy::core::Metadata;
    use malla_xds::envoy::endpoint::Endpoint;
    use malla_xds::envoy::protobuf::UInt32Value;
    use malla_xds::resource::string_struct;

    use super::*;

    pub(in crate::decode) fn at(ip: &str, port: u32) -> Address {
        Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: ip.into(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..Default::default()
            })),
        }
    }

    pub(in crate::decode) fn endpoint(ip: &str, metadata: Option<&[(&str, &str)]>) -> LbEndpoint {
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                address: Some(at(ip, 8080)),
                ..Default::default()
            })),
            metadata: metadata.map(|fields| Metadata {
                filter_metadata: [(METADATA.to_owned(), string_struct(fields.iter().copied()))].into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(in crate::decode) fn assignment(priority: u32, endpoints: Vec<LbEndpoint>) -> ClusterLoadAssignment {
        ClusterLoadAssignment {
            cluster_name: "cart.shop:80".into(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: endpoints,
                load_balancing_weight: Some(UInt32Value { value: 1 }),
                priority,
                ..Default::default()
            }],
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{assignment, endpoint};
    use super::*;

    const CART: &str = "spiffe://td/ns/shop/sa/cart";

    #[test]
    fn tells_endpoints_with_without_and_with_unsaid_sidecars_apart() {
        let sidecars = decode(&assignment(
            0,
            vec![
                endpoint("10.0.0.1", Some(&[("identity", CART), ("workload", "cart-1.shop")])),
                endpoint("10.0.0.2", Some(&[("workload", "cart-2.shop")])),
                endpoint("10.0.0.3", None),
            ],
        ));
        let sidecars: Vec<Sidecar> = sidecars.expect("valid").into_iter().map(|endpoint| endpoint.sidecar).collect();
        let identity = Sidecar::Identity(SpiffeId::parse(CART).expect("valid"));
        assert_eq!(sidecars, [identity, Sidecar::Absent, Sidecar::Unsaid]);
    }

    #[test]
    fn leaves_out_what_takes_no_new_requests() {
        let status = |status: HealthStatus| {
            let written = LbEndpoint { health_status: status as i32, ..endpoint("10.0.0.1", None) };
            decode(&assignment(0, vec![written])).expect("valid").len()
        };
        assert_eq!(status(HealthStatus::Healthy), 1);
        assert_eq!(status(HealthStatus::Draining), 0);
        assert_eq!(status(HealthStatus::Unhealthy), 0);
    }

    #[test]
    fn refuses_duplicates_gaps_names_and_zero_weights() {
        let bad = [
            assignment(0, vec![endpoint("10.0.0.1", None), endpoint("10.0.0.1", None)]),
            assignment(1, vec![endpoint("10.0.0.1", None)]),
            assignment(0, vec![endpoint("localhost", None)]),
            assignment(0, vec![endpoint("10.0.0.1", Some(&[("identity", "spiffe://td/other")]))]),
            assignment(
                0,
                vec![LbEndpoint { load_balancing_weight: Some(Default::default()), ..endpoint("10.0.0.1", None) }],
            ),
            assignment(0, vec![LbEndpoint::default()]),
        ];
        for written in bad {
            assert!(decode(&written).is_err(), "{written:?}");
        }
        assert_eq!(decode(&ClusterLoadAssignment::default()), Ok(Vec::new()));
    }
}

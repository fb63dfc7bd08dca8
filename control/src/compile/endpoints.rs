//! Endpoints → load assignments: grouped by locality, only those that may receive.

use std::collections::BTreeMap;

use malla_config::mesh::Locality;
use malla_xds::envoy::core;
use malla_xds::envoy::endpoint::{self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint};
use malla_xds::names;
use malla_xds::resource::string_struct;

use super::filters::{number, socket_address};
use super::split;
use crate::world::Endpoint;

/// The endpoints that may receive. Each locality weighs as much as its endpoints together, so that without any preference
/// for nearness each endpoint gets its share.
pub(super) fn load_assignment<'a>(
    cluster: &str,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) -> ClusterLoadAssignment {
    let mut receiving: Vec<(&Endpoint, u32)> =
        endpoints.into_iter().filter(|endpoint| endpoint.receives()).map(|found| (found, found.weight)).collect();
    split::fit(receiving.iter_mut().map(|(_, weight)| weight).collect());
    let mut localities: BTreeMap<&Locality, Vec<(&Endpoint, u32)>> = BTreeMap::new();
    for (endpoint, weight) in receiving {
        localities.entry(&endpoint.locality).or_default().push((endpoint, weight));
    }
    let groups = localities.into_iter().map(|(locality, members)| LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            ..Default::default()
        }),
        load_balancing_weight: number(members.iter().map(|(_, weight)| weight).sum()),
        lb_endpoints: members.into_iter().map(|(endpoint, weight)| lb_endpoint(endpoint, weight)).collect(),
        ..Default::default()
    });
    ClusterLoadAssignment { cluster_name: cluster.to_owned(), endpoints: groups.collect(), ..Default::default() }
}

fn lb_endpoint(endpoint: &Endpoint, weight: u32) -> LbEndpoint {
    let workload = endpoint.workload.as_ref().map(ToString::to_string);
    let fields = [
        (names::METADATA_WORKLOAD, workload.as_deref()),
        (names::METADATA_IDENTITY, endpoint.identity.as_ref().map(|identity| identity.as_str())),
    ];
    let fields = string_struct(fields.into_iter().filter_map(|(key, value)| Some((key, value?))));
    LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(socket_address(endpoint.address)),
            ..Default::default()
        })),
        health_status: core::HealthStatus::Healthy.into(),
        load_balancing_weight: number(weight),
        metadata: Some(core::Metadata {
            filter_metadata: [(names::METADATA.to_owned(), fields)].into(),
            ..Default::default()
        }),
    }
}

//! The snapshot that a sidecar would apply, from resources at hand and without a control server: what the whole way from
//! responses to a snapshot costs, and what it comes to.

use std::sync::Arc;
use std::time::Instant;

use malla_xds::ResourceType;
use malla_xds::envoy::core;
use malla_xds::wire::{DeltaDiscoveryResponse, Resource};

use super::world::World;
use crate::names::Name;
use crate::snapshot::Snapshot;

/// The snapshot of these destinations. `resource` is the server: it answers a name of a type, or not at all.
pub fn snapshot(
    destinations: impl IntoIterator<Item = Name>,
    resource: impl Fn(ResourceType, &str) -> Option<Resource>,
) -> Arc<Snapshot> {
    recovered(destinations, &[], resource)
}

/// The same for a sidecar that has been told something else before, by a server that has gone.
pub fn recovered(
    destinations: impl IntoIterator<Item = Name>,
    told: &[DeltaDiscoveryResponse],
    resource: impl Fn(ResourceType, &str) -> Option<Resource>,
) -> Arc<Snapshot> {
    let now = Instant::now();
    let mut world = World::new(core::Node::default(), None, destinations, Arc::default(), Arc::default());
    world.connected(now);
    for response in told {
        world.response(response, now);
    }
    world.disconnected();
    let mut requests = world.connected(now);
    while let Some(request) = requests.pop() {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else { continue };
        let names = &request.resource_names_subscribe;
        let resources: Vec<Resource> = names.iter().filter_map(|name| resource(kind, name)).collect();
        if !resources.is_empty() {
            let type_url = request.type_url.clone();
            let response = DeltaDiscoveryResponse { type_url, resources, nonce: "1".to_owned(), ..Default::default() };
            requests.extend(world.response(&response, now));
        }
    }
    world.snapshot().clone()
}

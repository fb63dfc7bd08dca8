//! What was rendered of the world before, for what has not changed since.
//!
//! Of thousands of services one changes. What becomes of a service port, or of a workload, follows from that alone and from its surroundings:
//! the settings, the routes and the policies. Where all of these are as they were, so is what is rendered. Refuses to guess: whatever else could
//! matter, subsets for instance, is rendered anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use malla_config::mesh::{Workload, WorkloadName};
use malla_xds::{Name, Resource};

use super::policy::Hashing;
use crate::world::{ResolvedPort, ServedPort, ServicePortName, World};

/// Resources that the clients of one namespace get instead of those of the same name.
pub(super) type ForNamespace = (Name, Arc<Resource>);

/// A world, and what was rendered of it.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) world: World,
    pub(super) parts: Parts,
    /// All of it, in the order of [`Resources`](crate::resources::Resources).
    pub(super) in_order: Vec<Arc<Resource>>,
}

/// What was rendered, by what it was rendered of.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) ports: HashMap<ServicePortName, Arc<OfPort>>,
    pub(super) workloads: HashMap<WorkloadName, Arc<OfWorkload>>,
}

/// What a service port is to its clients.
#[derive(Debug)]
pub(super) struct OfPort {
    pub(super) aliases: Vec<Name>,
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) for_namespaces: Vec<ForNamespace>,
}

/// What a workload is to its own sidecar, and to those who ask for its addresses.
#[derive(Debug)]
pub(super) struct OfWorkload {
    pub(super) addresses: Addresses,
    pub(super) resources: Vec<Arc<Resource>>,
}

/// Addresses, each with the names that it has besides.
pub(super) type Addresses = Vec<(SocketAddr, Vec<String>)>;

/// What may still hold of what was rendered before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a>(Option<&'a Before>);

impl<'a> Known<'a> {
    /// Of the world before; nothing if its surroundings were others.
    pub(super) fn new(before: Option<&'a Before>, world: &World, hashing: &Hashing) -> Self {
        Known(before.filter(|before| {
            let (one, other) = (&before.world.mesh, &world.mesh);
            one.settings == other.settings
                && one.http_routes == other.http_routes
                && one.tcp_routes == other.tcp_routes
                && one.tls_routes == other.tls_routes
                && one.authorization_policies == other.authorization_policies
                // Policies name ports of services.
                && (one.authorization_policies.is_empty() || one.services == other.services)
                && Hashing::new(&before.world) == *hashing
        }))
    }

    pub(super) fn port(self, name: &ServicePortName, port: &ResolvedPort, aliases: &[Name]) -> Option<Arc<OfPort>> {
        // Who is in a subset, the labels of workloads tell.
        let before = self.0.filter(|_| port.policy.subsets.is_empty())?;
        let known = before.parts.ports.get(name)?;
        (before.world.ports.get(name) == Some(port) && known.aliases == *aliases).then(|| known.clone())
    }

    pub(super) fn workload(
        self,
        workload: &Workload,
        ports: &BTreeMap<u16, ServedPort>,
        addresses: &Addresses,
    ) -> Option<Arc<OfWorkload>> {
        let (before, name) = (self.0?, &workload.name);
        let known = before.parts.workloads.get(name)?;
        let same = before.world.mesh.workloads.get(name) == Some(workload)
            && before.world.serving.get(name) == Some(ports)
            && known.addresses == *addresses;
        same.then(|| known.clone())
    }
}

impl Parts {
    /// Everything, what was there before first and in its order: sorting that is little work.
    pub(super) fn all(
        &self,
        before: Option<&Before>,
        others: impl IntoIterator<Item = Resource>,
    ) -> Vec<Arc<Resource>> {
        let of_ports = self.ports.values().flat_map(|port| &port.resources);
        let all = of_ports.chain(self.workloads.values().flat_map(|workload| &workload.resources));
        let mut new: HashSet<*const Resource> = all.clone().map(Arc::as_ptr).collect();
        let before = before.map_or(&[][..], |before| &before.in_order);
        let mut found: Vec<_> = before.iter().filter(|known| new.remove(&Arc::as_ptr(known))).cloned().collect();
        found.extend(all.filter(|resource| new.contains(&Arc::as_ptr(resource))).cloned());
        found.extend(others.into_iter().map(Arc::new));
        found
    }

    pub(super) fn for_namespaces(&self) -> impl Iterator<Item = ForNamespace> {
        self.ports.values().flat_map(|port| &port.for_namespaces).cloned()
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;

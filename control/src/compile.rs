//! The world → xDS resources, in the dialect of proxyless gRPC that Malla's sidecars consume too. A pure function: the same
//! world gives the same bytes, and a resource whose content did not change keeps its version.
//!
//! One rendering serves everybody; what is for one workload only (`inbound/…`) is named after it. `docs/xds.md` tells which
//! feature becomes which field.

mod attached;
mod authorization;
mod cluster;
mod endpoints;
mod filters;
mod inbound;
mod memory;
mod outbound;
mod overrides;
mod policy;
mod precedence;
mod retries;
mod route;
mod route_filters;
mod split;
mod tls;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use malla_config::mesh::{self, WorkloadName};
use malla_xds::{Name, SpiffeId};

use self::memory::{Addresses, Before, Known, OfWorkload, Parts};
use self::policy::Hashing;
pub(crate) use self::tls::with_trust_bundle;
use crate::resources::{Resources, UnknownDestinations};
use crate::world::{World, WorldError, identity_of};

/// Renders a world. `trust_bundle` (PEM, all trust anchors) becomes the secret `ROOTCA`.
///
/// # Errors
/// Those of [`World::new`](crate::world::World::new), and roots of other trust domains that are no certificates.
pub(crate) fn compile(world: &World, trust_bundle: &str) -> Result<Resources, WorldError> {
    rendered(world, trust_bundle, None).map(|(resources, _)| resources)
}

/// Renders worlds one after the other: the same as [`compile`], with less work where little has changed.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    before: Option<Before>,
    /// What was before that, until somebody has the time to throw it away.
    former: Option<Before>,
}

impl Compiler {
    /// See [`compile`].
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn compile(&mut self, world: World, trust_bundle: &str) -> Result<Resources, WorldError> {
        let (resources, parts) = rendered(&world, trust_bundle, self.before.as_ref())?;
        let now = Before { world, parts, in_order: resources.in_order().to_vec() };
        self.former = self.before.replace(now);
        Ok(resources)
    }

    /// Gives back what is of no more use. Takes a while for a large world.
    pub(crate) fn tidy(&mut self) {
        self.former = None;
    }
}

fn rendered(world: &World, trust_bundle: &str, before: Option<&Before>) -> Result<(Resources, Parts), WorldError> {
    let secret = tls::trust_bundle(trust_bundle, &world.mesh.settings)?;
    let hashing = Hashing::new(world);
    let known = Known::new(before, world, &hashing);
    let ports = outbound::services(world, &hashing, known);
    let parts = Parts { ports, workloads: workloads(world, known)? };
    let unknown_destinations = match world.mesh.settings.unknown_destinations {
        mesh::UnknownDestinations::PassThrough => UnknownDestinations::PassThrough,
        mesh::UnknownDestinations::Deny => UnknownDestinations::Deny,
    };
    let trust_domain = world.mesh.settings.trust_domain.clone();
    let (all, special) = (parts.all(before, [secret]), parts.for_namespaces());
    let resources = Resources::shared(trust_domain, unknown_destinations, all, special, owners(world)?);
    let resources = resources.with_routes(attached::shown(world)).with_versions(versions(world));
    Ok((resources.with_observers(observers(world)?), parts))
}

/// What each workload is to its own sidecar, and to those who ask for its addresses.
fn workloads(world: &World, known: Known<'_>) -> Result<HashMap<WorkloadName, Arc<OfWorkload>>, WorldError> {
    let mut addresses: HashMap<&WorkloadName, Addresses> = HashMap::new();
    for (address, name) in &world.workload_addresses {
        let names = world.host_names.get(address).cloned().unwrap_or_default();
        addresses.entry(name).or_default().push((*address, names));
    }
    let mut rendered = HashMap::with_capacity(world.serving.len());
    for (name, ports) in &world.serving {
        let Some(workload) = world.mesh.workloads.get(name) else { continue };
        let addresses = addresses.remove(name).unwrap_or_default();
        let of_workload = match known.workload(workload, ports, &addresses) {
            Some(known) => known,
            None => {
                let mut resources = Vec::new();
                outbound::workload_ports(world, workload, ports, &addresses, &mut resources)?;
                inbound::render(world, workload, ports, &mut resources);
                Arc::new(OfWorkload { addresses, resources: resources.into_iter().map(Arc::new).collect() })
            }
        };
        rendered.insert(name.clone(), of_workload);
    }
    Ok(rendered)
}

/// What workloads say of their version, by the usual labels.
fn versions(world: &World) -> HashMap<Name, Name> {
    let said = |workload: &mesh::Workload| {
        let version = VERSION_LABELS.iter().find_map(|label| workload.labels.get(*label))?;
        Some((workload.name.to_string().into(), version.as_str().into()))
    };
    world.mesh.workloads.values().filter_map(said).collect()
}

/// Those that name the version of a workload, the first that is there.
const VERSION_LABELS: [&str; 2] = ["version", "app.kubernetes.io/version"];

/// Which identity may have the `inbound/…` resources of which workload.
fn owners(world: &World) -> Result<HashMap<Name, SpiffeId>, WorldError> {
    let workloads = world.mesh.workloads.values();
    workloads.map(|workload| Ok((workload.name.to_string().into(), identity_of(&world.mesh, workload)?))).collect()
}

/// Which identities may look at traffic from elsewhere.
fn observers(world: &World) -> Result<BTreeSet<SpiffeId>, WorldError> {
    let settings = &world.mesh.settings;
    let identities = settings.observers.iter().map(|(namespace, service_account)| {
        SpiffeId::new(&settings.trust_domain, namespace, service_account).map_err(WorldError::Observer)
    });
    identities.collect()
}

#[cfg(test)]
mod describe;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod precedence_tests;
#[cfg(test)]
mod tests;

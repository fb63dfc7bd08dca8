//! The mesh as it stands: a validated [`Mesh`] joined with the endpoints behind each service port, the ports that each
//! workload serves, and the addresses under which both are asked for.
//!
//! A pure function of the mesh. It decides nothing about the wire: that is [`compile`](crate::compile)'s.

mod endpoint;
mod names;
mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use malla_config::mesh::{
    AppProtocol, EndpointSource, Mesh, MtlsMode, Sidecar, TargetPort, TrafficPolicy, Workload, WorkloadName,
};
use malla_xds::identity::InvalidSpiffeId;

use endpoint::Candidates;
pub(crate) use endpoint::{Endpoint, of_workload};
pub(crate) use names::{ServicePortName, identity_of};
pub(crate) use serving::ServedPort;

/// A mesh and everything that follows from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// What was configured.
    pub mesh: Mesh,
    /// Every service port, with its endpoints.
    pub ports: BTreeMap<ServicePortName, ResolvedPort>,
    /// What each workload serves: application port → the services that lead there.
    pub serving: BTreeMap<WorkloadName, BTreeMap<u16, ServedPort>>,
    /// Service ports by other names of their services (`ExternalName`).
    pub other_names: BTreeMap<ServicePortName, Vec<ServicePortName>>,
    /// Virtual address and port → the service port behind it.
    pub virtual_addresses: BTreeMap<SocketAddr, ServicePortName>,
    /// Address and application port of a workload → that workload. Addresses that several workloads claim, and virtual
    /// addresses, are left out: they name nobody.
    pub workload_addresses: BTreeMap<SocketAddr, WorkloadName>,
    /// Names of single endpoints of headless services (`db-0.db.shop:5432`), by those of `workload_addresses` that they stand for.
    pub host_names: BTreeMap<SocketAddr, Vec<String>>,
}

/// A service port and what is behind it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResolvedPort {
    /// The declared protocol.
    pub protocol: AppProtocol,
    /// What is behind it.
    pub upstream: Upstream,
    /// How the traffic to it is balanced, limited and watched.
    pub policy: Arc<TrafficPolicy>,
}

/// What is behind a service port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Upstream {
    /// Endpoints of the mesh, each address once; also those that receive nothing now.
    Endpoints(Vec<Endpoint>),
    /// A DNS name outside the mesh (`ExternalName`).
    Dns {
        /// The name.
        host: Arc<str>,
        /// The port there.
        port: u16,
    },
}

/// What a mesh says that cannot be carried out. Loading a configuration excludes these; they are here so that a gap there
/// becomes a refused configuration, not a wrong one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorldError {
    /// Namespace, service account or trust domain make no SPIFFE ID.
    #[error("workload {workload} has no valid identity")]
    Identity {
        /// The workload.
        workload: WorkloadName,
        /// Why not.
        #[source]
        cause: InvalidSpiffeId,
    },
    /// Namespace, service account or trust domain of who may look make no SPIFFE ID.
    #[error("`Mesh.spec.observers` names no valid identity")]
    Observer(#[source] InvalidSpiffeId),
    /// The roots of another trust domain cannot be read.
    #[error("the roots of the trust domain {domain} (`Mesh.spec.federation`) are not X.509 certificates in PEM")]
    Roots {
        /// The trust domain.
        domain: Arc<str>,
    },
}

impl World {
    /// Resolves all that the mesh names.
    ///
    /// # Errors
    /// A name that cannot be part of an identity, which loading a configuration excludes.
    pub(crate) fn new(mesh: Mesh) -> Result<World, WorldError> {
        let candidates = Candidates::new(&mesh);
        let mut ports = BTreeMap::new();
        let mut virtual_addresses = BTreeMap::new();
        let mut other_names: BTreeMap<ServicePortName, Vec<ServicePortName>> = BTreeMap::new();
        for service in mesh.services.values() {
            for port in &service.ports {
                let name = ServicePortName { service: service.name.clone(), port: port.port };
                for address in &service.addresses {
                    virtual_addresses.entry(SocketAddr::new(*address, port.port)).or_insert_with(|| name.clone());
                }
                let upstream = match &service.endpoints {
                    EndpointSource::Service(behind) => {
                        let port = ServicePortName { service: behind.clone(), port: port.port };
                        other_names.entry(port).or_default().push(name);
                        continue;
                    }
                    EndpointSource::Selector(labels) => {
                        Upstream::Endpoints(candidates.selected(&service.name, labels, port)?)
                    }
                    EndpointSource::Slices => Upstream::Endpoints(candidates.listed(&service.name, port)?),
                    EndpointSource::ExternalName(host) => {
                        let target = match port.target {
                            TargetPort::Number(number) => number,
                            // Nothing outside the mesh has ports with names.
                            TargetPort::Name(_) => port.port,
                        };
                        Upstream::Dns { host: host.clone(), port: target }
                    }
                };
                let policy = mesh.traffic_policy(&service.name, port.port);
                ports.insert(name, ResolvedPort { protocol: port.protocol, upstream, policy });
            }
        }
        let serving = serving::resolve(&mesh, &ports);
        let workload_addresses = workload_addresses(&mesh, &ports, &serving, &virtual_addresses);
        let host_names = host_names(&mesh, &workload_addresses);
        Ok(World { mesh, ports, serving, other_names, virtual_addresses, workload_addresses, host_names })
    }

    /// Whether a workload takes plaintext: its own word, else its namespace's, else the mesh's.
    pub(crate) fn mode(&self, workload: &Workload) -> MtlsMode {
        mode(&self.mesh, workload)
    }
}

fn mode(mesh: &Mesh, workload: &Workload) -> MtlsMode {
    let namespace = &workload.name.namespace;
    workload.mtls.unwrap_or_else(|| match workload.sidecar {
        Sidecar::None => mesh.settings.mtls_without_sidecar(namespace),
        Sidecar::Transparent | Sidecar::Explicit { .. } => mesh.settings.mtls_in(namespace),
    })
}

fn workload_addresses(
    mesh: &Mesh,
    ports: &BTreeMap<ServicePortName, ResolvedPort>,
    serving: &BTreeMap<WorkloadName, BTreeMap<u16, ServedPort>>,
    virtual_addresses: &BTreeMap<SocketAddr, ServicePortName>,
) -> BTreeMap<SocketAddr, WorkloadName> {
    let mut found: BTreeMap<SocketAddr, WorkloadName> = BTreeMap::new();
    let mut contested = BTreeSet::new();
    for (name, ports) in serving {
        let Some(workload) = mesh.workloads.get(name) else { continue };
        for port in ports.keys() {
            let address = SocketAddr::new(workload.address, *port);
            if virtual_addresses.contains_key(&address) || found.insert(address, name.clone()).is_some() {
                contested.insert(address);
            }
        }
    }
    // A workload of two address families has its second address in slices only.
    for port in ports.values() {
        let Upstream::Endpoints(endpoints) = &port.upstream else { continue };
        for endpoint in endpoints {
            let Some(name) = &endpoint.workload else { continue };
            let workload = mesh.workloads.get(name);
            if workload.is_none_or(|found| matches!(found.sidecar, Sidecar::Explicit { .. })) {
                continue;
            }
            let other = found.insert(endpoint.address, name.clone());
            if virtual_addresses.contains_key(&endpoint.address) || other.is_some_and(|other| other != *name) {
                contested.insert(endpoint.address);
            }
        }
    }
    found.retain(|address, _| !contested.contains(address));
    found
}

/// As DNS has them: nothing stands between such a name and the endpoint, and its port is the endpoint's own. Of two addresses that one
/// name has, the first is what it leads to.
fn host_names(
    mesh: &Mesh,
    workload_addresses: &BTreeMap<SocketAddr, WorkloadName>,
) -> BTreeMap<SocketAddr, Vec<String>> {
    let mut found: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for slice in &mesh.endpoint_slices {
        let service = &slice.service;
        if mesh.services.get(service).is_none_or(|service| !service.addresses.is_empty()) {
            continue;
        }
        for endpoint in &slice.endpoints {
            let Some(hostname) = &endpoint.hostname else { continue };
            let workload = endpoint.workload.as_ref().and_then(|name| mesh.workloads.get(name));
            for (listed, port) in
                endpoint.addresses.iter().flat_map(|listed| slice.ports.values().map(move |port| (listed, port)))
            {
                let address = match workload {
                    Some(workload) if matches!(workload.sidecar, Sidecar::Explicit { .. }) => workload.address,
                    _ => *listed,
                };
                let address = SocketAddr::new(address, *port);
                let name = malla_xds::names::service_port(format_args!("{hostname}.{service}"), *port);
                if workload_addresses.contains_key(&address) && taken.insert(name.clone()) {
                    found.entry(address).or_default().push(name);
                }
            }
        }
    }
    found
}

/// Where other workloads connect to reach `port` of the application behind `workload`.
fn reached_at(workload: &Workload, port: u16) -> SocketAddr {
    match workload.sidecar {
        Sidecar::Explicit { inbound_port, .. } => SocketAddr::new(workload.address, inbound_port),
        Sidecar::Transparent | Sidecar::None => SocketAddr::new(workload.address, port),
    }
}

#[cfg(test)]
mod tests;

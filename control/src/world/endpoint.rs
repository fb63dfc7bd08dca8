//! The endpoints behind a service port: by selector, or as slices list them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use malla_config::mesh::{
    EndpointSlice, Locality, Mesh, MtlsMode, ServiceName, ServicePort, Sidecar, SliceEndpoint, TargetPort, Workload,
    WorkloadName,
};
use malla_xds::SpiffeId;

use super::names::identity_of;
use super::{WorldError, mode, reached_at};

/// One place where a service port is served.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Endpoint {
    /// Where a client connects.
    pub address: SocketAddr,
    /// The application's port behind that address.
    pub target_port: u16,
    /// The workload, where it is known.
    pub workload: Option<WorkloadName>,
    /// The SPIFFE identity of its sidecar; without one it is reached in plaintext.
    pub identity: Option<SpiffeId>,
    /// Whether plaintext is allowed there.
    pub mode: MtlsMode,
    /// Where it runs.
    pub locality: Locality,
    /// Relative weight within the service; zero receives nothing.
    pub weight: u32,
    /// Whether it takes new work.
    pub health: Health,
}

/// Whether an endpoint takes new work, as its source says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It does.
    Ready,
    /// It is ending: what it has may finish.
    Draining,
    /// Not yet, or not now.
    NotReady,
}

impl Endpoint {
    /// Whether requests may be sent there: ready, with weight, and by mTLS unless plaintext is allowed.
    pub(crate) fn receives(&self) -> bool {
        self.health == Health::Ready
            && self.weight > 0
            && (self.identity.is_some() || self.mode == MtlsMode::Permissive)
    }
}

/// The endpoint that a workload is for one of its ports.
pub(crate) fn of_workload(mesh: &Mesh, workload: &Workload, target_port: u16) -> Result<Endpoint, WorldError> {
    let identity = match workload.sidecar {
        Sidecar::None => None,
        Sidecar::Transparent | Sidecar::Explicit { .. } => Some(identity_of(mesh, workload)?),
    };
    Ok(Endpoint {
        address: reached_at(workload, target_port),
        target_port,
        workload: Some(workload.name.clone()),
        identity,
        mode: mode(mesh, workload),
        locality: workload.locality.clone(),
        weight: workload.weight,
        health: Health::Ready,
    })
}

/// Where endpoints are looked up: without it, resolving takes services × workloads.
pub(super) struct Candidates<'a> {
    mesh: &'a Mesh,
    labelled: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Workload>>,
    slices: HashMap<&'a ServiceName, Vec<&'a EndpointSlice>>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(mesh: &'a Mesh) -> Self {
        let mut candidates = Candidates { mesh, labelled: HashMap::new(), slices: HashMap::new() };
        for workload in mesh.workloads.values() {
            for (key, value) in &workload.labels {
                let place = (&*workload.name.namespace, key.as_str(), value.as_str());
                candidates.labelled.entry(place).or_default().push(workload);
            }
        }
        for slice in &mesh.endpoint_slices {
            candidates.slices.entry(&slice.service).or_default().push(slice);
        }
        candidates
    }

    /// The workloads of the service's namespace that carry all `labels`, sorted by name. An empty selector selects
    /// nothing. Workloads without a port of the target's name are no endpoints of that port.
    pub(super) fn selected(
        &self,
        service: &'a ServiceName,
        labels: &'a BTreeMap<String, String>,
        port: &ServicePort,
    ) -> Result<Vec<Endpoint>, WorldError> {
        let carrying = |(key, value): (&'a String, &'a String)| -> &[&'a Workload] {
            let place = (&*service.namespace, key.as_str(), value.as_str());
            self.labelled.get(&place).map_or(&[], Vec::as_slice)
        };
        let fewest = labels.iter().map(carrying).min_by_key(|workloads| workloads.len()).unwrap_or_default();
        let mut endpoints = Unique::default();
        for workload in fewest {
            if labels.iter().any(|(key, value)| workload.labels.get(key) != Some(value)) {
                continue;
            }
            let target = match &port.target {
                TargetPort::Number(number) => Some(number),
                TargetPort::Name(name) => workload.ports.get(name),
            };
            if let Some(target) = target {
                endpoints.add(of_workload(self.mesh, workload, *target)?);
            }
        }
        Ok(endpoints.endpoints)
    }

    /// The endpoints that slices list for the service, in file order. The port is found by the service port's name, as
    /// Kubernetes does.
    pub(super) fn listed(&self, service: &ServiceName, port: &ServicePort) -> Result<Vec<Endpoint>, WorldError> {
        let mut endpoints = Unique::default();
        for slice in self.slices.get(service).into_iter().flatten() {
            let Some(target) = slice.ports.get(&port.name) else { continue };
            for listed in &slice.endpoints {
                for address in &listed.addresses {
                    endpoints.add(of_slice(self.mesh, service, listed, SocketAddr::new(*address, *target))?);
                }
            }
        }
        Ok(endpoints.endpoints)
    }
}

/// What is known of the workload decides how it is reached; the slice decides where (unless the workload's sidecar has a
/// listener of its own), whether it is ready, and its locality.
fn of_slice(
    mesh: &Mesh,
    service: &ServiceName,
    listed: &SliceEndpoint,
    address: SocketAddr,
) -> Result<Endpoint, WorldError> {
    let mut endpoint = match listed.workload.as_ref().and_then(|name| mesh.workloads.get(name)) {
        Some(workload) if matches!(workload.sidecar, Sidecar::Explicit { .. }) => {
            of_workload(mesh, workload, address.port())?
        }
        Some(workload) => Endpoint { address, ..of_workload(mesh, workload, address.port())? },
        None => Endpoint {
            address,
            target_port: address.port(),
            workload: None,
            identity: None,
            mode: mesh.settings.mtls_without_sidecar(&service.namespace),
            locality: Locality::default(),
            weight: 1,
            health: Health::Ready,
        },
    };
    endpoint.health = match (listed.terminating, listed.ready) {
        (true, _) => Health::Draining,
        (false, true) => Health::Ready,
        (false, false) => Health::NotReady,
    };
    // A slice tells the zone only.
    for (known, told) in
        [(&mut endpoint.locality.region, &listed.locality.region), (&mut endpoint.locality.zone, &listed.locality.zone)]
    {
        if !told.is_empty() {
            known.clone_from(told);
        }
    }
    Ok(endpoint)
}

/// Clients refuse a set that lists an address twice: the first that takes work stays, else the first.
#[derive(Default)]
struct Unique {
    endpoints: Vec<Endpoint>,
    position: HashMap<SocketAddr, usize>,
}

impl Unique {
    fn add(&mut self, endpoint: Endpoint) {
        match self.position.get(&endpoint.address).and_then(|index| self.endpoints.get_mut(*index)) {
            Some(earlier) if !earlier.receives() && endpoint.receives() => *earlier = endpoint,
            Some(_) => {}
            None => {
                self.position.insert(endpoint.address, self.endpoints.len());
                self.endpoints.push(endpoint);
            }
        }
    }
}

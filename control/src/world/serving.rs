//! What each workload serves: for each port of its application, the service ports that lead there.

use std::collections::BTreeMap;

use malla_config::mesh::{AppProtocol, Mesh, WorkloadName};

use super::{ResolvedPort, ServicePortName, Upstream};

/// A port of a workload's application.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ServedPort {
    /// The service ports that lead there, sorted by name; none for a port that the workload only declares.
    pub services: Vec<ServedService>,
}

/// A service port that leads to a port of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServedService {
    /// The service port.
    pub name: ServicePortName,
    /// The protocol that it declares.
    pub protocol: AppProtocol,
}

impl ServedPort {
    /// What is spoken when the port is reached by its address: as the first service says.
    pub(crate) fn protocol(&self) -> AppProtocol {
        self.services.first().map_or(AppProtocol::Detect, |service| service.protocol)
    }

    /// The protocol on which all services agree; [`AppProtocol::Detect`] where they do not.
    pub(crate) fn agreed_protocol(&self) -> AppProtocol {
        let first = self.protocol();
        if self.services.iter().all(|service| service.protocol == first) { first } else { AppProtocol::Detect }
    }
}

/// From the declared ports of workloads and from the endpoints of services, ready or not: a sidecar must know its ports
/// before its application is ready.
pub(super) fn resolve(
    mesh: &Mesh,
    ports: &BTreeMap<ServicePortName, ResolvedPort>,
) -> BTreeMap<WorkloadName, BTreeMap<u16, ServedPort>> {
    let mut serving: BTreeMap<WorkloadName, BTreeMap<u16, ServedPort>> = mesh
        .workloads
        .iter()
        .map(|(name, workload)| {
            (name.clone(), workload.ports.values().map(|port| (*port, ServedPort::default())).collect())
        })
        .collect();
    for (name, port) in ports {
        let Upstream::Endpoints(endpoints) = &port.upstream else { continue };
        for endpoint in endpoints {
            let Some(workload) = endpoint.workload.as_ref().and_then(|workload| serving.get_mut(workload)) else {
                continue;
            };
            let served = workload.entry(endpoint.target_port).or_default();
            let service = ServedService { name: name.clone(), protocol: port.protocol };
            if !served.services.contains(&service) {
                served.services.push(service);
            }
        }
    }
    serving
}

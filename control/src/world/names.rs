//! Names that follow from a mesh: service ports and identities.

use std::fmt;

use malla_config::mesh::{Mesh, ServiceName, Workload};
use malla_xds::{SpiffeId, names};

use super::WorldError;

/// `name.namespace:port`: a port of a service, as xDS resources name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServicePortName {
    /// The service.
    pub service: ServiceName,
    /// Its port, as clients use it.
    pub port: u16,
}

impl ServicePortName {
    /// The server name under which this port is reached between sidecars.
    pub(crate) fn server_name(&self) -> String {
        names::mesh_server_name(&self.service, self.port)
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&names::service_port(&self.service, self.port))
    }
}

/// The SPIFFE identity that a workload's service account gives it.
pub(crate) fn identity_of(mesh: &Mesh, workload: &Workload) -> Result<SpiffeId, WorldError> {
    let domain = workload.trust_domain.as_ref().unwrap_or(&mesh.settings.trust_domain);
    SpiffeId::new(domain, &workload.name.namespace, &workload.service_account)
        .map_err(|cause| WorldError::Identity { workload: workload.name.clone(), cause })
}

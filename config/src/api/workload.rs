//! `Workload`: a process of the mesh outside Kubernetes, and how its sidecar is reached.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MtlsMode;

/// One process that serves or calls services of the mesh. Services select it by its labels.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "Workload",
    plural = "workloads",
    namespaced,
    derive = "PartialEq",
    doc = "One process that serves or calls services of the mesh. Services select it by its labels."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// IP address at which other workloads reach its sidecar, or the process itself if it has no sidecar.
    pub address: String,
    /// Service account: with the namespace and the trust domain, its SPIFFE identity
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Its trust domain, if that is not the mesh's own: a workload of another mesh, which `Mesh.spec.federation` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Port names and their numbers, for services whose `targetPort` is a name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// How its sidecar receives traffic. Default `mode: explicit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
    /// Its own mTLS mode; wins over the mesh's and the namespace's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<WorkloadMtls>,
    /// Share among the endpoints of a service. Default 1; zero receives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// How a workload's sidecar receives traffic.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// The manner.
    pub mode: SidecarMode,
    /// Mode `explicit`: the port of `address` at which the sidecar listens. Default 15006.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound_port: Option<u16>,
    /// Mode `explicit`: the IP address at which the application itself listens. Default 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
}

/// The manners in which a sidecar receives traffic.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SidecarMode {
    /// Redirection (`malla-proxy init`): mTLS on the application's own port.
    Transparent,
    /// No redirection: the sidecar listens at `address:inboundPort` and forwards to the application.
    Explicit,
    /// No sidecar: reached in plaintext, and only where the mTLS mode is `permissive`.
    None,
}

/// mTLS of one workload.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct WorkloadMtls {
    /// Whether it takes plaintext.
    pub mode: MtlsMode,
}

/// Where a workload runs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct Locality {
    /// Region, as in the label `topology.kubernetes.io/region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zone, as in the label `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

//! `Mesh`: settings of the whole mesh. There is at most one.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the whole mesh. There is at most one.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "Mesh",
    plural = "meshes",
    derive = "PartialEq",
    doc = "Settings of the whole mesh. There is at most one."
)]
#[serde(rename_all = "camelCase")]
pub struct MeshSpec {
    /// SPIFFE trust domain of all identities. Default `cluster.local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Whether plaintext is taken. Default: `strict` everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MeshMtls>,
    /// What a sidecar does with destinations outside the mesh. Default `passThrough`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_destinations: Option<UnknownDestinations>,
    /// What happens to a request where no `AuthorizationPolicy` with `action: Allow` is about its port. Default `allow`. Begin with
    /// `audit` to see what `deny` would refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_authorization: Option<DefaultAuthorization>,
    /// Other trust domains whose workloads may be peers, and by which roots they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub federation: Vec<FederatedDomain>,
    /// Who may look at traffic and status from elsewhere than the control server's own machine (`malla tap --control`). Default:
    /// nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observers: Vec<Observer>,
}

/// An identity of the mesh's trust domain that may look at the traffic of all workloads: edges, and requests without their queries,
/// headers and bodies.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observer {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

/// Another trust domain (a mesh, or whatever issues SPIFFE identities).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FederatedDomain {
    /// Its name, as in `partner.example`.
    pub trust_domain: String,
    /// Its root certificates (PEM). They vouch for identities of this trust domain alone.
    pub roots: String,
}

/// What happens to a request that no policy decides.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DefaultAuthorization {
    /// It is let through.
    Allow,
    /// It is refused with `denied`.
    Deny,
    /// It is let through, and counted and logged as what `deny` would have refused.
    Audit,
}

/// mTLS of the mesh and of its namespaces. A workload's own mode wins over both.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct MeshMtls {
    /// The mode of all that say nothing themselves. Default `strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MtlsMode>,
    /// The modes of single namespaces, by namespace; they win over `mode`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespaces: BTreeMap<String, MtlsMode>,
}

/// Whether plaintext is taken.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MtlsMode {
    /// Mesh mTLS only; plaintext is refused.
    Strict,
    /// Plaintext is accepted and counted: for migration.
    Permissive,
}

/// What happens to destinations outside the mesh.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UnknownDestinations {
    /// Forwarded untouched, and counted.
    PassThrough,
    /// Refused with `no_route`.
    Deny,
}

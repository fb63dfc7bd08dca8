//! `AuthorizationPolicy`: who may call what.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PolicyTarget;

/// Who may call what. It protects workloads of its own namespace, in their own sidecars.
///
/// Policies that deny go first. Where at least one policy that allows is about a port, everything else to that port is refused;
/// where none is, `Mesh.spec.defaultAuthorization` decides.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    namespaced,
    derive = "PartialEq",
    doc = "Who may call what."
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// What it protects. A `Service`: the ports behind it, by whatever name they are reached. An `HTTPRoute` or `GRPCRoute` (group
    /// `gateway.networking.k8s.io`): the requests that fit it, on the ports behind its backends. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_refs: Option<Vec<PolicyTarget>>,
    /// The workloads that it protects. Without it and without `targetRefs`: all of its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// What happens to a request that one of the rules matches.
    pub action: AuthorizationAction,
    /// The rules; a request is matched if any of them matches it. No rules match nothing: with `action: Allow` that refuses
    /// everything.
    #[serde(default)]
    pub rules: Vec<AuthorizationRule>,
}

/// Workloads by their labels.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that a workload must carry, all of them.
    pub match_labels: BTreeMap<String, String>,
}

/// What happens to a request that a rule matches.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum AuthorizationAction {
    /// It is let through, unless a policy denies it; what no such policy matches is refused.
    Allow,
    /// It is refused.
    Deny,
    /// It is let through, and counted and logged as what `Deny` would have refused.
    Audit,
}

/// One rule: any of `from`, and any of `to`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct AuthorizationRule {
    /// The callers; absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<Caller>>,
    /// The requests; absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<Operation>>,
}

/// A caller; all of the fields that are present must match. Plaintext identifies nobody: it matches no field about identity,
/// and of the fields that begin with `not` only those of policies that do not allow.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// Any of these namespaces of the mesh's trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// None of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_namespaces: Option<Vec<String>>,
    /// Any of these service accounts of the mesh's trust domain, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<Vec<String>>,
    /// None of these service accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_service_accounts: Option<Vec<String>>,
    /// Any of these SPIFFE identities, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<String>>,
    /// None of these SPIFFE identities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_identities: Option<Vec<String>>,
    /// Anybody of these trust domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domains: Option<Vec<String>>,
    /// Any of these blocks of addresses (CIDR), of the peer that connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_blocks: Option<Vec<String>>,
    /// None of these blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ip_blocks: Option<Vec<String>>,
}

/// A request; all of the fields that are present must match. Raw TCP has a port and nothing else: it matches no rule about
/// requests that allows, and every one that denies.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Any of these ports of the application (`targetPort`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<u16>>,
    /// Any of these methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Any of these paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathCondition>>,
    /// All of these headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<HeaderCondition>>,
    /// Any of these gRPC methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_methods: Option<Vec<GrpcMethod>>,
}

/// A path without query, compared after percent-decoding. A path that servers read in more than one way (`%2F`, `%5C`, `//`)
/// matches no rule that allows, and every one that denies.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct PathCondition {
    /// How it is compared. Default `PathPrefix`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<PathConditionType>,
    /// The path.
    pub value: String,
}

/// How a path is compared.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum PathConditionType {
    /// The whole path.
    Exact,
    /// By segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    PathPrefix,
    /// The whole path, by a regular expression of linear time.
    RegularExpression,
}

/// A header.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct HeaderCondition {
    /// How it is compared. Default `Exact`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<HeaderConditionType>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// How a header is compared.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum HeaderConditionType {
    /// The whole value.
    Exact,
    /// The whole value, by a regular expression of linear time.
    RegularExpression,
}

/// A method of gRPC.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct GrpcMethod {
    /// The service with its package, as in `shop.v1.Cart`.
    pub service: String,
    /// The method; absent means all of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

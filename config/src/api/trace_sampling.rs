//! `TraceSampling`: how many of the traces that begin with a rule's requests are followed, named by an `ExtensionRef` of the rule.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many of the traces that begin with requests of a rule are followed, instead of the share that the sidecars are told
/// (`--trace-sampling`). A rule names it in a filter `ExtensionRef`.
///
/// A request that belongs to a trace already is followed as those before it have decided. The most that a sidecar follows in a second
/// (`--trace-limit`) holds for all rules together.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "TraceSampling",
    plural = "tracesamplings",
    namespaced,
    derive = "PartialEq",
    doc = "How many of the traces that begin with requests of a rule are followed. A rule names it in a filter ExtensionRef."
)]
#[serde(rename_all = "camelCase")]
pub struct TraceSamplingSpec {
    /// Percentage of the traces, from 0 to 100, with at most four decimal places.
    pub percent: f64,
}

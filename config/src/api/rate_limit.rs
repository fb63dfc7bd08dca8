//! `RateLimit`: how many requests a sidecar lets through, named by an `ExtensionRef` of a rule.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many requests each calling sidecar lets through. A rule names it in a filter `ExtensionRef`.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "RateLimit",
    plural = "ratelimits",
    namespaced,
    derive = "PartialEq",
    doc = "How many requests each calling sidecar lets through. A rule names it in a filter ExtensionRef."
)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// Requests that are let through in each interval.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// The interval. Default `1s`, 10ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub interval: Option<String>,
    /// Requests that are let through at once after a pause. Default: as many as `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
    /// Clients with a limit of their own instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ClientLimit>,
    /// Values of a header with a limit of their own instead; they come before `clients`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderLimits>,
}

/// The limit of one client.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientLimit {
    /// Its service account, as `namespace/name`.
    pub service_account: String,
    /// Requests that are let through in each interval.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// The interval. Default `1s`, 10ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub interval: Option<String>,
    /// Requests that are let through at once after a pause. Default: as many as `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
}

/// The limits of the values of a header.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct HeaderLimits {
    /// Name of the header.
    pub name: String,
    /// The values; all others share the limit of the whole.
    pub values: Vec<ValueLimit>,
}

/// The limit of one value of a header.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct ValueLimit {
    /// The whole value.
    pub value: String,
    /// Requests that are let through in each interval.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// The interval. Default `1s`, 10ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub interval: Option<String>,
    /// Requests that are let through at once after a pause. Default: as many as `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
}

//! `FaultInjection`: delays and failures on purpose, named by an `ExtensionRef` of a rule.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GrpcStatus;

/// Delays and failures on purpose. A rule names it in a filter `ExtensionRef`.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "FaultInjection",
    plural = "faultinjections",
    namespaced,
    derive = "PartialEq",
    doc = "Delays and failures on purpose. A rule names it in a filter ExtensionRef."
)]
#[serde(rename_all = "camelCase")]
pub struct FaultInjectionSpec {
    /// Requests wait before they are forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Requests are answered with a failure instead of being forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Only requests that carry this header; absent means all of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_with_header: Option<HeaderValue>,
}

/// How long requests wait.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct FaultDelay {
    /// The time, 1ms to 1h.
    #[schemars(extend("format" = "duration"))]
    pub duration: String,
    /// Percentage of the requests, from 0 to 100, with at most four decimal places. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
}

/// How requests fail: exactly one of the two statuses.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// Status of the answer, from 400 to 599. gRPC calls get the gRPC status that belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub http_status: Option<u16>,
    /// gRPC status of the answer. Requests that are no gRPC calls get the HTTP status that belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<GrpcStatus>,
    /// Percentage of the requests, from 0 to 100, with at most four decimal places. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
}

/// A header and its whole value.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct HeaderValue {
    /// Name of the header.
    pub name: String,
    /// Its whole value.
    pub value: String,
}

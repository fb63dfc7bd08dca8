//! `RouteTest`: a promise about a request, kept beside the routes and held by `malla check`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HeaderValue;

/// A promise about a request. `malla check` fails when the routes break it; nothing else reads it.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "RouteTest",
    plural = "routetests",
    namespaced,
    derive = "PartialEq",
    doc = "A promise about a request. `malla check` fails when the routes break it; nothing else reads it."
)]
pub struct RouteTestSpec {
    /// Who sends the request, as `namespace/service account`. Default: `default` in the test's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The request.
    pub request: TestRequest,
    /// What becomes of it; at least one field.
    pub expect: TestExpectation,
}

/// A request.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct TestRequest {
    /// Its method. Default `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Its URL, absolute: `http://cart.shop/items?all=1`.
    pub url: String,
    /// Its headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderValue>,
}

/// What becomes of a request. What is not written is not compared.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestExpectation {
    /// The route and rule that match: `HTTPRoute/shop/cart/0`, or the name of the rule instead of its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The backends, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<TestBackend>>,
    /// The status, where the sidecar itself answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Where a redirect leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The host that the backend sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The path, with the query, that the backend sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The time-out of the whole request. Default: any, 1ms to 99999h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub request_timeout: Option<String>,
    /// The time-out of each try. Default: any, 1ms to 99999h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub try_timeout: Option<String>,
    /// Retries after the first try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Whether the sidecars of the backends let the caller in (`AuthorizationPolicy`): all of them, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
}

/// A backend that is expected.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct TestBackend {
    /// Name of the service.
    pub name: String,
    /// Its namespace. Default: that of the test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its port.
    pub port: u16,
    /// A part of its endpoints (`TrafficPolicy.spec.subsets`). Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Its share of the requests, in percent with at most two decimal places. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
}

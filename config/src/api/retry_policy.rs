//! `RetryPolicy`: what is tried again, named by an `ExtensionRef` of a rule. It says more than `HTTPRoute.retry`, and gRPC
//! routes have no other way to say it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is tried again. A rule names it in a filter `ExtensionRef`.
///
/// What certainly was not processed (no connection, a refused stream) is tried again in any case, and every retry is under
/// the service's retry budget.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[kube(
    group = "malla.dev",
    version = "v1alpha1",
    kind = "RetryPolicy",
    plural = "retrypolicies",
    namespaced,
    derive = "PartialEq",
    doc = "What is tried again. A rule names it in a filter ExtensionRef."
)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicySpec {
    /// Further tries after the first, each at another endpoint if there is one; zero means none. Default 1, 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// HTTP statuses of answers that are tried again, from 400 to 599.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(range(min = 400, max = 599)))]
    pub codes: Vec<u16>,
    /// gRPC statuses of answers that are tried again, if the answer has no message yet: one of `Cancelled`,
    /// `DeadlineExceeded`, `Internal`, `ResourceExhausted`, `Unavailable`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grpc_statuses: Vec<GrpcStatus>,
    /// Whether to try again where the endpoint went away, or the try timed out, before the answer began: it may have
    /// processed the request. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<bool>,
    /// Of which methods `codes` and `resets` are tried again. Default `idempotent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<RetryMethods>,
    /// How long one try may take, within the time of the whole request. Default: no limit, 1ms to 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub per_try_timeout: Option<String>,
    /// How long to wait before a further try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<RetryBackoff>,
    /// Sends a request that has waited unusually long for its answer to a second endpoint too: the first answer counts, the other
    /// try is cancelled. Default: never. `{}` is with every default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedging: Option<Hedging>,
}

/// Which methods may be tried again after they may have been processed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RetryMethods {
    /// Those that mean the same when they are processed twice (RFC 9110, section 9.2.2).
    Idempotent,
    /// All: the service recognizes repetitions itself.
    Any,
}

/// When a request is sent to a second endpoint, though the first may still answer. For the `methods` of the policy, once for a
/// request, and as one of its `attempts`; the retry budget holds.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Hedging {
    /// After so much time as this share of the service's answers takes, in percent, measured by each sidecar on the requests that
    /// may be hedged. Default 95, 50 to 99.9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 99.9))]
    pub quantile: Option<f64>,
    /// Never sooner than after this. Default `10ms`, 1ms to 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub minimum_delay: Option<String>,
    /// Not before so many answers were measured. Default 100, 10 to 2000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 2000))]
    pub minimum_samples: Option<u32>,
}

/// How long to wait before a further try.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct RetryBackoff {
    /// Before the second try; doubled each time, and jittered. Default `25ms`, 1ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub base: Option<String>,
    /// The longest. Default: ten times `base`, 1ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub max: Option<String>,
}

/// Statuses of gRPC.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum GrpcStatus {
    /// 1: given up, mostly by the caller.
    Cancelled,
    /// 2.
    Unknown,
    /// 3.
    InvalidArgument,
    /// 4: it took too long.
    DeadlineExceeded,
    /// 5.
    NotFound,
    /// 6.
    AlreadyExists,
    /// 7.
    PermissionDenied,
    /// 8: a quota is used up.
    ResourceExhausted,
    /// 9.
    FailedPrecondition,
    /// 10: a conflict between concurrent calls.
    Aborted,
    /// 11.
    OutOfRange,
    /// 12.
    Unimplemented,
    /// 13: a defect.
    Internal,
    /// 14: try again.
    Unavailable,
    /// 15.
    DataLoss,
    /// 16.
    Unauthenticated,
}

impl GrpcStatus {
    /// Its number on the wire.
    pub fn code(self) -> u8 {
        self as u8 + 1
    }
}

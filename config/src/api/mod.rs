//! Malla's own kinds (`malla.dev/v1alpha1`) as they are written. Their CRDs and JSON Schemas are generated from here.
//!
//! These are the raw types: a value of them has the right fields, and nothing else is known about it. The ready ones
//! are in [`mesh`](crate::mesh).

mod authorization_policy;
mod fault_injection;
mod mesh;
mod rate_limit;
mod retry_policy;
mod route_test;
mod trace_sampling;
pub mod traffic_policy;
mod workload;

pub use authorization_policy::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, Caller, GrpcMethod,
    HeaderCondition, HeaderConditionType, Operation, PathCondition, PathConditionType, Selector,
};
pub use fault_injection::{FaultAbort, FaultDelay, FaultInjection, FaultInjectionSpec, HeaderValue};
pub use mesh::{
    DefaultAuthorization, FederatedDomain, Mesh, MeshMtls, MeshSpec, MtlsMode, Observer, UnknownDestinations,
};
pub use rate_limit::{ClientLimit, HeaderLimits, RateLimit, RateLimitSpec, ValueLimit};
pub use retry_policy::{GrpcStatus, Hedging, RetryBackoff, RetryMethods, RetryPolicy, RetryPolicySpec};
pub use route_test::{RouteTest, RouteTestSpec, TestBackend, TestExpectation, TestRequest};
pub use trace_sampling::{TraceSampling, TraceSamplingSpec};
pub use traffic_policy::{PolicyTarget, TrafficPolicy, TrafficPolicySpec};
pub use workload::{Locality, Sidecar, SidecarMode, Workload, WorkloadMtls, WorkloadSpec};

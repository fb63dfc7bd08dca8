//! The kinds that Malla reads: their names, versions and schemas.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use gateway_api::apis::experimental as gateway;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::api;

/// The kinds that Malla reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Service,
    EndpointSlice,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    ReferenceGrant,
    Workload,
    Mesh,
    TrafficPolicy,
    AuthorizationPolicy,
    FaultInjection,
    RateLimit,
    RetryPolicy,
    TraceSampling,
    RouteTest,
}

impl Kind {
    pub(crate) const ALL: [Kind; 16] = [
        Kind::Service,
        Kind::EndpointSlice,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TcpRoute,
        Kind::TlsRoute,
        Kind::ReferenceGrant,
        Kind::Workload,
        Kind::Mesh,
        Kind::TrafficPolicy,
        Kind::AuthorizationPolicy,
        Kind::FaultInjection,
        Kind::RateLimit,
        Kind::RetryPolicy,
        Kind::TraceSampling,
        Kind::RouteTest,
    ];

    /// As in the field `kind`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::HttpRoute => "HTTPRoute",
            Kind::GrpcRoute => "GRPCRoute",
            Kind::TcpRoute => "TCPRoute",
            Kind::TlsRoute => "TLSRoute",
            Kind::ReferenceGrant => "ReferenceGrant",
            Kind::Workload => "Workload",
            Kind::Mesh => "Mesh",
            Kind::TrafficPolicy => "TrafficPolicy",
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::FaultInjection => "FaultInjection",
            Kind::RateLimit => "RateLimit",
            Kind::RetryPolicy => "RetryPolicy",
            Kind::TraceSampling => "TraceSampling",
            Kind::RouteTest => "RouteTest",
        }
    }

    /// `an HTTPRoute`.
    pub(crate) fn with_article(self) -> String {
        let article = match self {
            Kind::HttpRoute | Kind::EndpointSlice | Kind::AuthorizationPolicy => "an",
            _ => "a",
        };
        format!("{article} {self}")
    }

    /// The values of `apiVersion` that mean the same to us; the first is the one to write.
    pub(crate) fn api_versions(self) -> &'static [&'static str] {
        match self {
            Kind::Service => &["v1"],
            Kind::EndpointSlice => &["discovery.k8s.io/v1"],
            Kind::HttpRoute | Kind::ReferenceGrant => {
                &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"]
            }
            Kind::GrpcRoute => &["gateway.networking.k8s.io/v1"],
            Kind::TcpRoute => &["gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1"],
            Kind::TlsRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1alpha3",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            Kind::Workload
            | Kind::Mesh
            | Kind::TrafficPolicy
            | Kind::AuthorizationPolicy
            | Kind::FaultInjection
            | Kind::RateLimit
            | Kind::RetryPolicy
            | Kind::TraceSampling
            | Kind::RouteTest => &["malla.dev/v1alpha1"],
        }
    }

    /// Whether its content stands in the document itself, beside `metadata`, instead of in `spec`.
    pub(crate) fn flat(self) -> bool {
        self == Kind::EndpointSlice
    }

    pub(crate) fn namespaced(self) -> bool {
        self != Kind::Mesh
    }

    /// Whether names of the kind become part of host names, which have no room for dots.
    pub(crate) fn named_by_label(self) -> bool {
        matches!(self, Kind::Service | Kind::Workload)
    }

    /// The JSON Schema of its `spec` (of the whole document for flat kinds), generated once.
    pub(crate) fn schema(self) -> &'static Value {
        static SCHEMAS: LazyLock<BTreeMap<Kind, Value>> = LazyLock::new(|| {
            Kind::ALL
                .into_iter()
                .map(|kind| {
                    let schema = match kind {
                        Kind::Service => schema_of::<ServiceSpec>(),
                        Kind::EndpointSlice => schema_of::<EndpointSlice>(),
                        Kind::HttpRoute => schema_of::<gateway::httproutes::HttpRouteSpec>(),
                        Kind::GrpcRoute => schema_of::<gateway::grpcroutes::GrpcRouteSpec>(),
                        Kind::TcpRoute => schema_of::<gateway::tcproutes::TcpRouteSpec>(),
                        Kind::TlsRoute => schema_of::<gateway::tlsroutes::TlsRouteSpec>(),
                        Kind::ReferenceGrant => schema_of::<gateway::referencegrants::ReferenceGrantSpec>(),
                        Kind::Workload => schema_of::<api::WorkloadSpec>(),
                        Kind::Mesh => schema_of::<api::MeshSpec>(),
                        Kind::TrafficPolicy => schema_of::<api::TrafficPolicySpec>(),
                        Kind::AuthorizationPolicy => schema_of::<api::AuthorizationPolicySpec>(),
                        Kind::FaultInjection => schema_of::<api::FaultInjectionSpec>(),
                        Kind::RateLimit => schema_of::<api::RateLimitSpec>(),
                        Kind::RetryPolicy => schema_of::<api::RetryPolicySpec>(),
                        Kind::TraceSampling => schema_of::<api::TraceSamplingSpec>(),
                        Kind::RouteTest => schema_of::<api::RouteTestSpec>(),
                    };
                    (kind, schema)
                })
                .collect()
        });
        static NONE: Value = Value::Bool(true);
        SCHEMAS.get(&self).unwrap_or(&NONE)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

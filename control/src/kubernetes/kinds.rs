//! What is watched of a cluster, and therefore what the control server must be allowed to do there. The chart's roles are compared
//! with this list.

use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};

/// A kind that is watched, in the order in which documents are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Namespace,
    Mesh,
    Service,
    Pod,
    Workload,
    EndpointSlice,
    ReferenceGrant,
    FaultInjection,
    RateLimit,
    RetryPolicy,
    TraceSampling,
    TrafficPolicy,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    AuthorizationPolicy,
    RouteTest,
}

/// Where a kind is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: &'static str,
    /// Tried in this order: clusters serve some of them.
    pub(crate) versions: &'static [&'static str],
    pub(crate) name: &'static str,
    pub(crate) plural: &'static str,
}

/// Something that the control server does in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Plural, with the subresource if there is one.
    pub resource: String,
    /// The only object that it is done to; `None` for all.
    pub name: Option<&'static str>,
    /// What is done.
    pub verbs: &'static [&'static str],
    /// In its own namespace only.
    pub own_namespace: bool,
}

/// Gateway API's group.
pub(crate) const GATEWAY: &str = "gateway.networking.k8s.io";
/// Our own.
const MALLA: &str = "malla.dev";

impl Kind {
    pub(crate) const ALL: [Kind; 18] = [
        Kind::Namespace,
        Kind::Mesh,
        Kind::Service,
        Kind::Pod,
        Kind::Workload,
        Kind::EndpointSlice,
        Kind::ReferenceGrant,
        Kind::FaultInjection,
        Kind::RateLimit,
        Kind::RetryPolicy,
        Kind::TraceSampling,
        Kind::TrafficPolicy,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TcpRoute,
        Kind::TlsRoute,
        Kind::AuthorizationPolicy,
        Kind::RouteTest,
    ];

    pub(crate) fn place(self) -> Place {
        let (group, versions, name, plural): (_, &'static [&'static str], _, _) = match self {
            Kind::Namespace => ("", &["v1"], "Namespace", "namespaces"),
            Kind::Service => ("", &["v1"], "Service", "services"),
            Kind::Pod => ("", &["v1"], "Pod", "pods"),
            Kind::EndpointSlice => ("discovery.k8s.io", &["v1"], "EndpointSlice", "endpointslices"),
            Kind::ReferenceGrant => (GATEWAY, &["v1", "v1beta1"], "ReferenceGrant", "referencegrants"),
            Kind::HttpRoute => (GATEWAY, &["v1"], "HTTPRoute", "httproutes"),
            Kind::GrpcRoute => (GATEWAY, &["v1"], "GRPCRoute", "grpcroutes"),
            Kind::TcpRoute => (GATEWAY, &["v1", "v1alpha2"], "TCPRoute", "tcproutes"),
            Kind::TlsRoute => (GATEWAY, &["v1", "v1alpha3", "v1alpha2"], "TLSRoute", "tlsroutes"),
            Kind::Mesh => (MALLA, &["v1alpha1"], "Mesh", "meshes"),
            Kind::Workload => (MALLA, &["v1alpha1"], "Workload", "workloads"),
            Kind::FaultInjection => (MALLA, &["v1alpha1"], "FaultInjection", "faultinjections"),
            Kind::RateLimit => (MALLA, &["v1alpha1"], "RateLimit", "ratelimits"),
            Kind::RetryPolicy => (MALLA, &["v1alpha1"], "RetryPolicy", "retrypolicies"),
            Kind::TraceSampling => (MALLA, &["v1alpha1"], "TraceSampling", "tracesamplings"),
            Kind::TrafficPolicy => (MALLA, &["v1alpha1"], "TrafficPolicy", "trafficpolicies"),
            Kind::AuthorizationPolicy => (MALLA, &["v1alpha1"], "AuthorizationPolicy", "authorizationpolicies"),
            Kind::RouteTest => (MALLA, &["v1alpha1"], "RouteTest", "routetests"),
        };
        Place { group, versions, name, plural }
    }

    pub(crate) fn name(self) -> &'static str {
        self.place().name
    }

    /// Whether a cluster may do without: a kind that is not installed has no objects.
    pub(crate) fn may_be_absent(self) -> bool {
        matches!(self.place().group, GATEWAY | MALLA)
    }

    /// Whether its status is written.
    pub(crate) fn is_route(self) -> bool {
        matches!(self, Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute)
    }

    /// Whether leaving out an object of it would let through what it forbids.
    pub(crate) fn protects(self) -> bool {
        matches!(self, Kind::AuthorizationPolicy | Kind::Mesh)
    }

    /// Whether it is in no namespace.
    pub(crate) fn is_global(self) -> bool {
        matches!(self, Kind::Namespace | Kind::Mesh)
    }

    /// Which objects of it are asked for: a pod that has ended serves nobody.
    pub(crate) fn field_selector(self) -> Option<&'static str> {
        (self == Kind::Pod).then_some("status.phase!=Succeeded,status.phase!=Failed")
    }
}

impl Place {
    pub(crate) fn resource(&self, version: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, version, self.name), self.plural)
    }
}

/// Installs Malla's own kinds, or brings them up to date; their names.
///
/// # Errors
/// The API server does not take one.
pub async fn install(client: &Client) -> kube::Result<Vec<&'static str>> {
    let mut installed = Vec::new();
    for schema in malla_config::schema() {
        let name = schema.crd["metadata"]["name"].as_str().unwrap_or_default();
        let path =
            format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=malla&force=true");
        let request = http::Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
            .body(schema.crd.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        client.request::<serde_json::Value>(request).await?;
        installed.push(schema.kind);
    }
    Ok(installed)
}

/// Everything that the control server does in a cluster.
pub fn permissions() -> Vec<Permission> {
    let everywhere =
        |group, resource: String, verbs| Permission { group, resource, name: None, verbs, own_namespace: false };
    let mut permissions = Vec::new();
    for kind in Kind::ALL {
        let Place { group, plural, .. } = kind.place();
        permissions.push(everywhere(group, plural.to_owned(), &["list", "watch"]));
        if kind.is_route() {
            permissions.push(everywhere(group, format!("{plural}/status"), &["patch"]));
        }
    }
    permissions.push(everywhere("authentication.k8s.io", "tokenreviews".to_owned(), &["create"]));
    permissions.push(Permission {
        name: Some(super::webhook::CONFIGURATION),
        ..everywhere("admissionregistration.k8s.io", "mutatingwebhookconfigurations".to_owned(), &["get", "update"])
    });
    permissions.push(Permission {
        group: "coordination.k8s.io",
        resource: "leases".to_owned(),
        name: None,
        verbs: &["create", "get", "update"],
        own_namespace: true,
    });
    permissions.sort();
    permissions
}

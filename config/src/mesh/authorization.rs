//! Who may call what, ready.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{PathMatch, RouteKind, RouteName, ServiceName, ValueMatch};

/// What happens to a request where no policy that allows is about its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultAuthorization {
    /// It is let through.
    #[default]
    Allow,
    /// It is refused.
    Deny,
    /// It is let through, and counted and logged as what `Deny` would have refused.
    Audit,
}

/// An `AuthorizationPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {
    /// Its namespace; it protects workloads of this namespace alone.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What it protects.
    pub target: AuthorizationTarget,
    /// What happens to what a rule matches.
    pub action: AuthorizationAction,
    /// The rules.
    pub rules: Vec<AuthorizationRule>,
}

/// What an [`AuthorizationPolicy`] protects.
#[derive(Debug, Clone, PartialEq)]
pub enum AuthorizationTarget {
    /// Every workload of the namespace.
    Namespace,
    /// The workloads that carry all these labels.
    Workloads(BTreeMap<String, String>),
    /// What is named, any of it.
    Named {
        /// The ports behind these services; with a name, behind that port of the service.
        services: Vec<(ServiceName, Option<Arc<str>>)>,
        /// The requests of these routes, on the ports behind their backends. Each has only parents and backends of the policy's
        /// namespace, and changes nothing of a request by which routes are told apart.
        routes: Vec<(RouteKind, RouteName)>,
    },
}

/// What happens to what a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationAction {
    /// Let through, unless denied.
    Allow,
    /// Refused.
    Deny,
    /// Let through, and recorded.
    Audit,
}

/// Any of `from`, and any of `to`; an empty list means any.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuthorizationRule {
    /// Callers.
    pub from: Vec<Caller>,
    /// Requests.
    pub to: Vec<Operation>,
}

/// Conditions on a caller; all must hold, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller(pub Vec<CallerCondition>);

/// One condition on a caller.
#[derive(Debug, Clone, PartialEq)]
pub enum CallerCondition {
    /// It is any of these.
    Identity(Vec<IdentityMatch>),
    /// It is none of these.
    NotIdentity(Vec<IdentityMatch>),
    /// It connects from any of these blocks: address and length of the prefix.
    Address(Vec<(IpAddr, u8)>),
    /// It connects from none of these blocks.
    NotAddress(Vec<(IpAddr, u8)>),
}

/// Some identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityMatch {
    /// This SPIFFE identity.
    Exact(Arc<str>),
    /// A service account of the mesh's trust domain.
    ServiceAccount {
        /// Namespace.
        namespace: Arc<str>,
        /// Name.
        name: Arc<str>,
    },
    /// Every service account of a namespace of the mesh's trust domain.
    Namespace(Arc<str>),
    /// Everybody of a trust domain.
    TrustDomain(Arc<str>),
}

/// Conditions on a request; all must hold, at least one. An empty list is no condition.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Operation {
    /// Any of these ports of the application.
    pub ports: Vec<u16>,
    /// Any of these methods.
    pub methods: Vec<Arc<str>>,
    /// Any of these paths.
    pub paths: Vec<PathMatch>,
    /// All of these headers.
    pub headers: Vec<(Arc<str>, ValueMatch)>,
}

//! What all routes have in common: parents, backends, hostnames, and the limits that Gateway API sets.

use std::collections::HashSet;
use std::sync::Arc;

use gateway_api::apis::experimental as gateway;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::{Index, port_listing};
use crate::kinds::Kind;
use crate::mesh::{AppProtocol, Backend, BackendFilters, ParentRef, RouteName, Service, ServiceName};
use crate::names;
use crate::object::Object;
use crate::protocol;
use crate::suggest::{self, shown};

/// Gateway API's limit of a weight.
const MAX_WEIGHT: i32 = 1_000_000;

/// A parent reference, the same in all kinds of routes.
pub(crate) struct RawParent {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
    section_name: Option<String>,
}

/// A backend reference, the same in all kinds of routes.
pub(crate) struct RawBackend {
    pub(crate) group: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) port: Option<i32>,
    pub(crate) weight: Option<i32>,
    pub(crate) filters: BackendFilters,
}

macro_rules! raw_references {
    ($($module:ident: $parent:ident;)*) => {$(
        impl From<gateway::$module::$parent> for RawParent {
            fn from(written: gateway::$module::$parent) -> Self {
                let gateway::$module::$parent { group, kind, name, namespace, port, section_name } = written;
                RawParent { group, kind, name, namespace, port, section_name }
            }
        }
    )*};
}
raw_references! {
    httproutes: HttpRouteParentRefs;
    grpcroutes: GrpcRouteParentRefs;
    tcproutes: TcpRouteParentRefs;
    tlsroutes: TlsRouteParentRefs;
}

/// A route, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Checked<T> {
    pub(crate) route: T,
    /// Whether nothing is wrong with it.
    pub(crate) whole: bool,
}

/// What the routes of one object need to resolve what they name.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) object: &'a Object,
    pub(crate) index: &'a Index<'a>,
}

impl Context<'_> {
    pub(crate) fn name(&self) -> RouteName {
        RouteName::new(self.object.namespace.clone(), self.object.name.clone())
    }

    /// The services of its own namespace that are written as parents, whether or not the route is in order. (Those of others
    /// have this route for the clients of one namespace only.)
    pub(crate) fn parent_names(&self) -> Vec<ServiceName> {
        let own = &self.object.namespace;
        let parents = self.object.cursor().field("parentRefs").items().into_iter();
        let of_own = |parent: &Cursor<'_>| {
            parent.has("name")
                && (!parent.has("namespace") || parent.field("namespace").text().is_some_and(|text| *text == **own))
        };
        let names = parents.filter(of_own).filter_map(|parent| parent.field("name").text());
        names.map(|name| ServiceName::new(own.clone(), name)).collect()
    }

    /// Refuses the field that is about gateways.
    pub(crate) fn no_default_gateways(&self, asks: bool, diagnostics: &mut Diagnostics) {
        if asks {
            self.object.cursor().field("useDefaultGateways").unsupported(diagnostics, "`useDefaultGateways: All`");
        }
    }

    /// The parents: at least one, all of them services.
    pub(crate) fn parents<T: Into<RawParent>>(
        &self,
        written: Option<Vec<T>>,
        diagnostics: &mut Diagnostics,
    ) -> Vec<ParentRef> {
        let list = self.object.cursor().field("parentRefs");
        let written = written.unwrap_or_default();
        if written.is_empty() {
            let help = "write `parentRefs:` with `- {group: \"\", kind: Service, name: …}`: the service whose traffic it routes";
            list.error(diagnostics, Code::MissingField, "a route needs a parent", help);
        }
        at_most(list, "parentRefs", written.len(), 32, diagnostics);
        let mut parents: Vec<ParentRef> = Vec::new();
        for (at, raw) in written.into_iter().enumerate() {
            let cursor = list.item(at);
            let Some(parent) = self.parent(cursor, raw.into(), diagnostics) else { continue };
            let overlaps = |other: &ParentRef| {
                other.service == parent.service
                    && (other.port == parent.port || other.port.is_none() || parent.port.is_none())
            };
            if parents.iter().any(overlaps) {
                let message = format!("the service {} is a parent of this route twice", parent.service);
                cursor.error(diagnostics, Code::Duplicate, message, "remove one, or give each a `port:` of its own");
                continue;
            }
            parents.push(parent);
        }
        parents
    }

    fn parent(&self, cursor: Cursor<'_>, raw: RawParent, diagnostics: &mut Diagnostics) -> Option<ParentRef> {
        let RawParent { group, kind, name, namespace, port, section_name } = raw;
        let kind_name = kind.as_deref().unwrap_or("Gateway");
        if group.as_deref() != Some("") || kind_name != "Service" {
            let (code, message) = match (group.as_deref(), kind_name) {
                (_, "Service") => (
                    Code::InvalidValue,
                    "a `Service` is in the empty group, and `group` defaults to gateway.networking.k8s.io".to_owned(),
                ),
                (_, other) => {
                    (Code::NotSupported, format!("a parent of the kind `{}` is not supported yet", shown(other)))
                }
            };
            let help = "write `group: \"\"` and `kind: Service`, and the service whose traffic the route takes";
            cursor.error(diagnostics, code, message, help);
            return None;
        }
        let namespace: Arc<str> = namespace.map_or_else(|| self.object.namespace.clone(), Arc::from);
        let service_name = ServiceName::new(namespace.clone(), name);
        let service = self.index.service(cursor.field("name"), &service_name, diagnostics)?;
        if !Index::is_no_other_name(cursor.field("name"), service, diagnostics) {
            return None;
        }
        let mut number = match port.map(names::port) {
            None => None,
            Some(Ok(port)) => {
                self.index.port(cursor.field("port"), service, port, diagnostics)?;
                Some(port)
            }
            Some(Err(fault)) => {
                cursor.field("port").error(diagnostics, Code::InvalidValue, fault, "write a port of the service");
                return None;
            }
        };
        if let Some(section) = section_name {
            let field = cursor.field("sectionName");
            let Some(named) = service.ports.iter().find(|port| *port.name == *section) else {
                let names = service.ports.iter().map(|port| &*port.name);
                let help = match suggest::nearest(&section, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("its ports: {}", port_listing(service)),
                };
                let message = format!("the service {} has no port named `{}`", service.name, shown(&section));
                field.error(diagnostics, Code::DanglingReference, message, help);
                return None;
            };
            if number.is_some_and(|number| number != named.port) {
                let message = format!("the port named `{section}` is {}, not `port` of this parent", named.port);
                field.error(diagnostics, Code::InvalidValue, message, "write one of both");
                return None;
            }
            number = Some(named.port);
        }
        self.check_parent_protocol(cursor, service, number, diagnostics);
        Some(ParentRef { service: service_name, port: number })
    }

    fn check_parent_protocol(
        &self,
        cursor: Cursor<'_>,
        service: &Service,
        port: Option<u16>,
        diagnostics: &mut Diagnostics,
    ) {
        let kind = self.object.kind;
        let mut asked = service.ports.iter().filter(|known| port.is_none_or(|port| port == known.port)).peekable();
        let Some(first) = asked.peek().map(|port| (port.port, port.protocol)) else { return };
        if asked.any(|port| parent_carries(kind, port.protocol)) {
            return;
        }
        let (number, carried) = first;
        let a_kind = kind.with_article();
        let message = match port {
            Some(_) => {
                let carried = protocol::describe(carried);
                format!("{a_kind} has no effect on port {number} of {}, which carries {carried}", service.name)
            }
            None => format!("{a_kind} has no effect on any port of {}: {}", service.name, port_protocols(service)),
        };
        let help = format!("write `appProtocol: {}` on the port, or another kind of route", wanted_protocol(kind));
        cursor.error(diagnostics, Code::NoEffect, message, help);
    }

    /// Backends: services that exist, that carry what the route carries, and that may be used from its namespace.
    pub(crate) fn backends(
        &self,
        list: Cursor<'_>,
        written: Vec<RawBackend>,
        diagnostics: &mut Diagnostics,
    ) -> Vec<Backend> {
        at_most(list, "backendRefs", written.len(), 16, diagnostics);
        let mut backends: Vec<Backend> = Vec::new();
        for (at, raw) in written.into_iter().enumerate() {
            let Some(backend) = self.backend(list.item(at), raw, diagnostics) else { continue };
            // The same backend twice has both weights.
            let same = |other: &&mut Backend| {
                (&other.service, other.port, &other.subset, &other.filters)
                    == (&backend.service, backend.port, &backend.subset, &backend.filters)
            };
            match backends.iter_mut().find(same) {
                Some(other) => other.weight = other.weight.saturating_add(backend.weight),
                None => backends.push(backend),
            }
        }
        backends
    }

    /// One backend.
    pub(crate) fn backend(
        &self,
        cursor: Cursor<'_>,
        raw: RawBackend,
        diagnostics: &mut Diagnostics,
    ) -> Option<Backend> {
        let RawBackend { group, kind, name, namespace, port, weight, filters } = raw;
        let (name, subset) = match (group.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or("Service")) {
            ("", "Service") => (name, None),
            ("malla.dev", "Subset") => {
                let Some((service, subset)) = name.split_once('.') else {
                    let message = format!("`{}` is not the name of a subset", shown(&name));
                    let help = "write the service and the subset, as in `cart.v2`";
                    cursor.field("name").error(diagnostics, Code::InvalidValue, message, help);
                    return None;
                };
                (service.to_owned(), Some(Arc::<str>::from(subset)))
            }
            (_, other) => {
                let message = format!("a backend of the kind `{}` is not supported yet", shown(other));
                let help =
                    "write a `Service`, with `group: \"\"` or without a group; or a `Subset` in the group `malla.dev`";
                cursor.error(diagnostics, Code::NotSupported, message, help);
                return None;
            }
        };
        let weight = match weight.unwrap_or(1) {
            weight @ 0..=MAX_WEIGHT => weight.unsigned_abs(),
            weight => {
                let help = format!("write a number from 0 to {MAX_WEIGHT}");
                let message = format!("the weight cannot be {weight}");
                cursor.field("weight").error(diagnostics, Code::InvalidValue, message, help);
                1
            }
        };
        let namespace: Arc<str> = namespace.map_or_else(|| self.object.namespace.clone(), Arc::from);
        let written = ServiceName::new(namespace.clone(), name);
        let service = self.index.service(cursor.field("name"), &written, diagnostics);
        // A name leads to its service, and so does the permission: else whoever can give a service another name could use it.
        let service = service.and_then(|service| self.index.behind(service));
        let service_name = service.map_or(written, |service| service.name.clone());
        let namespace = &service_name.namespace;
        let (kind, from) = (self.object.kind, &self.object.namespace);
        let exists = self.index.services.contains_key(&service_name);
        if exists && self.object.placed && self.index.complete && !self.index.granted(kind, from, &service_name) {
            let a_kind = kind.with_article();
            let message = format!("no ReferenceGrant lets {a_kind} of `{from}` use services of `{namespace}`");
            let help = format!(
                "write in the namespace `{namespace}` a ReferenceGrant with `from: [{{group: gateway.networking.k8s.io, \
                 kind: {kind}, namespace: {from}}}]` and `to: [{{group: \"\", kind: Service, name: {}}}]`",
                service_name.name
            );
            cursor.field("namespace").error(diagnostics, Code::NotGranted, message, help);
        }
        let service = service?;
        let Some(port) = port else {
            let help = format!("write `port:`; its ports: {}", port_listing(service));
            let message = format!("a backend needs the port of its service {service_name}");
            cursor.error(diagnostics, Code::MissingField, message, help);
            return None;
        };
        let port = match names::port(port) {
            Ok(port) => self.index.port(cursor.field("port"), service, port, diagnostics)?,
            Err(fault) => {
                cursor.field("port").error(diagnostics, Code::InvalidValue, fault, "write a port of the service");
                return None;
            }
        };
        if !backend_carries(kind, port.protocol) {
            let carried = protocol::describe(port.protocol);
            let (port, a_kind) = (port.port, kind.with_article());
            let message = format!("port {port} of {service_name} carries {carried}, which {a_kind} cannot send");
            let help = format!("write `appProtocol: {}` on that port, or another backend", wanted_protocol(kind));
            cursor.error(diagnostics, Code::InvalidValue, message, help);
            return None;
        }
        if let Some(subset) = &subset {
            self.index.subset(cursor.field("name"), &service_name, port.port, subset, diagnostics);
        }
        Some(Backend { service: service_name, port: port.port, subset, weight, filters })
    }

    /// Hostnames, without the same one twice.
    pub(crate) fn hostnames(&self, written: Vec<String>, diagnostics: &mut Diagnostics) -> Vec<Arc<str>> {
        let list = self.object.cursor().field("hostnames");
        at_most(list, "hostnames", written.len(), 16, diagnostics);
        let mut seen = HashSet::new();
        for (at, name) in written.iter().enumerate() {
            if let Err(fault) = names::route_hostname(name) {
                let message = format!("`{}` is not a valid hostname: {fault}", shown(name));
                let help = "write a DNS name in lower case, as in `shop.example.com` or `*.example.com`";
                list.item(at).error(diagnostics, Code::InvalidValue, message, help);
            } else if !seen.insert(name) {
                let message = format!("the hostname `{name}` is written twice");
                list.item(at).error(diagnostics, Code::Duplicate, message, "remove one of them");
            }
        }
        written.into_iter().map(Arc::from).collect()
    }

    /// The name of a rule, unique in the route.
    pub(crate) fn rule_name(
        &self,
        rule: Cursor<'_>,
        written: Option<String>,
        seen: &mut HashSet<String>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Arc<str>> {
        let name = written?;
        let cursor = rule.field("name");
        if let Err(fault) = names::dns_subdomain(&name) {
            let message = format!("`{}` is not a valid name of a rule: {fault}", shown(&name));
            cursor.error(diagnostics, Code::InvalidValue, message, names::DNS_SUBDOMAIN_HELP);
        } else if !seen.insert(name.clone()) {
            let message = format!("the rule name `{name}` is written twice");
            cursor.error(diagnostics, Code::Duplicate, message, "give each rule a name of its own");
        }
        Some(name.into())
    }
}

/// Says that a list is longer than Gateway API allows.
pub(crate) fn at_most(list: Cursor<'_>, field: &str, length: usize, limit: usize, diagnostics: &mut Diagnostics) {
    if length > limit {
        let message = format!("`{field}` has {length} items, and Gateway API allows {limit}");
        list.key().error(diagnostics, Code::InvalidValue, message, "write several routes");
    }
}

/// Whether a route of a kind has an effect on a port of its parent.
pub(crate) fn parent_carries(kind: Kind, protocol: AppProtocol) -> bool {
    use AppProtocol::{Detect, Grpc, Http1, Http2, Tcp, Tls};
    match kind {
        Kind::HttpRoute => matches!(protocol, Http1 | Http2 | Grpc | Detect),
        Kind::GrpcRoute => matches!(protocol, Http2 | Grpc | Detect),
        Kind::TcpRoute => matches!(protocol, Tcp | Tls | Detect),
        Kind::TlsRoute => protocol == Tls,
        _ => false,
    }
}

fn backend_carries(kind: Kind, protocol: AppProtocol) -> bool {
    use AppProtocol::{Detect, Tcp};
    match kind {
        Kind::TlsRoute => matches!(protocol, Detect | Tcp) || parent_carries(kind, protocol),
        kind => parent_carries(kind, protocol),
    }
}

fn wanted_protocol(kind: Kind) -> &'static str {
    match kind {
        Kind::GrpcRoute => "grpc",
        Kind::TcpRoute => "tcp",
        Kind::TlsRoute => "tls",
        _ => "http",
    }
}

fn port_protocols(service: &Service) -> String {
    suggest::listing(
        service.ports.iter().map(|port| format!("{} carries {}", port.port, protocol::describe(port.protocol))),
    )
}

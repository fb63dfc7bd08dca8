//! `ExternalName` services whose name is a service of the mesh: other names of that service, as in DNS.

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::{Declared, Index, port_listing};
use crate::mesh::{AppProtocol, EndpointSource, Service, ServiceName, ServicePort};
use crate::protocol;
use crate::suggest::{self, shown};

/// Finds out which services are other names of services of the mesh, and says so in them.
pub(crate) fn resolve(index: &mut Index<'_>, diagnostics: &mut Diagnostics) {
    let found: Vec<(ServiceName, Service)> = index
        .services
        .iter()
        .filter_map(|(name, declared)| Some((name.clone(), stand_in(index, name, declared, diagnostics)?)))
        .collect();
    for (name, service) in found {
        if let Some(declared) = index.services.get_mut(&name) {
            declared.ready = Some(service);
        }
    }
}

/// The service as another name of the one that its name leads to.
fn stand_in(
    index: &Index<'_>,
    name: &ServiceName,
    declared: &Declared<'_, Service>,
    diagnostics: &mut Diagnostics,
) -> Option<Service> {
    let service = declared.ready.as_ref()?;
    let EndpointSource::ExternalName(written) = &service.endpoints else { return None };
    let cursor = declared.object.cursor();
    let Some(target) = mesh_service(index, service) else {
        if service.ports.is_empty() {
            let help = "write `ports: [{port: 443}]`";
            cursor.field("ports").error(diagnostics, Code::MissingField, "a service needs a port", help);
        }
        return None;
    };
    if !index.services.contains_key(&target) {
        if !index.may_exist(&target.name) {
            let neighbours = index.services.keys().filter(|other| other.namespace == target.namespace);
            let help = match suggest::nearest(&target.name, neighbours.map(|other| &*other.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write the name of a host outside of the mesh".to_owned(),
            };
            let message = format!("`{}` names the service {target} of the mesh, which does not exist", shown(written));
            cursor.field("externalName").error(diagnostics, Code::DanglingReference, message, help);
        }
        return None;
    }
    if let Some(path) = circle(index, name, &target) {
        let message = format!("`externalName` leads back to the service itself: {path}");
        let help = "write the name of a host outside of the mesh in one of them";
        cursor.field("externalName").error(diagnostics, Code::Cycle, message, help);
        return None;
    }
    let behind = last(index, target)?;
    let ports = match &service.ports[..] {
        [] => behind.ports.clone(),
        written => {
            let list = cursor.field("ports");
            let of_each = written.iter().enumerate();
            of_each.filter_map(|(at, port)| port_behind(list.item(at), port, behind, diagnostics)).collect()
        }
    };
    Some(Service { ports, endpoints: EndpointSource::Service(behind.name.clone()), ..service.clone() })
}

/// The port that a port of another name stands for: of the same number, as names of DNS have no ports of their own.
fn port_behind(
    cursor: Cursor<'_>,
    written: &ServicePort,
    behind: &Service,
    diagnostics: &mut Diagnostics,
) -> Option<ServicePort> {
    if cursor.has("targetPort") {
        let message = format!("`targetPort` has no effect on another name of {}, a service of the mesh", behind.name);
        cursor.field("targetPort").key().error(diagnostics, Code::NoEffect, message, "remove it");
    }
    let Some(port) = behind.ports.iter().find(|port| port.port == written.port) else {
        let message = format!("the service {} has no port {}", behind.name, written.port);
        let help = format!("its ports: {}", port_listing(behind));
        cursor.field("port").error(diagnostics, Code::DanglingReference, message, help);
        return None;
    };
    // What a name or a number merely implies does not contradict the service.
    if cursor.has("appProtocol") && written.protocol != AppProtocol::Detect && written.protocol != port.protocol {
        let (own, other) = (protocol::describe(written.protocol), protocol::describe(port.protocol));
        let message = format!("port {} of {} carries {other}, not {own}", port.port, behind.name);
        let help = "leave `appProtocol` out here, and declare it on the service";
        cursor.error(diagnostics, Code::InvalidValue, message, help);
    }
    Some(ServicePort { name: written.name.clone(), ..port.clone() })
}

/// Where following the names ends; nothing if there is an error on the way.
fn last<'i>(index: &'i Index<'_>, start: ServiceName) -> Option<&'i Service> {
    let mut at = index.services.get(&start)?.ready.as_ref()?;
    // Each service is passed once at most, or there is a circle, which is told where it begins.
    for _ in 0..index.services.len() {
        match mesh_service(index, at) {
            Some(next) => at = index.services.get(&next)?.ready.as_ref()?,
            None => return Some(at),
        }
    }
    None
}

/// The service of the mesh that an `ExternalName` service stands for, whether or not it exists.
fn mesh_service(index: &Index<'_>, service: &Service) -> Option<ServiceName> {
    let EndpointSource::ExternalName(written) = &service.endpoints else { return None };
    let short = written.strip_suffix(".cluster.local").unwrap_or(written);
    if let Some(inside) = short.strip_suffix(".svc") {
        let (name, namespace) = inside.split_once('.')?;
        return (!namespace.contains('.')).then(|| ServiceName::new(namespace, name));
    }
    // Without `.svc` it may as well be a host elsewhere; a service of that name decides.
    let (name, namespace) = written.split_once('.').unwrap_or((written, &service.name.namespace));
    let target = ServiceName::new(namespace, name);
    index.services.contains_key(&target).then_some(target)
}

/// `a.shop → b.shop → a.shop`, if following the names from `target` leads back to `start`.
fn circle(index: &Index<'_>, start: &ServiceName, target: &ServiceName) -> Option<String> {
    let mut path = vec![start.clone()];
    let mut at = target.clone();
    while !path.contains(&at) {
        path.push(at.clone());
        at = mesh_service(index, index.services.get(&at)?.ready.as_ref()?)?;
    }
    if at != *start {
        return None;
    }
    path.push(at);
    Some(path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → "))
}

//! `ExternalName` services whose name is a service of the mesh: dangling, in a circle, or not supported yet.

use crate::diagnostic::{Code, Diagnostics};
use crate::index::Index;
use crate::mesh::{EndpointSource, Service, ServiceName};
use crate::suggest::{self, shown};

/// Checks the names of all `ExternalName` services.
pub(crate) fn check(index: &Index<'_>, diagnostics: &mut Diagnostics) {
    for (name, declared) in &index.services {
        let Some((service, EndpointSource::ExternalName(written))) =
            declared.ready.as_ref().map(|service| (service, &service.endpoints))
        else {
            continue;
        };
        let Some(target) = mesh_service(index, service) else { continue };
        let cursor = declared.object.cursor().field("externalName");
        if !index.services.contains_key(&target) {
            if index.may_exist(&target.name) {
                continue;
            }
            let neighbours = index.services.keys().filter(|other| other.namespace == target.namespace);
            let help = match suggest::nearest(&target.name, neighbours.map(|other| &*other.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write the name of a host outside of the mesh".to_owned(),
            };
            let message = format!("`{}` names the service {target} of the mesh, which does not exist", shown(written));
            cursor.error(diagnostics, Code::DanglingReference, message, help);
            continue;
        }
        match circle(index, name, &target) {
            Some(path) => {
                let message = format!("`externalName` leads back to the service itself: {path}");
                let help = "write the name of a host outside of the mesh in one of them";
                cursor.error(diagnostics, Code::Cycle, message, help);
            }
            None => {
                let message = format!("`externalName` for a service of the mesh, {target}, is not supported yet");
                let help = format!("write a service without selector and a route to {target} in its place");
                cursor.error(diagnostics, Code::NotSupported, message, help);
            }
        }
    }
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

//! Routes of Gateway API, as far as they are the mesh's: those whose parents are services. The oldest comes first, as precedence
//! between routes has it.

use serde_json::{Value, json};

use super::services::{Name, Services};
use super::{Document, Fault, Translation, derived, document, of};
use crate::kubernetes::kinds::{GATEWAY, Kind};
use crate::kubernetes::store::{Key, Objects};

pub(super) fn translate(objects: &Objects, services: &mut Services, translation: &mut Translation) -> Vec<Document> {
    let kinds = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute, Kind::TlsRoute];
    let mut routes: Vec<_> = kinds.into_iter().flat_map(|kind| of(objects, kind)).collect();
    routes.sort_by(|(one, first), (other, second)| {
        (&first.created, &one.namespace, &one.name, one.kind).cmp(&(
            &second.created,
            &other.namespace,
            &other.name,
            other.kind,
        ))
    });
    let mut documents = Vec::new();
    for (key, kept) in routes {
        let mut spec = kept.content["spec"].clone();
        let (parents, absent): (Vec<Value>, Vec<Value>) = mesh_parents(&spec).into_iter().partition(|parent| {
            let name = named(key, parent);
            // A stand-in for an older route's backend is no parent.
            services.takes_routes(&name) && objects.contains_key(&service(&name))
        });
        for parent in &absent {
            let (namespace, name) = named(key, parent);
            let sentence = format!("there is no service {name} in the namespace {namespace}");
            translation.faults.entry(key.clone()).or_default().push(Fault::NoParent(sentence));
        }
        if parents.is_empty() {
            continue;
        }
        spec["parentRefs"] = Value::Array(parents);
        stand_ins(objects, key, &spec, services, translation);
        documents.push(document(key, &Value::Null, json!({ "spec": spec })));
    }
    documents
}

/// The parents of a route that are services. Others are gateways', and somebody else's to read.
pub(crate) fn mesh_parents(spec: &Value) -> Vec<Value> {
    let parents = spec["parentRefs"].as_array().into_iter().flatten();
    parents.filter(|parent| parent["kind"] == "Service" && parent["group"] == "").cloned().collect()
}

fn service(name: &Name) -> Key {
    Key { kind: Kind::Service, namespace: name.0.clone(), name: name.1.clone() }
}

fn named(route: &Key, reference: &Value) -> Name {
    let namespace = reference["namespace"].as_str().map_or_else(|| route.namespace.clone(), Into::into);
    (namespace, reference["name"].as_str().unwrap_or_default().into())
}

/// Services that backends of a route name and that are not there: their share of the requests fails, and no other's (Gateway API,
/// `HTTPRouteRule.backendRefs`).
fn stand_ins(objects: &Objects, key: &Key, spec: &Value, services: &mut Services, translation: &mut Translation) {
    let backends = spec["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|rule| rule["backendRefs"].as_array().into_iter().flatten());
    for backend in backends {
        let is_service = backend["kind"].as_str().is_none_or(|kind| kind == "Service")
            && backend["group"].as_str().is_none_or(str::is_empty);
        let name = named(key, backend);
        let (true, Some(port)) = (is_service, backend["port"].as_u64()) else { continue };
        let service = service(&name);
        if services.ports.contains_key(&name) && objects.contains_key(&service) {
            continue;
        }
        let sentence = format!("there is no service {} in the namespace {}", name.1, name.0);
        let faults = translation.faults.entry(key.clone()).or_default();
        if !faults.contains(&Fault::NoBackend(sentence.clone())) {
            faults.push(Fault::NoBackend(sentence));
        }
        let protocol = match key.kind {
            Kind::GrpcRoute => "grpc",
            Kind::TcpRoute => "tcp",
            Kind::TlsRoute => "tls",
            _ => "http",
        };
        let ports = services.ports.entry(name).or_default();
        ports.insert(port, format!("p-{port}"));
        let ports: Vec<Value> =
            ports.iter().map(|(port, name)| json!({ "name": name, "port": port, "appProtocol": protocol })).collect();
        let stand_in = derived(&service, Kind::Service, &Value::Null, json!({ "spec": { "ports": ports } }));
        // A later one has all ports of an earlier one.
        translation.documents.retain(|document| document.file.path != stand_in.file.path);
        translation.documents.push(stand_in);
    }
}

/// The part of a `ReferenceGrant` that is about routes and services.
pub(super) fn grants(spec: &Value) -> Option<Value> {
    let kept = |field: &str, wanted: &dyn Fn(&Value) -> bool| -> Option<Vec<Value>> {
        let list: Vec<Value> = spec[field].as_array()?.iter().filter(|item| wanted(item)).cloned().collect();
        (!list.is_empty()).then_some(list)
    };
    let routes = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute, Kind::TlsRoute].map(Kind::name);
    let from = kept("from", &|from| from["group"] == GATEWAY && routes.iter().any(|kind| from["kind"] == *kind))?;
    let to = kept("to", &|to| to["group"] == "" && to["kind"] == "Service")?;
    Some(json!({ "from": from, "to": to }))
}

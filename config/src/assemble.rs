//! Objects → a [`Mesh`]: one module per kind makes them ready, then what spans several of them is checked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::conflicts::Claims;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::{Declared, Index};
use crate::kinds::Kind;
use crate::loader::Surroundings;
use crate::mesh::{Mesh, ServiceName, WorkloadName};
use crate::object::{Object, Objects};
use crate::route::Context;
use crate::traffic_policy::Policies;
use crate::{
    authorization_policy, checks, endpoint_slice, extension, external_names, federation, grpc_route, http_route,
    mesh_settings, reference_grant, route_test, service, stream_route, workload,
};

/// The mesh of all objects. It is whole only if nothing was reported.
pub(crate) fn mesh(
    objects: &Objects,
    complete: bool,
    surroundings: &Surroundings,
    diagnostics: &mut Diagnostics,
) -> Mesh {
    let (unique, duplicates) = without_duplicates(&objects.objects, diagnostics);
    let of_kind = |kind: Kind| unique.iter().copied().filter(move |object| object.kind == kind);

    let mut index = Index {
        services: of_kind(Kind::Service)
            .map(|object| {
                let name = ServiceName::new(object.namespace.clone(), object.name.clone());
                (name, Declared { object, ready: service::ready(object, diagnostics) })
            })
            .collect(),
        workloads: of_kind(Kind::Workload)
            .map(|object| {
                let name = WorkloadName::new(object.namespace.clone(), object.name.clone());
                (name, Declared { object, ready: workload::ready(object, diagnostics) })
            })
            .collect(),
        grants: Vec::new(),
        extensions: unique
            .iter()
            .filter(|object| extension::KINDS.contains(&object.kind))
            .map(|object| {
                let key = (object.kind, object.namespace.clone(), object.name.clone());
                (key, extension::ready(object, diagnostics))
            })
            .collect(),
        traffic_policies: BTreeMap::new(),
        doubtful_grants: HashSet::new(),
        unreadable: &objects.unreadable,
        complete,
        in_flux: matches!(surroundings, Surroundings::Cluster { .. }),
    };
    external_names::resolve(&mut index, diagnostics);
    for object in of_kind(Kind::ReferenceGrant) {
        match reference_grant::ready(object, &index, diagnostics) {
            Some(grants) => index.grants.extend(grants),
            None => {
                index.doubtful_grants.insert(object.namespace.clone());
            }
        }
    }

    let mut policies = Policies::default();
    for object in of_kind(Kind::TrafficPolicy) {
        policies.add(object, &index, diagnostics);
    }
    index.traffic_policies.clone_from(&policies.ready);
    let slices: Vec<_> = of_kind(Kind::EndpointSlice)
        .map(|object| (object, endpoint_slice::ready(object, &index, diagnostics)))
        .collect();
    let mut mesh = Mesh::default();
    let parents = routes(&unique, &index, &mut mesh, diagnostics);

    checks::addresses(&index, diagnostics);
    let settings = of_kind(Kind::Mesh).next().map(|object| (object, mesh_settings::ready(object, diagnostics)));
    match surroundings {
        Surroundings::Nothing => {
            checks::selectors(&index, diagnostics);
            checks::slices(&index, &slices, &parents, diagnostics);
            match &settings {
                None => checks::plaintext(&index, &mesh.settings, &slices, diagnostics),
                Some((object, Some(settings))) => {
                    checks::plaintext(&index, settings, &slices, diagnostics);
                    checks::namespaces(object, settings, &unique, &index, diagnostics);
                }
                Some((_, None)) => {}
            }
        }
        // What is not there may come, and who has no sidecar is the cluster's to say.
        Surroundings::Cluster { .. } => {}
    }
    mesh.settings = settings.and_then(|(_, settings)| settings).unwrap_or_default();
    if let Surroundings::Cluster { outside } = surroundings {
        mesh.settings.outside.clone_from(outside);
    }
    federation::check(&index, &mesh.settings, diagnostics);
    mesh.traffic_policies = policies.ready;
    let routes = authorization_policy::Routes { whole: &mesh.http_routes, objects: &unique };
    for object in of_kind(Kind::AuthorizationPolicy) {
        mesh.authorization_policies.extend(authorization_policy::ready(object, &index, routes, diagnostics));
    }

    for object in duplicates {
        check_alone(object, &index, routes, diagnostics);
    }

    mesh.route_tests =
        of_kind(Kind::RouteTest).filter_map(|object| route_test::ready(object, &index, diagnostics)).collect();

    mesh.services = ready_ones(index.services);
    mesh.workloads = ready_ones(index.workloads);
    mesh.endpoint_slices = slices.into_iter().filter_map(|(_, slice)| slice).collect();
    mesh
}

/// The routes, with their conflicts reported; returns the services that have routes.
fn routes(
    objects: &[&Object],
    index: &Index<'_>,
    mesh: &mut Mesh,
    diagnostics: &mut Diagnostics,
) -> BTreeSet<ServiceName> {
    let mut claims = Claims::new(index);
    let mut parents = BTreeSet::new();
    for object in objects {
        let context = Context { object, index };
        match object.kind {
            Kind::HttpRoute | Kind::GrpcRoute => {
                let route = match object.kind {
                    Kind::HttpRoute => http_route::ready(context, diagnostics),
                    _ => grpc_route::ready(context, diagnostics),
                };
                if let Some(checked) = route {
                    claims.add_http(object, &checked, diagnostics);
                    mesh.http_routes.extend(checked.whole.then_some(checked.route));
                }
            }
            Kind::TcpRoute => {
                if let Some(checked) = stream_route::ready_tcp(context, diagnostics) {
                    claims.add_tcp(object, &checked, diagnostics);
                    mesh.tcp_routes.extend(checked.whole.then_some(checked.route));
                }
            }
            Kind::TlsRoute => {
                if let Some(checked) = stream_route::ready_tls(context, diagnostics) {
                    claims.add_tls(object, &checked, diagnostics);
                    mesh.tls_routes.extend(checked.whole.then_some(checked.route));
                }
            }
            _ => continue,
        }
        // Also of a route with errors: a service is not without route because its route has a typing error.
        parents.extend(context.parent_names());
    }
    parents
}

fn ready_ones<K: Ord, T>(declared: BTreeMap<K, Declared<'_, T>>) -> BTreeMap<K, T> {
    declared.into_iter().filter_map(|(name, declared)| Some((name, declared.ready?))).collect()
}

/// Checks what a document says by itself: the second of a name is as wrong as it would be under another.
fn check_alone(
    object: &Object,
    index: &Index<'_>,
    routes: authorization_policy::Routes<'_>,
    diagnostics: &mut Diagnostics,
) {
    let context = Context { object, index };
    match object.kind {
        Kind::Service => drop(service::ready(object, diagnostics)),
        Kind::Workload => drop(workload::ready(object, diagnostics)),
        Kind::EndpointSlice => drop(endpoint_slice::ready(object, index, diagnostics)),
        Kind::HttpRoute => drop(http_route::ready(context, diagnostics)),
        Kind::GrpcRoute => drop(grpc_route::ready(context, diagnostics)),
        Kind::TcpRoute => drop(stream_route::ready_tcp(context, diagnostics)),
        Kind::TlsRoute => drop(stream_route::ready_tls(context, diagnostics)),
        Kind::ReferenceGrant => drop(reference_grant::ready(object, index, diagnostics)),
        Kind::Mesh => drop(mesh_settings::ready(object, diagnostics)),
        Kind::TrafficPolicy => Policies::default().add(object, index, diagnostics),
        Kind::AuthorizationPolicy => drop(authorization_policy::ready(object, index, routes, diagnostics)),
        Kind::FaultInjection | Kind::RateLimit | Kind::RetryPolicy | Kind::TraceSampling => {
            drop(extension::ready(object, diagnostics));
        }
        Kind::RouteTest => drop(route_test::ready(object, index, diagnostics)),
    }
}

/// The objects with each name once, and those whose name was taken, in the order of files.
fn without_duplicates<'a>(
    objects: &'a [Arc<Object>],
    diagnostics: &mut Diagnostics,
) -> (Vec<&'a Object>, Vec<&'a Object>) {
    let mut first: HashMap<(Kind, Arc<str>, Arc<str>), &Object> = HashMap::new();
    let mut unique = Vec::with_capacity(objects.len());
    let mut duplicates = Vec::new();
    for object in objects.iter().map(|object| &**object) {
        if !object.named || !object.placed {
            unique.push(object);
            continue;
        }
        // There is one mesh, whatever it is called.
        let name = if object.kind == Kind::Mesh { "".into() } else { object.name.clone() };
        let key = (object.kind, object.namespace.clone(), name);
        let Some(earlier) = first.get(&key) else {
            first.insert(key, object);
            unique.push(object);
            continue;
        };
        let (message, help) = match object.kind {
            Kind::Mesh => ("there is a Mesh already".to_owned(), "write all settings in one of them"),
            _ => (format!("a {} of this name is declared already", object.kind), "rename or remove one of them"),
        };
        let cursor = object.root_cursor().field("metadata").field("name");
        let place = earlier.root_cursor().field("metadata").field("name").place();
        diagnostics.push(cursor.problem(Code::Duplicate, message).help(help).related(place, "declared here"));
        duplicates.push(object);
    }
    (unique, duplicates)
}

//! The example files: each directory is a configuration that loads, and means what its comments say.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use malla_config::mesh::{
    AppProtocol, AuthorizationAction, AuthorizationTarget, DefaultAuthorization, EndpointSource, Mesh, MtlsMode,
    PathMatch, PathRewrite, RouteKind, ServiceName, Sidecar, TargetPort, UnknownDestinations, ValueMatch, WorkloadName,
};
use malla_config::{SourceFile, load};

fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn load_example(name: &str) -> Mesh {
    let mut files: Vec<PathBuf> =
        fs::read_dir(examples().join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let files: Vec<SourceFile> = files
        .iter()
        .map(|path| SourceFile::new(path.file_name().unwrap().to_string_lossy(), fs::read_to_string(path).unwrap()))
        .collect();
    load(&files).unwrap_or_else(|report| panic!("{name}:\n{report}"))
}

fn service(mesh: &Mesh, namespace: &str, name: &str) -> malla_config::mesh::Service {
    mesh.services[&ServiceName::new(namespace, name)].clone()
}

#[test]
fn every_example_loads_and_is_explained() {
    for entry in fs::read_dir(examples()).unwrap() {
        let directory = entry.unwrap().path();
        let name = directory.file_name().unwrap().to_string_lossy().into_owned();
        load_example(&name);
        for file in fs::read_dir(&directory).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(text.starts_with("# "), "{name} does not begin with what it is for");
        }
    }
}

#[test]
fn two_machines() {
    let mesh = load_example("two-machines");
    let cart = &mesh.workloads[&WorkloadName::new("shop", "cart-1")];
    assert_eq!(cart.sidecar, Sidecar::Explicit { inbound_port: 15006, application: [127, 0, 0, 1].into() });
    assert_eq!(cart.ports["http"], 8080);
    let service = service(&mesh, "shop", "cart");
    assert_eq!(service.ports[0].target, TargetPort::Name("http".into()));
    assert_eq!(service.ports[0].protocol, AppProtocol::Http1);
    assert_eq!(service.endpoints, EndpointSource::Selector([("app".to_owned(), "cart".to_owned())].into()));
}

#[test]
fn weighted_split() {
    let mesh = load_example("weighted-split");
    let weights: Vec<u32> = mesh.http_routes[0].rules[0].backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [90, 10]);
}

#[test]
fn canary_by_header() {
    let mesh = load_example("canary-by-header");
    let canary = &mesh.http_routes[0].rules[0];
    assert_eq!(canary.name.as_deref(), Some("canary"));
    assert_eq!(canary.matches[0].headers, [("x-canary".into(), ValueMatch::Exact("yes".into()))]);
    assert_eq!(canary.matches[1].path, PathMatch::Prefix("/checkout".into()));
    assert_eq!(canary.request_timeout, Some(Duration::from_secs(2)));
    assert_eq!(canary.backend_request_timeout, Some(Duration::from_secs(1)));
    assert_eq!(mesh.http_routes[0].rules[1].matches[0].path, PathMatch::Prefix("/".into()));
}

#[test]
fn filters() {
    let mesh = load_example("filters");
    let [moved, catalog] = &mesh.http_routes[0].rules[..] else { panic!("two rules") };
    let redirect = moved.filters.redirect.as_ref().expect("redirects");
    assert_eq!((redirect.status, &redirect.path), (308, &Some(PathRewrite::Prefix("/catalog".into()))));
    assert_eq!(catalog.filters.rewrite.hostname.as_deref(), Some("catalog.internal"));
    assert_eq!(catalog.filters.rewrite.path, Some(PathRewrite::Prefix("/".into())));
    assert_eq!(catalog.filters.request_headers.remove, ["x-debug".into()]);
    assert_eq!(catalog.backends[1].filters.request_headers.add, [("x-experiment".into(), "v2".into())]);
}

#[test]
fn resilience() {
    let mesh = load_example("resilience");
    let [read, search, write] = &mesh.http_routes[0].rules[..] else { panic!("three rules") };
    let hedging = search.retry.as_ref().and_then(|retry| retry.hedging).expect("hedging");
    assert_eq!((hedging.quantile.parts(), hedging.minimum_samples), (950_000, 100));
    let retry = read.retry.as_ref().expect("retries");
    assert_eq!((retry.attempts, retry.on.resets, &retry.on.statuses[..]), (2, true, &[503][..]));
    let limit = write.filters.rate_limit.as_ref().expect("a rate limit");
    assert_eq!((limit.bucket.requests, limit.bucket.burst), (10, 20));
    assert_eq!(limit.clients[0].0, "shop/batch".into());
    let fault = write.filters.fault.as_ref().expect("a fault");
    assert_eq!(fault.abort.map(|abort| abort.share.parts()), Some(1_000));
    let grpc = mesh.http_routes[1].rules[0].retry.as_ref().expect("retries");
    assert_eq!(grpc.on.grpc_statuses, [14, 8]);
    assert_eq!(mesh.http_routes[1].rules[0].backend_request_timeout, Some(Duration::from_secs(2)));
}

#[test]
fn tcp_database() {
    let mesh = load_example("tcp-database");
    assert_eq!(mesh.tcp_routes[0].parents[0].port, Some(3306));
    assert_eq!(mesh.tcp_routes[0].backends.len(), 2);
    assert_eq!(service(&mesh, "data", "mysql").ports[0].protocol, AppProtocol::Tcp);
    assert_eq!(mesh.workloads[&WorkloadName::new("data", "mysql-old")].sidecar, Sidecar::Transparent);
}

#[test]
fn grpc() {
    let mesh = load_example("grpc");
    let route = &mesh.http_routes[0];
    assert_eq!(route.kind, RouteKind::Grpc);
    assert_eq!(route.rules[0].matches[0].path, PathMatch::Exact("/shop.v1.Catalog/Search".into()));
}

#[test]
fn external_service() {
    let mesh = load_example("external-service");
    let payments = service(&mesh, "outside", "payments");
    assert_eq!(payments.endpoints, EndpointSource::ExternalName("api.payments.example.com".into()));
    assert_eq!(payments.ports[0].protocol, AppProtocol::Tls);
    let ready: Vec<bool> = mesh.endpoint_slices[0].endpoints.iter().map(|endpoint| endpoint.ready).collect();
    assert_eq!(ready, [true, false]);
    assert_eq!(mesh.settings.unknown_destinations, UnknownDestinations::Deny);
    assert_eq!(&*mesh.http_routes[0].rules[0].backends[0].service.namespace, "outside");
}

#[test]
fn permissive_migration() {
    let mesh = load_example("permissive-migration");
    assert_eq!(&*mesh.settings.trust_domain, "example.org");
    assert_eq!(mesh.settings.mtls, MtlsMode::Strict);
    assert_eq!(mesh.settings.namespace_mtls["orders"], MtlsMode::Permissive);
    assert_eq!(mesh.workloads[&WorkloadName::new("orders", "orders-2")].sidecar, Sidecar::None);
    let third = &mesh.workloads[&WorkloadName::new("orders", "orders-3")];
    assert_eq!((third.mtls, third.weight), (Some(MtlsMode::Strict), 2));
}

#[test]
fn tls_passthrough() {
    let mesh = load_example("tls-passthrough");
    assert_eq!(mesh.tls_routes[0].hostnames, ["eu.vault.example.com".into()]);
    assert_eq!(service(&mesh, "secrets", "vault").ports[0].protocol, AppProtocol::Tls);
}

#[test]
fn authorization() {
    let mesh = load_example("authorization");
    assert_eq!(mesh.settings.default_authorization, DefaultAuthorization::Deny);
    let [callers, deletes] = &mesh.authorization_policies[..] else { panic!("two policies") };
    assert_eq!((callers.action, deletes.action), (AuthorizationAction::Allow, AuthorizationAction::Deny));
    let backend = ServiceName::new("prod", "backend");
    assert_eq!(callers.target, AuthorizationTarget::Named { services: vec![(backend, None)], routes: vec![] });
    assert_eq!(callers.rules[1].to[0].paths, [PathMatch::Prefix("/admin".into())]);
    assert_eq!(deletes.target, AuthorizationTarget::Namespace);
    assert_eq!((&deletes.rules[0].from[..], &*deletes.rules[0].to[0].methods[0]), (&[][..], "DELETE"));
}

//! What the control server renders, the sidecar takes: every resource of every example decodes without a fault, and whatever
//! one resource names, another is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use malla_control::resources::{ReloadOutcome, Resources};
use malla_proxy::decode::cluster::Discovery;
use malla_proxy::decode::listener::RouteSource;
use malla_proxy::decode::{Decoded, ListenerSpec, decode};
use malla_xds::ResourceType;
use malla_xds::wire::Any;

/// What the examples leave out: both kinds of sidecars and none, both kinds of HTTP routes on one service, every kind of
/// match, routes for streams, weights of zero, ports that share a name, IPv6.
const EVERYTHING: &str = "
apiVersion: malla.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {mtls: {mode: permissive}, unknownDestinations: deny}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIPs: [10.96.0.7, 'fd00::7']
  selector: {app: cart}
  ports:
  - {name: web, port: 80, targetPort: 8080}
  - {name: grpc, port: 90, targetPort: 8080}
  - {name: sql, port: 3306, targetPort: sql}
  - {name: tls, port: 443, targetPort: 8443}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.1, ports: {sql: 13306, admin: 80, metrics: 9090}, sidecar: {mode: transparent}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-2, namespace: shop, labels: {app: cart}}
spec: {address: 'fd00::2', ports: {sql: 13306}, sidecar: {mode: explicit, application: '::1'}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-3, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.3, ports: {sql: 13306}, sidecar: {mode: none}, weight: 1000000}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  hostnames: [cart.example.com, '*.example.com']
  rules:
  - matches:
    - {path: {type: Exact, value: /a}, method: GET}
    - {path: {type: RegularExpression, value: '/b/[0-9]+'}}
    - {path: {type: PathPrefix, value: /c}, headers: [{name: x-a, value: b}, {name: x-c, type: RegularExpression, value: 'd.*'}]}
    - {queryParams: [{name: q, value: r}]}
    timeouts: {request: 3s, backendRequest: 1s}
    backendRefs: [{name: cart, port: 80, weight: 9}, {name: cart, port: 90, weight: 1}]
  - name: nowhere
    backendRefs: [{name: cart, port: 80, weight: 0}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 90}]
  rules:
  - matches: [{method: {service: shop.Cart}}, {method: {method: Get}}, {method: {service: shop.Cart, method: Put}}]
    backendRefs: [{name: cart, port: 90}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: sql, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 3306}]
  rules: [{backendRefs: [{name: cart, port: 3306, weight: 0}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: tls, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 443}]
  hostnames: [cart.example.com, '*.example.org']
  rules: [{backendRefs: [{name: cart, port: 443}]}]
";

#[tokio::test]
async fn the_sidecar_takes_what_is_rendered_for_the_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let entries = std::fs::read_dir(&examples).expect("the examples are there");
    let mut directories: Vec<PathBuf> = entries.map(|entry| entry.expect("is readable").path()).collect();
    directories.retain(|path| path.is_dir());
    assert!(!directories.is_empty());
    for directory in directories {
        check(&directory);
    }
}

#[tokio::test]
async fn the_sidecar_takes_every_feature() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("mesh.yaml"), EVERYTHING).expect("is written");
    check(directory.path());
}

fn check(configuration: &Path) {
    let source =
        malla_control::source::start(configuration, tokio::sync::watch::Sender::new(trust_bundle()).subscribe())
            .expect("starts");
    if let ReloadOutcome::Refused { errors, .. } = &source.published.last_reload.borrow().outcome {
        panic!("{}: {errors}", configuration.display());
    }
    let resources = source.published.resources.borrow().clone();
    for kind in ResourceType::ALL {
        for resource in resources.all(kind) {
            let any = Any { type_url: kind.type_url().into(), value: resource.body.clone() };
            match decode(kind, &resource.name, &any) {
                Ok(decoded) => references_resolve(&resources, &decoded),
                Err(fault) => panic!("{}: {resource:?}: {fault}", configuration.display()),
            }
        }
    }
    let unknown = resources.unknown_listener("nobody.shop:80");
    let any = Any { type_url: unknown.kind.type_url().into(), value: unknown.body.clone() };
    assert!(
        matches!(decode(unknown.kind, &unknown.name, &any), Ok(Decoded::Listener(spec)) if matches!(*spec, ListenerSpec::Unknown(_)))
    );
}

fn references_resolve(resources: &Resources, decoded: &Decoded) {
    let is_there = |kind: ResourceType, name: &str| assert!(resources.get(kind, name).is_some(), "{kind} {name}");
    match decoded {
        Decoded::Listener(spec) => {
            let ListenerSpec::Service(service) = &**spec else { panic!("{spec:?} is a destination of the mesh") };
            service.clusters().for_each(|name| is_there(ResourceType::Cluster, name));
            if let Some(RouteSource::Named(name)) = &service.http {
                is_there(ResourceType::Route, name);
            }
        }
        Decoded::Inbound(spec) => spec.ports.iter().for_each(|port| is_there(ResourceType::Cluster, &port.cluster)),
        Decoded::Route(table) => table.clusters().for_each(|name| is_there(ResourceType::Cluster, name)),
        Decoded::Cluster(spec) => {
            if let Discovery::Named(name) = &spec.discovery {
                is_there(ResourceType::Endpoints, name);
            }
        }
        Decoded::Endpoints(_) | Decoded::Secret(_) => {}
    }
}

/// A root certificate, PEM.
fn trust_bundle() -> Arc<str> {
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names are valid names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").pem().into()
}

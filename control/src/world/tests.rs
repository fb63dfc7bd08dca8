//! Tests of the world: which workloads are behind a service, and in what health.

use std::collections::BTreeSet;

use malla_config::{SourceFile, load};

use super::endpoint::Health;
use super::*;

fn world(yaml: &str) -> World {
    let mesh = load(&[SourceFile::new("mesh.yaml", yaml)]).unwrap_or_else(|report| panic!("{report}"));
    World::new(mesh).expect("resolves")
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n")
}

fn workload(name: &str, labels: &str, spec: &str) -> String {
    let metadata = format!("{{name: {name}, namespace: shop, labels: {{{labels}}}}}");
    format!("apiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {metadata}\nspec: {spec}\n---\n")
}

fn endpoints<'a>(world: &'a World, service: &str, port: u16) -> &'a [Endpoint] {
    let name = ServicePortName { service: malla_config::mesh::ServiceName::new("shop", service), port };
    match &world.ports[&name].upstream {
        Upstream::Endpoints(endpoints) => endpoints,
        Upstream::Dns { .. } => panic!("{name} is outside the mesh"),
    }
}

/// `address workload identity receives`, one per endpoint.
fn told(endpoints: &[Endpoint]) -> Vec<String> {
    let line = |endpoint: &Endpoint| {
        let workload = endpoint.workload.as_ref().map_or("-".to_owned(), ToString::to_string);
        let identity = endpoint.identity.as_ref().map_or("-", |identity| identity.service_account());
        let receives = if endpoint.receives() { "receives" } else { "waits" };
        format!("{} {workload} {identity} {receives}", endpoint.address)
    };
    endpoints.iter().map(line).collect()
}

const PERMISSIVE: &str =
    "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh}\nspec: {mtls: {mode: permissive}}\n---\n";
const CART: &str = "{selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}";

#[test]
fn a_selector_takes_the_workloads_of_its_namespace_that_carry_all_labels() {
    let elsewhere =
        workload("cart-9", "app: cart, tier: a", "{address: 10.0.0.9}").replace("namespace: shop", "namespace: other");
    let world = world(
        &[
            service("cart", "{selector: {app: cart, tier: a}, ports: [{port: 80, targetPort: 8080}]}"),
            workload("cart-1", "app: cart, tier: a, extra: b", "{address: 10.0.0.1, serviceAccount: cart}"),
            workload("cart-2", "app: cart", "{address: 10.0.0.2}"),
            elsewhere,
        ]
        .concat(),
    );
    assert_eq!(told(endpoints(&world, "cart", 80)), ["10.0.0.1:15006 cart-1.shop cart receives"]);
}

#[test]
fn the_sidecar_decides_where_a_workload_is_reached() {
    let world = world(
        &[
            PERMISSIVE.to_owned(),
            service("cart", CART),
            workload("a", "app: cart", "{address: 10.0.0.1, sidecar: {mode: transparent}}"),
            workload("b", "app: cart", "{address: 10.0.0.2, sidecar: {mode: explicit, inboundPort: 16006}}"),
            workload("c", "app: cart", "{address: 10.0.0.3, sidecar: {mode: none}}"),
            workload("d", "app: cart", "{address: 'fd00::4', sidecar: {mode: transparent}}"),
        ]
        .concat(),
    );
    let expected = [
        "10.0.0.1:8080 a.shop default receives",
        "10.0.0.2:16006 b.shop default receives",
        "10.0.0.3:8080 c.shop - receives",
        "[fd00::4]:8080 d.shop default receives",
    ];
    assert_eq!(told(endpoints(&world, "cart", 80)), expected);
}

#[test]
fn plaintext_is_allowed_by_the_nearest_word() {
    use MtlsMode::{Permissive, Strict};
    let bare = "{address: 10.0.0.1, sidecar: {mode: none}, mtls: {mode: permissive}}";
    let loaded = world(&[service("cart", CART), workload("a", "app: cart", bare)].concat()).mesh;
    for (mode, namespace, own, allowed) in [
        (Strict, None, None, false),
        (Strict, None, Some(Permissive), true),
        (Permissive, None, None, true),
        (Permissive, None, Some(Strict), false),
        (Permissive, Some(("shop", Strict)), None, false),
        (Permissive, Some(("shop", Strict)), Some(Permissive), true),
        (Strict, Some(("shop", Permissive)), None, true),
        (Strict, Some(("other", Permissive)), None, false),
    ] {
        let mut mesh = loaded.clone();
        mesh.settings.mtls = mode;
        mesh.settings.namespace_mtls = namespace.into_iter().map(|(name, mode)| (name.into(), mode)).collect();
        mesh.workloads.values_mut().for_each(|workload| workload.mtls = own);
        let world = World::new(mesh).expect("resolves");
        assert_eq!(endpoints(&world, "cart", 80)[0].receives(), allowed, "{mode:?} {namespace:?} {own:?}");
    }
}

#[test]
fn weight_zero_receives_nothing() {
    let world = world(
        &[
            service("cart", CART),
            workload("a", "app: cart", "{address: 10.0.0.1, weight: 0}"),
            workload("b", "app: cart", "{address: 10.0.0.2, weight: 3}"),
        ]
        .concat(),
    );
    let receives: Vec<bool> = endpoints(&world, "cart", 80).iter().map(Endpoint::receives).collect();
    assert_eq!(receives, [false, true]);
}

#[test]
fn a_named_target_port_is_that_of_each_workload() {
    let world = world(
        &[
            service("cart", "{selector: {app: cart}, ports: [{port: 80, targetPort: web}]}"),
            workload("a", "app: cart", "{address: 10.0.0.1, ports: {web: 8080}}"),
            workload("b", "app: cart", "{address: 10.0.0.2, ports: {web: 9090}}"),
        ]
        .concat(),
    );
    let targets: Vec<u16> = endpoints(&world, "cart", 80).iter().map(|endpoint| endpoint.target_port).collect();
    assert_eq!(targets, [8080, 9090]);
}

const SLICE: &str = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 13306}, {name: metrics, port: 9104}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Workload, name: db-1}, zone: b}
- {addresses: [10.0.0.2], targetRef: {kind: Workload, name: db-2}, conditions: {ready: false}}
- {addresses: [10.0.0.2], targetRef: {kind: Workload, name: db-3}}
- {addresses: [10.0.0.4], conditions: {ready: false, terminating: true}}
- {addresses: [192.0.2.7]}
---
";

#[test]
fn slices_tell_address_readiness_and_the_workload_behind() {
    let spec = "{ports: [{name: sql, port: 3306}, {name: metrics, port: 80}]}";
    let explicit = "{address: 10.0.0.30, sidecar: {mode: explicit}}";
    let world = world(
        &[
            PERMISSIVE.to_owned(),
            service("db", spec),
            SLICE.to_owned(),
            workload("db-1", "", "{address: 10.0.0.1, sidecar: {mode: transparent}, locality: {region: eu, zone: a}}"),
            workload("db-2", "", "{address: 10.0.0.2, sidecar: {mode: transparent}}"),
            workload("db-3", "", explicit),
        ]
        .concat(),
    );
    let expected = [
        "10.0.0.1:13306 db-1.shop default receives",
        "10.0.0.2:13306 db-2.shop default waits",
        // Its sidecar has a listener of its own.
        "10.0.0.30:15006 db-3.shop default receives",
        "10.0.0.4:13306 - - waits",
        "192.0.2.7:13306 - - receives",
    ];
    assert_eq!(told(endpoints(&world, "db", 3306)), expected);
    assert_eq!(endpoints(&world, "db", 80)[0].address.port(), 9104);
    let first = &endpoints(&world, "db", 3306)[0];
    assert_eq!((&*first.locality.region, &*first.locality.zone), ("eu", "b"));
    let health: Vec<Health> = endpoints(&world, "db", 3306).iter().map(|endpoint| endpoint.health).collect();
    assert_eq!(health, [Health::Ready, Health::NotReady, Health::Ready, Health::Draining, Health::Ready]);
}

#[test]
fn an_external_name_has_no_endpoints() {
    let spec = "{type: ExternalName, externalName: api.example.com, ports: [{port: 80, targetPort: 8080}]}";
    let world = world(&service("api", spec));
    let port = world.ports.values().next().expect("one port");
    assert_eq!(port.upstream, Upstream::Dns { host: "api.example.com".into(), port: 8080 });
}

#[test]
fn knows_which_services_lead_to_a_port_of_a_workload() {
    let world = world(
        &[
            service("cart", "{selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}"),
            service("api", "{selector: {tier: a}, ports: [{name: grpc, port: 90, targetPort: 8080}]}"),
            workload("a", "app: cart, tier: a", "{address: 10.0.0.1, ports: {web: 8080, admin: 9000}}"),
        ]
        .concat(),
    );
    let served = &world.serving[&WorkloadName::new("shop", "a")];
    let names: Vec<String> = served[&8080].services.iter().map(|service| service.name.to_string()).collect();
    assert_eq!(names, ["api.shop:90", "cart.shop:80"]);
    assert_eq!(served[&8080].protocol(), AppProtocol::Grpc);
    assert_eq!(served[&8080].agreed_protocol(), AppProtocol::Detect);
    assert!(served[&9000].services.is_empty());
}

#[test]
fn finds_services_and_workloads_by_address_and_nobody_by_a_shared_one() {
    let explicit = |inbound: u16| {
        let sidecar = format!("{{mode: explicit, inboundPort: {inbound}}}");
        format!("{{address: 127.0.0.1, ports: {{web: 8080}}, sidecar: {sidecar}}}")
    };
    let world = world(
        &[
            service("cart", "{clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, 'fd00::7'], selector: {app: cart}, ports: [{port: 80, targetPort: 8080}, {name: http-b, port: 81}]}".replace("{port: 80,", "{name: http, port: 80,").as_str()),
            workload("a", "app: cart", "{address: 10.0.0.1}"),
            workload("b", "", &explicit(15006)),
            workload("c", "", &explicit(15007)),
        ]
        .concat(),
    );
    let virtual_addresses: BTreeSet<String> =
        world.virtual_addresses.iter().map(|(address, name)| format!("{address} {name}")).collect();
    let expected = [
        "10.96.0.7:80 cart.shop:80",
        "10.96.0.7:81 cart.shop:81",
        "[fd00::7]:80 cart.shop:80",
        "[fd00::7]:81 cart.shop:81",
    ];
    assert_eq!(virtual_addresses, expected.map(str::to_owned).into());
    let workloads: BTreeSet<String> =
        world.workload_addresses.iter().map(|(address, name)| format!("{address} {name}")).collect();
    assert_eq!(workloads, ["10.0.0.1:8080 a.shop", "10.0.0.1:81 a.shop"].map(str::to_owned).into());
}

//! Tests of the translation: what the objects of a cluster become in the words of configuration.

use kube::core::DynamicObject;
use malla_config::Loader;
use malla_config::mesh::{AppProtocol, EndpointSource, Mesh, MtlsMode, Sidecar};

use super::*;
use crate::kubernetes::store::{Store, keep};

/// A store that has listed these objects, each a kind and the rest of it.
pub(crate) fn store(objects: &[Value]) -> Store {
    let store = Store::default();
    for kind in Kind::ALL {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind.name());
        store.replace(kind, of_kind.filter_map(|value| keep(kind, object(value))).collect());
    }
    store
}

pub(crate) fn object(value: &Value) -> DynamicObject {
    serde_json::from_value(value.clone()).expect("an object")
}

fn translated(objects: &[Value]) -> Translation {
    Translator::default().translate(&store(objects).whole().expect("all kinds are listed"))
}

fn mesh(objects: &[Value]) -> Mesh {
    let translation = translated(objects);
    let files: Vec<_> = translation.documents.into_iter().map(|document| document.file).collect();
    let (mesh, report) = Loader::default().inspect(&files, &translation.surroundings);
    mesh.unwrap_or_else(|| panic!("{report}"))
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({ "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

fn meshed() -> Value {
    namespace("shop", json!({ "malla.dev/inject": "enabled" }))
}

fn service(name: &str, spec: Value) -> Value {
    json!({ "kind": "Service", "metadata": { "name": name, "namespace": "shop" }, "spec": spec })
}

fn slice(name: &str, service: &str, ports: Value, endpoints: Value) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": service } });
    let family =
        if endpoints[0]["addresses"][0].as_str().is_some_and(|text| text.contains(':')) { "IPv6" } else { "IPv4" };
    json!({ "kind": "EndpointSlice", "metadata": metadata, "addressType": family, "ports": ports, "endpoints": endpoints })
}

fn pod(name: &str, addresses: &[&str], change: impl FnOnce(&mut Value)) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address })).collect();
    let mut pod = json!({
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": "u", "labels": { "app": "cart", "malla.dev/inject": "enabled" } },
        "spec": {
            "serviceAccountName": "cart",
            "containers": [{ "name": "cart", "ports": [{ "name": "web", "containerPort": 8080 }, { "containerPort": 53, "protocol": "UDP" }] }],
            "initContainers": [{ "name": "malla-proxy", "ports": [{ "containerPort": 15020 }] }],
        },
        "status": { "phase": "Running", "podIPs": addresses },
    });
    change(&mut pod);
    pod
}

fn target(pod: &str) -> Value {
    json!({ "kind": "Pod", "name": pod, "namespace": "shop" })
}

/// `address workload state zone` of each endpoint.
fn endpoints(mesh: &Mesh) -> Vec<String> {
    let endpoints = mesh.endpoint_slices.iter().flat_map(|slice| {
        slice.endpoints.iter().map(move |endpoint| (slice.ports.values().next().copied().unwrap_or(0), endpoint))
    });
    endpoints
        .map(|(port, endpoint)| {
            let workload = endpoint.workload.as_ref().map_or("-", |workload| &workload.name);
            let state = match (endpoint.ready, endpoint.terminating) {
                (true, false) => "ready",
                (_, true) => "ending",
                (false, false) => "waits",
            };
            format!("{}:{port} {workload} {state} {}", endpoint.addresses[0], endpoint.locality.zone)
        })
        .collect()
}

#[test]
fn a_service_is_what_its_slices_say() {
    let mesh = mesh(&[
        meshed(),
        service(
            "cart",
            json!({ "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "selector": { "app": "cart" }, "type": "LoadBalancer",
                "ipFamilyPolicy": "PreferDualStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": 30080 },
                          { "name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP" }] }),
        ),
        slice(
            "cart-4",
            "cart",
            json!([{ "name": "http", "port": 8080, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }]),
            json!([
                { "addresses": ["10.0.0.1"], "conditions": { "ready": true, "serving": true, "terminating": false },
                  "targetRef": target("cart-1"), "nodeName": "a", "zone": "west", "hints": { "forZones": [{ "name": "west" }] } },
                { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": false }, "targetRef": target("cart-2"), "hostname": "cart-2" },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": true, "terminating": true }, "targetRef": target("cart-3") },
            ]),
        ),
        // The same pod by its other address.
        slice(
            "cart-6",
            "cart",
            json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]),
            json!([{ "addresses": ["fd00::1"], "targetRef": target("cart-1"), "zone": "west" }]),
        ),
        pod("cart-1", &["10.0.0.1", "fd00::1"], |_| {}),
        pod("cart-2", &["10.0.0.2"], |_| {}),
        pod("cart-3", &["10.0.0.3"], |pod| pod["metadata"]["annotations"]["malla.dev/mode"] = json!("explicit")),
    ]);
    assert_eq!(
        endpoints(&mesh),
        [
            "10.0.0.1:8080 cart-1 ready west",
            "10.0.0.2:8080 cart-2 waits ",
            "10.0.0.3:8080 cart-3 ending ",
            "fd00::1:8080 cart-1 ready west"
        ]
    );
    let service = mesh.services.values().next().expect("a service");
    assert_eq!(service.ports.len(), 1, "UDP is not the mesh's");
    assert_eq!((service.ports[0].protocol, service.addresses.len()), (AppProtocol::Http1, 2));
    assert_eq!(service.endpoints, EndpointSource::Slices);
    let workload =
        |name: &str| mesh.workloads.values().find(|workload| *workload.name.name == *name).expect("a workload");
    assert_eq!((&*workload("cart-1").service_account, &*workload("cart-1").locality.zone), ("cart", "west"));
    assert_eq!(workload("cart-1").sidecar, Sidecar::Transparent);
    assert!(matches!(workload("cart-3").sidecar, Sidecar::Explicit { inbound_port: 15006, .. }));
    assert_eq!(
        workload("cart-1").ports.iter().map(|(name, port)| (&**name, *port)).collect::<Vec<_>>(),
        [("web", 8080)]
    );
    assert_eq!(workload("cart-1").labels.len(), 1, "our own labels are no names of workloads");
}

#[test]
fn a_pod_is_where_its_slice_and_its_labels_say() {
    let labelled =
        |name: &str, address: &str, labels: Value| pod(name, &[address], |pod| pod["metadata"]["labels"] = labels);
    let topology = json!({ "topology.kubernetes.io/zone": "north", "topology.kubernetes.io/region": "eu" });
    let mesh = mesh(&[
        meshed(),
        service("cart", json!({ "ports": [{ "port": 80 }] })),
        slice(
            "a",
            "cart",
            json!([{ "name": "", "port": 80 }]),
            json!([{ "addresses": ["10.0.0.1"], "zone": "west", "targetRef": target("serves") }]),
        ),
        labelled("serves", "10.0.0.1", topology.clone()),
        labelled("calls", "10.0.0.2", topology),
        labelled("anywhere", "10.0.0.3", json!({})),
    ]);
    let place = |name: &str| {
        let workload = mesh.workloads.values().find(|workload| *workload.name.name == *name).expect("a workload");
        (workload.locality.region.to_string(), workload.locality.zone.to_string())
    };
    assert_eq!(place("serves"), ("eu".to_owned(), "west".to_owned()), "the slice is the word of the cluster");
    assert_eq!(place("calls"), ("eu".to_owned(), "north".to_owned()));
    assert_eq!(place("anywhere"), Default::default());
}

#[test]
fn who_is_ending_serves_where_nobody_else_does() {
    let endpoint = |ready: bool, serving: bool| json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": ready, "serving": serving, "terminating": true } });
    let told = |endpoint: Value| {
        let ports = json!([{ "name": "", "port": 80 }]);
        let service = service("cart", json!({ "clusterIP": "None", "ports": [{ "port": 80, "targetPort": 80 }] }));
        endpoints(&mesh(&[meshed(), service, slice("a", "cart", ports, json!([endpoint]))])).remove(0)
    };
    assert_eq!(told(endpoint(false, true)), "10.0.0.1:80 - ready ");
    assert_eq!(told(endpoint(false, false)), "10.0.0.1:80 - ending ");
    // `publishNotReadyAddresses`: ready whatever else.
    assert_eq!(told(endpoint(true, false)), "10.0.0.1:80 - ready ");
}

#[test]
fn pods_that_are_no_workloads_are_endpoints_without_a_sidecar() {
    let names = ["host", "ended", "x.y", "fresh"];
    let refs: Vec<Value> =
        names.iter().map(|name| json!({ "addresses": ["10.0.0.1"], "targetRef": target(name) })).collect();
    let mesh = mesh(&[
        meshed(),
        service("cart", json!({ "ports": [{ "port": 80 }] })),
        slice("a", "cart", json!([{ "name": "", "port": 80 }]), json!(refs)),
        pod("host", &["10.0.0.1"], |pod| pod["spec"]["hostNetwork"] = json!(true)),
        pod("ended", &["10.0.0.1"], |pod| pod["status"]["phase"] = json!("Succeeded")),
        pod("x.y", &["10.0.0.1"], |_| {}),
        pod("fresh", &[], |_| {}),
    ]);
    assert!(mesh.workloads.is_empty(), "{:?}", mesh.workloads);
    assert_eq!(endpoints(&mesh), ["10.0.0.1:80 - ready "; 4]);
}

#[test]
fn namespaces_without_the_label_are_reached_in_plaintext() {
    let bare = pod("db-1", &["10.0.0.5"], |pod| {
        pod["spec"]["initContainers"] = json!([]);
    });
    let objects = |labels: Value| {
        [
            namespace("shop", labels),
            service("db", json!({ "ports": [{ "port": 5432 }] })),
            slice(
                "db-a",
                "db",
                json!([{ "name": "", "port": 5432 }]),
                json!([{ "addresses": ["10.0.0.5"], "targetRef": target("db-1") }]),
            ),
            bare.clone(),
            pod("idle", &["10.0.0.6"], |pod| pod["spec"]["initContainers"] = json!([])),
        ]
    };
    let (outside, inside) = (mesh(&objects(json!({}))), mesh(&objects(json!({ "malla.dev/inject": "enabled" }))));
    assert_eq!(outside.settings.mtls_without_sidecar("shop"), MtlsMode::Permissive);
    assert_eq!(inside.settings.mtls_without_sidecar("shop"), MtlsMode::Strict);
    // Who has a sidecar is as strict there as everywhere.
    assert_eq!(outside.settings.mtls_in("shop"), MtlsMode::Strict);
    assert_eq!(outside.workloads.len(), 1, "pods that nobody reaches are not kept");
}

#[test]
fn external_names_and_words_of_others_are_taken_as_far_as_they_go() {
    let translation = translated(&[
        meshed(),
        service(
            "api",
            json!({ "type": "ExternalName", "externalName": "api.example.com", "ports": [{ "port": 443, "appProtocol": "https" }] }),
        ),
        service("bare", json!({ "type": "ExternalName", "externalName": "example.com" })),
        service("dns", json!({ "ports": [{ "port": 53, "protocol": "UDP" }] })),
        service(
            "sticky",
            json!({ "sessionAffinity": "ClientIP", "ports": [{ "port": 80, "appProtocol": "example.com/own" }] }),
        ),
    ]);
    let names: Vec<&str> = translation.documents.iter().map(|document| &*document.file.path).collect();
    assert_eq!(names, ["Service shop/api", "Service shop/sticky"]);
    assert_eq!(translation.notices, ["Service shop/sticky: sidecars do not follow `sessionAffinity: ClientIP`"]);
}

#[test]
fn other_names_of_services_are_names_and_those_of_nothing_cost_nobody_else() {
    let named = |name: &str, of: &str| service(name, json!({ "type": "ExternalName", "externalName": of }));
    let parent = |name: &str| json!({ "group": "", "kind": "Service", "name": name });
    let backends = json!([{ "name": "cart", "port": 80, "weight": 9 }, { "name": "lost", "port": 80 }]);
    let translation = translated(&[
        meshed(),
        service("cart", json!({ "selector": { "app": "cart" }, "ports": [{ "port": 80, "appProtocol": "http" }] })),
        service("dns", json!({ "ports": [{ "port": 53, "protocol": "UDP" }] })),
        named("basket", "trolley.shop.svc.cluster.local"),
        named("trolley", "cart.shop.svc"),
        named("lost", "gone.shop.svc.cluster.local"),
        named("round", "round.shop.svc"),
        named("datagrams", "dns.shop.svc"),
        named("of-a-pod", "cart-0.cart.shop.svc.cluster.local"),
        route("split", "2026-01-01T00:00:00Z", json!([parent("cart"), parent("basket")]), backends),
    ]);
    let names: Vec<&str> = translation.documents.iter().map(|document| &*document.file.path).collect();
    assert!(names.contains(&"Service shop/basket") && names.contains(&"Service shop/trolley"), "{names:?}");
    for absent in ["Service shop/round", "Service shop/datagrams", "Service shop/of-a-pod"] {
        assert!(!names.contains(&absent), "{names:?}");
    }
    let route = translation.documents.iter().find(|document| document.file.path.contains("split")).expect("it goes on");
    assert!(!route.file.text.contains("basket"), "it is attached to services, not to names: {}", route.file.text);
    let told: Vec<&str> =
        translation.notices.iter().map(String::as_str).filter(|told| told.contains("externalName")).collect();
    assert_eq!(told.len(), 3, "{told:?}");
}

fn route(name: &str, created: &str, parents: Value, backends: Value) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop", "creationTimestamp": created });
    json!({ "kind": "HTTPRoute", "metadata": metadata, "spec": { "parentRefs": parents, "rules": [{ "backendRefs": backends }] } })
}

#[test]
fn routes_come_by_age_and_gateways_keep_theirs() {
    let parent = json!({ "group": "", "kind": "Service", "name": "cart" });
    let gateway = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge" });
    let backend = json!([{ "name": "cart", "port": 80 }]);
    let objects = [
        meshed(),
        service("cart", json!({ "ports": [{ "name": "http", "port": 80 }] })),
        route("a", "2026-02-01T00:00:00Z", json!([parent, gateway]), backend.clone()),
        route("b", "2026-01-01T00:00:00Z", json!([parent]), backend.clone()),
        route("edge", "2026-01-01T00:00:00Z", json!([gateway]), backend.clone()),
        route("lost", "2026-01-01T00:00:00Z", json!([{ "group": "", "kind": "Service", "name": "gone" }]), backend),
    ];
    let translation = translated(&objects);
    let names: Vec<&str> = translation.documents.iter().map(|document| &*document.file.path).collect();
    assert_eq!(names, ["Service shop/cart", "HTTPRoute shop/b", "HTTPRoute shop/a"]);
    let faults: Vec<String> = translation.faults.keys().map(ToString::to_string).collect();
    assert_eq!(faults, ["HTTPRoute shop/lost"]);
}

#[test]
fn a_backend_that_is_not_there_fails_its_own_share_only() {
    let parent = json!([{ "group": "", "kind": "Service", "name": "cart" }]);
    let backends = json!([{ "name": "cart", "port": 80, "weight": 1 }, { "name": "gone", "port": 80, "weight": 1 }, { "name": "gone", "port": 81 }]);
    let objects = [
        meshed(),
        service("cart", json!({ "ports": [{ "name": "http", "port": 80 }] })),
        route("split", "2026-02-01T00:00:00Z", parent, backends),
    ];
    assert_eq!(mesh(&objects).http_routes[0].rules[0].backends.len(), 3);
    let faults: Vec<Fault> = translated(&objects).faults.into_values().flatten().collect();
    assert_eq!(faults, [Fault::NoBackend("there is no service gone in the namespace shop".to_owned())]);
}

#[test]
fn a_service_that_is_not_there_is_no_parent_whatever_an_older_route_says() {
    let parent = |name: &str| json!([{ "group": "", "kind": "Service", "name": name }]);
    let older = route("older", "2026-01-01T00:00:00Z", parent("cart"), json!([{ "name": "gone", "port": 80 }]));
    let younger = route("younger", "2026-02-01T00:00:00Z", parent("gone"), json!([{ "name": "cart", "port": 80 }]));
    let cart = service("cart", json!({ "ports": [{ "name": "http", "port": 80 }] }));
    let faults = translated(&[meshed(), cart, older, younger]).faults;
    let absent = "there is no service gone in the namespace shop".to_owned();
    let told: Vec<_> = faults.into_values().collect();
    assert_eq!(told, [vec![Fault::NoBackend(absent.clone())], vec![Fault::NoParent(absent)]]);
}

#[test]
fn a_service_selects_processes_outside_of_the_cluster_too() {
    let metadata = json!({ "name": "vm-1", "namespace": "shop", "labels": { "app": "cart" } });
    let mesh = mesh(&[
        meshed(),
        service(
            "cart",
            json!({ "selector": { "app": "cart" }, "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] }),
        ),
        json!({ "kind": "Workload", "metadata": metadata, "spec": { "address": "192.0.2.1", "ports": { "web": 8080 } } }),
    ]);
    assert_eq!(endpoints(&mesh), ["192.0.2.1:8080 vm-1 ready "]);
}

//! Tests of a cluster as the source: the same mesh as from files, and what one wrong object does to the others.

use malla_xds::ResourceType;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::translate::tests::store;
use crate::source::render;

fn objects(values: &[Value]) -> Objects {
    store(values).whole().expect("all kinds are listed")
}

fn service(name: &str, port: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" }, "spec": { "ports": [port] } })
}

fn route(name: &str, parent: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": parent }],
            "rules": [{ "matches": [{ "path": { "type": "PathPrefix", "value": "/a" } }], "backendRefs": [{ "name": parent, "port": 80 }] }],
        },
    });
    change(&mut route);
    route
}

fn http() -> Value {
    json!({ "name": "http", "port": 80 })
}

/// What a reader makes of a cluster, and of files.
fn load(reader: &mut Reader, files: &[&str], values: &[Value]) -> Loaded {
    let files = files.iter().enumerate().map(|(at, text)| SourceFile::new(format!("{at}.yaml"), *text)).collect();
    reader.load(Some(Ok(Content { files, hash: 0 })), &objects(values), "bundle")
}

/// Names and versions of everything that is served.
fn served(resources: &Resources) -> Vec<String> {
    let all = ResourceType::ALL.into_iter().flat_map(|kind| resources.all(kind));
    all.map(|resource| format!("{} {} {}", resource.kind.word(), resource.name, resource.version)).collect()
}

#[test]
fn the_same_objects_by_files_and_from_a_cluster_are_the_same_to_sidecars() {
    let slice = |name: &str, workload: &str, address: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": "cart" } },
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [{ "addresses": [address], "zone": "west", "targetRef": { "kind": "Pod", "name": workload } }],
        })
    };
    let shared = [
        service("cart", json!({ "name": "http", "port": 80 })),
        service("back", json!({ "name": "grpc", "port": 9000 })),
        slice("cart-a", "cart-1", "10.0.0.1"),
        slice("cart-b", "cart-2", "10.0.0.2"),
        route("cart", "cart", |_| {}),
        json!({ "apiVersion": "malla.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": { "name": "cart", "namespace": "shop" },
            "spec": { "targetRefs": [{ "group": "", "kind": "Service", "name": "cart" }], "timeouts": { "connect": "2s" } } }),
        json!({ "apiVersion": "malla.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": { "name": "cart", "namespace": "shop" },
            "spec": { "action": "Deny", "rules": [{ "from": [{ "namespaces": ["bank"] }] }] } }),
        json!({ "apiVersion": "malla.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": "mesh" }, "spec": { "trustDomain": "example.org" } }),
    ];
    // What is pods in the cluster is workloads in files.
    let pod = |name: &str, address: &str| {
        json!({
            "kind": "Pod", "metadata": { "name": name, "namespace": "shop", "labels": { "app": "cart" } },
            "spec": { "serviceAccountName": "cart", "containers": [{ "name": "malla-proxy" }, { "name": "a", "ports": [{ "name": "web", "containerPort": 8080 }] }] },
            "status": { "podIPs": [{ "ip": address }] },
        })
    };
    let workload = |name: &str, address: &str| {
        json!({
            "apiVersion": "malla.dev/v1alpha1", "kind": "Workload", "metadata": { "name": name, "namespace": "shop", "labels": { "app": "cart" } },
            "spec": { "address": address, "serviceAccount": "cart", "ports": { "web": 8080 }, "sidecar": { "mode": "transparent" }, "locality": { "zone": "west" } },
        })
    };
    let namespace =
        json!({ "kind": "Namespace", "metadata": { "name": "shop", "labels": { "malla.dev/inject": "enabled" } } });
    let mut in_cluster = shared.to_vec();
    in_cluster.extend([namespace, pod("cart-1", "10.0.0.1"), pod("cart-2", "10.0.0.2")]);
    let loaded = load(&mut Reader::default(), &[], &in_cluster);
    let by_cluster = loaded.resources.unwrap_or_else(|| panic!("{:?}", loaded.refusal));
    assert_eq!(by_cluster.notices(), [""; 0]);

    let mut documents: Vec<Value> = shared.to_vec();
    documents.extend([workload("cart-1", "10.0.0.1"), workload("cart-2", "10.0.0.2")]);
    // Files say who serves `back`, or that nobody does.
    documents.push(route("back", "back", |route| {
        route["kind"] = json!("GRPCRoute");
        route["spec"]["rules"] = json!([{ "backendRefs": [{ "name": "back", "port": 9000 }] }]);
    }));
    let mut with_route = in_cluster.clone();
    with_route.push(documents.last().cloned().expect("a route"));
    let loaded = load(&mut Reader::default(), &[], &with_route);
    let by_cluster = loaded.resources.unwrap_or_else(|| panic!("{:?}", loaded.refusal));
    let text: Vec<String> = documents.iter().map(Value::to_string).collect();
    let mesh = malla_config::load(&[SourceFile::new("mesh.yaml", text.join("\n---\n"))])
        .unwrap_or_else(|report| panic!("{report}"));
    let by_files = render(mesh, "bundle").expect("renders");
    assert_eq!(served(&by_cluster), served(&by_files));
    assert_eq!(by_cluster.version(), by_files.version());

    // Half of it from each.
    let vm = json!({ "apiVersion": "malla.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "vm", "namespace": "shop" }, "spec": { "address": "192.0.2.1" } });
    let both = load(&mut Reader::default(), &[&vm.to_string()], &in_cluster).resources.expect("both serve");
    assert!(both.has_workload("vm.shop") && both.has_workload("cart-1.shop"));
}

#[test]
fn pods_of_a_headless_service_are_reached_one_by_one_by_address_and_by_name() {
    let slice = |name: &str, family: &str, address: &str| {
        json!({
            "kind": "EndpointSlice", "addressType": family,
            "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": "db" } },
            "ports": [{ "name": "pg", "port": 5432 }],
            "endpoints": [{ "addresses": [address], "hostname": "db-0", "targetRef": { "kind": "Pod", "name": "db-0" } }],
        })
    };
    let mut service = service("db", json!({ "name": "pg", "port": 15432, "targetPort": 5432, "appProtocol": "tcp" }));
    service["spec"]["clusterIP"] = json!("None");
    service["spec"]["clusterIPs"] = json!(["None"]);
    let pod = json!({
        "kind": "Pod", "metadata": { "name": "db-0", "namespace": "shop", "labels": { "statefulset.kubernetes.io/pod-name": "db-0" } },
        "spec": { "serviceAccountName": "db", "containers": [{ "name": "malla-proxy" }, { "name": "db" }] },
        "status": { "podIPs": [{ "ip": "10.0.0.7" }, { "ip": "fd00::7" }] },
    });
    let objects = [service.clone(), slice("db-four", "IPv4", "10.0.0.7"), slice("db-six", "IPv6", "fd00::7"), pod];
    let served = |objects: &[Value]| {
        let loaded = load(&mut Reader::default(), &[], objects);
        let resources = loaded.resources.unwrap_or_else(|| panic!("{:?}", loaded.refusal));
        assert_eq!(resources.notices(), [""; 0]);
        resources
    };
    let resources = served(&objects);
    let leads_to = |resources: &Resources, name: &str| {
        resources.get(ResourceType::Listener, name).map(|found| found.name.to_string())
    };
    for (name, address) in [
        ("10.0.0.7:5432", "10.0.0.7:5432"),
        ("db-0.db.shop:5432", "10.0.0.7:5432"),
        ("[fd00::7]:5432", "[fd00::7]:5432"),
    ] {
        assert_eq!(leads_to(&resources, name), Some(format!("endpoint/{address}")), "{name}");
        assert!(resources.get(ResourceType::Cluster, &format!("endpoint/{address}")).is_some(), "{address}");
    }
    assert!(resources.get(ResourceType::Cluster, "db.shop:15432").is_some());
    // Nothing translates ports on the way to a single pod.
    assert_eq!(leads_to(&resources, "db-0.db.shop:15432"), None);

    // A service with an address of its own has no names of endpoints in DNS.
    let mut with_address = objects.clone();
    with_address[0]["spec"]["clusterIP"] = json!("10.96.0.7");
    with_address[0]["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
    let resources = served(&with_address);
    assert_eq!(leads_to(&resources, "db-0.db.shop:5432"), None);
    assert!(leads_to(&resources, "10.0.0.7:5432").is_some());
}

/// First errors of the verdicts.
fn judged(loaded: &Loaded) -> Vec<String> {
    let verdicts = loaded.verdicts.iter().flatten();
    let wrong =
        verdicts.filter_map(|(key, verdict)| Some(format!("{key} {}: {}", verdict.earlier, verdict.errors.first()?.1)));
    wrong.collect()
}

#[test]
fn one_wrong_route_stops_nobody_and_its_last_good_state_serves() {
    let mut reader = Reader::default();
    let good = [service("cart", http()), route("a", "cart", |_| {})];
    let first = load(&mut reader, &[], &good).resources.expect("serves");
    let wrong = route("a", "cart", |route| {
        route["metadata"]["generation"] = json!(2);
        route["spec"]["rules"][0]["matches"][0]["path"] = json!({ "type": "RegularExpression", "value": "(" });
    });
    let after = load(&mut reader, &[], &[good[0].clone(), wrong.clone(), service("new", http())]);
    let told = judged(&after);
    assert!(told.len() == 1 && told[0].starts_with("HTTPRoute shop/a true: "), "{told:?}");
    let resources = after.resources.expect("serves");
    let get =
        |resources: &Resources| resources.get(ResourceType::Route, "cart.shop:80").expect("a route").version.clone();
    assert_eq!(get(&resources), get(&first));
    assert!(resources.get(ResourceType::Cluster, "new.shop:80").is_some());
    assert!(
        resources.notices().iter().any(|notice| notice.contains("an earlier state of it serves")),
        "{:?}",
        resources.notices()
    );

    // A replica that has not seen it good leaves it out.
    let fresh = load(&mut Reader::default(), &[], &[good[0].clone(), wrong]);
    let told = judged(&fresh);
    assert!(told.len() == 1 && told[0].starts_with("HTTPRoute shop/a false: "), "{told:?}");
    assert_ne!(get(&fresh.resources.expect("serves")), get(&first));
}

#[test]
fn a_wrong_policy_never_opens_what_it_closes() {
    let policy = |action: &str| {
        json!({ "kind": "AuthorizationPolicy", "metadata": { "name": "p", "namespace": "shop" },
            "spec": { "action": action, "rules": [{ "from": [{ "namespaces": ["bank"] }] }] } })
    };
    let mut reader = Reader::default();
    assert!(
        load(&mut reader, &[], &[service("cart", http()), policy("Dney")]).resources.is_none(),
        "nothing good is known"
    );
    assert!(load(&mut reader, &[], &[service("cart", http()), policy("Deny")]).resources.is_some());
    let after = load(&mut reader, &[], &[service("cart", http()), policy("Dney"), service("new", http())]);
    assert!(after.refusal.is_none() && after.resources.is_some(), "its last good state holds");
    assert!(judged(&after)[0].starts_with("AuthorizationPolicy shop/p true"), "{:?}", judged(&after));
}

#[test]
fn while_files_are_wrong_the_cluster_goes_on() {
    let mut reader = Reader::default();
    let file = service("vm", http()).to_string();
    assert!(load(&mut reader, &["kind: Servce"], &[]).resources.is_none(), "nothing good is known");
    assert!(load(&mut reader, &[&file], &[]).refusal.is_none());
    let after = load(&mut reader, &["kind: Servce"], &[service("cart", http())]);
    assert!(matches!(after.refusal, Some(Refusal::Invalid(_))));
    let resources = after.resources.expect("serves");
    assert!(resources.get(ResourceType::Cluster, "vm.shop:80").is_some());
    assert!(resources.get(ResourceType::Cluster, "cart.shop:80").is_some());
}

#[test]
fn a_policy_about_what_is_not_there_yet_waits_for_it_and_holds_up_nobody() {
    let service_target = json!({ "group": "", "kind": "Service", "name": "cart" });
    let rules = json!([{ "from": [{ "namespaces": ["bank"] }] }]);
    let targets = [
        (json!({ "selector": { "matchLabels": { "app": "cart" } } }), "selects no Workload"),
        (json!({ "targetRefs": [service_target] }), "no service `cart`"),
        (
            json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": "cart", "sectionName": "http" }] }),
            "no service `cart`",
        ),
        (
            json!({ "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "a" }] }),
            "no HTTPRoute `a`",
        ),
    ];
    let slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "cart-a", "namespace": "shop", "labels": { "kubernetes.io/service-name": "cart" } },
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [{ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": "cart-1" } }],
    });
    let pod = json!({
        "kind": "Pod", "metadata": { "name": "cart-1", "namespace": "shop", "labels": { "app": "cart" } },
        "spec": { "serviceAccountName": "cart", "containers": [{ "name": "malla-proxy" }, { "name": "a" }] },
        "status": { "podIPs": [{ "ip": "10.0.0.1" }] },
    });
    let there = [service("cart", http()), slice, pod, route("a", "cart", |_| {})];
    for (target, told) in targets {
        let mut policy =
            json!({ "kind": "AuthorizationPolicy", "metadata": { "name": "p", "namespace": "shop" }, "spec": target });
        policy["spec"]["action"] = json!("Deny");
        policy["spec"]["rules"] = rules.clone();
        let inbound = |resources: &Resources| {
            let found = resources.get(ResourceType::Listener, "inbound/cart-1.shop").expect("its own listener");
            found.version.clone()
        };
        let open = inbound(&load(&mut Reader::default(), &[], &there).resources.expect("serves"));
        // Before it, with it, and after it.
        let mut reader = Reader::default();
        let serves = |loaded: Loaded| {
            assert!(loaded.refusal.is_none() && judged(&loaded).is_empty(), "{told}: {:?}", judged(&loaded));
            loaded.resources.expect("serves")
        };
        let waits = |resources: &Resources| {
            assert!(resources.get(ResourceType::Cluster, "new.shop:80").is_some(), "{told}");
            let mut notices = resources.notices().iter();
            assert!(
                notices.any(|notice| notice.contains("protects nothing here yet") && notice.contains(told)),
                "{told}"
            );
        };
        let others = [policy.clone(), service("new", http())];
        waits(&serves(load(&mut reader, &[], &others)));
        let all: Vec<Value> = there.iter().chain(&others).cloned().collect();
        let closed = serves(load(&mut reader, &[], &all));
        assert_ne!(inbound(&closed), open, "{told}: it protects what has come");
        waits(&serves(load(&mut reader, &[], &others)));
    }
}

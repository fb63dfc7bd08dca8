//! Whatever happened to a cluster before, what it is now is what sidecars are told.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Content, Reader, Resources};
use crate::kubernetes::kinds::Kind;
use crate::kubernetes::store::{Objects, Store};
use crate::kubernetes::translate::tests::object;
use crate::kubernetes::translate::{Translation, Translator};

/// What may be in the cluster: each object in some states, all of them good on their own and beside each other.
fn universe() -> Vec<Vec<Value>> {
    let metadata = |name: &str| json!({ "name": name, "namespace": "shop" });
    let of = |kind: &str, name: &str, states: Vec<Value>| -> Vec<Value> {
        let state = |mut state: Value| {
            state["kind"] = json!(kind);
            let mut whole = metadata(name);
            for field in ["labels", "annotations", "creationTimestamp"] {
                if !state[field].is_null() {
                    whole[field] = state[field].take();
                }
            }
            state["metadata"] = whole;
            state
        };
        states.into_iter().map(state).collect()
    };
    let service = |name: &str, specs: Vec<Value>| {
        of("Service", name, specs.into_iter().map(|spec| json!({ "spec": spec })).collect())
    };
    let own = |kind: &str, name: &str, specs: Vec<Value>| {
        of(kind, name, specs.into_iter().map(|spec| json!({ "spec": spec })).collect())
    };
    let namespace = |labels: Value| json!({ "kind": "Namespace", "metadata": { "name": "shop", "labels": labels } });
    let pod = |name: &str, address: &str, change: fn(&mut Value)| {
        let plain = json!({
            "labels": { "app": "cart", "version": name },
            "spec": { "serviceAccountName": "cart",
                "containers": [{ "name": "malla-proxy" }, { "name": "app", "ports": [{ "name": "web", "containerPort": 8080 }] }] },
            "status": { "podIPs": [{ "ip": address }] },
        });
        let (mut bare, mut ended, mut labelled, mut changed) =
            (plain.clone(), plain.clone(), plain.clone(), plain.clone());
        bare["spec"]["containers"] = json!([{ "name": "app" }]);
        ended["status"]["phase"] = json!("Succeeded");
        labelled["labels"] = json!({ "app": "cart", "topology.kubernetes.io/zone": "north" });
        change(&mut changed);
        of("Pod", name, vec![plain, bare, ended, labelled, changed])
    };
    let slice = |name: &str, service: &str, port: (&str, u16), endpoints: Vec<Value>| {
        let state = |endpoints: Value| {
            json!({ "labels": { "kubernetes.io/service-name": service }, "addressType": "IPv4",
                "ports": [{ "name": port.0, "port": port.1 }], "endpoints": endpoints })
        };
        let all = json!(endpoints.clone());
        let states = endpoints.into_iter().map(|endpoint| json!([endpoint])).chain([all, json!([])]);
        of("EndpointSlice", name, states.map(state).collect())
    };
    let endpoint = |address: &str, pod: &str, (ready, serving, terminating): (bool, bool, bool), zone: Value| {
        json!({ "addresses": [address], "hostname": pod, "zone": zone, "targetRef": { "kind": "Pod", "name": pod },
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
    };
    let (ready, ending, waits) = ((true, true, false), (false, true, true), (false, false, false));
    let route = |kind: &str, name: &str, created: &str, backends: Vec<Value>| {
        let state = |backends: Value| {
            let port = backends[0]["port"].clone();
            json!({ "creationTimestamp": created, "spec": {
                "parentRefs": [{ "group": "", "kind": "Service", "name": "cart", "port": port }], "rules": [{ "backendRefs": backends }] } })
        };
        of(kind, name, backends.into_iter().map(state).collect())
    };
    let http = |change: Value| {
        let mut spec = json!({ "clusterIP": "10.96.0.7", "selector": { "app": "vm" }, "ports": [{ "name": "http", "port": 80 }, { "name": "grpc", "port": 9000 }] });
        spec.as_object_mut().expect("a map").extend(change.as_object().expect("a map").clone());
        spec
    };
    vec![
        vec![namespace(json!({})), namespace(json!({ "malla.dev/inject": "enabled" }))],
        vec![
            json!({ "kind": "Mesh", "metadata": { "name": "mesh" }, "spec": { "trustDomain": "example.org" } }),
            json!({ "kind": "Mesh", "metadata": { "name": "mesh" }, "spec": { "mtls": { "mode": "permissive" } } }),
        ],
        service(
            "cart",
            vec![
                http(json!({})),
                http(json!({ "clusterIP": "10.96.0.8" })),
                http(json!({ "sessionAffinity": "ClientIP" })),
            ],
        ),
        service(
            "db",
            vec![
                json!({ "clusterIP": "None", "ports": [{ "name": "pg", "port": 5432, "appProtocol": "tcp" }] }),
                json!({ "clusterIP": "10.96.0.9", "ports": [{ "name": "pg", "port": 5432, "appProtocol": "tcp" }] }),
            ],
        ),
        service(
            "basket",
            vec![
                json!({ "type": "ExternalName", "externalName": "cart.shop.svc.cluster.local" }),
                json!({ "type": "ExternalName", "externalName": "db.shop.svc.cluster.local" }),
                json!({ "type": "ExternalName", "externalName": "example.com", "ports": [{ "port": 443 }] }),
            ],
        ),
        pod("cart-1", "10.0.0.1", |pod| pod["spec"]["serviceAccountName"] = json!("other")),
        pod("cart-2", "10.0.0.2", |pod| pod["annotations"] = json!({ "malla.dev/mode": "explicit" })),
        pod("db-0", "10.0.0.3", |pod| pod["status"]["podIPs"] = json!([{ "ip": "10.0.0.33" }])),
        slice(
            "cart-a",
            "cart",
            ("http", 8080),
            vec![
                endpoint("10.0.0.1", "cart-1", ready, json!("west")),
                endpoint("10.0.0.2", "cart-2", ending, Value::Null),
                endpoint("10.0.0.4", "nobody", waits, Value::Null),
            ],
        ),
        slice(
            "cart-b",
            "cart",
            ("http", 8081),
            vec![
                endpoint("10.0.0.2", "cart-2", ready, json!("east")),
                endpoint("10.0.0.5", "cart-1", ending, json!("east")),
            ],
        ),
        slice("db-a", "db", ("pg", 5432), vec![endpoint("10.0.0.3", "db-0", ready, Value::Null)]),
        own("Workload", "vm", vec![json!({ "address": "192.0.2.1" }), json!({ "address": "192.0.2.2" })])
            .into_iter()
            .map(|mut workload| {
                workload["metadata"]["labels"] = json!({ "app": "vm" });
                workload
            })
            .collect(),
        route(
            "HTTPRoute",
            "a",
            "2026-01-01T00:00:00Z",
            vec![
                json!([{ "name": "cart", "port": 80 }]),
                json!([{ "name": "cart", "port": 80, "weight": 9 }, { "name": "gone", "port": 80 }]),
            ],
        ),
        route("GRPCRoute", "b", "2025-01-01T00:00:00Z", vec![json!([{ "name": "cart", "port": 9000 }])]),
        own(
            "TrafficPolicy",
            "cart",
            vec![
                json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": "cart" }], "timeouts": { "connect": "2s" } }),
                json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": "cart" }], "loadBalancer": { "algorithm": "ringHash", "hash": [{ "header": "x-user" }] } }),
                json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": "cart" }], "subsets": [{ "name": "one", "labels": { "version": "cart-1" } }] }),
            ],
        ),
        own(
            "AuthorizationPolicy",
            "p",
            vec![
                json!({ "action": "Deny", "rules": [{ "from": [{ "namespaces": ["bank"] }] }] }),
                json!({ "action": "Allow", "rules": [{ "from": [{ "namespaces": ["shop"] }] }] }),
            ],
        ),
        own("TraceSampling", "t", vec![json!({ "percent": 50 }), json!({ "percent": 5 })]),
    ]
}

/// Everything that is said under each name, and of the whole.
fn said(resources: &Resources) -> Vec<String> {
    let of = |resource: &std::sync::Arc<malla_xds::Resource>| format!("{resource:?} {:?}", resource.aliases);
    let all = resources.in_order().iter().map(of);
    all.chain([resources.version().to_string()]).chain(resources.notices().iter().cloned()).collect()
}

fn read(reader: &mut Reader, store: &Store) -> super::Loaded {
    let files = Some(Ok(Content { files: Vec::new(), hash: 0 }));
    reader.load(files, &store.whole().expect("all kinds are listed"), "bundle")
}

/// What a translation says, in order.
fn told(translation: &Translation) -> String {
    format!("{:?}", (&translation.documents, &translation.notices, &translation.faults, &translation.surroundings))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_of_a_cluster_changes_nothing(
        changes in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5_u8), 1..60),
    ) {
        let universe = universe();
        let store = Store::default();
        Kind::ALL.into_iter().for_each(|kind| store.replace(kind, Objects::new()));
        let (mut translator, mut reader) = (Translator::default(), Reader::default());
        for (what, state, fate) in changes {
            let states = what.get(&universe);
            let value = state.get(states);
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == value["kind"]).expect("a kind that is read");
            match fate {
                0 => store.remove(kind, object(value)),
                _ => store.apply(kind, object(value)),
            }
            let objects = store.whole().expect("all kinds are listed");
            prop_assert_eq!(told(&translator.translate(&objects)), told(&Translator::default().translate(&objects)));

            let (after, fresh) = (read(&mut reader, &store), read(&mut Reader::default(), &store));
            let refused = [&after, &fresh].map(|loaded| loaded.refusal.as_ref().map(ToString::to_string));
            prop_assert_eq!(refused, [None, None]);
            let errors: Vec<_> = fresh.verdicts.iter().flatten().filter(|(_, verdict)| !verdict.errors.is_empty()).collect();
            prop_assert!(errors.is_empty(), "the states are good: {errors:?}");
            prop_assert_eq!(&after.verdicts, &fresh.verdicts);
            let (after, fresh) = (after.resources.expect("serves"), fresh.resources.expect("serves"));
            prop_assert_eq!(said(&after), said(&fresh));
        }
    }
}

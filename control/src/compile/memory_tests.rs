//! Tests of what is remembered: it is what would be rendered, whatever has changed.

use std::sync::Arc;

use malla_config::{SourceFile, load};
use malla_xds::ResourceType;

use crate::compile::{Compiler, compile};
use crate::resources::Resources;
use crate::world::World;

fn world(text: &str) -> World {
    let mesh = load(&[SourceFile::new("mesh.yaml", text)]).unwrap_or_else(|report| panic!("{report}"));
    World::new(mesh).expect("resolves")
}

/// Everything that is said under each name.
fn said(resources: &Resources) -> Vec<String> {
    let all = resources.in_order().iter();
    let of = |resource: &Arc<malla_xds::Resource>| format!("{resource:?} {:?}", resource.aliases);
    all.map(of).chain([resources.version().to_string()]).collect()
}

const BASE: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: cart}, ports: [{name: web, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
ports: [{name: '', port: 5432}]
endpoints: [{addresses: [10.0.0.3], hostname: db-0, targetRef: {kind: Workload, name: db-0}}]
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart, version: v1}}
spec: {address: 10.0.0.1, serviceAccount: cart, sidecar: {mode: transparent}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-2, namespace: shop, labels: {app: cart, version: v2}}
spec: {address: 10.0.0.2, serviceAccount: cart, sidecar: {mode: explicit}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: db-0, namespace: shop}
spec: {address: 10.0.0.3, serviceAccount: db, sidecar: {mode: transparent}}
";

const POLICY: &str = "---
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec: {action: Deny, targetRefs: [{group: '', kind: Service, name: cart, sectionName: web}], rules: [{from: [{namespaces: [bank]}]}]}
";

const SUBSETS: &str = "---
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], subsets: [{name: v2, labels: {version: v2}}]}
";

fn route(namespace: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: {namespace}}}
spec: {{parentRefs: [{{group: '', kind: Service, name: cart, namespace: shop}}], rules: [{{timeouts: {{request: 2s}}}}]}}
"
    )
}

#[test]
fn what_was_rendered_before_is_what_would_be_rendered_now() {
    let with = |more: &str| format!("{BASE}{more}");
    let but = |text: &str, old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    };
    let mesh = |spec: &str| {
        with(&format!("---\napiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {spec}\n"))
    };
    let hashed = SUBSETS.replace(
        "subsets: [{name: v2, labels: {version: v2}}]",
        "loadBalancer: {algorithm: ringHash, hash: [{header: x-user}]}",
    );
    let worlds = [
        with(""),
        but(
            BASE,
            "serviceAccount: cart, sidecar: {mode: transparent}",
            "serviceAccount: other, sidecar: {mode: transparent}",
        ),
        but(BASE, "10.0.0.1", "10.0.0.9"),
        but(BASE, "sidecar: {mode: explicit}", "sidecar: {mode: explicit}, weight: 3"),
        but(BASE, "clusterIP: 10.96.0.7", "clusterIP: 10.96.0.8"),
        but(BASE, "hostname: db-0", "hostname: db-1"),
        but(BASE, "port: 80,", "port: 80, appProtocol: http,"),
        but(BASE, "[{port: 5432}]", "[{port: 5433}]"),
        with(POLICY),
        but(&with(POLICY), "name: web,", "name: other,").replace("sectionName: web", "sectionName: other"),
        with(&POLICY.replace("bank", "till")),
        with(&route("shop")),
        with(&route("bank")),
        with(&format!("{}{hashed}", route("shop"))),
        with(SUBSETS),
        but(&with(SUBSETS), "version: v1}}\nspec", "version: v2}}\nspec"),
        mesh("{mtls: {mode: permissive}}"),
        mesh("{trustDomain: example.org}"),
        mesh("{unknownDestinations: deny}"),
        mesh("{defaultAuthorization: deny}"),
    ];
    let mut compiler = Compiler::default();
    for (at, text) in worlds.iter().enumerate() {
        // There, and back again.
        for text in [text, &worlds[0]] {
            let anew = compile(&world(text), "bundle").expect("compiles");
            let remembered = compiler.compile(world(text), "bundle").expect("compiles");
            assert_eq!(said(&remembered), said(&anew), "{at}");
            for namespace in ["shop", "bank"] {
                for resource in anew.in_order() {
                    let other = remembered.get(resource.kind, &resource.name).expect("is there");
                    let seen = [(&anew, resource), (&remembered, &other)];
                    let [one, other] = seen.map(|(all, resource)| &all.seen_from(namespace, resource).version);
                    assert_eq!(one, other, "{at}: {resource:?} from {namespace}");
                }
            }
        }
    }
}

#[test]
fn what_a_change_is_not_about_is_not_rendered_again() {
    let mut compiler = Compiler::default();
    let before = compiler.compile(world(BASE), "bundle").expect("compiles");
    let changed = BASE.replace("[{addresses: [10.0.0.3]", "[{addresses: [10.0.0.3], conditions: {ready: false}");
    let after = compiler.compile(world(&changed), "bundle").expect("compiles");
    let is_same =
        |resource: &&Arc<malla_xds::Resource>| before.in_order().iter().any(|other| Arc::ptr_eq(resource, other));
    let (same, other): (Vec<_>, Vec<_>) = after.in_order().iter().partition(is_same);
    assert!(same.len() > 10, "{same:?}");
    // All of the service; and the trust bundle, which is small.
    assert!(
        other.iter().all(|resource| &*resource.name == "db.shop:5432" || resource.kind == ResourceType::Secret),
        "{other:?}"
    );
    assert_eq!(other.iter().filter(|resource| resource.kind == ResourceType::Endpoints).count(), 1, "{other:?}");
}

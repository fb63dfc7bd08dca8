//! Errors of services, endpoints, workloads and the mesh.

use malla_config::Code;

use crate::{expect, service, workload};

#[test]
fn services() {
    use Code::{DanglingReference, Duplicate, InvalidValue, MissingField, NoEffect, NotSupported};
    let of = "Service shop/new";
    let with = |fields: &str| service(&format!("  selector: {{app: cart}}\n  ports: [{{port: 80}}]\n  {fields}\n"));
    expect(
        &with("sessionAffinity: ClientIP"),
        &[(NotSupported, (7, 3), of, "`sessionAffinity: ClientIP` is not supported yet", "remove")],
    );
    expect(&with("internalTrafficPolicy: Local"), &[(NotSupported, (7, 3), of, "internalTrafficPolicy", "remove")]);
    expect(&with("trafficDistribution: PreferClose"), &[(NotSupported, (7, 3), of, "trafficDistribution", "remove")]);
    expect(&with("publishNotReadyAddresses: true"), &[(NotSupported, (7, 3), of, "publishNotReady", "remove")]);
    expect(&with("type: LodaBalancer"), &[(InvalidValue, (7, 9), of, "`spec.type` cannot be", "`LoadBalancer`")]);
    expect(&with("externalName: a.example.com"), &[(NoEffect, (7, 3), of, "no effect", "ExternalName")]);
    expect(&with("clusterIP: 10.96.0"), &[(InvalidValue, (7, 14), of, "not an IP address", "10.96.0.7")]);
    expect(&with("clusterIPs: [10.96.0.8, 10.96.0.8]"), &[(Duplicate, (7, 27), of, "twice", "remove")]);
    expect(
        &with("clusterIP: 10.96.0.7"),
        &[(Duplicate, (7, 14), of, "the address 10.96.0.7 is that of Service shop/front already", "another")],
    );
    expect(
        &with("clusterIP: 10.0.0.1"),
        &[(Duplicate, (7, 14), of, "the address 10.0.0.1 is that of Workload shop/cart-1", "no host")],
    );
    for irrelevant in [
        "type: LoadBalancer",
        "type: NodePort",
        "externalTrafficPolicy: Local",
        "sessionAffinity: None",
        "internalTrafficPolicy: Cluster",
        "ipFamilyPolicy: SingleStack",
        "clusterIP: None",
        "clusterIP: ''",
        "loadBalancerSourceRanges: [10.0.0.0/8]",
    ] {
        expect(&with(irrelevant), &[]);
    }

    let ports = |ports: &str| service(&format!("  selector: {{app: cart}}\n  ports: {ports}\n"));
    expect(&service("  selector: {app: cart}\n"), &[(MissingField, (5, 3), of, "needs a port", "ports:")]);
    expect(&ports("[{port: 0}]"), &[(InvalidValue, (6, 18), of, "0 is not a port", "")]);
    expect(
        &ports("[{port: 53, protocol: UDP}]"),
        &[(NotSupported, (6, 22), of, "`protocol: UDP` is not supported yet", "TCP only")],
    );
    expect(&ports("[{port: 80}, {port: 81, name: b}]"), &[(MissingField, (6, 11), of, "needs names", "name:")]);
    expect(
        &ports("[{port: 80, name: a}, {port: 80, name: b}]"),
        &[(Duplicate, (6, 39), of, "port 80 is written twice", "")],
    );
    expect(&ports("[{port: 80, name: a}, {port: 81, name: a}]"), &[(Duplicate, (6, 49), of, "port name `a`", "")]);
    expect(
        &ports("[{port: 80, appProtocol: htpp}]"),
        &[(InvalidValue, (6, 35), of, "does not know the protocol `htpp`", "`http`")],
    );
    expect(
        &ports("[{port: 80, targetPort: htttp}]"),
        &[(DanglingReference, (6, 34), of, "port named `htttp`", "did you mean `http`?")],
    );
    expect(&ports("[{port: 80, targetPort: 99999}]"), &[(InvalidValue, (6, 34), of, "not a port", "")]);

    let select = |labels: &str| service(&format!("  selector: {labels}\n  ports: [{{port: 80}}]\n"));
    expect(
        &select("{app: crat}"),
        &[(
            DanglingReference,
            (5, 19),
            of,
            "no Workload in the namespace `shop` has the labels app=crat",
            "did you mean `app: cart`?",
        )],
    );
    expect(
        &select("{tier: web}"),
        &[(DanglingReference, (5, 20), of, "tier=web", "no Workload there has a label `tier`")],
    );
    expect(&select("{}"), &[(DanglingReference, (3, 18), of, "has no endpoints and no route", "selector")]);
}

#[test]
fn external_names() {
    use Code::{Cycle, DanglingReference, InvalidValue, MissingField, NoEffect};
    let named = |name: &str, target: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  type: ExternalName\n  \
             externalName: {target}\n  ports: [{{port: 80}}]\n"
        )
    };
    let of = "Service shop/new";
    expect(&named("new", "api.example.com"), &[]);
    expect(&named("new", "10.1.2.3"), &[(InvalidValue, (6, 17), of, "is an address", "EndpointSlice")]);
    expect(&named("new", "a_b"), &[(InvalidValue, (6, 17), of, "not a DNS name", "")]);
    expect(
        &named("new", "crat.shop.svc"),
        &[(DanglingReference, (6, 17), of, "does not exist", "did you mean `cart`?")],
    );
    expect(&named("new", "cart.shop.svc.cluster.local"), &[]);
    expect(&named("new", "ledger.bank"), &[]);
    let with = |ports: &str| named("new", "cart").replace("[{port: 80}]", ports);
    expect(&with("[]"), &[]);
    expect(&with("[{name: tcp, port: 80}]"), &[]);
    expect(
        &named("new", "a.example").replace("[{port: 80}]", "[]"),
        &[(MissingField, (7, 10), of, "needs a port", "443")],
    );
    expect(&with("[{port: 81}]"), &[(DanglingReference, (7, 18), of, "cart.shop has no port 81", "80")]);
    expect(&with("[{port: 80, targetPort: 81}]"), &[(NoEffect, (7, 22), of, "no effect on another name", "remove")]);
    expect(
        &with("[{port: 80, appProtocol: tcp}]"),
        &[(InvalidValue, (7, 11), of, "carries HTTP", "declare it on the service")],
    );
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: new}]\n  rules: [{backendRefs: [{name: new, port: 80}]}]\n";
    expect(
        &(named("new", "cart") + route),
        &[(NoEffect, (13, 49), "HTTPRoute shop/r", "another name of cart.shop", "about cart.shop")],
    );
    let of_others = route.replace("name: new}", "name: cart}").replace("name: new,", "name: book,");
    expect(
        &(named("book", "ledger.bank") + &of_others),
        &[(Code::NotGranted, (14, 26), "HTTPRoute shop/r", "services of `bank`", "name: ledger")],
    );
    expect(&named("new", "new.shop"), &[(Cycle, (6, 17), of, "new.shop → new.shop", "outside")]);
    let circle = format!("{}---\n{}", named("a", "b"), named("b", "a.shop.svc"));
    expect(
        &circle,
        &[
            (Cycle, (6, 17), "Service shop/a", "a.shop → b.shop → a.shop", ""),
            (Cycle, (14, 17), "Service shop/b", "b.shop → a.shop → b.shop", ""),
        ],
    );
    expect(
        &service("  type: ExternalName\n  ports: [{port: 80}]\n"),
        &[(MissingField, (5, 3), of, "needs `externalName`", "api.example.com")],
    );
    expect(
        &(named("new", "a.example.com") + "  selector: {app: cart}\n"),
        &[(NoEffect, (8, 3), of, "no effect", "remove")],
    );
}

#[test]
fn workloads() {
    use Code::{Duplicate, InvalidValue, NoEffect};
    let of = "Workload shop/w";
    expect(&workload("  address: cart.example.com\n"), &[(InvalidValue, (5, 12), of, "not an IP address", "10.1.2.3")]);
    expect(&workload("  address: 0.0.0.0\n"), &[(InvalidValue, (5, 12), of, "every address", "")]);
    expect(
        &workload("  address: 10.0.0.9\n  serviceAccount: A b\n"),
        &[(InvalidValue, (6, 19), of, "service account", "")],
    );
    expect(&workload("  address: 10.0.0.9\n  ports: {Web: 80}\n"), &[(InvalidValue, (6, 11), of, "`Web`", "")]);
    expect(
        &workload("  address: 10.0.0.9\n  ports: {web: 0}\n"),
        &[(InvalidValue, (6, 16), of, "0 is not a port", "")],
    );
    expect(
        &workload("  address: 10.0.0.9\n  weight: 2000000\n"),
        &[(InvalidValue, (6, 11), of, "too large", "1000000")],
    );
    expect(
        &workload("  address: 10.0.0.9\n  sidecar: {mode: transparent, inboundPort: 1}\n"),
        &[(NoEffect, (6, 32), of, "`inboundPort` has an effect with `mode: explicit` only", "remove")],
    );
    expect(
        &workload("  address: 10.0.0.9\n  sidecar: {mode: explicit, application: \"::\"}\n"),
        &[(InvalidValue, (6, 42), of, "every address", "")],
    );
    expect(
        &workload("  address: 10.0.0.9\n  sidecar: {mode: none}\n"),
        &[(NoEffect, (6, 12), of, "receives nothing", "permissive")],
    );
    expect(&workload("  address: 10.0.0.9\n  sidecar: {mode: none}\n  mtls: {mode: permissive}\n"), &[]);
    expect(
        &workload("  address: 10.0.0.1\n"),
        &[(Duplicate, (5, 12), of, "10.0.0.1, port 15006, is where Workload shop/cart-1 is already", "inboundPort")],
    );
    expect(
        &workload("  address: 10.0.0.1\n  sidecar: {mode: transparent}\n"),
        &[(Duplicate, (5, 12), of, "with redirection of all ports", "")],
    );
    expect(&workload("  address: 10.0.0.1\n  sidecar: {mode: explicit, inboundPort: 15007}\n"), &[]);
}

#[test]
fn meshes() {
    use Code::{DanglingReference, Duplicate, InvalidValue};
    let mesh = |spec: &str| format!("apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec:\n{spec}");
    let observer =
        |text: &str| mesh(&format!("  observers:\n  - {{namespace: ops, serviceAccount: oncall}}\n  - {text}\n"));
    expect(&observer("{namespace: ops, serviceAccount: other}"), &[]);
    let of_observers = "Mesh m";
    expect(
        &observer("{namespace: Ops, serviceAccount: 'on call'}"),
        &[
            (Code::InvalidValue, (7, 17), of_observers, "`Ops` is not a namespace", "lower-case"),
            (Code::InvalidValue, (7, 38), of_observers, "`on call` is not a service account", "lower-case"),
        ],
    );
    expect(
        &observer("{namespace: ops, serviceAccount: oncall}"),
        &[(Code::Duplicate, (7, 5), of_observers, "`ops/oncall` is written twice", "leave one")],
    );
    expect(
        &mesh("  trustDomain: Example.org\n"),
        &[(InvalidValue, (5, 16), "Mesh m", "not a trust domain", "lower-case")],
    );
    expect(
        &mesh("  mtls: {mode: off}\n"),
        &[(InvalidValue, (5, 16), "Mesh m", "cannot be `off`", "`strict`, `permissive`")],
    );
    expect(
        &mesh("  mtls: {namespaces: {shpo: permissive}}\n"),
        &[(DanglingReference, (5, 23), "Mesh m", "nothing is in the namespace `shpo`", "`shop`")],
    );
    let two = format!("{}---\n{}", mesh("  {}\n"), mesh("  {}\n").replace("name: m", "name: n"));
    expect(&two, &[(Duplicate, (9, 18), "Mesh n", "there is a Mesh already", "one of them")]);
}

#[test]
fn endpoint_slices() {
    use Code::{DanglingReference, InvalidValue, MissingField, NoEffect, NotSupported};
    let plain = "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\nspec: {ports: [{name: http, port: 80, targetPort: 8080}]}\n---\napiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {mtls: {namespaces: {shop: permissive}}}\n---\n";
    let slice = |label: &str, rest: &str| {
        format!(
            "{plain}apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: db-1, namespace: shop, labels: \
             {{kubernetes.io/service-name: {label}}}}}\naddressType: IPv4\n{rest}"
        )
    };
    let good = "ports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.9.9.9]}]\n";
    let of = "EndpointSlice shop/db-1";
    expect(&slice("db", good), &[]);
    expect(
        &slice("bd", good),
        &[
            (DanglingReference, (3, 18), "Service shop/db", "has no endpoints", ""),
            (DanglingReference, (13, 78), of, "there is no service `bd`", "`db`"),
        ][1..],
    );
    expect(
        &slice("cart", &good.replace("8080", "80")),
        &[(NoEffect, (13, 78), of, "do not come from slices", "selector")],
    );
    expect(
        &slice("db", &good.replace("name: http", "name: htt")),
        &[(DanglingReference, (15, 16), of, "no port named `htt`", "http")],
    );
    expect(
        &slice("db", &good.replace("8080", "8081")),
        &[(InvalidValue, (15, 28), of, "`targetPort` of the service db.shop is 8080", "same number")],
    );
    expect(
        &slice("db", &good.replace("10.9.9.9", "fd00::1")),
        &[(InvalidValue, (16, 26), of, "not an IPv4 address", "family")],
    );
    expect(&slice("db", "ports: []\nendpoints: []\n"), &[(MissingField, (15, 8), of, "needs ports", "")]);
    expect(
        &slice("db", &good.replace("]}]", "], hints: {forZones: []}}]")),
        &[(NotSupported, (16, 37), of, "`hints`", "remove")],
    );
    expect(
        &slice("db", &good.replace("]}]", "], targetRef: {kind: Workload, name: cart-2}}]")),
        &[(DanglingReference, (16, 71), of, "no Workload `cart-2`", "`cart-1`")],
    );
    expect(
        &slice("db", &good.replace("]}]", "], targetRef: {kind: Node, name: a}}]")),
        &[(NotSupported, (16, 55), of, "`Node`", "Workload")],
    );
    expect(&slice("db", good).replace("IPv4", "FQDN"), &[(NotSupported, (14, 1), of, "FQDN", "ExternalName")]);
    expect(
        &slice("db", good).replace("permissive", "strict"),
        &[(NoEffect, (16, 13), of, "receives nothing while mTLS is strict", "targetRef")],
    );
    expect(
        &slice("db", good).replace("name: http, port: 80, ", "name: web, port: 80, "),
        &[(DanglingReference, (15, 16), of, "no port named `http`", "web")],
    );
}

#[test]
fn other_trust_domains() {
    let mesh = "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec:\n  federation:\n  \
                - {trustDomain: cluster.local, roots: none}\n";
    expect(
        mesh,
        &[
            (Code::Conflict, (6, 19), "Mesh m", "the mesh's own trust domain", "another"),
            (Code::InvalidValue, (6, 41), "Mesh m", "not certificates in PEM", "BEGIN CERTIFICATE"),
        ],
    );
    expect(
        &workload("  address: 10.0.0.9\n  trustDomain: partner\n"),
        &[(Code::DanglingReference, (6, 16), "Workload shop/w", "no roots are known", "Mesh.spec.federation")],
    );
}

//! Tests of the compiler: from YAML to the resources that sidecars receive.

use std::collections::BTreeMap;

use malla_config::{SourceFile, load};
use malla_xds::ResourceType::{self, Cluster, Endpoints, Listener, Route};

use super::describe::text;
use super::*;

fn loaded(yaml: &str) -> mesh::Mesh {
    let file = SourceFile::new("mesh.yaml", yaml);
    load(&[file]).unwrap_or_else(|report| panic!("{report}"))
}

fn compiled_mesh(mesh: mesh::Mesh) -> Resources {
    compile(&World::new(mesh).expect("resolves"), "bundle").expect("compiles")
}

fn compiled(yaml: &str) -> Resources {
    compiled_mesh(loaded(yaml))
}

const PERMISSIVE: &str =
    "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh}\nspec: {mtls: {mode: permissive}}\n---\n";

/// Two versions of cart behind one service each, one more for both, and a database.
const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: cart}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart-v1, namespace: shop}
spec: {selector: {app: cart, version: v1}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart-v2, namespace: shop}
spec: {selector: {app: cart, version: v2}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart, version: v1}}
spec: {address: 10.0.0.1, serviceAccount: cart, locality: {region: eu, zone: a}, sidecar: {mode: transparent}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-2, namespace: shop, labels: {app: cart, version: v2}}
spec: {address: 10.0.0.2, serviceAccount: cart-canary, weight: 3, locality: {region: eu, zone: b}, sidecar: {mode: explicit}}
---
";

fn shop(more: &str) -> Resources {
    compiled(&format!("{SHOP}{more}"))
}

/// Documents of routes to the service `cart`, each `kind name spec`.
fn route(kind: &str, name: &str, rest: &str) -> String {
    let version = if matches!(kind, "HTTPRoute" | "GRPCRoute") { "v1" } else { "v1alpha2" };
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: cart}}]\n{rest}\n---\n"
    )
}

#[track_caller]
fn check(resources: &Resources, kind: ResourceType, name: &str, expected: &str) {
    let expected: String = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(text(resources, kind, name), expected, "{kind} {name}");
}

#[test]
fn a_service_without_routes_leads_to_itself() {
    let resources = shop("");
    check(&resources, Listener, "cart.shop:80", "api rds cart.shop:80");
    check(&resources, Route, "cart.shop:80", "[*]\n/* -> cart.shop:80 (default)");
    let identities = "spiffe://cluster.local/ns/shop/sa/cart spiffe://cluster.local/ns/shop/sa/cart-canary";
    check(&resources, Cluster, "cart.shop:80", &format!("EDS cart.shop:80 http1 mtls 80.cart.shop.mesh {identities}"));
    check(
        &resources,
        Endpoints,
        "cart.shop:80",
        "(eu/a *1) 10.0.0.1:8080*1 cart-1.shop spiffe://cluster.local/ns/shop/sa/cart
         (eu/b *3) 10.0.0.2:15006*3 cart-2.shop spiffe://cluster.local/ns/shop/sa/cart-canary",
    );
}

#[test]
fn services_and_workloads_are_found_by_address() {
    let resources = shop("");
    let by_address = |address| resources.get(Listener, address).expect("has an alias").name.to_string();
    assert_eq!(by_address("10.96.0.7:80"), "cart.shop:80");
    assert_eq!(by_address("10.0.0.1:8080"), "endpoint/10.0.0.1:8080");
    check(&resources, Listener, "endpoint/10.0.0.1:8080", "api rds endpoint/10.0.0.1:8080");
    check(&resources, Route, "endpoint/10.0.0.1:8080", "[*]\n/* -> endpoint/10.0.0.1:8080 (default)");
    check(
        &resources,
        Cluster,
        "endpoint/10.0.0.2:8080",
        "STATIC http1 mtls 80.cart.shop.mesh spiffe://cluster.local/ns/shop/sa/cart-canary
         (eu/b *3) 10.0.0.2:15006*3 cart-2.shop spiffe://cluster.local/ns/shop/sa/cart-canary",
    );
}

#[test]
fn a_workload_serves_each_service_that_leads_to_it() {
    let resources = shop("");
    check(
        &resources,
        Listener,
        "inbound/cart-1.shop",
        "cart.shop:80 | :8080 tls 80.cart.shop.mesh mtls http [*] /* -> inbound/cart-1.shop/8080 (default)
         cart-v1.shop:80 | :8080 tls 80.cart-v1.shop.mesh mtls http [*] /* -> inbound/cart-1.shop/8080 (default)",
    );
    check(&resources, Cluster, "inbound/cart-1.shop/8080", "ORIGINAL_DST http1");
    check(
        &resources,
        Cluster,
        "inbound/cart-2.shop/8080",
        "STATIC http1
         (/ *1) 127.0.0.1:8080*1 - plaintext",
    );
    let owner = resources.required_identity(Listener, "inbound/cart-1.shop").expect("has an owner");
    assert_eq!(owner.as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
}

#[test]
fn weights_become_weighted_clusters_and_none_a_500() {
    let rules = "  rules:
  - matches: [{path: {type: PathPrefix, value: /split}}]
    backendRefs: [{name: cart-v1, port: 80, weight: 9}, {name: cart-v2, port: 80, weight: 1}, {name: cart, port: 80, weight: 0}]
  - matches: [{path: {type: Exact, value: /one}}]
    backendRefs: [{name: cart-v1, port: 80, weight: 0}, {name: cart-v2, port: 80, weight: 5}]
  - name: closed
    matches: [{path: {type: Exact, value: /none}}]
    backendRefs: [{name: cart-v1, port: 80, weight: 0}]";
    check(
        &shop(&route("HTTPRoute", "split", rules)),
        Route,
        "cart.shop:80",
        "[*]
         =/one -> cart-v2.shop:80 (HTTPRoute/shop/split/1)
         =/none -> 500 (HTTPRoute/shop/split/closed)
         =/split -> cart-v1.shop:80*9 cart-v2.shop:80*1 (HTTPRoute/shop/split/0)
         /split/* -> cart-v1.shop:80*9 cart-v2.shop:80*1 (HTTPRoute/shop/split/0)",
    );
}

#[test]
fn matches_are_rendered_in_the_order_of_precedence() {
    let rules = "  rules:
  - backendRefs: [{name: cart, port: 80}]
  - matches: [{path: {type: RegularExpression, value: '/v[0-9]+/.*'}}]
    backendRefs: [{name: cart-v2, port: 80}]
  - matches:
    - {path: {type: PathPrefix, value: /api}}
    - {path: {type: PathPrefix, value: /api}, method: POST}
    - {path: {type: PathPrefix, value: /api}, headers: [{name: X-Test, value: a}, {name: x-other, type: RegularExpression, value: 'b+'}]}
    - {path: {type: PathPrefix, value: /api}, queryParams: [{name: q, value: c}, {name: r, type: RegularExpression, value: 'd+'}]}
    - {path: {type: Exact, value: /api}}
    backendRefs: [{name: cart-v1, port: 80}]";
    check(
        &shop(&route("HTTPRoute", "r", rules)),
        Route,
        "cart.shop:80",
        "[*]
         =/api -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         ~/v[0-9]+/.* -> cart-v2.shop:80 (HTTPRoute/shop/r/1)
         =/api :method=POST -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         /api/* :method=POST -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         =/api x-test=a x-other~b+ -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         /api/* x-test=a x-other~b+ -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         =/api ?q=c ?r~d+ -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         /api/* ?q=c ?r~d+ -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         =/api -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         /api/* -> cart-v1.shop:80 (HTTPRoute/shop/r/2)
         /* -> cart.shop:80 (HTTPRoute/shop/r/0)",
    );
}

#[test]
fn timeouts_are_said_for_both_dialects() {
    let rules = "  rules:
  - matches: [{path: {type: Exact, value: /both}}]
    timeouts: {request: 5s, backendRequest: 1500ms}
    backendRefs: [{name: cart-v1, port: 80}]
  - matches: [{path: {type: Exact, value: /no}}]
    timeouts: {request: 0s}
    backendRefs: [{name: cart-v1, port: 80}]";
    check(
        &shop(&route("HTTPRoute", "r", rules)),
        Route,
        "cart.shop:80",
        "[*]
         =/both -> cart-v1.shop:80 timeout 5.000s max 5.000s try 1.500s (HTTPRoute/shop/r/0)
         =/no -> cart-v1.shop:80 (HTTPRoute/shop/r/1)",
    );
}

#[test]
fn filters_are_fields_of_routes() {
    let rules = "  rules:
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: 50%}], add: [{name: x-b, value: b}], remove: [x-c]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: server, value: us}]}}
    - {type: URLRewrite, urlRewrite: {hostname: new.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}}
    backendRefs: [{name: cart-v1, port: 80}]
  - matches: [{path: {type: Exact, value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /whole}}}]
    backendRefs:
    - name: cart-v2
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-version, value: v2}]}}]
  - matches: [{path: {type: PathPrefix, value: /strip}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}]
    backendRefs: [{name: cart-v1, port: 80}]";
    check(
        &shop(&route("HTTPRoute", "r", rules)),
        Route,
        "cart.shop:80",
        "[*]
         =/full -> cart-v2.shop:80*1 req[x-version+=v2] as /whole (HTTPRoute/shop/r/1)
         =/strip -> cart-v1.shop:80 as /… (HTTPRoute/shop/r/2)
         /strip/* -> cart-v1.shop:80 as /… (HTTPRoute/shop/r/2)
         =/old -> cart-v1.shop:80 as /new… at new.example.com req[x-a:=50%% x-b+=b -x-c] resp[server:=us] (HTTPRoute/shop/r/0)
         /old/* -> cart-v1.shop:80 as /new/… at new.example.com req[x-a:=50%% x-b+=b -x-c] resp[server:=us] (HTTPRoute/shop/r/0)",
    );
}

#[test]
fn redirects_name_a_port_only_where_the_scheme_does_not_imply_it() {
    let rules = "  rules:
  - matches: [{path: {type: Exact, value: /tls}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
  - matches: [{path: {type: Exact, value: /port}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: a.example, port: 8443, statusCode: 308}}]
  - matches: [{path: {type: PathPrefix, value: /a}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]
  - matches: [{path: {type: Exact, value: /full}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /c}, statusCode: 303}}]";
    check(
        &shop(&route("HTTPRoute", "r", rules)),
        Route,
        "cart.shop:80",
        "[*]
         =/tls -> MOVED_PERMANENTLY https//:0 (HTTPRoute/shop/r/0)
         =/port -> PERMANENT_REDIRECT //a.example:8443 (HTTPRoute/shop/r/1)
         =/full -> SEE_OTHER //:0/c (HTTPRoute/shop/r/3)
         =/a -> FOUND //:0/b… (HTTPRoute/shop/r/2)
         /a/* -> FOUND //:0/b/… (HTTPRoute/shop/r/2)",
    );
}

#[test]
fn retries_are_said_for_both_dialects() {
    let rules = "  rules:
  - matches: [{path: {type: Exact, value: /codes}}]
    retry: {attempts: 3, codes: [500, 503], backoff: 50ms}
    timeouts: {backendRequest: 1s}
    backendRefs: [{name: cart-v1, port: 80}]
  - matches: [{path: {type: Exact, value: /none}}]
    retry: {attempts: 0}
    backendRefs: [{name: cart-v1, port: 80}]
  - matches: [{path: {type: Exact, value: /policy}}]
    filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: RetryPolicy, name: r}}]
    backendRefs: [{name: cart-v1, port: 80}]";
    let policy = "apiVersion: malla.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {name: r, namespace: shop}\n\
                  spec: {attempts: 2, grpcStatuses: [Unavailable, Internal], methods: any, perTryTimeout: 2s, hedging: {quantile: 99.5}}\n---\n";
    check(
        &shop(&(route("HTTPRoute", "r", rules) + policy)),
        Route,
        "cart.shop:80",
        "[*]
         =/codes -> cart-v1.shop:80 retry[3 safe,reset,retriable-status-codes 500 503 idempotent] after 0.050s.. try 1.000s (HTTPRoute/shop/r/0)
         =/none -> cart-v1.shop:80 retry[1 none idempotent] (HTTPRoute/shop/r/1)
         =/policy -> cart-v1.shop:80 retry[2 safe,unavailable,internal] try 2.000s hedge[995000 ppm, 10 ms, 100] (HTTPRoute/shop/r/2)",
    );
}

#[test]
fn faults_and_rate_limits_are_overrides_of_filters() {
    let rules = "  rules:
  - matches: [{path: {type: Exact, value: /all}}]
    filters:
    - {type: ExtensionRef, extensionRef: {group: malla.dev, kind: FaultInjection, name: all}}
    - {type: ExtensionRef, extensionRef: {group: malla.dev, kind: RateLimit, name: l}}
    backendRefs: [{name: cart-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /some}}]
    filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: FaultInjection, name: some}}]
    backendRefs: [{name: cart-v1, port: 80}]";
    let extension = |kind: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: malla.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
        )
    };
    let extensions = [
        extension("FaultInjection", "all", "{delay: {duration: 2s, percent: 0.5}, abort: {grpcStatus: Unavailable}}"),
        extension("FaultInjection", "some", "{abort: {httpStatus: 503}, onlyWithHeader: {name: X-Chaos, value: '1'}}"),
        extension(
            "RateLimit",
            "l",
            "{requests: 10, interval: 1m, clients: [{serviceAccount: web/front, requests: 5}], \
             header: {name: x-tenant, values: [{value: gold, requests: 100, burst: 200}]}}",
        ),
    ];
    let resources = shop(&(route("HTTPRoute", "r", rules) + &extensions.concat()));
    check(&resources, Listener, "cart.shop:80", "api rds cart.shop:80 local_ratelimit fault");
    check(
        &resources,
        Route,
        "cart.shop:80",
        "[*]
         =/all -> cart-v1.shop:80 fault[ delay 2.000s of 5000 abort GrpcStatus(14) of 1000000] limit[shop/l 10+10/60.000s x-tenant=gold:200+100/1.000s source_cluster=web/front:5+5/1.000s] (HTTPRoute/shop/r/0)
         =/some x-chaos=1 -> cart-v1.shop:80 fault[ abort HttpStatus(503) of 1000000] (HTTPRoute/shop/r/1)
         =/some -> cart-v1.shop:80 (HTTPRoute/shop/r/1)
         /some/* x-chaos=1 -> cart-v1.shop:80 fault[ abort HttpStatus(503) of 1000000] (HTTPRoute/shop/r/1)
         /some/* -> cart-v1.shop:80 (HTTPRoute/shop/r/1)",
    );
}

#[test]
fn mirrors_and_cross_origin_policies_are_rendered() {
    let rules = "  rules:
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: cart-v1, port: 80}, percent: 10}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: cart-v2, port: 80}, fraction: {numerator: 1, denominator: 3}}}
    - type: CORS
      cors: {allowOrigins: ['https://a.example', 'https://*.b.example'], allowMethods: [GET, PUT], exposeHeaders: [x-a], maxAge: 60, allowCredentials: true}
    backendRefs: [{name: cart, port: 80}]";
    let resources = shop(&route("HTTPRoute", "r", rules));
    check(&resources, Listener, "cart.shop:80", "api rds cart.shop:80 cors");
    check(
        &resources,
        Route,
        "cart.shop:80",
        "[*]
         /* -> cart.shop:80 mirror cart-v1.shop:80 of 100000 mirror cart-v2.shop:80 of 333333 cors[=https://a.example ~https://.*\\.b\\.example | GET, PUT |  | x-a | 60 credentials] (HTTPRoute/shop/r/0)",
    );
}

#[test]
fn consumer_routes_are_for_the_clients_of_their_namespace() {
    let producer = route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: cart-v1, port: 80}]}]");
    let consumer = route(
        "HTTPRoute",
        "own",
        "  rules: [{timeouts: {request: 1s}, backendRefs: [{name: cart-v2, namespace: shop, port: 80}]}]",
    )
    .replace("metadata: {name: own, namespace: shop}", "metadata: {name: own, namespace: web}")
    .replace("name: cart}]", "name: cart, namespace: shop}]");
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: shop}\nspec:\n  \
                 from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}]\n  to: [{group: '', kind: Service}]\n---\n";
    let resources = shop(&[&producer, &consumer, grant].map(String::from).concat());
    check(&resources, Route, "cart.shop:80", "[*]\n/* -> cart-v1.shop:80 (HTTPRoute/shop/all/0)");
    let shared = resources.get(Route, "cart.shop:80").expect("is there");
    let seen = |namespace| super::describe::of(resources.seen_from(namespace, &shared));
    assert_eq!(seen("web"), "[*]\n/* -> cart-v2.shop:80 timeout 1.000s max 1.000s (HTTPRoute/web/own/0)\n");
    assert_eq!(seen("other"), "[*]\n/* -> cart-v1.shop:80 (HTTPRoute/shop/all/0)\n");
    let listener = resources.get(Listener, "10.96.0.7:80").expect("by its address");
    assert_eq!(resources.seen_from("web", &listener).version, listener.version, "it is the same for all");
    let without = shop(&producer);
    assert_ne!(without.version(), resources.version());
}

#[test]
fn each_virtual_host_holds_all_routes_that_apply_to_its_host() {
    let to = |path: &str, backend: &str, hostnames: &str| {
        format!(
            "{hostnames}  rules:\n  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    backendRefs: [{{name: {backend}, port: 80}}]"
        )
    };
    let resources = shop(
        &[
            route("HTTPRoute", "all", &to("/long/path", "cart", "")),
            route("HTTPRoute", "wild", &to("/w", "cart-v1", "  hostnames: ['*.example.com']\n")),
            route("HTTPRoute", "api", &to("/", "cart-v2", "  hostnames: [api.example.com, '*.example.com']\n")),
        ]
        .concat(),
    );
    check(
        &resources,
        Route,
        "cart.shop:80",
        "[*.example.com *.example.com:80]
         =/w -> cart-v1.shop:80 (HTTPRoute/shop/wild/0)
         /w/* -> cart-v1.shop:80 (HTTPRoute/shop/wild/0)
         /* -> cart-v2.shop:80 (HTTPRoute/shop/api/0)
         =/long/path -> cart.shop:80 (HTTPRoute/shop/all/0)
         /long/path/* -> cart.shop:80 (HTTPRoute/shop/all/0)
         [api.example.com api.example.com:80]
         /* -> cart-v2.shop:80 (HTTPRoute/shop/api/0)
         =/w -> cart-v1.shop:80 (HTTPRoute/shop/wild/0)
         /w/* -> cart-v1.shop:80 (HTTPRoute/shop/wild/0)
         =/long/path -> cart.shop:80 (HTTPRoute/shop/all/0)
         /long/path/* -> cart.shop:80 (HTTPRoute/shop/all/0)
         [*]
         =/long/path -> cart.shop:80 (HTTPRoute/shop/all/0)
         /long/path/* -> cart.shop:80 (HTTPRoute/shop/all/0)",
    );
}

#[test]
fn grpc_methods_become_paths_and_any_service_comes_after_a_named_one() {
    let services = SHOP.replace("appProtocol: http", "appProtocol: grpc");
    let rules = "  rules:
  - backendRefs: [{name: cart, port: 80}]
  - matches: [{method: {method: Get}}]
    backendRefs: [{name: cart-v1, port: 80}]
  - matches: [{method: {service: shop.Cart}}]
    backendRefs: [{name: cart-v2, port: 80}]
  - matches: [{method: {service: shop.Cart, method: Get}, headers: [{name: x-test, value: a}]}]
    backendRefs: [{name: cart-v1, port: 80}]";
    let resources = compiled(&format!("{services}{}", route("GRPCRoute", "r", rules)));
    check(
        &resources,
        Route,
        "cart.shop:80",
        "[*]
         =/shop.Cart/Get x-test=a -> cart-v1.shop:80 (GRPCRoute/shop/r/3)
         =/shop.Cart -> cart-v2.shop:80 (GRPCRoute/shop/r/2)
         /shop.Cart/* -> cart-v2.shop:80 (GRPCRoute/shop/r/2)
         ~/[^/]+/Get -> cart-v1.shop:80 (GRPCRoute/shop/r/1)
         /* -> cart.shop:80 (GRPCRoute/shop/r/0)",
    );
    assert!(text(&resources, Cluster, "cart.shop:80").starts_with("EDS cart.shop:80 http2 "));
}

#[test]
fn undeclared_protocols_carry_requests_or_streams() {
    let resources = compiled(&SHOP.replace(", appProtocol: http", ""));
    check(&resources, Listener, "cart.shop:80", "api rds cart.shop:80\ndefault tcp cart.shop:80");
    assert!(text(&resources, Cluster, "cart.shop:80").starts_with("EDS cart.shop:80 mtls"));
    check(
        &resources,
        Listener,
        "inbound/cart-2.shop",
        "cart.shop:80 | :8080 tls 80.cart.shop.mesh mtls http [*] /* -> inbound/cart-2.shop/8080 (default) tcp inbound/cart-2.shop/8080
         cart-v2.shop:80 | :8080 tls 80.cart-v2.shop.mesh mtls http [*] /* -> inbound/cart-2.shop/8080 (default) tcp inbound/cart-2.shop/8080",
    );
}

#[test]
fn a_tcp_route_splits_connections() {
    let tcp = |weights: [u32; 2]| {
        let [one, two] = weights;
        let rules = format!(
            "  rules: [{{backendRefs: [{{name: cart-v1, port: 80, weight: {one}}}, {{name: cart-v2, port: 80, weight: {two}}}]}}]"
        );
        route("TCPRoute", "r", &rules)
    };
    for (protocol, weights, expected) in [
        ("tcp", [9, 1], "default tcp cart-v1.shop:80*9 cart-v2.shop:80*1"),
        ("tcp", [0, 1], "default tcp cart-v2.shop:80"),
        ("tcp", [0, 0], "default tcp none"),
    ] {
        let services = SHOP.replace("appProtocol: http", &format!("appProtocol: {protocol}"));
        let resources = compiled(&format!("{services}{}", tcp(weights)));
        check(&resources, Listener, "cart.shop:80", expected);
        assert!(resources.get(Route, "cart.shop:80").is_none());
    }
    let undeclared = SHOP.replace(", appProtocol: http", "");
    let resources = compiled(&format!("{undeclared}{}", tcp([1, 1])));
    check(&resources, Listener, "cart.shop:80", "default tcp cart-v1.shop:80*1 cart-v2.shop:80*1");
}

#[test]
fn a_tls_route_chooses_by_server_name() {
    let services = SHOP.replace("appProtocol: http", "appProtocol: tls");
    let to = |backend: &str, names: &str| {
        format!("  hostnames: [{names}]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]")
    };
    let resources = compiled(
        &[
            services,
            route("TLSRoute", "one", &to("cart-v1", "a.example.com, '*.example.org'")),
            route("TLSRoute", "two", &to("cart-v2", "b.example.com")),
        ]
        .concat(),
    );
    check(
        &resources,
        Listener,
        "cart.shop:80",
        "TLSRoute/shop/one |  a.example.com,*.example.org tcp cart-v1.shop:80
         TLSRoute/shop/two |  b.example.com tcp cart-v2.shop:80
         default tcp cart.shop:80",
    );
    assert!(text(&resources, Listener, "inbound/cart-1.shop").contains("mtls tcp inbound/cart-1.shop/8080"));
}

#[test]
fn plaintext_needs_permission_on_both_sides() {
    let bare = "apiVersion: malla.dev/v1alpha1\nkind: Workload\n\
                metadata: {name: old, namespace: shop, labels: {app: cart}}\nspec: {address: 10.0.0.3, sidecar: {mode: none}}\n---\n";
    let permissive = format!("{SHOP}{bare}{PERMISSIVE}");
    // Nobody can write this: loading refuses a workload that would never receive anything.
    let mut strict = loaded(&permissive);
    strict.settings.mtls = mesh::MtlsMode::Strict;
    let strict = compiled_mesh(strict);
    assert!(!text(&strict, Endpoints, "cart.shop:80").contains("10.0.0.3"));
    check(&strict, Cluster, "endpoint/10.0.0.3:8080", "STATIC http1");
    assert!(strict.get(Listener, "inbound/old.shop").is_none());

    let permissive = compiled(&permissive);
    assert!(text(&permissive, Endpoints, "cart.shop:80").contains("(/ *1) 10.0.0.3:8080*1 old.shop plaintext"));
    assert!(text(&permissive, Cluster, "cart.shop:80").contains("mtls 80.cart.shop.mesh"));
    check(
        &permissive,
        Listener,
        "inbound/cart-1.shop",
        "cart.shop:80 | :8080 tls 80.cart.shop.mesh mtls http [*] /* -> inbound/cart-1.shop/8080 (default)
         cart-v1.shop:80 | :8080 tls 80.cart-v1.shop.mesh mtls http [*] /* -> inbound/cart-1.shop/8080 (default)
         cart.shop:80/plaintext | :8080 raw_buffer  http [*] /* -> inbound/cart-1.shop/8080 (default)",
    );
}

#[test]
fn a_service_without_sidecars_has_no_tls() {
    let bare = SHOP.replace("mode: transparent", "mode: none").replace("mode: explicit", "mode: none");
    check(&compiled(&format!("{bare}{PERMISSIVE}")), Cluster, "cart.shop:80", "EDS cart.shop:80 http1");
}

#[test]
fn a_declared_port_is_reached_by_a_server_name_of_its_own() {
    // The workload is called as a service is, and its own port 80 is not that service's.
    let workload = "apiVersion: malla.dev/v1alpha1\nkind: Workload\n\
                    metadata: {name: cart, namespace: shop, labels: {app: cart}}\n\
                    spec: {address: 10.0.0.4, ports: {admin: 80, metrics: 9090}, sidecar: {mode: transparent}}\n---\n";
    let resources = shop(workload);
    let identity = "spiffe://cluster.local/ns/shop/sa/default";
    let static_cluster =
        |port: u16, name: &str| format!("STATIC mtls {name} {identity}\n(/ *1) 10.0.0.4:{port}*1 cart.shop {identity}");
    check(&resources, Cluster, "endpoint/10.0.0.4:9090", &static_cluster(9090, "9090.cart.shop.mesh"));
    check(&resources, Cluster, "endpoint/10.0.0.4:80", &static_cluster(80, "80.cart.shop.workload.mesh"));
    check(
        &resources,
        Listener,
        "inbound/cart.shop",
        "cart.shop:80 | :80 tls 80.cart.shop.workload.mesh mtls http [*] /* -> inbound/cart.shop/80 (default) tcp inbound/cart.shop/80
         cart.shop:80 | :8080 tls 80.cart.shop.mesh mtls http [*] /* -> inbound/cart.shop/8080 (default)
         cart.shop:9090 | :9090 tls 9090.cart.shop.mesh mtls http [*] /* -> inbound/cart.shop/9090 (default) tcp inbound/cart.shop/9090",
    );
}

#[test]
fn an_external_name_is_a_dns_cluster() {
    let api = "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n\
               spec: {type: ExternalName, externalName: api.example.com, ports: [{port: 443, appProtocol: https}]}\n---\n";
    let resources = shop(api);
    check(&resources, Cluster, "api.shop:443", "LOGICAL_DNS\n(/ *1) api.example.com:443*1 - plaintext");
    check(&resources, Listener, "api.shop:443", "default tcp api.shop:443");
    assert!(resources.get(Endpoints, "api.shop:443").is_none());
}

#[test]
fn an_external_name_of_a_service_is_another_name_of_it() {
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: basket, namespace: bank}\n\
                 spec: {type: ExternalName, externalName: cart.shop.svc}\n---\n";
    let (without, with) = (shop(""), shop(other));
    let listener = with.get(Listener, "basket.bank:80").expect("it leads somewhere");
    assert_eq!(&*listener.name, "cart.shop:80");
    assert!(with.get(Cluster, "basket.bank:80").is_none(), "everything else is the service's own");
    assert_eq!(with.all(Cluster).count(), without.all(Cluster).count());
    assert!(without.get(Listener, "basket.bank:80").is_none());
}

fn versions(resources: &Resources) -> BTreeMap<(ResourceType, String), String> {
    let all = ResourceType::ALL.into_iter().flat_map(|kind| resources.all(kind).cloned().collect::<Vec<_>>());
    all.map(|resource| ((resource.kind, resource.name.to_string()), resource.version.to_string())).collect()
}

#[test]
fn a_changed_route_changes_only_its_own_version() {
    let with = |weight: u32| {
        let rules = format!(
            "  rules: [{{backendRefs: [{{name: cart-v1, port: 80, weight: {weight}}}, {{name: cart-v2, port: 80}}]}}]"
        );
        versions(&shop(&route("HTTPRoute", "split", &rules)))
    };
    let (before, after) = (with(9), with(8));
    assert_eq!(before.len(), after.len());
    let changed: Vec<_> =
        before.iter().filter(|(key, version)| after.get(key) != Some(version)).map(|(key, _)| key).collect();
    assert_eq!(changed, [&(Route, "cart.shop:80".to_owned())]);
}

#[test]
fn a_new_endpoint_changes_only_endpoints_and_identities() {
    let more = SHOP
        .split("---\n")
        .nth(3)
        .expect("the first workload")
        .replace("cart-1", "cart-3")
        .replace("10.0.0.1", "10.0.0.3");
    let (before, after) = (versions(&shop("")), versions(&shop(&format!("{more}---\n"))));
    let changed: Vec<_> =
        before.iter().filter(|(key, version)| after.get(key) != Some(version)).map(|(key, _)| key).collect();
    assert_eq!(changed, [&(Endpoints, "cart-v1.shop:80".to_owned()), &(Endpoints, "cart.shop:80".to_owned())]);
}

#[test]
fn the_same_configuration_is_the_same_bytes() {
    let (one, other) = (shop(""), shop(""));
    assert_eq!(one.version(), other.version());
    for kind in ResourceType::ALL {
        assert!(one.all(kind).map(|resource| &resource.body).eq(other.all(kind).map(|resource| &resource.body)));
    }
}

/// Of an RBAC filter: whether it is enforced, its action, the names of its policies.
type Rules = (bool, i32, Vec<String>);

/// The RBAC filters of a workload's chains, in order.
fn rules(resources: &Resources, workload: &str) -> Vec<(String, Vec<Rules>)> {
    use malla_xds::envoy::http_connection_manager::{HttpConnectionManager, http_filter};
    use malla_xds::envoy::listener::filter;
    use malla_xds::envoy::{http_rbac, network_rbac, rbac};
    use prost::Message as _;
    let found = |shadow: Option<rbac::Rbac>, enforced: Option<rbac::Rbac>| {
        let is_enforced = enforced.is_some();
        let rules = shadow.or(enforced).expect("rules");
        let mut names: Vec<String> = rules.policies.into_keys().collect();
        names.sort_unstable();
        (is_enforced, rules.action, names)
    };
    let resource = resources.get(Listener, &format!("inbound/{workload}")).expect("a listener");
    let listener: malla_xds::envoy::listener::Listener = super::describe::decode(resource.body.clone());
    let chains = listener.filter_chains.iter().map(|chain| {
        let of_chain = chain.filters.iter().flat_map(|filter| {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("no configuration") };
            if any.type_url.ends_with("network.rbac.v3.RBAC") {
                let rbac = network_rbac::Rbac::decode(&*any.value).expect("decodes");
                assert!(!rbac.stat_prefix.is_empty());
                return vec![found(rbac.shadow_rules, rbac.rules)];
            }
            let Ok(manager) = HttpConnectionManager::decode(&*any.value) else { return Vec::new() };
            let filters = manager.http_filters.iter().filter(|filter| filter.name == "rbac");
            let decoded = filters.map(|filter| {
                let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("none") };
                let rbac = http_rbac::Rbac::decode(&*any.value).expect("decodes");
                found(rbac.shadow_rules, rbac.rules)
            });
            decoded.collect()
        });
        (chain.name.clone(), of_chain.collect())
    });
    chains.collect()
}

fn authorization(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {spec}\n---\n"
    )
}

#[test]
fn policies_are_rendered_where_they_protect_by_whatever_name_that_is_reached() {
    let version = "{targetRefs: [{group: '', kind: Service, name: cart-v1}], action: Allow, rules: [{}, {}]}";
    let deny = "{selector: {matchLabels: {version: v2}}, action: Deny, rules: [{from: [{notNamespaces: [shop]}]}]}";
    let audit = "{action: Audit, rules: [{to: [{methods: [DELETE]}]}]}";
    let yaml = [authorization("some", version), authorization("never", deny), authorization("log", audit)].concat();
    let resources = shop(&yaml);
    let (allow, denied, audited) = (
        (true, 0, vec!["shop/some/0".to_owned(), "shop/some/1".to_owned()]),
        (true, 1, vec!["shop/never/0".to_owned()]),
        (false, 1, vec!["shop/log/0".to_owned()]),
    );
    // The service `cart` leads to the same port as `cart-v1`: it is no way around the policy.
    let of_cart_1 = rules(&resources, "cart-1.shop");
    assert_eq!(of_cart_1.iter().map(|(chain, _)| &**chain).collect::<Vec<_>>(), ["cart.shop:80", "cart-v1.shop:80"]);
    for (chain, found) in of_cart_1 {
        assert_eq!(found, [audited.clone(), allow.clone()], "{chain}");
    }
    for (chain, found) in rules(&resources, "cart-2.shop") {
        assert_eq!(found, [audited.clone(), denied.clone()], "{chain}");
    }
    // Maps are in random order in memory, and in one order on the wire.
    let bytes = |resources: &Resources| resources.get(Listener, "inbound/cart-1.shop").expect("there").version.clone();
    for _ in 0..20 {
        assert_eq!(bytes(&shop(&yaml)), bytes(&resources));
    }
}

#[test]
fn the_default_decides_where_no_policy_allows() {
    let mesh = |default: &str| {
        format!(
            "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {{defaultAuthorization: {default}}}\n---\n"
        )
    };
    let allow = authorization("some", "{selector: {matchLabels: {version: v1}}, action: Allow, rules: [{}]}");
    for (default, expected) in
        [("allow", vec![]), ("deny", vec![(true, 0, vec![])]), ("audit", vec![(false, 0, Vec::<String>::new())])]
    {
        let resources = shop(&format!("{}{allow}", mesh(default)));
        assert!(rules(&resources, "cart-2.shop").iter().all(|(_, found)| *found == expected), "{default}");
        let named = vec![(true, 0, vec!["shop/some/0".to_owned()])];
        assert!(rules(&resources, "cart-1.shop").iter().all(|(_, found)| *found == named), "{default}");
    }
}

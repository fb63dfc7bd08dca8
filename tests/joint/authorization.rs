//! Policies over the whole way: compiled by the control server, encoded, read by the sidecar, and asked.

use std::net::IpAddr;
use std::sync::Arc;

use malla_config::SourceFile;
use malla_proxy::authorize::{Authorization, Subject, authorize};
use malla_proxy::decode::{Decoded, decode};
use malla_proxy::explain::Request;
use malla_xds::wire::Any;
use malla_xds::{ResourceType, SpiffeId};

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.1.0.1, serviceAccount: cart}
";

fn route(name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: cart}}]\n{rest}      backendRefs: [{{name: cart, port: 80}}]\n"
    )
}

/// A policy about a route.
fn policy(name: &str, route: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route}}}]\n{rest}\n"
    )
}

/// All of the shop's requests, those below `/admin`, and those for another host.
fn shop(more: &str) -> Arc<Authorization> {
    let text = [
        SHOP,
        &route("all", "  rules:\n    - matches: [{path: {value: /}}]\n"),
        &route("admin", "  rules:\n    - matches: [{path: {value: /admin}}]\n"),
        &route("partner", "  hostnames: [partner.example]\n  rules:\n    - matches: [{path: {value: /}}]\n"),
        more,
    ]
    .concat();
    let mesh = malla_config::load(&[SourceFile::new("mesh.yaml", text)]).unwrap_or_else(|report| panic!("{report}"));
    let resources = malla_control::offline::compiled(mesh).expect("compiles");
    let rendered = resources.get(ResourceType::Listener, "inbound/cart-1.shop").expect("it has a sidecar");
    let any = Any { type_url: ResourceType::Listener.type_url().to_owned(), value: rendered.body.clone() };
    let Ok(Decoded::Inbound(inbound)) = decode(ResourceType::Listener, "inbound/cart-1.shop", &any) else {
        panic!("it is one of its own ports");
    };
    inbound.ports[0].authorization.clone().expect("there are rules")
}

/// The rule that decides: `+` before it if it lets through, `-` if it refuses; `~` and what would refuse if it were enforced.
#[track_caller]
fn asked(rules: &Authorization, account: &str, request: Option<(&str, &str)>) -> String {
    let peer = SpiffeId::new("cluster.local", "shop", account).expect("valid");
    let request = request.map(|(method, url)| Request::new(method, url, []).expect("a request"));
    let head = request.as_ref().map(Request::looked_at);
    let subject = Subject { peer: Some(&peer), source: IpAddr::from([10, 1, 0, 9]), port: 8080, head };
    let verdict = authorize(rules, &subject);
    let audited = verdict.audited.map(|policy| format!(" ~{policy}")).unwrap_or_default();
    match verdict.denied {
        Some(policy) => format!("-{policy}{audited}"),
        None => format!("+{}{audited}", verdict.allowed.unwrap_or_default()),
    }
}

#[test]
fn a_policy_about_a_route_is_about_its_requests_alone() {
    let ops = policy("ops", "admin", "  action: Allow\n  rules: [{from: [{serviceAccounts: [shop/ops]}]}]");
    let partner = policy("partner", "partner", "  action: Deny\n  rules: [{to: [{methods: [DELETE]}]}]");
    let rules = shop(&[ops.clone(), partner].concat());
    let get = |path: &'static str| Some(("GET", path));
    for (account, request, expected) in [
        ("ops", get("http://cart.shop/admin/users"), "+shop/ops/0"),
        ("web", get("http://cart.shop/admin/users"), "-none"),
        ("web", get("http://cart.shop/x/../admin"), "-none"),
        // Other routes are left to the default.
        ("web", get("http://cart.shop/administration"), "+default"),
        ("web", get("http://cart.shop/items"), "+default"),
        ("web", Some(("DELETE", "http://cart.shop/items")), "+default"),
        // A hostname goes before a path: this is the partner's route.
        ("web", get("http://partner.example/admin"), "+default"),
        ("web", get("http://partner.example:8080/admin"), "+default"),
        ("ops", Some(("DELETE", "http://partner.example/admin")), "-shop/partner/0"),
        // Whose request it is cannot be known.
        ("web", get("http://cart.shop/admin%2Fusers"), "-none"),
        ("web", get("http://cart.shop//admin"), "-none"),
        ("web", None, "-shop/partner/0"),
    ] {
        assert_eq!(asked(&rules, account, request), expected, "{account} {request:?}");
    }
    // What is not a route's has to be allowed by name.
    let settings = |default: &str| {
        format!(
            "---\napiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {{defaultAuthorization: {default}}}\n"
        )
    };
    let closed = shop(&[ops.clone(), settings("deny")].concat());
    assert_eq!(asked(&closed, "web", get("http://cart.shop/items")), "-none");
    assert_eq!(asked(&closed, "ops", get("http://cart.shop/admin")), "+shop/ops/0");
    let watched = shop(&[ops.clone(), settings("audit")].concat());
    assert_eq!(asked(&watched, "web", get("http://cart.shop/items")), "+default ~none");
    assert_eq!(asked(&watched, "ops", get("http://cart.shop/admin")), "+shop/ops/0");
    assert_eq!(asked(&watched, "web", get("http://cart.shop/admin")), "-none");
    assert_eq!(asked(&watched, "web", None), "-none ~none");
}

#[test]
fn what_is_allowed_for_all_routes_is_not_allowed_for_one_that_goes_before() {
    let all = policy("all", "all", "  action: Allow\n  rules: [{from: [{serviceAccounts: [shop/web]}]}]");
    let ops = policy("ops", "admin", "  action: Allow\n  rules: [{from: [{serviceAccounts: [shop/ops]}]}]");
    let rules = shop(&[all, ops].concat());
    let ask = |account, path: &str| asked(&rules, account, Some(("GET", &format!("http://cart.shop{path}"))));
    assert_eq!(ask("web", "/items"), "+shop/all/0");
    assert_eq!(ask("web", "/admin"), "-none");
    assert_eq!(ask("ops", "/admin"), "+shop/ops/0");
    assert_eq!(ask("ops", "/items"), "-none");
}

#[test]
fn what_allows_a_whole_port_allows_its_routes_too() {
    let ops = policy("ops", "admin", "  action: Allow\n  rules: [{from: [{serviceAccounts: [shop/ops]}]}]");
    let all = "---\napiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: web, namespace: shop}\n\
               spec: {action: Allow, rules: [{from: [{serviceAccounts: [shop/web]}]}]}\n";
    let rules = shop(&[&ops, all].concat());
    let ask = |account, path: &str| asked(&rules, account, Some(("GET", &format!("http://cart.shop{path}"))));
    assert_eq!(ask("web", "/admin"), "+shop/web/0");
    assert_eq!(ask("ops", "/admin"), "+shop/ops/0");
    assert_eq!(ask("ops", "/items"), "-none", "a policy that allows is about the port");
}

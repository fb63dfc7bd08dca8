//! Who may call what, from the YAML to the application that is or is not reached.

use std::time::Duration;

use malla_tests::{Load, Member, Mesh, Pod, Process, wait};

use crate::servers;

/// `backend` (HTTP on 8080, TCP on 7000), `frontend` and `monitoring`.
struct Shop {
    mesh: Mesh,
    backend: Member,
    frontend: Member,
    monitoring: Member,
    _servers: [Process; 2],
}

impl Shop {
    #[track_caller]
    fn start() -> Shop {
        let mut mesh = Mesh::new();
        mesh.service("backend", &["{name: http, port: 80, targetPort: 8080}", "{name: tcp, port: 7000}"]);
        let (mut backend, mut frontend) = (mesh.member("backend-1"), mesh.member("frontend-1"));
        let mut monitoring = mesh.member("monitoring-1");
        mesh.start();
        let nginx = servers::nginx(&backend, "backend", &["8080"]);
        let mut tcp = servers::python(&backend, "tcp_server.py", &["7000", "backend"]);
        backend.wait_listening(&mut tcp, 7000);
        mesh.join([&mut backend, &mut frontend, &mut monitoring]);
        Shop { mesh, backend, frontend, monitoring, _servers: [nginx, tcp] }
    }

    fn policy(&self, name: &str, spec: &str) {
        let text = format!(
            "apiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
        );
        self.mesh.write(&format!("policies/{name}.yaml"), &text);
    }

    fn default(&self, default: &str) {
        let text = format!(
            "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {{defaultAuthorization: {default}}}\n"
        );
        self.mesh.write("mesh.yaml", &text);
    }
}

/// The status of an answer, and the word if a sidecar made it.
fn ask(pod: &Pod, path: &str) -> String {
    let line = format!(
        "curl -sS --path-as-is --max-time 10 -o /dev/null -w '%{{http_code}} %header{{malla-reason}}' 'http://backend.shop{path}'"
    );
    pod.shell(&line).text().trim().to_owned()
}

#[track_caller]
fn comes_to(pod: &Pod, path: &str, answer: &str) {
    let what = format!("{} to be answered {answer} for {path}, not {}", pod.name(), ask(pod, path));
    wait::until(&what, Duration::from_secs(20), || (ask(pod, path) == answer).then_some(()));
}

fn speaks_tcp(pod: &Pod) -> bool {
    servers::python(pod, "tcp_client.py", &["backend.shop", "7000"]).end(Duration::from_secs(30)).status.success()
}

#[test]
fn denied_by_default_and_allowed_by_name() {
    let shop = Shop::start();
    let Shop { backend, frontend, monitoring, .. } = &shop;
    comes_to(frontend, "/", "200");
    assert!(speaks_tcp(frontend));

    // What a team does that closes a mesh in use: look first, then name who may, then close.
    shop.default("audit");
    wait::until("requests to be audited", Duration::from_secs(20), || {
        assert_eq!(ask(frontend, "/"), "200");
        (backend.metric("malla_authorization_audited_total", &[("policy", "none")]) > 0.0).then_some(())
    });
    shop.policy(
        "frontend",
        "{selector: {matchLabels: {app: backend}}, action: Allow,
          rules: [{from: [{serviceAccounts: [shop/frontend]}], to: [{ports: [8080]}]},
                  {from: [{serviceAccounts: [shop/monitoring]}], to: [{paths: [{type: Exact, value: /}], methods: [GET]}]}]}",
    );
    shop.default("deny");
    comes_to(monitoring, "/files/", "403 denied");
    assert_eq!(ask(monitoring, "/"), "200");
    assert_eq!(ask(frontend, "/"), "200");
    assert!(!speaks_tcp(frontend), "port 7000 is not in the rule");
    let denied = backend.metric("malla_authorization_denied_total", &[("policy", "none")]);
    assert!(denied >= 2.0, "{}", backend.admin("/metrics"));
    assert!(
        backend.admin("/config").contains("allow shop/frontend/0, shop/frontend/1"),
        "{}",
        backend.admin("/config")
    );
    let refused = backend.metric("malla_connections_refused_total", &[("reason", "denied")]);
    assert!(refused >= 1.0, "{}", backend.admin("/metrics"));

    // Deny goes before allow, and another spelling of the path is no way around.
    shop.policy("no-admin", "{action: Deny, rules: [{to: [{paths: [{value: /files/secret}]}]}]}");
    for path in [
        "/files/secret",
        "/files/./secret",
        "/files/%73ecret",
        "/x/../files/secret/a",
        "/files%2Fsecret",
        "//files/secret",
    ] {
        comes_to(frontend, path, "403 denied");
    }
    assert_eq!(ask(frontend, "/"), "200");
}

#[test]
fn a_policy_about_a_route_protects_its_requests() {
    let shop = Shop::start();
    let Shop { backend, frontend, monitoring, .. } = &shop;
    shop.mesh.write(
        "routes.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: files, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: backend}]\n  rules:\n    - matches: [{path: {value: /files}}]\n      \
         backendRefs: [{name: backend, port: 80}]\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: rest, \
         namespace: shop}\nspec:\n  parentRefs: [{group: '', kind: Service, name: backend}]\n  rules: [{backendRefs: [{name: backend, port: \
         80}]}]\n",
    );
    let about = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: files}]";
    let callers = "rules: [{from: [{serviceAccounts: [shop/frontend]}]}]";
    shop.policy("files", &format!("{{{about}, action: Allow, {callers}}}"));
    comes_to(monitoring, "/files/a", "403 denied");
    assert_eq!(ask(monitoring, "/"), "200");
    assert_ne!(ask(frontend, "/files/a"), "403 denied");
    assert!(speaks_tcp(monitoring), "the route leads to another port");
    // What `Audit` matches is let through, counted and logged, of this route alone.
    let watch = format!("{{{about}, action: Audit, rules: [{{from: [{{notServiceAccounts: [shop/monitoring]}}]}}]}}");
    shop.policy("watch", &watch);
    let audited = || backend.metric("malla_authorization_audited_total", &[("policy", "shop/watch/0")]);
    wait::until("a request to be audited", Duration::from_secs(20), || {
        assert_ne!(ask(frontend, "/files/a"), "403 denied");
        (audited() > 0.0).then_some(())
    });
    let before = audited();
    assert_eq!((ask(frontend, "/"), ask(monitoring, "/")), ("200".to_owned(), "200".to_owned()));
    assert_eq!(audited(), before, "other requests are not the route's");
    assert!(backend.sidecar().stderr().contains("shop/watch/0"), "{}", backend.sidecar().tail());
}

#[test]
fn a_stream_is_ended_when_a_policy_comes_that_denies_it() {
    let shop = Shop::start();
    let Shop { backend, frontend, .. } = &shop;
    let stream = servers::python(frontend, "tcp_trickle.py", &["backend.shop", "7000"]);
    wait::until("the stream to be open", Duration::from_secs(30), || {
        stream.stdout().contains("connected").then_some(())
    });
    shop.policy("monitoring", "{action: Allow, rules: [{from: [{serviceAccounts: [shop/monitoring]}]}]}");
    stream.end(Duration::from_secs(30)).failure();
    let failed =
        backend.metric("malla_tcp_connections_failed_total", &[("direction", "inbound"), ("reason", "denied")]);
    assert_eq!(failed, 1.0, "{}", backend.admin("/metrics"));
}

#[test]
fn plaintext_is_nobody() {
    let shop = Shop::start();
    shop.mesh.write("workloads/backend-1.yaml", &shop.backend.workload("  mtls: {mode: permissive}\n"));
    let stranger = shop.mesh.stranger("stranger");
    let url = format!("http://{}:8080/", shop.backend.ipv4());
    let status = || stranger.shell(&format!("curl -sS --max-time 10 -o /dev/null -w '%{{http_code}}' {url}")).text();
    wait::until("plaintext to be taken", Duration::from_secs(20), || (status() == "200").then_some(()));
    shop.policy("shop", "{action: Allow, rules: [{from: [{namespaces: [shop]}]}]}");
    wait::until("plaintext to be refused", Duration::from_secs(20), || (status() == "403").then_some(()));
    assert_eq!(ask(&shop.frontend, "/"), "200");
    // An address is no identity, but can be enough where the policy says so.
    shop.policy("shop", &format!("{{action: Allow, rules: [{{from: [{{ipBlocks: ['{}']}}]}}]}}", stranger.ipv4()));
    wait::until("the address to be let in", Duration::from_secs(20), || (status() == "200").then_some(()));
    assert_eq!(ask(&shop.frontend, "/"), "403 denied");
}

#[test]
fn policies_change_under_load_without_a_failed_request() {
    let shop = Shop::start();
    let load =
        Load::start(&shop.frontend, &["http://backend.shop/", "--rate", "100", "--requests-per-connection", "25"]);
    for step in 0..20 {
        let extra = if step % 2 == 0 { "monitoring" } else { "nobody" };
        shop.policy(
            "callers",
            &format!("{{action: Allow, rules: [{{from: [{{serviceAccounts: [shop/frontend, shop/{extra}]}}]}}]}}"),
        );
        load.wait_successes(10);
    }
    comes_to(&shop.monitoring, "/", "403 denied");
    load.stop_without_failure();
}

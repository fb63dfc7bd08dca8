//! Routes, the whole way: written as YAML, told by the control server, followed by sidecars, seen by curl and nginx.

use std::collections::BTreeSet;
use std::time::Duration;

use malla_tests::{Mesh, wait};

use crate::servers;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308}}]
  - matches: [{path: {value: /prefixed}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: prefixed}]}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /broken}}]
    filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: FaultInjection, name: broken}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /limited}}]
    filters:
    - {type: ExtensionRef, extensionRef: {group: malla.dev, kind: RateLimit, name: limited}}
    - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /}}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: Exact, value: /files/absent}}]
    retry: {attempts: 2, codes: [404]}
    backendRefs: [{name: web, port: 80}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: malla.dev/v1alpha1
kind: FaultInjection
metadata: {name: broken, namespace: shop}
spec: {abort: {httpStatus: 418}}
---
apiVersion: malla.dev/v1alpha1
kind: RateLimit
metadata: {name: limited, namespace: shop}
spec: {requests: 1, interval: 10m}
";

#[test]
fn filters_retries_faults_and_limits_are_followed() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.write("route.yaml", ROUTE);
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    let get = |path: &str| {
        client.exec(&["curl", "-sSi", "--max-time", "20", &format!("http://web.shop{path}")]).success().text()
    };

    let moved = get("/moved/a?b=c");
    assert!(moved.starts_with("HTTP/1.1 308 ") && moved.contains("location: http://web.shop/new/a?b=c\r\n"), "{moved}");
    let prefixed = get("/prefixed/version");
    assert!(prefixed.contains("x-route: prefixed\r\n"), "{prefixed}");
    assert!(prefixed.ends_with("HTTP/1.1 inner.example malla-http=\n"), "nginx sees the other host: {prefixed}");
    let broken = get("/broken");
    assert!(broken.starts_with("HTTP/1.1 418 ") && broken.contains("malla-reason: fault_injected\r\n"), "{broken}");
    let first = get("/limited");
    assert!(first.starts_with("HTTP/1.1 200 ") && first.ends_with("web-1\n"), "{first}");
    let second = get("/limited/again");
    assert!(second.starts_with("HTTP/1.1 429 ") && second.contains("malla-reason: rate_limited\r\n"), "{second}");
    assert!(second.contains("retry-after: "), "{second}");
    let retried = get("/files/absent");
    assert!(retried.starts_with("HTTP/1.1 404 ") && !retried.contains("malla-reason"), "nginx's own: {retried}");
    client.wait_metric("malla_retries_total", &[("reason", "retriable_status")], 2.0);
    assert!(get("/").ends_with("web-1\n"), "what no rule changes stays as it is");

    let status = mesh.wait_status("the route to be programmed", |status| {
        let programmed = &status["routes"][0]["programmed"];
        programmed["usedBy"].as_u64() > Some(0) && programmed["usedBy"] == programmed["appliedBy"]
    });
    assert_eq!(servers::rejections(&status), Vec::<String>::new(), "{status:#}");
    assert_eq!(status["routes"][0]["name"], "HTTPRoute shop/web");
}

#[test]
fn copies_reach_the_mirror_and_explain_says_what_happens() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    mesh.service("copy", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web, mut copy) = (mesh.member("client"), mesh.member("web-1"), mesh.member("copy-1"));
    mesh.write(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: web}]\n  rules:\n  - backendRefs: [{name: web, port: 80}]\n    \
         filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}]\n",
    );
    mesh.start();
    let _nginx = [servers::nginx(&web, "web-1", &["8080"]), servers::nginx(&copy, "copy-1", &["8080"])];
    mesh.join([&mut client, &mut web, &mut copy]);
    assert_eq!(client.exec(&["curl", "-sS", "http://web.shop/"]).success().text(), "web-1\n");
    copy.wait_metric("malla_requests_total", &[("direction", "inbound"), ("status", "200")], 1.0);
    let configuration = mesh.configuration();
    let told = wait::until("explain to answer", Duration::from_secs(20), || {
        let config = configuration.to_string_lossy().into_owned();
        let output = mesh.malla(&["explain", "--config", &config, "--from", "shop/client", "http://web.shop/a"]);
        Some(output.success().text())
    });
    for part in ["destination  web.shop:80", "HTTPRoute/shop/web/0", "copies of 100 % to copy.shop:80"] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

const PARTS: &str = "apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  subsets: [{name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}, fallback: all}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - matches: [{headers: [{name: x-tester, value: '1'}]}]
    backendRefs: [{group: malla.dev, kind: Subset, name: web.v2, port: 80}]
  - matches: [{path: {value: /fallback}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /}}}]
    backendRefs: [{group: malla.dev, kind: Subset, name: web.v3, port: 80}]
  - sessionPersistence: {sessionName: basket}
    backendRefs: [{name: web, port: 80}]
";

#[test]
fn requests_go_to_subsets_by_label_and_clients_come_back_by_cookie() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut one, mut two) = (mesh.member("client"), mesh.member("web-1"), mesh.member("web-2"));
    mesh.write("workloads/web-2.yaml", &two.workload("").replace("{app: web}", "{app: web, version: v2}"));
    mesh.write("parts.yaml", PARTS);
    mesh.start();
    let _nginx = [servers::nginx(&one, "web-1", &["8080"]), servers::nginx(&two, "web-2", &["8080"])];
    mesh.join([&mut client, &mut one, &mut two]);
    let get = |path: &str, header: &str| {
        let url = format!("http://web.shop{path}");
        client.exec(&["curl", "-sSi", "--max-time", "20", "-H", header, &url]).success().text()
    };
    for _ in 0..6 {
        let answer = get("/", "x-tester: 1");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("web-2\n"), "{answer}");
    }
    let answers: BTreeSet<String> =
        (0..12).map(|_| get("/fallback", "x-a: b").lines().last().unwrap_or_default().to_owned()).collect();
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["web-1", "web-2"], "nobody has v3: all stand in");
    let first = get("/", "x-a: b");
    let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a session");
    let cookie = cookie.split(';').next().unwrap_or_default();
    let name = first.lines().last().unwrap_or_default();
    for _ in 0..6 {
        let again = get("/", &format!("cookie: {cookie}"));
        assert!(again.lines().last() == Some(name) && !again.contains("set-cookie"), "{again} after {first}");
    }
}

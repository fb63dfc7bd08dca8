//! A stock gRPC client takes its configuration from our control server: this keeps our xDS honest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use malla_config::SourceFile;
use malla_config::mesh::EndpointSource::ExternalName;
use malla_tests::examples::Example;
use malla_tests::{Load, Mesh, Pod, Process, tools, wait};
use serde_json::json;

use crate::servers::{self, Grpc};

/// The bootstrap file of a proxyless client (gRFC A27, A29, A65).
fn bootstrap(mesh: &Mesh, certificates: &Path) -> String {
    let file = |name: &str| certificates.join(name);
    let files = json!({
        "certificate_file": file("certificates.pem"),
        "private_key_file": file("private_key.pem"),
        "ca_certificate_file": file("ca_certificates.pem"),
        "refresh_interval": "10s",
    });
    json!({
        "xds_servers": [{
            "server_uri": mesh.control_address(),
            "channel_creds": [{"type": "tls", "config": files}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": "proxyless.shop", "metadata": {"workload": "proxyless", "namespace": "shop"}},
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}},
    })
    .to_string()
}

fn route(one: u32, two: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: echo, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: echo, port: 80}}]\n  rules:\n  - backendRefs:\n    \
         - {{name: one, port: 80, weight: {one}}}\n    - {{name: two, port: 80, weight: {two}}}\n"
    )
}

/// What a policy can say: a client must take it all, and skip what it does not know.
const POLICIES: [&str; 7] = [
    "loadBalancer: {algorithm: leastRequest, slowStart: {window: 10s}}",
    "loadBalancer: {algorithm: random, panicThresholdPercent: 0}",
    "loadBalancer: {algorithm: ringHash, hash: [{header: x-user}, {sourceAddress: true}], boundedLoadPercent: 150}",
    "loadBalancer: {algorithm: maglev, hash: [{cookie: id}]}",
    "outlierDetection: {successRate: {}, failurePercentage: {}, latency: {}}",
    "limits: {maxRequests: 500, perEndpoint: {maxRequests: 100}}\n  timeouts: {connect: 2s, idle: 5m}\n  healthCheck: {grpc: {}}",
    "overload: {adaptiveConcurrency: {}}\n  loadBalancer: {algorithm: roundRobin, locality: {preference: none}}",
];

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: echo, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: echo}}]\n  {spec}\n"
    )
}

/// What gRPC follows, ignores or skips, all at once; nothing of it may be refused.
const EVERYTHING: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: echo, port: 80}]
  rules:
  - matches: [{path: {value: /never}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
  - matches: [{path: {value: /sessions}}]
    sessionPersistence: {type: Header, sessionName: x-session, absoluteTimeout: 1h}
    backendRefs: [{name: one, port: 80}]
  - sessionPersistence: {absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}
    timeouts: {request: 30s, backendRequest: 10s}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: 50%}]}}
    - {type: URLRewrite, urlRewrite: {hostname: other.example}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}, percent: 1}}
    - {type: CORS, cors: {allowOrigins: ['https://*.example.com']}}
    - {type: ExtensionRef, extensionRef: {group: malla.dev, kind: RetryPolicy, name: all}}
    - {type: ExtensionRef, extensionRef: {group: malla.dev, kind: RateLimit, name: all}}
    - {type: ExtensionRef, extensionRef: {group: malla.dev, kind: FaultInjection, name: all}}
    backendRefs:
    - name: one
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-b, value: b}]}}]
---
apiVersion: malla.dev/v1alpha1
kind: RetryPolicy
metadata: {name: all, namespace: shop}
spec: {attempts: 2, codes: [503], grpcStatuses: [Unavailable, Internal], resets: true, backoff: {base: 10ms, max: 1s}}
---
apiVersion: malla.dev/v1alpha1
kind: RateLimit
metadata: {name: all, namespace: shop}
spec: {requests: 1000000, clients: [{serviceAccount: shop/x, requests: 1}], header: {name: x-p, values: [{value: g, requests: 1}]}}
---
apiVersion: malla.dev/v1alpha1
kind: FaultInjection
metadata: {name: all, namespace: shop}
spec: {delay: {duration: 10ms, percent: 50}, abort: {grpcStatus: Unavailable}, onlyWithHeader: {name: x-chaos, value: '1'}}
";

/// Where clients without a sidecar run: a pod with a certificate that is kept new, and what finds the control server.
struct Client {
    pod: Pod,
    bootstrap: PathBuf,
    _keeper: Process,
}

impl Client {
    fn start(mesh: &Mesh) -> Client {
        let pod = mesh.stranger("proxyless");
        let certificates = mesh.sandbox().writable_directory("certificates");
        let keeper = servers::certificates(mesh, &pod, "proxyless", &certificates);
        let file = pod.directory().join("bootstrap.json");
        fs::write(&file, bootstrap(mesh, &certificates)).expect("the pod's directory is writable");
        Client { pod, bootstrap: file, _keeper: keeper }
    }

    /// Starts a program of `tests/programs`.
    fn spawn(&self, program: &str, arguments: &[&str]) -> Process {
        let (python, program) = (tools::python(), tools::program(program));
        let (python, program) = (python.to_string_lossy(), program.to_string_lossy());
        let command: Vec<&str> = [&*python, "-u", &*program].into_iter().chain(arguments.iter().copied()).collect();
        self.pod.spawn_as(0, &command, &[("GRPC_XDS_BOOTSTRAP", &self.bootstrap.to_string_lossy())])
    }
}

/// What a call came to (the reply, or the status), and how long it took.
type Outcome = (String, u64);

#[test]
fn a_stock_grpc_client_follows_time_outs_retries_limits_and_ejections() {
    let mut mesh = Mesh::new();
    mesh.service("echo", &["{name: grpc, port: 80, targetPort: 9001}"]);
    let mut members = ["echo-1", "echo-2"].map(|name| mesh.member(name));
    mesh.start();
    let _servers: Vec<_> =
        members.iter().map(|member| servers::grpc(member, Grpc::Python, member.name(), 9001)).collect();
    mesh.join(&mut members);
    let client = Client::start(&mesh);
    let calls = |method: &str, message: &str, calls: &str, at_once: &str, seconds: &str| -> Vec<Outcome> {
        let arguments = ["xds:///echo.shop:80", method, message, calls, at_once, seconds];
        let said = client.spawn("xds_calls.py", &arguments).end(Duration::from_secs(60)).success().text();
        serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON")
    };
    let count = |outcomes: &[Outcome], what: &str| outcomes.iter().filter(|(outcome, _)| outcome == what).count();
    let eventually = |what: &str, condition: &dyn Fn() -> Result<(), String>| {
        let mut last = String::new();
        let found = wait::within(Duration::from_secs(30), || condition().map_err(|said| last = said).ok());
        assert!(found.is_some(), "{what}: {last}");
    };

    // Without a word from the mesh: every other call fails, nobody is left out, nothing is limited.
    let plain = calls("Flaky", "", "20", "1", "5");
    assert!(count(&plain, "UNAVAILABLE") >= 5, "{plain:?}");

    let rule = |rest: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: echo, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: echo, port: 80}}]\n  rules:\n  - backendRefs: [{{name: echo, port: 80}}]\n    \
             {rest}\n"
        )
    };
    mesh.write("route.yaml", &rule("timeouts: {request: 500ms}"));
    eventually("the route's time-out", &|| match &calls("Never", "", "1", "1", "5")[..] {
        [(status, took)] if status == "DEADLINE_EXCEEDED" && *took < 3000 => Ok(()),
        others => Err(format!("{others:?}")),
    });
    mesh.write(
        "route.yaml",
        &(rule("filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: RetryPolicy, name: again}}]")
            + "---\napiVersion: malla.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {name: again, namespace: shop}\n\
               spec: {attempts: 3, grpcStatuses: [Unavailable], backoff: {base: 10ms, max: 50ms}}\n"),
    );
    eventually("retries", &|| match calls("Flaky", "", "20", "1", "5") {
        all if count(&all, "UNAVAILABLE") == 0 => Ok(()),
        others => Err(format!("{others:?}")),
    });
    mesh.remove("route.yaml");

    mesh.write("policy.yaml", &policy("limits: {maxRequests: 1}"));
    eventually("the limit", &|| {
        let all = calls("Never", "", "3", "3", "2");
        let at_once = all.iter().filter(|(status, took)| status == "UNAVAILABLE" && *took < 1500).count();
        if count(&all, "DEADLINE_EXCEEDED") == 1 && at_once == 2 { Ok(()) } else { Err(format!("{all:?}")) }
    });
    let ejects = "loadBalancer: {algorithm: roundRobin}\n  outlierDetection: {interval: 1s, failurePercentage: \
                  {threshold: 50, minimumEndpoints: 2, requestVolume: 5}}";
    mesh.write("policy.yaml", &policy(ejects));
    eventually("the ejection", &|| {
        let all = calls("Moody", "echo-1", "200", "1", "5");
        let late = &all[100..];
        let (failed, served) = (count(&all, "UNAVAILABLE"), count(late, "echo-2"));
        if failed > 0 && served == late.len() { Ok(()) } else { Err(format!("{failed} failed; later {late:?}")) }
    });
    assert_eq!(servers::rejections(&mesh.status()), Vec::<String>::new());
}

#[test]
fn a_stock_grpc_client_balances_and_follows_weights() {
    let mut mesh = Mesh::new();
    for app in ["echo", "one", "two"] {
        mesh.service(app, &["{name: grpc, port: 80, targetPort: 9001}"]);
    }
    let mut members = ["echo-1", "echo-2", "one-1", "two-1"].map(|name| mesh.member(name));
    mesh.start();
    let _servers: Vec<_> =
        members.iter().map(|member| servers::grpc(member, Grpc::Tonic, member.name(), 9001)).collect();
    mesh.join(&mut members);
    let client = Client::start(&mesh);

    let load = Load::follow(client.spawn("xds_client.py", &["xds:///echo.shop:80"]));
    load.wait_backend("echo-1", 20);
    load.wait_backend("echo-2", 20);
    mesh.write("route.yaml", &route(1, 0));
    load.wait_only(&["one-1"]);
    mesh.write("route.yaml", &route(1, 1));
    load.wait_backend("two-1", 10);
    load.wait_backend("one-1", 10);
    mesh.write("route.yaml", &route(0, 1));
    load.wait_only(&["two-1"]);
    mesh.remove("route.yaml");
    mesh.write("everything.yaml", EVERYTHING);
    load.wait_only(&["one-1"]);
    mesh.remove("everything.yaml");
    load.wait_only(&["echo-1", "echo-2"]);

    // Of a service with a part that has a label, a route to that part alone.
    mesh.write("workloads/echo-2.yaml", &members[1].workload("").replace("{app: echo}", "{app: echo, part: two}"));
    mesh.write("policy.yaml", &policy("subsets: [{name: two, labels: {part: two}}]"));
    let to_subset = "{group: malla.dev, kind: Subset, name: echo.two, port: 80}";
    mesh.write("route.yaml", &route(1, 0).replace("{name: one, port: 80, weight: 1}", to_subset));
    load.wait_only(&["echo-2"]);
    mesh.remove("route.yaml");
    load.wait_only(&["echo-1", "echo-2"]);

    let responses = || malla_tests::metrics::sum(&mesh.admin("/metrics"), "malla_control_responses_total", &[]);
    for spec in POLICIES {
        let before = responses();
        mesh.write("policy.yaml", &policy(spec));
        let pushed = || (responses() > before).then_some(());
        wait::until("the policy to be pushed", Duration::from_secs(10), pushed);
    }
    load.wait_only(&["echo-1", "echo-2"]);

    let account = load.account();
    assert_eq!(account.failed, 0, "{account:#?}");
    let status = mesh.status();
    assert!(status.to_string().contains("proxyless"), "the client is shown: {status:#}");
    assert_eq!(servers::rejections(&status), Vec::<String>::new(), "{status:#}");
    let metrics = mesh.admin("/metrics");
    assert!(malla_tests::metrics::sum(&metrics, "malla_control_responses_total", &[]) > 0.0, "{metrics}");
    assert_eq!(malla_tests::metrics::sum(&metrics, "malla_control_rejections_total", &[]), 0.0, "{metrics}");
    // A name that does not exist fails at once, not after gRPC's 15 seconds.
    let unknown = Load::follow_failing(client.spawn("xds_client.py", &["xds:///nobody.shop:80"]));
    let account = wait::until("calls to an unknown name to fail", Duration::from_secs(10), || {
        Some(unknown.account()).filter(|account| account.failed > 0)
    });
    assert_eq!(account.succeeded, 0);
    assert!(account.slowest_milliseconds < 5000, "{account:?}");
}

#[test]
fn a_stock_grpc_client_refuses_nothing_of_any_example() {
    let mut mesh = Mesh::new();
    let examples = malla_tests::examples::all();
    mesh.write("example.yaml", &examples[0].text);
    mesh.start();
    let client = Client::start(&mesh);
    // Nobody is where the examples say: that is to be known at once.
    client.pod.shell("ip route replace unreachable default").success();
    let mut version = String::new();
    for (number, Example { name, text }) in examples.iter().enumerate() {
        // The client's certificate is of this mesh; and no two examples are the same.
        let text = text.replace("trustDomain: example.org", "trustDomain: cluster.local");
        let text = format!(
            "{text}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: example-{number}, namespace: outside}}\n\
             spec: {{type: ExternalName, externalName: example.com, ports: [{{port: 80, appProtocol: http}}]}}\n"
        );
        let loaded = malla_config::load(&[SourceFile::new(name.as_str(), text.as_str())]);
        let known = loaded.unwrap_or_else(|report| panic!("{name}:\n{report}"));
        mesh.write("example.yaml", &text);
        let status = mesh.wait_status(&format!("{name} to be loaded"), |status| {
            assert_eq!(status["last_reload"]["errors"], "", "{name}");
            status["version"].as_str().is_some_and(|now| !now.is_empty() && *now != version)
        });
        version = status["version"].as_str().unwrap_or_default().to_owned();
        let services = known.services.values().filter(|service| !matches!(service.endpoints, ExternalName(_)));
        // Also for ports that carry no calls: that is no reason to refuse what it is told of them.
        let targets = services
            .flat_map(|service| service.ports.iter().map(|port| format!("xds:///{}:{}", service.name, port.port)));
        let targets: Vec<String> = targets.collect();
        let asking = client.spawn("xds_names.py", &targets.iter().map(String::as_str).collect::<Vec<_>>());
        let said = asking.end(Duration::from_secs(60)).success();
        let what = format!("{name}: {}", said.both());
        assert!(!what.contains("NACK"), "{what}");
        let outcomes: BTreeMap<String, (String, String)> = serde_json::from_str(&said.text()).expect("JSON");
        assert_eq!(outcomes.len(), targets.len(), "{what}");
        // It has taken all that leads to the endpoints, or knows that a route leads nowhere, or that there are no calls.
        let ends = ["No route to host", "No matching route", "could not find VirtualHost"];
        let known = |(_, why): &(String, String)| ends.iter().any(|end| why.contains(end));
        assert!(outcomes.values().all(known), "{what}");
    }
    assert_eq!(mesh.control_metric("malla_control_rejections_total", &[]), 0.0);
}

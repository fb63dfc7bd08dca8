//! The same in front of a real API server, where one is at hand: what only it can show.

use std::path::Path;
use std::time::Duration;

use malla_control::ca::RootSource;
use malla_control::inject::InjectionSettings;
use malla_control::kubernetes::{ClusterAddress, connect, kinds};
use malla_control::run::{Cluster, Control, ControlSettings, WebhookSettings};
use malla_proxy::run::Proxy;
use malla_proxy::settings::Settings;
use malla_tests::apiserver::ApiServer;
use malla_tests::chart::{Rendered, renderer};
use malla_tests::tools;
use malla_xds::ResourceType;
use serde_json::{Value, json};

use super::{PATIENCE, pod, route, service, slice};

/// Waits for a condition that asks.
macro_rules! eventually {
    ($what:expr, $condition:expr) => {
        let waiting = async {
            while !$condition {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain: {}", $what);
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server_and_the_control_server_understand_each_other() {
    let Some(cluster) = ApiServer::start().await else {
        return eprintln!("left out: KUBEBUILDER_ASSETS names no directory with kube-apiserver and etcd");
    };
    let directory = tempfile::tempdir().expect("a directory");
    kinds_are_taken(&cluster).await;
    examples_are_taken(&cluster).await;
    for (name, labels) in [("shop", json!({ "malla.dev/inject": "enabled" })), ("malla-system", json!({}))] {
        namespace(&cluster, name, labels).await;
    }
    let chart = chart(&cluster, directory.path()).await;

    let first = control(&cluster, directory.path(), "replica-1", &chart).await;
    a_mesh_is_served(&cluster, &first).await;
    pods_are_injected(&cluster, &first, &chart).await;
    a_pod_joins(&cluster, &first, directory.path()).await;
    it_is_checked(&cluster).await;
    conditions_are_written(&cluster, first, directory.path(), &chart).await;
}

/// Malla's own kinds are valid, and so are those of Gateway API that the tests need (as loose as can be).
async fn kinds_are_taken(cluster: &ApiServer) {
    let installed = kinds::install(cluster.client()).await.expect("the API server takes them");
    assert!(installed.contains(&"TrafficPolicy"), "{installed:?}");
    for (version, kind, plural) in [
        ("v1", "HTTPRoute", "httproutes"),
        ("v1", "GRPCRoute", "grpcroutes"),
        ("v1", "TLSRoute", "tlsroutes"),
        ("v1", "ReferenceGrant", "referencegrants"),
        ("v1alpha2", "TCPRoute", "tcproutes"),
    ] {
        let group = "gateway.networking.k8s.io";
        cluster
            .apply(&json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": { "name": format!("{plural}.{group}"),
                    "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api" } },
                "spec": { "group": group, "scope": "Namespaced",
                    "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") },
                    "versions": [{ "name": version, "served": true, "storage": true, "subresources": { "status": {} },
                        "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }] },
            }))
            .await;
    }
    let policy = |spec: Value| {
        json!({ "apiVersion": "malla.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": { "name": "cart", "namespace": "default" }, "spec": spec })
    };
    let target = json!([{ "group": "", "kind": "Service", "name": "cart" }]);
    namespace(cluster, "default", json!({})).await;
    // A new kind is served a moment after it was taken.
    let mut left = 100;
    while let Err(error) = cluster.try_apply(&policy(json!({ "targetRefs": target })), "&dryRun=All").await {
        left -= 1;
        assert!(left > 0, "the new kind is not served: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let wrong = policy(json!({ "targetRefs": target, "limits": { "maxConnections": "many" } }));
    let refused = cluster.try_apply(&wrong, "&dryRun=All").await.expect_err("it is no number");
    assert!(refused.to_string().contains("maxConnections"), "{refused}");
}

/// What the examples say in Malla's own kinds is valid for an API server.
async fn examples_are_taken(cluster: &ApiServer) {
    let mut taken = 0;
    for example in std::fs::read_dir(tools::repository().join("config/examples")).expect("is there") {
        let example = example.expect("an entry").path();
        if !example.is_dir() {
            continue;
        }
        for document in malla_tests::chart::documents(&example.join("mesh.yaml")) {
            if document["apiVersion"] != "malla.dev/v1alpha1" {
                continue;
            }
            if let Some(name) = document["metadata"]["namespace"].as_str() {
                namespace(cluster, name, json!({})).await;
            }
            let tried = cluster.try_apply(&document, "&dryRun=All").await;
            tried.unwrap_or_else(|error| panic!("{}: {error}\n{document:#}", example.display()));
            taken += 1;
        }
    }
    assert!(taken >= 5, "{taken}");
}

async fn namespace(cluster: &ApiServer, name: &str, labels: Value) {
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    cluster.apply(&namespace).await;
}

/// What the chart renders is taken, tried first as `--dry-run=server` does.
async fn chart(cluster: &ApiServer, directory: &Path) -> Rendered {
    let renderer = renderer(directory);
    let rendered = Rendered::with(&renderer, "v1.34.0", "malla-system", &[]).unwrap_or_else(|error| panic!("{error}"));
    for document in &rendered.0 {
        let tried = cluster.try_apply(document, "&dryRun=All").await;
        tried.unwrap_or_else(|error| panic!("{error}\n{document:#}"));
        // The webhook is nowhere yet, and its service would lead to pods.
        if document["kind"] != "MutatingWebhookConfiguration" && document["kind"] != "Service" {
            cluster.apply(document).await;
        }
    }
    rendered
}

/// A control server that may do what the chart's account may, with the chart's root.
async fn control(cluster: &ApiServer, directory: &Path, replica: &str, chart: &Rendered) -> Control {
    use base64::Engine as _;
    let decoded = |field: &str| {
        let text = chart.get("Secret")["data"][field].as_str().expect("base64");
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
    };
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    std::fs::write(&certificate, decoded("tls.crt")).expect("written");
    std::fs::write(&key, decoded("tls.key")).expect("written");
    let account = chart.get("ServiceAccount")["metadata"]["name"].as_str().expect("a name");
    let token = cluster.token("malla-system", account, "", None).await;
    let address = ClusterAddress::File { path: cluster.kubeconfig(&token), context: None };
    let client = connect(&address).await.expect("a client");
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let settings = ControlSettings {
        config: None,
        listen: any_port,
        admin: any_port,
        root: RootSource::Files { certificate, key },
        webhook: Some(WebhookSettings {
            listen: any_port,
            injection: InjectionSettings::new("malla-proxy:test", "replaced"),
        }),
        ..ControlSettings::new("", directory.join(replica))
    };
    let namespace = "malla-system".to_owned();
    Control::start_in(Cluster { client, namespace, replica: replica.to_owned() }, settings).expect("starts")
}

/// Services, slices and pods become what sidecars get, and changes of them too.
async fn a_mesh_is_served(cluster: &ApiServer, control: &Control) {
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "cart", "namespace": "shop" } });
    cluster.apply(&account).await;
    cluster.apply(&service("cart")).await;
    let mut pod = pod("cart-1", "cart", "10.0.0.1");
    let status = pod["status"].take();
    pod.as_object_mut().expect("an object").remove("status");
    pod["metadata"].as_object_mut().expect("an object").remove("uid");
    pod["spec"] = json!({ "serviceAccountName": "cart", "containers": [{ "name": "app", "image": "app" }],
        "initContainers": [{ "name": "malla-proxy", "image": "malla-proxy", "restartPolicy": "Always" }] });
    cluster.apply(&pod).await;
    cluster.status(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"], "status": status })).await;
    cluster.apply(&slice("cart", &[("cart-1", "10.0.0.1")])).await;
    let resources = control.published().resources.clone();
    let of = |kind, name: &str| resources.borrow().get(kind, name).map(|found| found.version.clone());
    eventually!("the service is served", of(ResourceType::Cluster, "cart.shop:80").is_some());
    eventually!("its pod is", of(ResourceType::Listener, "inbound/cart-1.shop").is_some());
    let before = of(ResourceType::Endpoints, "cart.shop:80");
    cluster.apply(&slice("cart", &[])).await;
    eventually!("a change is", of(ResourceType::Endpoints, "cart.shop:80") != before);
    let notices = control.status().notices;
    assert!(!notices.iter().any(|notice| notice.contains("forbidden")), "{notices:?}");
}

/// The API server calls the webhook for pods of the namespace, and takes what it answers.
async fn pods_are_injected(cluster: &ApiServer, control: &Control, chart: &Rendered) {
    let port = control.webhook_address().expect("there is one").port();
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "malla-control", "namespace": "malla-system" },
        "spec": { "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] } });
    cluster.apply(&service).await;
    let mut configuration = chart.get("MutatingWebhookConfiguration").clone();
    for webhook in configuration["webhooks"].as_array_mut().expect("a list") {
        webhook["clientConfig"]["service"]["port"] = json!(port);
        // As if the root had been replaced: the control server, which may no more than the chart allows, tells of its own.
        webhook["clientConfig"]["caBundle"] = json!(other_root());
    }
    cluster.apply(&configuration).await;
    let pod = |name: &str, labels: Value| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop", "labels": labels },
            "spec": { "serviceAccountName": "cart", "containers": [{ "name": "app", "image": "app",
                "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 } } }] } })
    };
    let mut made = Value::Null;
    // A new configuration is followed a moment after it was taken.
    eventually!("a pod gets its sidecar", {
        let created = cluster.create(&pod("new", json!({ "app": "cart" })), "dryRun=All").await;
        made = created.unwrap_or_else(|error| {
            assert!(error.to_string().contains("certificate signed by unknown authority"), "{error}");
            Value::Null
        });
        made["spec"]["initContainers"].is_array()
    });
    let written = cluster.get(&configuration).await.expect("is there");
    let told =
        written["webhooks"].as_array().expect("a list").iter().map(|webhook| &webhook["clientConfig"]["caBundle"]);
    assert!(told.clone().count() == 6 && told.clone().all(|bundle| *bundle != other_root()), "{written:#}");

    let names = |pod: &Value| -> Vec<String> {
        let containers = pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        containers.iter().map(|container| container["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert!(names(&made).contains(&"malla-proxy".to_owned()), "{made:#}");
    let probe = &made["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    assert_ne!(probe["port"], 8080, "the sidecar asks in the kubelet's place: {probe}");
    let without = pod("without", json!({ "malla.dev/inject": "disabled" }));
    let without = cluster.create(&without, "dryRun=All").await.expect("it is taken");
    assert!(names(&without).is_empty(), "{without:#}");
    let clash = {
        let mut pod = pod("clash", json!({}));
        pod["spec"]["containers"][0]["securityContext"] = json!({ "runAsUser": 1337 });
        pod
    };
    let refused = cluster.create(&clash, "dryRun=All").await.expect_err("it would go round the sidecar");
    assert!(refused.to_string().contains("1337"), "{refused}");
}

/// A root that has nothing to do with the mesh, as `caBundle` has it.
fn other_root() -> &'static str {
    use base64::Engine as _;
    static ROOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("signed").pem();
        base64::engine::general_purpose::STANDARD.encode(root)
    })
}

/// With a token that the API server signed for its pod, and with no other.
async fn a_pod_joins(cluster: &ApiServer, control: &Control, directory: &Path) {
    let name = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "cart-1", "namespace": "shop" } });
    let status = json!({ "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }] });
    let named = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": name["metadata"], "status": status });
    cluster.status(&named).await;
    let pod = cluster.get(&name).await.expect("it is there");
    let sidecar = |name: &str, token: String| {
        let (trust, path) = (directory.join("trust.pem"), directory.join(format!("token-{name}")));
        std::fs::write(&trust, control.trust_bundle().as_bytes()).expect("written");
        std::fs::write(&path, token).expect("written");
        Proxy::start(Settings::embedded("cart-1", "shop", control.xds_address(), trust, path)).expect("starts")
    };
    let identities =
        || -> Vec<String> { control.status().streams.iter().map(|stream| stream.identity.clone()).collect() };
    let unbound = sidecar("unbound", cluster.token("shop", "cart", "malla", None).await);
    let elsewhere = sidecar("elsewhere", cluster.token("shop", "cart", "vault", Some(&pod)).await);
    for reason in ["not_a_pod", "wrong_audience"] {
        eventually!(reason, {
            let page = super::joining::metrics(control).await;
            super::joining::refusals(&page, reason) > 0.0
        });
    }
    assert_eq!(identities(), Vec::<String>::new(), "none of them has an identity");
    let proxy = sidecar("good", cluster.token("shop", "cart", "malla", Some(&pod)).await);
    eventually!("it has an identity", identities() == ["spiffe://cluster.local/ns/shop/sa/cart"]);
    for proxy in [unbound, elsewhere, proxy] {
        proxy.drain_and_stop().await;
    }
}

/// `malla check --cluster` finds what is there, and what is not.
async fn it_is_checked(cluster: &ApiServer) {
    let mut command = std::process::Command::new(tools::binary("malla"));
    command.args(["check", "--cluster", "--kubeconfig"]).arg(cluster.administrator());
    let output = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("failed  ")).collect();
    assert_eq!(failed, ["the control server runs", "its Service leads to it"], "no kubelet has started it: {said}");
    let ok = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(!output.status.success() && ok >= 10, "{said}");
}

/// Conditions of routes are written, by one replica; the other goes on when it ends.
async fn conditions_are_written(cluster: &ApiServer, first: Control, directory: &Path, chart: &Rendered) {
    let condition = async |of: &Value, kind: &str| -> String {
        let found = cluster.get(of).await.unwrap_or_default();
        let conditions = found["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        let condition = conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
        format!("{} {}", condition["status"].as_str().unwrap_or("-"), condition["reason"].as_str().unwrap_or("-"))
    };
    let (good, lost) = (route("good", "cart", "cart"), route("lost", "cart", "gone"));
    cluster.apply(&good).await;
    cluster.apply(&lost).await;
    eventually!("a good route is told so", condition(&good, "Accepted").await == "True Accepted");
    eventually!("a lost one too", condition(&lost, "ResolvedRefs").await == "False BackendNotFound");

    let second = control(cluster, directory, "replica-2", chart).await;
    let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "malla-control", "namespace": "malla-system" } });
    let holder = async || cluster.get(&lease).await.unwrap_or_default()["spec"]["holderIdentity"].clone();
    let resources = second.published().resources.clone();
    eventually!("both serve", resources.borrow().get(ResourceType::Cluster, "cart.shop:80").is_some());
    assert_eq!(holder().await, "replica-1");
    first.stop().await;
    eventually!("the other takes over", holder().await == "replica-2");
    cluster.apply(&service("gone")).await;
    eventually!("and writes", condition(&lost, "ResolvedRefs").await == "True ResolvedRefs");
    second.stop().await;
}

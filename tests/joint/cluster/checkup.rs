//! `malla check --cluster` finds what is wrong with a cluster, and says what to do.

use base64::Engine as _;
use malla_control::kubernetes::checkup::{Outcome, Stage, check};
use malla_control::kubernetes::{ClusterAddress, connect};
use serde_json::{Value, json};

use super::{FakeCluster, namespace};

fn root() -> String {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    params.self_signed(&key).expect("signed").pem()
}

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn secret(root: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "malla-ca", "namespace": "malla-system" },
        "data": { "tls.crt": encoded(root) } })
}

fn deployment(ready: u64) -> Value {
    deployment_with("malla-ca", ready)
}

fn deployment_with(secret: &str, ready: u64) -> Value {
    let volumes = json!([{ "name": "mesh" }, { "name": "ca", "secret": { "secretName": secret } }]);
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "malla-control", "namespace": "malla-system" },
        "spec": { "replicas": 2, "template": { "spec": { "volumes": volumes } } }, "status": { "readyReplicas": ready } })
}

fn endpoints(ready: bool) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "malla-control-1", "namespace": "malla-system", "labels": { "kubernetes.io/service-name": "malla-control" } },
        "endpoints": [{ "addresses": ["10.0.0.9"], "conditions": { "ready": ready } }] })
}

fn webhook(root: &str, paths: &[&str]) -> Value {
    let webhooks: Vec<Value> = paths
        .iter()
        .map(|path| {
            json!({ "clientConfig": { "caBundle": encoded(root),
                "service": { "name": "malla-control", "namespace": "malla-system", "path": path } } })
        })
        .collect();
    json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": "malla-sidecars" }, "webhooks": webhooks })
}

fn pod(name: &str, sidecar: bool, root: &str) -> Value {
    let containers = if sidecar { json!([{ "name": "malla-proxy" }]) } else { json!([]) };
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "annotations": { "malla.dev/trust": root } },
        "spec": { "containers": [{ "name": "app" }], "initContainers": containers },
        "status": { "phase": "Running", "initContainerStatuses": [{ "name": "malla-proxy", "ready": true }] } })
}

const PATHS: [&str; 2] = ["/inject/namespace", "/inject/pod"];

/// A cluster in which everything is as it should be.
async fn sound(root: &str) -> FakeCluster {
    let cluster = FakeCluster::start().await;
    // A Job that was done long ago, under another root.
    let mut done = pod("report-x7k2p", true, "another");
    done["status"] = json!({ "phase": "Succeeded" });
    cluster.apply(&done);
    for object in [
        namespace("shop", true),
        namespace("kube-system", false),
        secret(root),
        deployment(2),
        endpoints(true),
        webhook(root, &PATHS),
        pod("cart-1", true, root),
    ] {
        cluster.apply(&object);
    }
    cluster
}

/// What is found wrong: `what: found`.
async fn faults(cluster: &FakeCluster, stage: Stage) -> Vec<String> {
    let address = ClusterAddress::File { path: cluster.kubeconfig().clone(), context: None };
    let client = connect(&address).await.expect("a client");
    let findings = check(&client, "malla-system", stage).await;
    let told = findings.into_iter().filter_map(|finding| match finding.outcome {
        Outcome::Good => None,
        Outcome::Doubtful(fault) | Outcome::Wrong(fault) => {
            assert!(!fault.advice.is_empty(), "{fault:?}");
            Some(format!("{}: {}", finding.what, fault.found))
        }
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_each_of_the_planted_faults_and_no_other() {
    let root = root();
    let clean = sound(&root).await;
    assert_eq!(faults(&clean, Stage::After).await, [""; 0]);
    assert_eq!(faults(&clean, Stage::Before).await, [""; 0]);

    type Plant = fn(&FakeCluster, &str);
    let planted: [(Plant, &str); 14] = [
        (|cluster, _| cluster.set_version("v1.24.1"), "it is Kubernetes v1.24.1"),
        (|cluster, _| cluster.uninstall("httproutes"), "the cluster has no HTTPRoute"),
        (|cluster, _| cluster.uninstall("authorizationpolicies"), "the cluster has no AuthorizationPolicy"),
        (|cluster, _| cluster.deny("tokenreviews"), "may not create tokenreviews"),
        (|cluster, _| cluster.apply(&deployment(0)), "none of 2 replicas is ready"),
        (|cluster, _| cluster.apply(&endpoints(false)), "no endpoint of the Service malla-control is ready"),
        (|cluster, _| cluster.delete(&secret("")), "secrets/malla-ca: not found (404)"),
        (|cluster, root| cluster.apply(&webhook(root, &PATHS[..1])), "has no /inject/pod"),
        (|cluster, _| cluster.apply(&webhook("another", &PATHS)), "with another root than the Secret"),
        (
            |cluster, _| {
                let mut strange = namespace("bank", false);
                strange["metadata"]["labels"] = json!({ "malla.dev/inject": "true" });
                cluster.apply(&strange);
            },
            "bank (malla.dev/inject: true)",
        ),
        (|cluster, root| cluster.apply(&pod("old-1", false, root)), "before their namespace had the label: shop/old-1"),
        (
            |cluster, root| {
                let mut waiting = pod("cart-2", true, root);
                waiting["status"]["initContainerStatuses"][0]["ready"] = json!(false);
                cluster.apply(&waiting);
            },
            "the sidecars of shop/cart-2 wait",
        ),
        (|cluster, _| cluster.apply(&pod("cart-3", true, "another")), "made with another root: shop/cart-3"),
        (
            |cluster, _| {
                let mut route = super::route("r", "cart", "cart");
                let condition = json!({ "type": "Accepted", "status": "False", "message": "no such parent" });
                route["status"] =
                    json!({ "parents": [{ "controllerName": "malla.dev/control", "conditions": [condition] }] });
                cluster.apply(&route);
            },
            "HTTPRoute shop/r: no such parent",
        ),
    ];
    for (plant, words) in planted {
        let cluster = sound(&root).await;
        plant(&cluster, &root);
        let found = faults(&cluster, Stage::After).await;
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    }

    // While the root is replaced, API servers and new pods are told of both; and the Secret may be somebody else's.
    let both = format!("{}{root}", self::root());
    let replacing = sound(&root).await;
    replacing.apply(&webhook(&both, &PATHS));
    replacing.apply(&pod("cart-1", true, &both));
    replacing.delete(&secret(""));
    let mut named = secret(&root);
    named["metadata"]["name"] = json!("mesh-root");
    replacing.apply(&named);
    replacing.apply(&deployment_with("mesh-root", 2));
    assert_eq!(faults(&replacing, Stage::After).await, [""; 0]);

    let away = sound(&root).await;
    away.go_away();
    assert_eq!(faults(&away, Stage::After).await.len(), 1, "nothing else can be known");
}

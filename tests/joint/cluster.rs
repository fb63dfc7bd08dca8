//! The control server in a cluster: what the API server tells becomes what sidecars get, whatever the API server does.
//!
//! The API server is a small one of our own. What only a real one shows (validation, admission, roles as they are evaluated, tokens as
//! they are made) is in `real`.

mod believing;
mod checkup;
mod faults;
mod installing;
mod joining;
mod looking;
mod real;
mod scale;
mod stateful;
mod status;

use std::time::Duration;

use malla_control::kubernetes::{ClusterAddress, connect};
use malla_control::resources::{ReloadOutcome, Resources};
use malla_control::run::{Cluster, Control, ControlSettings};
use malla_tests::cluster::FakeCluster;
use malla_xds::ResourceType;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// A control server that reads a cluster.
struct Fixture {
    cluster: FakeCluster,
    control: Control,
    _state: tempfile::TempDir,
}

impl Fixture {
    async fn new(objects: &[Value]) -> Fixture {
        let cluster = FakeCluster::start().await;
        cluster.apply(&namespace("shop", true));
        objects.iter().for_each(|object| cluster.apply(object));
        Fixture::on(cluster, "replica-1").await
    }

    async fn on(cluster: FakeCluster, replica: &str) -> Fixture {
        let state = tempfile::tempdir().expect("a directory");
        let control = control(&cluster, replica, state.path()).await;
        Fixture { cluster, control, _state: state }
    }

    fn resources(&self) -> std::sync::Arc<Resources> {
        self.control.published().resources.borrow().clone()
    }

    /// Waits for what is served to be so.
    async fn serves(&self, what: &str, condition: impl Fn(&Resources) -> bool) {
        let mut resources = self.control.published().resources.clone();
        let waiting = resources.wait_for(|resources| condition(resources));
        let waited = tokio::time::timeout(PATIENCE, waiting).await.map(drop);
        if waited.is_err() {
            panic!(
                "{what}: not served after {PATIENCE:?}; {:?}",
                self.control.published().last_reload.borrow().outcome
            );
        }
    }

    async fn serves_cluster(&self, name: &str) {
        self.serves(name, |resources| resources.get(ResourceType::Cluster, name).is_some()).await;
    }

    fn has_cluster(&self, name: &str) -> bool {
        self.resources().get(ResourceType::Cluster, name).is_some()
    }

    /// Waits until the status has a notice with these words.
    async fn notices(&self, words: &str) {
        eventually(words, || self.control.status().notices.iter().any(|notice| notice.contains(words))).await;
    }

    fn refusal(&self) -> String {
        match &self.control.published().last_reload.borrow().outcome {
            ReloadOutcome::Applied { .. } => String::new(),
            ReloadOutcome::Refused { errors, .. } => errors.to_string(),
        }
    }
}

async fn control(cluster: &FakeCluster, replica: &str, state: &std::path::Path) -> Control {
    let address = ClusterAddress::File { path: cluster.kubeconfig().clone(), context: None };
    let client = connect(&address).await.expect("a client");
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let settings =
        ControlSettings { config: None, listen: any_port, admin: any_port, ..ControlSettings::new("", state) };
    let namespace = "malla-system".to_owned();
    Control::start_in(Cluster { client, namespace, replica: replica.to_owned() }, settings).expect("starts")
}

/// Waits for a condition.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain: {what}");
}

fn namespace(name: &str, meshed: bool) -> Value {
    let labels = if meshed { json!({ "malla.dev/inject": "enabled" }) } else { json!({}) };
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

fn service(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "clusterIP": "None", "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } })
}

fn slice(service: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|(pod, address)| {
        json!({ "addresses": [address], "conditions": { "ready": true }, "targetRef": { "kind": "Pod", "name": pod, "namespace": "shop" } })
    }).collect();
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("{service}-1"), "namespace": "shop", "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }], "endpoints": endpoints })
}

fn pod(name: &str, account: &str, address: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "labels": { "app": account },
            "annotations": { "malla.dev/mode": "explicit" } },
        "spec": { "serviceAccountName": account, "containers": [{ "name": "app" }], "initContainers": [{ "name": "malla-proxy" }] },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } })
}

fn route(name: &str, parent: &str, backend: &str) -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": parent }],
            "rules": [{ "backendRefs": [{ "name": backend, "port": 80 }] }] } })
}

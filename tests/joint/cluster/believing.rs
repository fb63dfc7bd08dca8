//! API servers believe the webhook, also while the root is replaced: they are told of a new one before it signs.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use malla_control::ca::RootSource;
use malla_control::inject::InjectionSettings;
use malla_control::kubernetes::{ClusterAddress, connect, permissions};
use malla_control::run::{Cluster, Control, ControlSettings, WebhookSettings};
use malla_tests::cluster::{Asked, FakeCluster};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use super::{eventually, namespace};

/// Certificate and key, PEM.
fn root(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
}

fn configuration() -> Value {
    let leads = |name: &str| {
        let service = json!({ "name": name, "namespace": "malla-system", "path": "/inject/pod" });
        json!({ "name": format!("{name}.malla.dev"), "clientConfig": { "caBundle": "Cg==", "service": service }, "sideEffects": "None" })
    };
    json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": "malla-sidecars" }, "webhooks": [leads("malla-control"), leads("somebody-else")] })
}

/// What API servers verify each of the two with.
fn bundles(cluster: &FakeCluster) -> [String; 2] {
    let found = cluster.get(&configuration()).expect("is there");
    [0, 1].map(|at| {
        let text = found["webhooks"][at]["clientConfig"]["caBundle"].as_str().expect("a text");
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).expect("base64")).expect("UTF-8")
    })
}

/// Whether an API server that verifies the webhook with this bundle takes the certificate that it shows.
async fn believed(control: &Control, bundle: &str) -> bool {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let config = ClientConfig::builder_with_provider(malla_proxy::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = control.webhook_address().expect("there is one");
    let socket = tokio::net::TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from("malla-control.malla-system.svc").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.is_ok()
}

fn start(client: kube::Client, replica: &str, directory: &std::path::Path) -> Control {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let settings = ControlSettings {
        config: None,
        listen: any_port,
        admin: any_port,
        root: RootSource::Files { certificate: directory.join("tls.crt"), key: directory.join("tls.key") },
        webhook: Some(WebhookSettings {
            listen: any_port,
            injection: InjectionSettings::new("malla-proxy:test", "replaced"),
        }),
        ..ControlSettings::new("", directory.join(replica))
    };
    let namespace = "malla-system".to_owned();
    Control::start_in(Cluster { client, namespace, replica: replica.to_owned() }, settings).expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_is_told_to_api_servers_before_the_webhook_shows_a_certificate_of_it() {
    let cluster = FakeCluster::start().await;
    cluster.apply(&namespace("shop", true));
    cluster.apply(&configuration());
    // No more than the chart's roles allow.
    let allowed = permissions().into_iter().flat_map(|permission| {
        let namespace = if permission.own_namespace { "malla-system" } else { "" };
        permission.verbs.iter().map(move |verb| Asked {
            group: permission.group.to_owned(),
            resource: permission.resource.clone(),
            verb,
            namespace: namespace.to_owned(),
        })
    });
    cluster.allow_only(allowed.collect());
    let directory = tempfile::tempdir().expect("a directory");
    let write = |(certificate, key): &(String, String)| {
        std::fs::write(directory.path().join("tls.crt"), certificate).expect("written");
        std::fs::write(directory.path().join("tls.key"), key).expect("written");
    };
    let (old, new) = (root("old"), root("new"));
    write(&old);
    let address = ClusterAddress::File { path: cluster.kubeconfig().clone(), context: None };
    let client = connect(&address).await.expect("a client");
    let first = start(client.clone(), "replica-1", directory.path());
    eventually("the root is told", || bundles(&cluster)[0].trim() == old.0.trim()).await;
    assert_eq!(bundles(&cluster)[1], "\n", "another service's webhook is not ours to change");
    assert!(believed(&first, &old.0).await);
    let second = start(client, "replica-2", directory.path());

    write(&new);
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    let mut since = None;
    while !believed(&first, &new.0).await {
        let told = bundles(&cluster);
        if told[0].contains(new.0.trim()) {
            since.get_or_insert_with(tokio::time::Instant::now);
        }
        assert!(
            believed(&first, &told[0]).await,
            "API servers that have read this do not believe the webhook any more"
        );
        assert!(tokio::time::Instant::now() < deadline, "the new root never signs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let since = since.expect("API servers are told before");
    assert!(since.elapsed() > Duration::from_secs(3), "each follows a moment later what was written");
    let told = bundles(&cluster);
    assert!(
        told[0].contains(old.0.trim()) && told[0].contains(new.0.trim()),
        "other replicas may still be at the old one"
    );
    assert_eq!(cluster.count("mutatingwebhookconfigurations", "update"), 2, "once for each root, by one replica");
    first.stop().await;
    second.stop().await;
}

/// What the replica answers to the kubelet.
async fn ready(control: &Control) -> String {
    use http_body_util::BodyExt as _;
    let socket = tokio::net::TcpStream::connect(control.admin_address()).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = http::Request::get("/ready").header("host", "x").body(String::new()).expect("a request");
    let body = sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_with_another_root_is_not_called_before_api_servers_are_told_of_it() {
    let cluster = FakeCluster::start().await;
    cluster.apply(&namespace("shop", true));
    let (old, new) = (root("old"), root("new"));
    let bundle = |roots: &str| {
        let mut written = configuration();
        written["webhooks"][0]["clientConfig"]["caBundle"] =
            json!(base64::engine::general_purpose::STANDARD.encode(roots));
        written
    };
    cluster.apply(&bundle(&old.0));
    // Another replica leads, which has not seen the new root yet.
    cluster.apply(&json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "malla-control", "namespace": "malla-system" },
        "spec": { "holderIdentity": "replica-1", "leaseDurationSeconds": 15 } }));
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("tls.crt"), &new.0).expect("written");
    std::fs::write(directory.path().join("tls.key"), &new.1).expect("written");
    let address = ClusterAddress::File { path: cluster.kubeconfig().clone(), context: None };
    let second = start(connect(&address).await.expect("a client"), "replica-2", directory.path());
    let loaded = second.published().resources.clone();
    eventually("the mesh is read", || loaded.borrow().is_loaded()).await;
    let answer = ready(&second).await;
    assert!(answer.contains("caBundle"), "API servers would not believe it: {answer}");

    cluster.apply(&bundle(&format!("{}{}", old.0, new.0)));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while ready(&second).await != "ready\n" {
        assert!(tokio::time::Instant::now() < deadline, "{}", ready(&second).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    second.stop().await;
}

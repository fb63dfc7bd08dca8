//! Pods of a StatefulSet: a client that means one of them reaches that one, by mTLS and by its policies.

use std::net::SocketAddr;
use std::time::Duration;

use malla_control::token::JoinClaims;
use malla_proxy::run::Proxy;
use malla_proxy::settings::{LocalListen, Settings};
use malla_xds::SpiffeId;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Fixture, eventually, pod};

/// The pod's address: its sidecar listens there on the port that it has in explicit mode.
const POD: &str = "127.0.0.7";

/// A database that says its name to everybody, and then what it is told.
async fn database() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Whoever closes early is told nothing.
                let _ = socket.write_all(b"db-0\n").await;
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

fn objects(port: u16) -> [Value; 4] {
    [
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db", "namespace": "shop" },
            "spec": { "clusterIP": "None", "clusterIPs": ["None"], "selector": { "app": "db" }, "publishNotReadyAddresses": true,
                "ports": [{ "name": "pg", "port": port, "appProtocol": "tcp" }] } }),
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "db-x7k2p", "namespace": "shop", "labels": { "kubernetes.io/service-name": "db", "service.kubernetes.io/headless": "" } },
            "ports": [{ "name": "pg", "port": port, "protocol": "TCP" }],
            "endpoints": [{ "addresses": [POD], "hostname": "db-0", "conditions": { "ready": true },
                "targetRef": { "kind": "Pod", "name": "db-0", "namespace": "shop" } }] }),
        pod("db-0", "db", POD),
        json!({ "apiVersion": "malla.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": { "name": "db", "namespace": "shop" },
            "spec": { "targetRefs": [{ "group": "", "kind": "Service", "name": "db" }],
                "action": "Allow", "rules": [{ "from": [{ "serviceAccounts": ["shop/client"] }] }] } }),
    ]
}

fn sidecar(mesh: &Fixture, directory: &std::path::Path, account: &str, change: impl FnOnce(&mut Settings)) -> Proxy {
    let identity = SpiffeId::new("cluster.local", "shop", account).expect("valid");
    let (trust, token) = (directory.join("trust.pem"), directory.join(format!("{account}.token")));
    std::fs::write(&trust, mesh.control.trust_bundle().as_bytes()).expect("written");
    let claims = JoinClaims::new(&identity, Duration::from_secs(60));
    std::fs::write(&token, mesh.control.tokens().create(&claims).expect("signs")).expect("written");
    let mut settings = Settings::embedded(&format!("{account}-0"), "shop", mesh.control.xds_address(), trust, token);
    change(&mut settings);
    Proxy::start(settings).expect("starts")
}

/// What the database answers at a local port: everything until it has said and heard, or the end.
async fn asked(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let answer = async {
        // Refused connections may be reset before this is sent.
        let _ = socket.write_all(b"select 1\n").await;
        let _ = socket.shutdown().await;
        let mut told = Vec::new();
        let _ = socket.read_to_end(&mut told).await;
        String::from_utf8(told).expect("UTF-8")
    };
    tokio::time::timeout(super::PATIENCE, answer).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pod_is_reached_by_its_name_and_by_its_address_by_those_who_may() {
    let port = database().await;
    let mesh = Fixture::new(&objects(port)).await;
    mesh.serves_cluster(&format!("db.shop:{port}")).await;
    let directory = tempfile::tempdir().expect("a directory");
    let db = sidecar(&mesh, directory.path(), "db", |settings| {
        settings.inbound = format!("{POD}:15006").parse().expect("an address");
    });
    eventually("its own ports", || db.shared().directory.snapshot().inbound.is_some()).await;

    let destinations = [format!("db-0.db.shop:{port}"), format!("{POD}:{port}"), format!("db.shop:{port}")];
    let listen = || {
        let local: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        destinations.iter().map(|to| LocalListen { local, destination: to.as_str().into() }).collect()
    };
    let client = sidecar(&mesh, directory.path(), "client", |settings| settings.listen = listen());
    let stranger = sidecar(&mesh, directory.path(), "stranger", |settings| settings.listen = listen());
    for (at, destination) in destinations.iter().enumerate() {
        assert_eq!(asked(client.addresses().listen[at]).await, "db-0\nselect 1\n", "{destination}");
        assert_eq!(asked(stranger.addresses().listen[at]).await, "", "{destination}");
    }
    for proxy in [client, stranger, db] {
        proxy.drain_and_stop().await;
    }
}

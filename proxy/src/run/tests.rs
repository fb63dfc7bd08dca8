//! Whole sidecars against a control server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::fake_control::Realm;
use crate::snapshot::Outbound;
use crate::subscribe::examples::Mesh;

const PATIENCE: Duration = Duration::from_secs(20);

fn cart() -> Mesh {
    let mut mesh = Mesh::default();
    mesh.http("cart.shop:80", &[], &[("cart.shop:80", 1)]);
    mesh.cluster("cart.shop:80", &["10.0.0.1", "10.0.0.2"]);
    mesh
}

/// A page of the admin port: status and body.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Asks again until a condition holds.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never {what}"))
}

async fn until_ready(proxy: &Proxy) {
    let admin = proxy.addresses().admin;
    until("ready", async || (get(admin, "/ready").await.0 == 200).then_some(())).await;
}

#[tokio::test]
async fn joins_serves_its_pages_and_stops() {
    let realm = Realm::new(cart());
    let control = realm.serve(0).await;
    let proxy = Proxy::start(realm.settings(control.address)).expect("started");
    until_ready(&proxy).await;
    assert_eq!(get(proxy.addresses().health, "/ready").await.0, 200);
    assert_eq!(get(proxy.addresses().health, "/config").await.0, 404);

    let found = proxy.shared().directory.lookup("cart.shop:80").await.expect("found");
    assert!(matches!(*found, Outbound::Service(_)));
    let admin = proxy.addresses().admin;
    let (_, page) = get(admin, "/config").await;
    for expected in [
        "cart-1.shop (malla-proxy",
        "IDENTITY spiffe://cluster.local/ns/shop/sa/cart",
        "default: any path → cart.shop:80",
        "10.0.0.1:8080  10.0.0.1  without a sidecar",
        "  connected since ",
    ] {
        assert!(page.contains(expected), "{expected:?} is not in:\n{page}");
    }
    let (_, json) = get(admin, "/config?format=json").await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.pointer("/outbound/0/routes/0/to/0/cluster").and_then(|name| name.as_str()), Some("cart.shop:80"));
    let (_, metrics) = get(admin, "/metrics").await;
    // In the older text format: nobody asked for OpenMetrics.
    assert!(metrics.contains("malla_control_connected 1\n") && !metrics.contains("# EOF"), "{metrics}");
    for row in admin::SIDECAR_TABLE.iter().chain(admin::CLUSTER_TABLE) {
        let suffix = if row.kind == "counter" { "_total" } else { "" };
        let line = format!("# TYPE {}{suffix} {}\n", row.name, row.kind);
        assert!(metrics.contains(&line), "{} is not in:\n{metrics}", row.name);
    }
    assert_eq!(proxy.drain_and_stop().await, Drained { cut: 0 });
    assert!(TcpStream::connect(admin).await.is_err());
}

#[tokio::test]
async fn says_what_is_missing_until_it_is_ready() {
    let realm = Realm::new(cart());
    let control = realm.serve(0).await;
    realm.refuse.store(true, Ordering::Relaxed);
    let proxy = Proxy::start(realm.settings(control.address)).expect("started");
    let admin = proxy.addresses().admin;
    let expected = "the control server refuses a certificate: the token is not one of this mesh";
    until("told why", async || get(admin, "/ready").await.1.contains(expected).then_some(())).await;
    assert_eq!(get(admin, "/live").await.0, 200);
    assert!(matches!(proxy.shared().identity.current(), Err(crate::reason::Reason::IdentityMissing)));
    realm.refuse.store(false, Ordering::Relaxed);
    until_ready(&proxy).await;
    proxy.drain_and_stop().await;
}

#[tokio::test]
async fn serves_the_last_good_without_a_control_server_and_catches_up_when_it_is_back() {
    let realm = Realm::new(cart());
    let control = realm.serve(0).await;
    let port = control.address.port();
    let proxy = Proxy::start(realm.settings(control.address)).expect("started");
    until_ready(&proxy).await;
    let directory = &proxy.shared().directory;
    directory.lookup("cart.shop:80").await.expect("found");
    drop(control);
    until("lost", async || (!directory.status().is_connected()).then_some(())).await;
    directory.lookup("cart.shop:80").await.expect("still known");
    assert_eq!(get(proxy.addresses().admin, "/ready").await.0, 200);
    realm.change(|mesh| mesh.endpoints("cart.shop:80", &["10.0.0.9"]));
    let _control = realm.serve(port).await;
    until("caught up", async || {
        let (_, page) = get(proxy.addresses().admin, "/config").await;
        (page.contains("10.0.0.9:8080") && !page.contains("10.0.0.1:8080")).then_some(())
    })
    .await;
    proxy.drain_and_stop().await;
}

#[tokio::test]
async fn renews_its_certificate_with_the_certificate() {
    let realm = Realm::new(cart());
    *realm.lifetime.lock() = Duration::from_secs(3);
    let control = realm.serve(0).await;
    let proxy = Proxy::start(realm.settings(control.address)).expect("started");
    until_ready(&proxy).await;
    // The token was for the first one.
    std::fs::remove_file(realm.token()).expect("removed");
    let first = proxy.shared().identity.current().expect("an identity");
    until("renewed", async || (realm.renewed.load(Ordering::Relaxed) >= 1).then_some(())).await;
    let second = until("installed", async || {
        proxy.shared().identity.current().ok().filter(|current| current.generation > first.generation)
    })
    .await;
    assert!(second.not_after > first.not_after);
    assert!(proxy.shared().directory.status().is_connected(), "the stream goes on");
    proxy.drain_and_stop().await;
}

#[tokio::test]
async fn ten_sidecars_live_and_die_in_one_process() {
    let realm = Realm::new(cart());
    let control = realm.serve(0).await;
    let proxies: Vec<Proxy> =
        (0..10).map(|_| Proxy::start(realm.settings(control.address)).expect("started")).collect();
    for proxy in &proxies {
        until_ready(proxy).await;
    }
    for proxy in proxies {
        assert_eq!(proxy.drain_and_stop().await, Drained { cut: 0 });
    }
}

#[tokio::test]
async fn a_dropped_sidecar_ends() {
    let realm = Realm::new(cart());
    let control = realm.serve(0).await;
    let proxy = Proxy::start(realm.settings(control.address)).expect("started");
    until_ready(&proxy).await;
    let (admin, shared) = (proxy.addresses().admin, Arc::downgrade(proxy.shared()));
    drop(proxy);
    until("ended", async || (TcpStream::connect(admin).await.is_err() && shared.strong_count() == 0).then_some(()))
        .await;
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_changes_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address");
    let realm = Realm::new(Mesh::default());
    let settings = Settings { admin: address, ..realm.settings(address) };
    let error = Proxy::start(settings).expect_err("taken").to_string();
    assert_eq!(
        error,
        format!(
            "cannot listen on {address} (the admin page and metrics): choose another with --admin-port, or stop what uses it"
        )
    );
}

#[test]
fn a_missing_file_is_named() {
    let realm = Realm::new(Mesh::default());
    std::fs::remove_file(realm.token()).expect("removed");
    let error = Proxy::start(realm.settings("127.0.0.1:1".parse().expect("an address"))).expect_err("no token");
    assert!(error.to_string().contains("--token"), "{error}");
}

#[tokio::test]
async fn certificates_are_written_once_for_other_programs() {
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: crate::certificates::CertificatesArgs,
    }

    let realm = Realm::new(Mesh::default());
    let control = realm.serve(0).await;
    let out = realm.directory().join("out");
    let (trust, token) = (realm.trust(), realm.token());
    let line = ["certificates", "--once", "--workload", "cart-1", "--namespace", "shop"].map(str::to_owned);
    let more = ["--control".to_owned(), control.address.to_string(), "--trust".to_owned(), trust.display().to_string()];
    let rest = ["--token".to_owned(), token.display().to_string(), "--out".to_owned(), out.display().to_string()];
    let command = Command::try_parse_from(line.into_iter().chain(more).chain(rest)).expect("parses");
    crate::certificates::run(command.args).await.expect("written");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("written");
    assert!(read("certificates.pem").starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(read("private_key.pem").starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let normal = |text: &str| text.replace('\r', "");
    assert_eq!(normal(&read("ca_certificates.pem")), normal(&std::fs::read_to_string(trust).expect("there")));
}

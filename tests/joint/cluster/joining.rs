//! Sidecars join with the tokens of their pods' service accounts.

use std::time::Duration;

use malla_control::run::Control;
use malla_proxy::run::Proxy;
use malla_proxy::settings::Settings;
use serde_json::{Value, json};

use super::{Fixture, eventually, pod, service, slice};

/// A token as an API server makes them, unsigned: who signs is the API server's to check.
pub(super) fn token(audience: &str, pod: &str) -> String {
    use base64::Engine as _;
    let encode = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "aud": [audience], "sub": "system:serviceaccount:shop:cart", "exp": 4_000_000_000u64,
        "kubernetes.io": { "namespace": "shop", "pod": { "name": pod, "uid": "u" }, "serviceaccount": { "name": "cart", "uid": "s" } },
    });
    format!("{}.{}.c2lnbmF0dXJl", encode(json!({ "alg": "RS256", "typ": "JWT" })), encode(claims))
}

pub(super) fn answer(pod: &str, uid: &str) -> Value {
    json!({ "authenticated": true, "audiences": ["malla"], "user": { "username": "system:serviceaccount:shop:cart",
        "extra": { "authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid] } } })
}

fn sidecar(mesh: &Fixture, directory: &std::path::Path, workload: &str, token: &str) -> Proxy {
    let (trust, path) = (directory.join("trust.pem"), directory.join(format!("{workload}.token")));
    std::fs::write(&trust, mesh.control.trust_bundle().as_bytes()).expect("written");
    std::fs::write(&path, token).expect("written");
    Proxy::start(Settings::embedded(workload, "shop", mesh.control.xds_address(), trust, path)).expect("starts")
}

pub(super) fn refusals(metrics: &str, reason: &str) -> f64 {
    malla_tests::metrics::sum(metrics, "malla_control_certificates_refused_total", &[("reason", reason)])
}

pub(super) async fn metrics(control: &Control) -> String {
    use http_body_util::BodyExt as _;
    let socket = tokio::net::TcpStream::connect(control.admin_address()).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = http::Request::get("/metrics").header("host", "x").body(String::new()).expect("a request");
    let body = sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_joins_with_its_own_token_and_with_no_other() {
    let objects = [
        service("cart"),
        slice("cart", &[("cart-1", "127.0.0.1")]),
        pod("cart-1", "cart", "127.0.0.1"),
        pod("cart-2", "cart", "10.0.0.2"),
        pod("bank-1", "bank", "127.0.0.3"),
    ];
    let mesh = Fixture::new(&objects).await;
    mesh.serves_cluster("cart.shop:80").await;
    let directory = tempfile::tempdir().expect("a directory");

    let good = token("malla", "cart-1");
    mesh.cluster.know_token(&good, answer("cart-1", "uid-of-cart-1"));
    let proxy = sidecar(&mesh, directory.path(), "cart-1", &good);
    eventually("its own ports", || proxy.shared().directory.snapshot().inbound.is_some()).await;
    let status = mesh.control.status();
    assert!(
        status.streams.iter().any(|stream| stream.identity == "spiffe://cluster.local/ns/shop/sa/cart"),
        "{status:?}"
    );
    proxy.drain_and_stop().await;

    // Stolen by another machine; of a pod that was replaced; of one whose account it is not; for others; of nobody.
    let mut elsewhere = answer("cart-2", "uid-of-cart-2");
    let cases = [
        ("wrong_pod", token("malla", "cart-2"), Some(elsewhere.take())),
        ("wrong_pod", token("malla", "cart-0"), Some(answer("cart-1", "uid-of-another"))),
        ("wrong_pod", token("malla", "bank-1"), Some(answer("bank-1", "uid-of-bank-1"))),
        (
            "not_a_pod",
            token("malla", "none"),
            Some(json!({ "authenticated": true, "audiences": ["malla"],
            "user": { "username": "system:serviceaccount:shop:cart" } })),
        ),
        ("wrong_audience", token("vault", "cart-1"), None),
        ("forged", token("malla", "unknown"), None),
    ];
    for (reason, shown, known) in cases {
        let questions = mesh.cluster.count("tokenreviews", "create");
        if let Some(known) = known {
            mesh.cluster.know_token(&shown, known);
        }
        let before = refusals(&metrics(&mesh.control).await, reason);
        let proxy = sidecar(&mesh, directory.path(), "cart-1", &shown);
        let waiting = async {
            while refusals(&metrics(&mesh.control).await, reason) <= before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(super::PATIENCE, waiting).await.is_ok(), "{reason} is counted");
        assert!(proxy.shared().directory.snapshot().inbound.is_none(), "{reason}");
        proxy.drain_and_stop().await;
        if reason == "wrong_audience" {
            assert_eq!(mesh.cluster.count("tokenreviews", "create"), questions, "the API server is not asked");
        }
    }

    // Join tokens go on working, for what is outside of the cluster.
    let identity = malla_xds::SpiffeId::new("cluster.local", "shop", "cart").expect("valid");
    let claims = malla_control::token::JoinClaims::new(&identity, Duration::from_secs(60));
    let join = mesh.control.tokens().create(&claims).expect("signs");
    let proxy = sidecar(&mesh, directory.path(), "cart-1", &join);
    eventually("its own ports", || proxy.shared().directory.snapshot().inbound.is_some()).await;
    proxy.drain_and_stop().await;
}

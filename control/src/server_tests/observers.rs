//! People who look from elsewhere.

use std::collections::BTreeSet;

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use malla_xds::telemetry::{Report, Seen};
use tonic::body::Body;

use super::*;

/// Of the shop, with those who may look.
fn observed_by(observers: impl IntoIterator<Item = SpiffeId>) -> Resources {
    shop(1).with_observers(BTreeSet::from_iter(observers))
}

async fn get(
    server: &Server,
    credentials: Option<&Credentials>,
    token: Option<&str>,
    path: &str,
) -> http::Response<Incoming> {
    let mut sender = client::open(&server.control, credentials).await.expect("connects");
    let mut request = http::Request::get(format!("https://127.0.0.1{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).expect("a request");
    timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer")
}

async fn text(response: http::Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.expect("whole").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn who_is_named_may_look_and_nobody_else() {
    let (server, foreign) = (Server::start(observed_by([pay()])), Server::start(observed_by([pay()])));
    let certificate = server.credentials(&pay()).await;
    let (status, body) = text(get(&server, Some(&certificate), None, "/status.json").await).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_str::<crate::status::Status>(&body).expect("is a status");
    let (status, body) = text(get(&server, None, Some(&server.token(&pay())), "/traffic.json").await).await;
    assert_eq!((status, &*body), (StatusCode::OK, r#"{"sidecars":0,"edges":[]}"#));
    let (status, body) = text(get(&server, Some(&certificate), None, "/tap?workload=shop").await).await;
    assert_eq!((status, &*body), (StatusCode::CONFLICT, "no sidecar of shop/ is connected here\n"));

    let other = server.credentials(&cart()).await;
    let made = |claims: JoinClaims| server.control.tokens().create(&claims).expect("signs");
    let expired = made(JoinClaims { exp: 1_000_000, ..JoinClaims::new(&pay(), Duration::ZERO) });
    let once = made(JoinClaims { once: true, ..JoinClaims::new(&pay(), Duration::from_secs(60)) });
    let elsewhere = server.token(&SpiffeId::new("example.org", "shop", "pay").expect("valid"));
    let (right, wrong, forged) = (server.token(&pay()), server.token(&cart()), foreign.token(&pay()));
    let cases = [
        (None, None, "/traffic.json", StatusCode::UNAUTHORIZED, "send a join token"),
        (None, Some(&expired), "/traffic.json", StatusCode::UNAUTHORIZED, "it has expired"),
        (None, Some(&forged), "/tap?workload=shop", StatusCode::UNAUTHORIZED, "its signature is not"),
        (None, Some(&once), "/tap?workload=shop", StatusCode::UNAUTHORIZED, "for one use is for a certificate"),
        (None, Some(&wrong), "/tap?workload=shop", StatusCode::FORBIDDEN, "ns/shop/sa/cart may not look"),
        (None, Some(&elsewhere), "/tap?workload=shop", StatusCode::FORBIDDEN, "spiffe://example.org/ns/shop/sa/pay"),
        (Some(&other), None, "/status.json", StatusCode::FORBIDDEN, "`Mesh.spec.observers` does not name it"),
        // Who shows a certificate is who it says, whatever else he shows.
        (Some(&other), Some(&right), "/status.json", StatusCode::FORBIDDEN, "ns/shop/sa/cart may not look"),
        // There is nothing else to be seen, and nobody is told so who may not look.
        (None, Some(&right), "/metrics", StatusCode::NOT_FOUND, ""),
        (None, None, "/metrics", StatusCode::UNAUTHORIZED, "send a join token"),
    ];
    for (credentials, token, path, expected, sentence) in cases {
        let (status, body) = text(get(&server, credentials, token.map(String::as_str), path).await).await;
        assert_eq!(status, expected, "{path}: {body}");
        assert!(body.contains(sentence), "{path}: {body}");
    }
    let metrics = server.http("/metrics").await;
    for line in ["{reason=\"not_an_observer\"} 4", "{reason=\"expired\"} 1", "{reason=\"no_credentials\"} 2"] {
        assert!(metrics.contains(&format!("malla_control_looks_refused_total{line}")), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn nobody_looks_unless_a_configuration_names_him() {
    for resources in [Resources::not_loaded(), shop(1)] {
        let server = Server::start(resources);
        let (status, body) = text(get(&server, None, Some(&server.token(&pay())), "/traffic.json").await).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    }
    assert_ne!(shop(1).version(), observed_by([pay()]).version(), "a change of who may look is applied");
}

#[tokio::test]
async fn a_tap_ends_with_the_permission() {
    let server = Server::start(observed_by([pay()]));
    let sidecar = server.credentials(&cart()).await;
    let mut client = connect(&server.control, Some(&sidecar)).await.expect("connects");
    let (reports, stream) = Requests::new();
    reports.send(Report { node: "cart-1.shop".into(), ..Default::default() });
    let mut watches = client.report(stream).await.expect("opens");
    let observer = server.credentials(&pay()).await;
    let response = loop {
        let response = get(&server, Some(&observer), None, "/tap?workload=shop/cart-1&path=/a").await;
        if response.status() == StatusCode::OK {
            break response;
        }
        // The server has not read the report yet.
        assert_eq!(response.status(), StatusCode::CONFLICT);
    };
    let mut body = response.into_body();
    let tap = loop {
        let watch = timeout(PATIENCE, watches.message()).await.expect("in time").expect("no error").expect("a watch");
        if let Some(tap) = watch.taps.first() {
            break tap.clone();
        }
    };
    assert_eq!(tap.path, "/a");
    let seen = Seen { tap: tap.id, line: r#"{"status":200}"#.to_owned() };
    reports.send(Report { requests: vec![seen], ..Default::default() });
    let line = timeout(PATIENCE, body.frame()).await.expect("in time").expect("a line").expect("no error");
    let line = line.into_data().expect("data");
    assert_eq!(&*line, b"{\"sidecar\":\"cart-1.shop\",\"status\":200}\n");
    server.publish(shop(1));
    let rest = timeout(PATIENCE, body.collect()).await.expect("it ends").expect("in order").to_bytes();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn nobody_tells_what_another_workload_has_seen() {
    let server = Server::start(shop(1));
    let credentials = server.credentials(&pay()).await;
    let mut client = connect(&server.control, Some(&credentials)).await.expect("connects");
    let (reports, stream) = Requests::new();
    reports.send(Report { node: "cart-1.shop".into(), ..Default::default() });
    let mut watches = client.report(stream).await.expect("opens");
    let refused = timeout(PATIENCE, watches.message()).await.expect("in time").expect_err("not its own");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("does not speak for"), "{refused}");
}

//! What routes do to requests and answers, seen by the application and the client.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;

use super::super::Version;
use super::super::testing::{
    Listening, cluster, counted, endpoint, exchange_raw, knows, outbound, read_until, route, scripted, worker,
};
use crate::filter::{Filters, HeaderChange, HeaderChanges, HeaderFilters, PathRewrite, Redirect, Rewrite, Write};
use crate::snapshot::{Route, RouteAction, WeightedClusters};

/// An application that keeps the heads it gets, and answers each with a header.
async fn application() -> (SocketAddr, Arc<Mutex<Vec<String>>>, impl Sized) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = heads.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let kept = kept.clone();
        async move {
            loop {
                let head = read_until(&mut socket, "\r\n\r\n").await;
                if head.is_empty() {
                    return;
                }
                kept.lock().push(head.to_ascii_lowercase());
                let _ = socket
                    .write_all(b"HTTP/1.1 200 OK\r\nserver: app\r\nx-internal: 1\r\ncontent-length: 2\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    (address, heads, running)
}

async fn sidecar(route: Route) -> Listening {
    outbound(worker(knows(route), "web"), Version::Http1).await
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: cart\r\n{headers}connection: close\r\n\r\n")
}

fn write(name: &'static str, value: &'static str) -> HeaderChange {
    HeaderChange::Write(HeaderName::from_static(name), HeaderValue::from_static(value), Write::Replace)
}

fn remove(name: &'static str) -> HeaderChange {
    HeaderChange::Remove(HeaderName::from_static(name))
}

#[tokio::test]
async fn headers_are_changed_on_the_way_and_on_the_way_back() {
    let (address, heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let headers = HeaderFilters {
        request: HeaderChanges(vec![remove("x-secret"), write("x-added", "1")]),
        response: HeaderChanges(vec![remove("x-internal"), write("server", "malla")]),
    };
    let filters = Filters { headers, ..Filters::default() };
    let sidecar = sidecar(Route { filters: filters.shared(), ..route(&cluster) }).await;
    let answer = exchange_raw(sidecar.address, &get("/", "x-secret: s\r\nx-added: forged\r\n")).await;
    let head = heads.lock().pop().expect("a request");
    assert!(head.contains("x-added: 1\r\n") && !head.contains("forged") && !head.contains("x-secret"), "{head}");
    assert!(answer.contains("server: malla\r\n") && !answer.contains("x-internal"), "{answer}");
}

#[tokio::test]
async fn each_backend_has_its_own_changes() {
    let (one, one_heads, _one) = application().await;
    let (two, two_heads, _two) = application().await;
    let clusters = [one, two].map(|address| (Arc::new(cluster("cart.shop:80", vec![endpoint(address)])), 1));
    let of = |value| HeaderFilters { request: HeaderChanges(vec![write("x-version", value)]), ..Default::default() };
    let filters = Filters { clusters: vec![of("one"), of("two")], ..Filters::default() };
    let forward = RouteAction::Forward(WeightedClusters::new(clusters.clone()).expect("weights"));
    let sidecar = sidecar(Route { action: forward, filters: filters.shared(), ..route(&clusters[0].0) }).await;
    for _ in 0..4 {
        assert!(exchange_raw(sidecar.address, &get("/", "")).await.starts_with("HTTP/1.1 200"));
    }
    let (one, two) = (one_heads.lock(), two_heads.lock());
    assert_eq!((one.len(), two.len()), (2, 2), "in turn");
    assert!(
        one.iter().all(|head| head.contains("x-version: one"))
            && two.iter().all(|head| head.contains("x-version: two"))
    );
}

#[tokio::test]
async fn host_and_path_are_rewritten_from_the_canonical_path() {
    let (address, heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let rewrite = Rewrite {
        host: Some("new.example".parse().expect("a host")),
        path: Some(PathRewrite::Prefix { length: 5, with: "/new/".into() }),
    };
    let filters = Filters { rewrite, ..Filters::default() };
    let sidecar = sidecar(Route { filters: filters.shared(), ..route(&cluster) }).await;
    for path in ["/old/a?b=/old/", "/x/../old/a?b=/old/"] {
        exchange_raw(sidecar.address, &get(path, "")).await;
        let head = heads.lock().pop().expect("a request");
        assert!(
            head.starts_with("get /new/a?b=/old/ http/1.1\r\n") && head.contains("host: new.example\r\n"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_answered_without_an_upstream() {
    let cluster = Arc::new(cluster("cart.shop:80", Vec::new()));
    let redirect = Redirect {
        scheme: "https",
        host: None,
        port: None,
        path: None,
        strip_query: false,
        status: StatusCode::PERMANENT_REDIRECT,
    };
    let sidecar = sidecar(Route { action: RouteAction::Redirect(redirect.into()), ..route(&cluster) }).await;
    let answer = exchange_raw(sidecar.address, &get("/a?b=c", "")).await;
    assert!(answer.starts_with("HTTP/1.1 308 ") && answer.contains("location: https://cart/a?b=c\r\n"), "{answer}");
    assert!(!answer.contains("malla-reason"), "it is no failure: {answer}");
    assert_eq!(counted(&sidecar.worker, "malla_requests_total", &["status=\"308\"", "reason=\"\""]), 1);
}

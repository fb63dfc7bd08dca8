//! Retries that a route asks for: after lost tries and after answers, with bodies sent again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{HeaderMap, Response};
use tokio::io::AsyncWriteExt;

use super::super::Version;
use super::super::testing::{
    Listening, cluster, counted, endpoint, exchange_raw, knows, outbound, read_until, route, scripted, worker,
};
use super::grpc;
use crate::snapshot::{Cluster, Endpoint, Retry, RetryOn, Route, UpstreamHttp};

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";

fn post(length: usize) -> String {
    let body = "x".repeat(length);
    format!("POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// An application that answers each request, once it is complete, with this; it counts them.
async fn answering(answer: &'static str, length: usize) -> (SocketAddr, Arc<AtomicUsize>, impl Sized) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let counter = counter.clone();
        async move {
            let end = if length == 0 { "\r\n\r\n".to_owned() } else { "x".repeat(length) };
            while !read_until(&mut socket, &end).await.is_empty() {
                counter.fetch_add(1, Relaxed);
                if answer.is_empty() || socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, requests, running)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// The first try always goes to the first.
fn in_order(addresses: &[SocketAddr]) -> Arc<Cluster> {
    let endpoints = addresses.iter().zip(0..).map(|(address, priority)| Endpoint { priority, ..endpoint(*address) });
    Arc::new(cluster("cart.shop:80", endpoints.collect()))
}

fn on(on: RetryOn) -> Retry {
    Retry { on, base_interval: Duration::from_millis(1), ..Retry::default() }
}

fn on_503() -> RetryOn {
    RetryOn { statuses: vec![503..=503], idempotent_only: true, ..RetryOn::default() }
}

async fn sidecar(cluster: &Arc<Cluster>, retry: Retry) -> Listening {
    outbound(worker(knows(Route { retry, ..route(cluster) }), "web"), Version::Http1).await
}

#[tokio::test]
async fn a_status_is_tried_again_at_another_endpoint() {
    let (busy, busy_requests, _busy) = answering(UNAVAILABLE, 0).await;
    let (alive, _, _alive) = answering(OK, 0).await;
    let sidecar = sidecar(&in_order(&[busy, alive]), on(on_503())).await;
    let answer = exchange_raw(sidecar.address, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(busy_requests.load(Relaxed), 1);
    assert_eq!(counted(&sidecar.worker, "malla_retries_total", &["retriable_status"]), 1);
}

#[tokio::test]
async fn the_last_answer_is_the_clients_when_tries_are_used_up() {
    let (busy, requests, _busy) = answering(UNAVAILABLE, 0).await;
    let retry = Retry { attempts: 2, ..on(on_503()) };
    let sidecar = sidecar(&in_order(&[busy]), retry).await;
    let answer = exchange_raw(sidecar.address, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("busy"), "{answer}");
    assert!(!answer.contains("malla-"), "it is the application's own: {answer}");
    assert_eq!(requests.load(Relaxed), 3);
}

#[tokio::test]
async fn a_method_that_is_not_idempotent_is_tried_again_only_if_forced() {
    for (any_method, expected) in [(false, "HTTP/1.1 503"), (true, "HTTP/1.1 200")] {
        let (busy, _, _busy) = answering(UNAVAILABLE, 3).await;
        let (alive, _, _alive) = answering(OK, 3).await;
        let retry = on(RetryOn { idempotent_only: !any_method, ..on_503() });
        let sidecar = sidecar(&in_order(&[busy, alive]), retry).await;
        let answer = exchange_raw(sidecar.address, &post(3)).await;
        assert!(answer.starts_with(expected), "{answer}");
        // However often it was sent.
        let page = sidecar.worker.shared.metrics.exposition();
        let size = "malla_request_size_bytes_sum{direction=\"outbound\",service=\"cart.shop:80\",source=\"test-1.shop\"} 3.0\n";
        assert!(page.contains(size), "{page}");
    }
}

#[tokio::test]
async fn a_body_is_sent_again_up_to_the_limit_and_beyond_it_the_answer_says_so() {
    let forced = RetryOn { idempotent_only: false, ..on_503() };
    for (length, expected) in [(64 * 1024, "HTTP/1.1 200"), (64 * 1024 + 1, "HTTP/1.1 503")] {
        let (busy, _, _busy) = answering(UNAVAILABLE, length).await;
        let (alive, _, _alive) = answering(OK, length).await;
        let sidecar = sidecar(&in_order(&[busy, alive]), on(forced.clone())).await;
        let answer = exchange_raw(sidecar.address, &post(length)).await;
        assert!(answer.starts_with(expected), "{length}: {answer}");
        let told = answer.contains("malla-not-retried: body_too_large\r\n");
        assert_eq!(told, expected.ends_with("503"), "{length}: {answer}");
    }
}

#[tokio::test]
async fn a_lost_try_is_tried_again_where_asked_for() {
    for (resets, expected) in [(true, "HTTP/1.1 200"), (false, "HTTP/1.1 502")] {
        let (dying, _, _dying) = answering("", 0).await;
        let (alive, _, _alive) = answering(OK, 0).await;
        let retry = on(RetryOn { resets, idempotent_only: true, ..RetryOn::default() });
        let sidecar = sidecar(&in_order(&[dying, alive]), retry).await;
        let answer = exchange_raw(sidecar.address, GET).await;
        assert!(answer.starts_with(expected), "{answer}");
    }
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_tried_again_elsewhere() {
    let (slow, _, _slow) = answering(OK, 1).await; // it waits for a body that never comes
    let (alive, _, _alive) = answering(OK, 0).await;
    let retry = on(RetryOn { resets: true, idempotent_only: true, ..RetryOn::default() });
    let cluster = in_order(&[slow, alive]);
    let route = Route { retry, try_timeout: Some(Duration::from_millis(50)), ..route(&cluster) };
    let sidecar = outbound(worker(knows(route), "web"), Version::Http1).await;
    let answer = exchange_raw(sidecar.address, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(counted(&sidecar.worker, "malla_retries_total", &["try_timeout"]), 1);
}

#[tokio::test]
async fn the_budget_bounds_retries_of_answers_and_the_answer_says_so() {
    let (busy, requests, _busy) = answering(UNAVAILABLE, 0).await;
    let sidecar = sidecar(&in_order(&[busy]), on(on_503())).await;
    let mut told = 0;
    for _ in 0..20 {
        let answer = exchange_raw(sidecar.address, GET).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("busy"), "{answer}");
        told += usize::from(answer.contains("malla-not-retried: retry_budget_spent\r\n"));
    }
    assert!(told >= 10 && requests.load(Relaxed) <= 30, "{told} of 20 were told, {requests:?} requests");
}

/// A gRPC application that answers the first calls with this status and no message, and keeps each call's `grpc-timeout`.
async fn failing_calls(status: &'static str, count: usize) -> (SocketAddr, Arc<AtomicUsize>, impl Sized) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let (address, running) = grpc::application(h2::server::Builder::new(), move |request, mut respond| {
        let number = counter.fetch_add(1, Relaxed);
        async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
            let status = if number < count { status } else { "0" };
            let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
            let _ = respond.send_response(response.body(()).expect("a response"), true);
        }
    })
    .await;
    (address, calls, running)
}

#[tokio::test]
async fn a_grpc_status_without_message_is_tried_again_with_its_body() {
    for (status, expected_calls, expected) in [("14", 2, "0"), ("13", 1, "13")] {
        let (application, calls, _running) = failing_calls(status, 1).await;
        let cluster =
            Arc::new(Cluster { http: UpstreamHttp::Http2, ..cluster("cart.shop:80", vec![endpoint(application)]) });
        let retry = on(RetryOn { grpc_statuses: 1 << 14, idempotent_only: true, ..RetryOn::default() });
        let sidecar = outbound(worker(knows(Route { retry, ..route(&cluster) }), "web"), Version::Http2).await;
        let (mut client, _driving) = grpc::client(sidecar.address).await;
        let (response, mut stream) = grpc::send(&mut client, grpc::call("/s/m")).await;
        stream.send_data(bytes::Bytes::from_static(b"hello"), true).expect("sent");
        let response = response.await.expect("an answer");
        let headers: &HeaderMap = response.headers();
        assert_eq!(headers["grpc-status"], expected);
        assert_eq!(calls.load(Relaxed), expected_calls, "{status}");
    }
}

#[tokio::test]
async fn a_deadline_is_passed_on_reduced() {
    let seen = Arc::new(parking_lot::Mutex::new(String::new()));
    let kept = seen.clone();
    let (application, _running) = grpc::application(h2::server::Builder::new(), move |request, mut respond| {
        let kept = kept.clone();
        async move {
            let timeout = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok()).unwrap_or("");
            *kept.lock() = timeout.to_owned();
            let response = Response::builder().header("grpc-status", "0").body(()).expect("a response");
            let _ = respond.send_response(response, true);
        }
    })
    .await;
    let cluster =
        Arc::new(Cluster { http: UpstreamHttp::Http2, ..cluster("cart.shop:80", vec![endpoint(application)]) });
    let sidecar = outbound(worker(knows(route(&cluster)), "web"), Version::Http2).await;
    let (mut client, _driving) = grpc::client(sidecar.address).await;
    let mut call = grpc::call("/s/m");
    call.headers_mut().insert("grpc-timeout", "5S".parse().expect("a value"));
    let (response, mut stream) = grpc::send(&mut client, call).await;
    stream.send_data(bytes::Bytes::new(), true).expect("sent");
    assert_eq!(response.await.expect("an answer").status(), 200);
    let told = seen.lock().clone();
    let micros: u64 = told.strip_suffix('u').and_then(|digits| digits.parse().ok()).expect("in microseconds");
    assert!((4_000_000..5_000_000).contains(&micros), "{told}");
}

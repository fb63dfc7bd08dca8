//! What is sent once more, and what must not be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::Version;
use super::super::testing::{
    Listening, cluster, counted, endpoint, exchange_raw, inbound, knows, meshed, outbound, read_until, route, scripted,
    worker,
};
use super::grpc;
use super::limits::frame;
use crate::snapshot::{Cluster, Endpoint, Retry, Route, UpstreamHttp};

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc";

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a port")
}

async fn ok() -> (SocketAddr, Arc<AtomicUsize>, impl Sized) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let counter = counter.clone();
        async move {
            while !read_until(&mut socket, "\r\n\r\n").await.is_empty() {
                counter.fetch_add(1, Relaxed);
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (address, requests, running)
}

async fn sidecar(route: Route, version: Version) -> Listening {
    outbound(worker(knows(route), "web"), version).await
}

fn retries(sidecar: &Listening) -> u64 {
    counted(&sidecar.worker, "malla_retries_total", &[])
}

fn first_then(first: SocketAddr, second: SocketAddr) -> Vec<Endpoint> {
    // The second is of lower priority: the first try always goes to the first.
    vec![endpoint(first), Endpoint { priority: 1, ..endpoint(second) }]
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_whatever_the_request() {
    let (alive, _requests, _running) = ok().await;
    for request in [GET, POST] {
        let cluster = Arc::new(cluster("cart.shop:80", first_then(nobody().await, alive)));
        let sidecar = sidecar(route(&cluster), Version::Http1).await;
        let answer = exchange_raw(sidecar.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(retries(&sidecar), 1);
    }
}

#[tokio::test]
async fn without_retries_a_refused_connection_is_the_answer() {
    let (alive, requests, _running) = ok().await;
    let cluster = Arc::new(cluster("cart.shop:80", first_then(nobody().await, alive)));
    let none = Route { retry: Retry { attempts: 0, ..Retry::default() }, ..route(&cluster) };
    let sidecar = sidecar(none, Version::Http1).await;
    let answer = exchange_raw(sidecar.address, GET).await;
    assert!(answer.contains("malla-reason: connect_refused"), "{answer}");
    assert_eq!(requests.load(Relaxed), 0);
}

#[tokio::test]
async fn retries_end_and_say_what_failed() {
    let cluster = Arc::new(cluster("cart.shop:80", first_then(nobody().await, nobody().await)));
    let one = sidecar(route(&cluster), Version::Http1).await;
    let answer = exchange_raw(one.address, GET).await;
    assert!(answer.contains("malla-reason: connect_refused"), "the cause itself: {answer}");
    let retry = Retry { attempts: 2, ..Retry::default() };
    let three = sidecar(Route { retry, ..route(&cluster) }, Version::Http1).await;
    let answer = exchange_raw(three.address, GET).await;
    assert!(answer.contains("malla-reason: retries_exhausted"), "{answer}");
    assert!(answer.contains("3 tries, the last: connect_refused: 127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn the_budget_bounds_retries() {
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(nobody().await)]));
    let sidecar = sidecar(route(&cluster), Version::Http1).await;
    let mut spent = 0;
    for _ in 0..10 {
        let answer = exchange_raw(sidecar.address, GET).await;
        spent += usize::from(answer.contains("malla-reason: retry_budget_spent"));
    }
    assert!(spent >= 4, "{spent} of 10 met the end of the budget");
}

#[tokio::test]
async fn an_endpoint_that_has_gone_costs_no_request_however_many_come_at_once() {
    let (alive, requests, _running) = ok().await;
    let cluster = Arc::new(cluster("cart.shop:80", first_then(nobody().await, alive)));
    let sidecar = sidecar(route(&cluster), Version::Http1).await;
    let answers = (0..50).map(|_| exchange_raw(sidecar.address, POST));
    for answer in futures_util::future::join_all(answers).await {
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    assert_eq!(requests.load(Relaxed), 50);
}

/// An application that closes its second connection's… first answered connection when the next request comes on it.
async fn closes_when_used_again() -> (SocketAddr, Arc<AtomicUsize>, impl Sized) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let (address, running) = scripted(move |number, mut socket| {
        let counter = counter.clone();
        async move {
            read_until(&mut socket, "\r\n\r\n").await;
            counter.fetch_add(1, Relaxed);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            if number == 0 {
                // The race: the next request arrives, and the connection is closed without an answer.
                read_until(&mut socket, "\r\n\r\n").await;
                counter.fetch_add(1, Relaxed);
                return;
            }
            read_until(&mut socket, "never").await;
        }
    })
    .await;
    (address, requests, running)
}

/// Lets a connection of the pool grow old.
async fn grow_old(milliseconds: u64) {
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_millis(milliseconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_idle_connection_that_closes_costs_no_idempotent_request() {
    let (application, requests, _running) = closes_when_used_again().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(application)]));
    let sidecar = sidecar(route(&cluster), Version::Http1).await;
    assert!(exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
    grow_old(500).await;
    let answer = exchange_raw(sidecar.address, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((requests.load(Relaxed), retries(&sidecar)), (3, 1));
}

#[tokio::test]
async fn a_request_that_may_have_been_processed_is_never_repeated() {
    for (request, idle) in [(POST, 500), ("POST / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n", 500), (GET, 0)]
    {
        let (application, requests, _running) = closes_when_used_again().await;
        let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(application)]));
        let sidecar = sidecar(route(&cluster), Version::Http1).await;
        assert!(exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
        if idle > 0 {
            grow_old(idle).await;
        }
        let answer = exchange_raw(sidecar.address, request).await;
        assert!(answer.contains("malla-reason: upstream_reset"), "{request}: {answer}");
        assert_eq!((requests.load(Relaxed), retries(&sidecar)), (2, 0), "{request}");
    }
}

#[tokio::test]
async fn requests_that_cannot_be_repeated_get_no_old_connection() {
    let (application, requests, _running) = closes_when_used_again().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(application)]));
    let sidecar = sidecar(route(&cluster), Version::Http1).await;
    assert!(exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
    grow_old(2000).await;
    let answer = exchange_raw(sidecar.address, POST).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((requests.load(Relaxed), retries(&sidecar)), (2, 0));
}

/// An HTTP/2 application that refuses the first `refusals` streams with this code.
async fn refusing(refusals: usize, code: h2::Reason) -> (SocketAddr, Arc<AtomicUsize>, impl Sized) {
    let streams = Arc::new(AtomicUsize::new(0));
    let counter = streams.clone();
    let (address, running) = grpc::application(h2::server::Builder::new(), move |request, mut respond| {
        let number = counter.fetch_add(1, Relaxed);
        async move {
            let _request = request;
            if number < refusals {
                respond.send_reset(code);
            } else {
                let _ = respond.send_response(Response::new(()), true);
            }
        }
    })
    .await;
    (address, streams, running)
}

async fn get_over_http2(sidecar: &Listening) -> Response<h2::RecvStream> {
    let (client, _driving) = grpc::client(sidecar.address).await;
    let request = Request::get("http://cart/").body(()).expect("a request");
    let (response, _) = client.ready().await.expect("ready").send_request(request, true).expect("sent");
    response.await.expect("an answer")
}

fn http2(address: SocketAddr) -> Arc<Cluster> {
    Arc::new(Cluster { http: UpstreamHttp::Http2, ..cluster("cart.shop:80", vec![endpoint(address)]) })
}

#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let (application, streams, _running) = refusing(1, h2::Reason::REFUSED_STREAM).await;
    let sidecar = sidecar(route(&http2(application)), Version::Http2).await;
    assert_eq!(get_over_http2(&sidecar).await.status(), 200);
    assert_eq!(streams.load(Relaxed), 2);
}

#[tokio::test]
async fn a_stream_that_was_reset_otherwise_is_not_sent_again() {
    let (application, streams, _running) = refusing(1, h2::Reason::INTERNAL_ERROR).await;
    let sidecar = sidecar(route(&http2(application)), Version::Http2).await;
    let response = get_over_http2(&sidecar).await;
    assert_eq!((response.status().as_u16(), streams.load(Relaxed)), (502, 1));
    assert_eq!(response.headers()["malla-reason"], "upstream_reset");
}

/// An HTTP/2 application whose first connection ends with GOAWAY and this error code before any request is looked at.
async fn says_goodbye(code: u32) -> (SocketAddr, impl Sized) {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    scripted(move |number, mut socket| async move {
        let mut preface = [0; 24];
        let _ = socket.read_exact(&mut preface).await;
        let _ = socket.write_all(&frame(SETTINGS, 0, 0, &[])).await;
        let mut head = [0; 9];
        while socket.read_exact(&mut head).await.is_ok() {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let _ = socket.read_exact(&mut vec![0; length]).await;
            let answer = match head[3] {
                // A status of 200 (RFC 7541, Appendix A).
                HEADERS if number > 0 => frame(HEADERS, 0x5, 1, &[0x88]),
                HEADERS => frame(GOAWAY, 0, 0, &[[0; 4], code.to_be_bytes()].concat()),
                _ => continue,
            };
            let _ = socket.write_all(&answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_a_goodbye_left_unread_costs_no_budget_and_one_that_was_too_much_does() {
    for (code, status) in [(h2::Reason::NO_ERROR, 200), (h2::Reason::ENHANCE_YOUR_CALM, 503)] {
        let (application, _running) = says_goodbye(code.into()).await;
        let cluster = http2(application);
        cluster.retry_budget.set(0, 0, u32::MAX);
        let sidecar = sidecar(route(&cluster), Version::Http2).await;
        let answer = get_over_http2(&sidecar).await;
        assert_eq!(answer.status(), status, "{code:?}");
        let reason = answer.headers().get("malla-reason").map(|reason| reason.as_bytes());
        assert_eq!(reason, (status == 503).then_some(&b"retry_budget_spent"[..]), "{code:?}");
    }
}

#[tokio::test]
async fn a_refused_stream_whose_body_was_read_is_not_sent_again() {
    let (application, streams, _running) = refusing(1, h2::Reason::REFUSED_STREAM).await;
    let sidecar = sidecar(route(&http2(application)), Version::Http2).await;
    let (client, _driving) = grpc::client(sidecar.address).await;
    let request = Request::post("http://cart/").body(()).expect("a request");
    let (response, mut stream) = client.ready().await.expect("ready").send_request(request, false).expect("sent");
    stream.send_data(Bytes::from_static(b"abc"), true).expect("sent");
    assert_eq!(response.await.expect("an answer").status(), 502);
    assert_eq!(streams.load(Relaxed), 1);
}

#[tokio::test]
async fn another_sidecars_dead_application_is_avoided() {
    let (alive, _requests, _running) = ok().await;
    let dead_side = inbound(nobody().await, UpstreamHttp::Http1).await;
    let alive_side = inbound(alive, UpstreamHttp::Http1).await;
    let mut cluster = meshed(&[dead_side.address, alive_side.address]);
    let endpoints: Vec<Endpoint> = meshed_in_order(&cluster, &[dead_side.address, alive_side.address]);
    cluster.endpoints = crate::snapshot::Endpoints::Set(endpoints.into_iter().map(Arc::new).collect());
    let sidecar = sidecar(route(&Arc::new(cluster)), Version::Http1).await;
    let answer = exchange_raw(sidecar.address, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(counted(&sidecar.worker, "malla_retries_total", &["connect_refused"]), 1);
}

/// The same endpoints, in this order: each of a lower priority than the one before.
fn meshed_in_order(cluster: &Cluster, order: &[SocketAddr]) -> Vec<Endpoint> {
    let crate::snapshot::Endpoints::Set(set) = &cluster.endpoints else { return Vec::new() };
    let ordered = order.iter().filter_map(|address| set.iter().find(|known| known.address == *address));
    let prioritized = |(known, priority): (&Arc<Endpoint>, u32)| Endpoint {
        identity: known.identity.clone(),
        priority,
        ..endpoint(known.address)
    };
    ordered.zip(0..).map(prioritized).collect()
}

#[tokio::test]
async fn no_request_fails_while_a_replica_is_drained() {
    let (application, _requests, _running) = ok().await;
    let leaving = inbound(application, UpstreamHttp::Http1).await;
    let staying = inbound(application, UpstreamHttp::Http1).await;
    let cluster = Arc::new(meshed(&[leaving.address, staying.address]));
    let sidecar = sidecar(route(&cluster), Version::Http1).await;
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (address, done) = (sidecar.address, done.clone());
            tokio::spawn(async move {
                for _ in 0..60 {
                    let answer = exchange_raw(address, GET).await;
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    done.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    super::super::testing::eventually("half of the requests are done", || done.load(Relaxed) > 120).await;
    leaving.worker.shared.drain.begin();
    super::super::testing::eventually("more are done", || done.load(Relaxed) > 240).await;
    drop(leaving); // its listener closes
    for client in clients {
        client.await.expect("no request failed");
    }
}

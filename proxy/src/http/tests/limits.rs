//! The pool: what is shared, what is bounded, what is replaced.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::stall;
use super::super::testing::{
    Listening, Pair, cluster, counted, endpoint, eventually, exchange_raw, guards, identity, knows, outbound,
    read_until, route, scripted, serves, worker,
};
use super::super::{Inbound, Side, Version, serve};
use super::grpc;
use super::http1::nowhere;
use crate::authorize::{Action, Authorization, Condition, Enforcement, Policy, RuleSet};
use crate::names::SpiffeId;
use crate::snapshot::{Cluster, Limits, Retry, Route, Snapshot, UpstreamHttp, ValueMatch};

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";

/// An HTTP/1 application that answers when it is let; it counts its requests and notes its connections.
async fn held() -> (SocketAddr, watch::Sender<bool>, Arc<AtomicUsize>, Arc<Mutex<HashSet<usize>>>, impl Sized) {
    let (let_go, gate) = watch::channel(false);
    let requests = Arc::new(AtomicUsize::new(0));
    let connections = Arc::new(Mutex::new(HashSet::new()));
    let (counter, numbers) = (requests.clone(), connections.clone());
    let (address, running) = scripted(move |number, mut socket| {
        let (mut gate, counter, numbers) = (gate.clone(), counter.clone(), numbers.clone());
        async move {
            while !read_until(&mut socket, "\r\n\r\n").await.is_empty() {
                counter.fetch_add(1, Relaxed);
                numbers.lock().insert(number);
                let _ = gate.wait_for(|go| *go).await;
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (address, let_go, requests, connections, running)
}

async fn sidecar(cluster: Cluster, version: Version) -> Listening {
    outbound(worker(knows(route(&Arc::new(cluster))), "web"), version).await
}

#[tokio::test]
async fn too_many_requests_open_the_circuit() {
    let (application, let_go, requests, _connections, _running) = held().await;
    let limits = Limits { requests: 1, ..Limits::default() };
    let sidecar =
        sidecar(Cluster { limits, ..cluster("cart.shop:80", vec![endpoint(application)]) }, Version::Http1).await;
    let first = tokio::spawn(exchange_raw(sidecar.address, GET));
    eventually("the first is under way", || requests.load(Relaxed) == 1).await;
    let second = exchange_raw(sidecar.address, GET).await;
    assert!(second.contains("malla-reason: circuit_open"), "{second}");
    let_go.send_replace(true);
    assert!(first.await.expect("no panic").ends_with("ok"));
    assert!(exchange_raw(sidecar.address, GET).await.ends_with("ok"), "the circuit closes again");
}

#[tokio::test]
async fn a_connection_that_nobody_uses_makes_place_for_one_to_another_endpoint() {
    let (one, let_go, requests_of_one, _connections, _running) = held().await;
    let (two, let_other_go, requests_of_two, _other_connections, _running_too) = held().await;
    let_go.send_replace(true);
    let_other_go.send_replace(true);
    let limits = Limits { connections: 1, pending: 1, ..Limits::default() };
    let cluster = Cluster { limits, ..cluster("cart.shop:80", vec![endpoint(one), endpoint(two)]) };
    let sidecar = sidecar(cluster, Version::Http1).await;
    for _ in 0..40 {
        let answer = exchange_raw(sidecar.address, GET).await;
        assert!(answer.ends_with("ok"), "{answer}");
    }
    let each = || [&requests_of_one, &requests_of_two].map(|requests| requests.load(Relaxed));
    assert!(each().iter().all(|requests| *requests > 0), "{:?}", each());
    let before: usize = each().iter().sum();
    // While the only connection is in use there is no place for another, and it is said at once.
    let_go.send_replace(false);
    let_other_go.send_replace(false);
    let first = tokio::spawn(exchange_raw(sidecar.address, GET));
    eventually("the first is under way", || each().iter().sum::<usize>() > before).await;
    let mut refused = 0;
    for _ in 0..10 {
        let answer = tokio::time::timeout(Duration::from_millis(100), exchange_raw(sidecar.address, GET)).await;
        refused += usize::from(answer.is_ok_and(|answer| answer.contains("malla-reason: circuit_open")));
    }
    assert!(refused > 0);
    let_go.send_replace(true);
    let_other_go.send_replace(true);
    assert!(first.await.expect("no panic").ends_with("ok"));
}

#[tokio::test]
async fn connections_that_nobody_uses_are_closed_in_the_end() {
    let (application, let_go, _requests, _connections, _running) = held().await;
    let_go.send_replace(true);
    let sidecar = sidecar(cluster("cart.shop:80", vec![endpoint(application)]), Version::Http1).await;
    assert!(exchange_raw(sidecar.address, GET).await.ends_with("ok"));
    let closed = || counted(&sidecar.worker, "malla_upstream_connections_closed_total", &[]);
    assert_eq!(closed(), 0, "it is kept for the next request");
    // It is looked at once an hour: one that was used since the last look stays until the next.
    for _ in 0..2 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3600)).await;
        tokio::time::resume();
    }
    eventually("the connection is closed", || closed() == 1).await;
}

#[tokio::test]
async fn requests_wait_for_a_connection_within_the_limits() {
    let (application, let_go, requests, connections, _running) = held().await;
    let limits = Limits { connections: 1, pending: 1, ..Limits::default() };
    let cluster = Arc::new(Cluster { limits, ..cluster("cart.shop:80", vec![endpoint(application)]) });
    let sidecar = outbound(worker(knows(route(&cluster)), "web"), Version::Http1).await;
    let first = tokio::spawn(exchange_raw(sidecar.address, GET));
    eventually("the first is under way", || requests.load(Relaxed) == 1).await;
    let second = tokio::spawn(exchange_raw(sidecar.address, GET));
    eventually("the second waits", || cluster.usage.pending() == 1).await;
    let third = exchange_raw(sidecar.address, GET).await;
    assert!(third.contains("malla-reason: circuit_open"), "{third}");
    let_go.send_replace(true);
    for answer in [first, second] {
        assert!(answer.await.expect("no panic").ends_with("ok"));
    }
    assert_eq!(connections.lock().len(), 1, "they shared it");
    eventually("all places are given back", || cluster.usage.requests() == 0 && cluster.usage.pending() == 0).await;
}

#[tokio::test]
async fn who_waits_gets_a_connection_that_can_send() {
    let (application, let_go, requests, connections, _running) = held().await;
    let limits = Limits { connections: 1, pending: 100, pending_timeout: Duration::from_secs(20), ..Limits::default() };
    let cluster = Arc::new(Cluster { limits, ..cluster("cart.shop:80", vec![endpoint(application)]) });
    let retry = Retry { attempts: 0, ..Retry::default() };
    let sidecar = outbound(worker(knows(Route { retry, ..route(&cluster) }), "web"), Version::Http1).await;
    let asking: Vec<_> = (0..30).map(|_| tokio::spawn(exchange_raw(sidecar.address, GET))).collect();
    eventually("one is under way, and all others wait", || {
        requests.load(Relaxed) == 1 && cluster.usage.pending() == 29
    })
    .await;
    let_go.send_replace(true);
    for answer in asking {
        let answer = answer.await.expect("no panic");
        assert!(answer.ends_with("ok"), "{answer}");
    }
    assert_eq!(connections.lock().len(), 1, "they shared it");
}

#[tokio::test]
async fn waiting_is_bounded_in_time() {
    let (application, _let_go, requests, _connections, _running) = held().await;
    let limits = Limits { connections: 1, ..Limits::default() };
    let sidecar =
        sidecar(Cluster { limits, ..cluster("cart.shop:80", vec![endpoint(application)]) }, Version::Http1).await;
    let _first = tokio::spawn(exchange_raw(sidecar.address, GET));
    eventually("the first is under way", || requests.load(Relaxed) == 1).await;
    let begun = std::time::Instant::now();
    let second = exchange_raw(sidecar.address, GET).await;
    assert!(second.contains("malla-reason: circuit_open"), "{second}");
    assert!(begun.elapsed().as_millis() >= 1000);
}

#[tokio::test]
async fn connections_are_used_again() {
    let (application, let_go, _requests, connections, _running) = held().await;
    let_go.send_replace(true);
    let sidecar = sidecar(cluster("cart.shop:80", vec![endpoint(application)]), Version::Http1).await;
    for _ in 0..5 {
        assert!(exchange_raw(sidecar.address, GET).await.ends_with("ok"));
    }
    assert_eq!(connections.lock().len(), 1);
    let labels = ["cluster=\"cart.shop:80\""];
    assert_eq!(counted(&sidecar.worker, "malla_upstream_connections_opened_total", &labels), 1);
}

/// Rapid reset: whoever waits for a connection has gone when it is there. (The lock of the host's state was held twice then, and the
/// worker stood still for ever.)
#[tokio::test]
async fn requests_that_are_given_up_while_they_wait_for_a_connection_block_nobody() {
    let answer = async |_, mut respond: h2::server::SendResponse<Bytes>| {
        let _ = respond.send_response(Response::new(()), true);
    };
    let (application, _running) = grpc::application(h2::server::Builder::new(), answer).await;
    let upstream = Cluster { http: UpstreamHttp::Http2, ..cluster("cart.shop:80", vec![endpoint(application)]) };
    let usage = upstream.usage.clone();
    let sidecar = sidecar(upstream, Version::Http2).await;
    let (mut client, _driving) = grpc::client(sidecar.address).await;
    for _ in 0..5 {
        // Together in one write.
        let (_, mut stream) = grpc::send(&mut client, grpc::call("/")).await;
        stream.send_reset(h2::Reason::CANCEL);
    }
    eventually("they have gone", || usage.requests() == 0 && usage.pending() == 0).await;
    let (response, _stream) = grpc::send(&mut client, grpc::call("/")).await;
    let answered = tokio::time::timeout(Duration::from_secs(5), response).await.expect("the worker goes on");
    assert_eq!(answered.expect("a response").status(), 200);
}

#[tokio::test]
async fn many_requests_share_few_connections_within_the_peers_limit() {
    let connections = Arc::new(AtomicUsize::new(0));
    let (counter, (let_go, gate)) = (connections.clone(), watch::channel(false));
    let (application, _running) = scripted(move |_, socket| {
        counter.fetch_add(1, Relaxed);
        let gate = gate.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            let Ok(mut connection) = builder.max_concurrent_streams(4).handshake::<_, Bytes>(socket).await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut gate = gate.clone();
                tokio::spawn(async move {
                    let _ = gate.wait_for(|go| *go).await;
                    let _ = respond.send_response(Response::new(()), true);
                });
            }
        }
    })
    .await;
    let upstream = Cluster { http: UpstreamHttp::Http2, ..cluster("cart.shop:80", vec![endpoint(application)]) };
    let usage = upstream.usage.clone();
    let sidecar = sidecar(upstream, Version::Http2).await;
    let (client, _driving) = grpc::client(sidecar.address).await;
    let mut responses = Vec::new();
    for number in 1..=10 {
        let request = Request::get("http://cart/").body(()).expect("a request");
        let (response, _) = client.clone().ready().await.expect("ready").send_request(request, true).expect("sent");
        responses.push(response);
        // One after the other: the peer's limit is known from the second request on.
        eventually("it is under way", || usage.requests() == number && usage.pending() == 0).await;
    }
    let_go.send_replace(true);
    for response in responses {
        assert_eq!(response.await.expect("an answer").status(), 200);
    }
    let connections = connections.load(Relaxed);
    assert!((3..=4).contains(&connections), "10 streams, 4 at most on each: {connections} connections");
}

#[tokio::test]
async fn a_new_certificate_means_new_connections_and_old_ones_finish() {
    let (application, let_go, requests, _connections, _running) = held().await;
    let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
    let old = tokio::spawn(exchange_raw(pair.outbound.address, GET));
    eventually("the old one is under way", || requests.load(Relaxed) == 1).await;
    let opened = || counted(&pair.outbound.worker, "malla_upstream_connections_opened_total", &[]);
    let closed = || counted(&pair.outbound.worker, "malla_upstream_connections_closed_total", &[]);
    assert_eq!(opened(), 1);
    pair.outbound.worker.shared.identity.install(identity("web"));
    tokio::task::yield_now().await;
    let new = tokio::spawn(exchange_raw(pair.outbound.address, GET));
    eventually("there is a second connection", || opened() == 2).await;
    assert_eq!(closed(), 0, "the old one still carries a request");
    let_go.send_replace(true);
    assert!(old.await.expect("no panic").ends_with("ok"));
    assert!(new.await.expect("no panic").ends_with("ok"));
    eventually("the old one ends with its last request", || closed() == 1).await;
}

/// An HTTP/1 application that answers every request with its name.
async fn named(name: &'static str) -> (SocketAddr, impl Sized) {
    scripted(move |_, mut socket| async move {
        while !read_until(&mut socket, "\r\n\r\n").await.is_empty() {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

#[tokio::test]
async fn connections_that_live_follow_a_service_to_its_new_target() {
    let ((old, _one), (new, _other)) = (named("old").await, named("new").await);
    let pair = Pair::new(old, Version::Http1, UpstreamHttp::Http1).await;
    assert!(exchange_raw(pair.outbound.address, GET).await.ends_with("old"));
    pair.inbound.worker.shared.directory.replace(serves(new, UpstreamHttp::Http1));
    assert!(exchange_raw(pair.outbound.address, GET).await.ends_with("new"));
    assert_eq!(counted(&pair.outbound.worker, "malla_upstream_connections_opened_total", &[]), 1);
}

#[tokio::test]
async fn requests_are_for_those_who_may_from_the_next_one_on() {
    let (application, _running) = named("served").await;
    let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
        let address = pair.outbound.address;
        async move { exchange_raw(address, &request).await }
    };
    assert!(ask("/admin").await.ends_with("served"));
    let rules = |enforcement| {
        let web = Condition::Identity(ValueMatch::Exact("spiffe://test/ns/shop/sa/web".into()));
        let cart = Condition::Path(ValueMatch::Exact("/cart".into()));
        let policy = Policy { name: "shop/p/0".into(), permissions: vec![cart], principals: vec![web] };
        Authorization { sets: vec![RuleSet { action: Action::Allow, enforcement, policies: vec![policy] }] }
    };
    let directory = &pair.inbound.worker.shared.directory;
    directory.replace(guards(application, UpstreamHttp::Http1, rules(Enforcement::Shadow)));
    assert!(ask("/admin").await.ends_with("served"), "it is only audited");
    assert_eq!(counted(&pair.inbound.worker, "malla_authorization_audited_total", &["policy=\"none\""]), 1);
    directory.replace(guards(application, UpstreamHttp::Http1, rules(Enforcement::Enforced)));
    let denied = ask("/admin").await;
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");
    assert!(denied.contains("malla-reason: denied"), "{denied}");
    assert!(denied.contains("spiffe://test/ns/shop/sa/web to cart.shop:80"), "{denied}");
    assert!(ask("/x/../cart").await.ends_with("served"), "what is judged is what is forwarded");
    assert!(ask("/cart/%2e%2e/admin").await.contains("malla-reason: denied"));
    assert_eq!(counted(&pair.inbound.worker, "malla_authorization_denied_total", &["policy=\"none\""]), 2);
    assert_eq!(counted(&pair.inbound.worker, "malla_requests_total", &["reason=\"denied\""]), 2);
}

#[tokio::test]
async fn the_time_outs_of_a_route_are_kept() {
    let (application, _let_go, _requests, _connections, _running) = held().await;
    let limit = Some(Duration::from_millis(50));
    for (timeout, try_timeout, reason) in [(limit, None, "request_timeout"), (None, limit, "try_timeout")] {
        let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(application)]));
        let route = Route { timeout, try_timeout, ..route(&cluster) };
        let sidecar = outbound(worker(knows(route), "web"), Version::Http1).await;
        let answer = exchange_raw(sidecar.address, GET).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(answer.contains(&format!("malla-reason: {reason}")), "{answer}");
    }
}

/// An application whose answer is endless, and the bytes of it that were taken.
async fn endless() -> (SocketAddr, Arc<AtomicUsize>, impl Sized) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let counter = counter.clone();
        async move {
            read_until(&mut socket, "\r\n\r\n").await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while socket.write_all(&[0; 4096]).await.is_ok() {
                counter.fetch_add(4096, Relaxed);
            }
        }
    })
    .await;
    (address, taken, running)
}

/// Waits until nothing more is taken: every buffer on the way is full.
async fn fills_up(taken: &AtomicUsize) {
    let (mut before, mut since) = (0, std::time::Instant::now());
    eventually("the buffers are full", || {
        let now = taken.load(Relaxed);
        if now != before {
            (before, since) = (now, std::time::Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(300)
    })
    .await;
}

async fn five_minutes() {
    tokio::time::pause();
    tokio::time::advance(stall::LIMIT).await;
    tokio::time::resume();
}

#[tokio::test]
async fn clients_that_never_read_are_given_up_and_counted() {
    for version in [Version::Http1, Version::Http2] {
        let (application, taken, _running) = endless().await;
        let upstream = Cluster { http: UpstreamHttp::Http1, ..cluster("cart.shop:80", vec![endpoint(application)]) };
        let sidecar = sidecar(upstream, version).await;
        let (mut raw, mut multiplexed) = (None, None);
        match version {
            Version::Http1 => {
                let mut socket = TcpStream::connect(sidecar.address).await.expect("connected");
                socket.write_all(GET.as_bytes()).await.expect("sent");
                raw = Some(socket);
            }
            Version::Http2 => {
                let (client, driving) = grpc::client(sidecar.address).await;
                let request = Request::get("http://cart/").body(()).expect("a request");
                let (response, _) = client.ready().await.expect("ready").send_request(request, true).expect("sent");
                multiplexed = Some((response.await.expect("an answer"), driving));
            }
        }
        fills_up(&taken).await;
        let given_up = || counted(&sidecar.worker, "malla_requests_total", &["reason=\"idle_timeout\""]);
        assert_eq!(given_up(), 0);
        five_minutes().await;
        eventually("the request is given up", || given_up() == 1).await;
        drop((raw, multiplexed));
    }
}

#[tokio::test]
async fn concurrent_requests_share_one_attempt() {
    let (application, let_go, requests, _connections, _running) = held().await;
    let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
    let clients: Vec<_> = (0..20).map(|_| tokio::spawn(exchange_raw(pair.outbound.address, GET))).collect();
    eventually("all are under way", || requests.load(Relaxed) == 20).await;
    assert_eq!(counted(&pair.outbound.worker, "malla_upstream_connections_opened_total", &[]), 1);
    let_go.send_replace(true);
    for client in clients {
        assert!(client.await.expect("no panic").ends_with("ok"));
    }
}

/// What hyper and the HTTP/2 server allocate for a connection grows with these.
#[test]
fn a_connection_and_a_request_need_little_memory() {
    use super::super::exchange::{Arrived, begin, serve};
    use super::super::{Connection, Outbound, Side, body::Body, failure::Failure};
    let worker = worker(crate::snapshot::Snapshot::default(), "web");
    let side = Side::Outbound(Outbound::ByAuthority);
    let connection = Arc::new(Connection {
        worker: worker.clone(),
        side: side.clone(),
        http2: false,
        source: None,
        last_authority: Mutex::default(),
    });
    let head = Err(Failure::new(crate::reason::Reason::Internal, ""));
    let outcome = begin(&connection, &head);
    let arrived = Arrived { head, body: Body::empty(), read: None, outcome, gate: None, client: None };
    let request = std::mem::size_of_val(&serve(&connection, arrived));
    let served = std::mem::size_of_val(&super::super::serve(worker, tokio::io::duplex(1).0, Version::Http1, side));
    assert!(request < 8192 && served < 8192, "{request} bytes for a request, {served} for a connection");
}

#[tokio::test]
async fn a_request_on_which_nothing_moves_ends_and_one_that_trickles_does_not() {
    const IDLE: Duration = Duration::from_millis(400);
    // Says the head and then a byte every now and then, or nothing at all.
    let (address, _running) = scripted(|_, mut socket| async move {
        let head = read_until(&mut socket, "\r\n\r\n").await;
        if head.starts_with("GET /silent") {
            std::future::pending::<()>().await;
        }
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\n").await;
        let bytes = if head.starts_with("GET /trickle") { 6 } else { 3 };
        for _ in 0..bytes {
            tokio::time::sleep(IDLE / 3).await;
            let _ = socket.write_all(b"x").await;
        }
        std::future::pending::<()>().await;
    })
    .await;
    let cluster = Cluster { request_idle_timeout: Some(IDLE), ..cluster("cart.shop:80", vec![endpoint(address)]) };
    let sidecar = outbound(worker(knows(route(&Arc::new(cluster))), "web"), Version::Http1).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
    let silent = exchange_raw(sidecar.address, &get("/silent")).await;
    assert!(silent.starts_with("HTTP/1.1 504") && silent.contains("malla-reason: idle_timeout"), "{silent}");
    let trickle = exchange_raw(sidecar.address, &get("/trickle")).await;
    assert!(trickle.ends_with("\r\n\r\nxxxxxx"), "longer than the limit, but never still: {trickle}");
    let stops = exchange_raw(sidecar.address, &get("/stops")).await;
    assert!(stops.ends_with("\r\n\r\nxxx"), "cut short: {stops}");
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a connection on which so many requests are reset before anybody looks at them ends with: `true` if a request after
/// them is answered.
async fn survives(resets: u32, peer: Option<SpiffeId>) -> bool {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let request = |stream| frame(HEADERS, 0x5, stream, b"\x82\x86\x84\x41\x04cart");
    let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    for stream in (1..).step_by(2).take(resets as usize) {
        bytes.extend([request(stream), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat());
    }
    let last = 2 * resets + 1;
    bytes.extend(request(last));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(&bytes).await.expect("room");
    let side = Side::Inbound(Inbound { peer, ..nowhere() });
    let serving = tokio::spawn(serve(worker(Snapshot::default(), "cart"), server, Version::Http2, side));
    let answered = loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.expect("a frame");
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        client.read_exact(&mut vec![0; length]).await.expect("a payload");
        match (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])) {
            (GOAWAY, _) => break false,
            (HEADERS, stream) if stream == last => break true,
            _ => {}
        }
    };
    serving.abort();
    answered
}

#[tokio::test]
async fn resets_end_a_clients_connection_but_not_one_that_many_clients_share() {
    assert!(survives(10, None).await);
    assert!(!survives(200, None).await);
    assert!(survives(200, Some(identity("web").spiffe_id)).await);
    assert!(!survives(2000, Some(identity("web").spiffe_id)).await);
}

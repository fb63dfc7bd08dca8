//! HTTP/1 in raw bytes: framing, versions, pipelining, trailers, expectations, half-closed and slow clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::testing::{
    Pair, cluster, counted, endpoint, eventually, exchange_raw, http_proxy, knows, outbound, read_until, route,
    scripted, worker,
};
use super::super::{Inbound, Side, Version, serve};
use crate::memory::Memory;
use crate::settings::MemoryLimit;
use crate::snapshot::{Cluster, Snapshot, UpstreamHttp};

/// What an application was asked, one text per head.
type Seen = Arc<Mutex<Vec<String>>>;

/// An application that answers each request without a body with these bytes.
async fn answers(answer: &'static str) -> (SocketAddr, Seen, impl Sized) {
    let seen = Seen::default();
    let asked = seen.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let asked = asked.clone();
        async move {
            loop {
                let request = read_until(&mut socket, "\r\n\r\n").await;
                if request.is_empty() {
                    return;
                }
                asked.lock().push(request);
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (address, seen, running)
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: x\r\n\r\nhello";

async fn pair(application: SocketAddr) -> Pair {
    Pair::new(application, Version::Http1, UpstreamHttp::AsReceived).await
}

#[tokio::test]
async fn carries_a_request_through_two_sidecars() {
    let (application, seen, _running) = answers(HELLO).await;
    let pair = pair(application).await;
    let request = "GET /a?b HTTP/1.1\r\nhost: Cart\r\nx-a: 1\r\nmalla-http: 2\r\nconnection: close, x-a\r\n\r\n";
    let answer = exchange_raw(pair.outbound.address, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nserver: x\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.contains("date:"), "nothing is added: {answer}");
    let seen = seen.lock().clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0], "GET /a?b HTTP/1.1\r\nhost: cart\r\n\r\n", "nothing else reaches the application");
    let labels =
        ["service=\"cart.shop:80\"", "status=\"200\"", "protocol=\"http/1.1\"", "mtls=\"true\"", "reason=\"\""];
    for sidecar in [&pair.outbound.worker, &pair.inbound.worker] {
        eventually("both count it", || counted(sidecar, "malla_requests_total", &labels) == 1).await;
    }
}

#[tokio::test]
async fn answers_pipelined_requests_in_order_over_one_connection() {
    let (application, _running) = scripted(|number, mut socket| async move {
        loop {
            let request = read_until(&mut socket, "\r\n\r\n").await;
            let Some(path) = request.split(' ').nth(1) else { return };
            let body = format!("{number}{path}");
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let pair = pair(application).await;
    let request = "GET /1 HTTP/1.1\r\nhost: cart\r\n\r\nGET /2 HTTP/1.1\r\nhost: cart\r\n\r\n\
                   GET /3 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
    let answer = exchange_raw(pair.outbound.address, request).await;
    let bodies: Vec<&str> = answer.split("\r\n\r\n").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(bodies, ["0/1", "0/2", "0/3"], "in order, and the application's connection is kept: {answer}");
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let (application, _running) = scripted(|_, mut socket| async move {
        let request = read_until(&mut socket, "x-sum: 7\r\n\r\n").await;
        let whole = request.contains("transfer-encoding: chunked") && request.contains("abc") && request.contains("defg");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{whole:5}\r\n0\r\nx-end: 1\r\nhost: evil\r\n\r\n"
        );
        let _ = socket.write_all(answer.as_bytes()).await;
    })
    .await;
    let pair = pair(application).await;
    let request = "POST / HTTP/1.1\r\nhost: cart\r\nte: trailers\r\nconnection: te, close\r\ntrailer: x-sum\r\n\
                   transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n";
    let answer = exchange_raw(pair.outbound.address, request).await;
    assert!(answer.contains("5\r\ntrue \r\n0\r\nx-end: 1\r\n\r\n"), "{answer}");
    assert!(!answer.contains("evil"), "{answer}");
}

#[tokio::test]
async fn old_clients_get_answers_that_they_understand() {
    let (application, seen, _running) =
        answers("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let pair = pair(application).await;
    let answer = exchange_raw(pair.outbound.address, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "the end of the connection ends the body: {answer}");
    assert!(!answer.contains("chunked"), "{answer}");
    assert!(seen.lock()[0].contains("host: cart.shop\r\n"), "the application gets a host: {:?}", seen.lock());
}

#[tokio::test]
async fn old_clients_may_keep_their_connection() {
    let (application, _seen, _running) = answers(HELLO).await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    for _ in 0..2 {
        socket.write_all(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.expect("sent");
        let answer = read_until(&mut socket, "hello").await;
        assert!(answer.contains("connection: keep-alive"), "{answer}");
    }
}

#[tokio::test]
async fn answers_without_body_keep_their_headers_and_the_connection() {
    let (application, _running) = scripted(|_, mut socket| async move {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nx-n: 204\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n\r\n",
            HELLO,
        ] {
            read_until(&mut socket, "\r\n\r\n").await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    for (method, expected) in
        [("HEAD", "content-length: 1000"), ("GET", "x-n: 204"), ("GET", "etag: \"e\""), ("GET", "content-length: 5")]
    {
        let request = format!("{method} / HTTP/1.1\r\nhost: cart\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let answer = read_until(&mut socket, "\r\n\r\n").await;
        assert!(answer.contains(expected), "{answer}");
        assert!(!answer.contains("chunked"), "{answer}");
    }
}

/// An application that decides about a request when it has seen its head.
async fn expecting(head: &'static str, then: &'static str) -> (SocketAddr, Seen, impl Sized) {
    let seen = Seen::default();
    let got = seen.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let got = got.clone();
        async move {
            let asked = read_until(&mut socket, "\r\n\r\n").await;
            got.lock().push(asked);
            let _ = socket.write_all(head.as_bytes()).await;
            if !then.is_empty() {
                let body = read_until(&mut socket, "body!").await;
                got.lock().push(body);
                let _ = socket.write_all(then.as_bytes()).await;
            }
            let _ = socket.read(&mut [0; 16]).await;
        }
    })
    .await;
    (address, seen, running)
}

const EXPECTING: &str = "POST / HTTP/1.1\r\nhost: cart\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn the_client_is_told_to_continue_when_the_application_says_so() {
    let (application, seen, _running) = expecting("HTTP/1.1 100 Continue\r\n\r\n", HELLO).await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(EXPECTING.as_bytes()).await.expect("sent");
    let interim = read_until(&mut socket, "\r\n\r\n").await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(seen.lock()[0].contains("expect: 100-continue"), "the expectation reaches the application");
    socket.write_all(b"body!").await.expect("sent");
    let answer = read_until(&mut socket, "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn the_client_is_not_told_to_continue_when_the_application_refuses() {
    let (application, seen, _running) =
        expecting("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n", "").await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(EXPECTING.as_bytes()).await.expect("sent");
    let answer = read_until(&mut socket, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 417 Expectation Failed\r\n"), "{answer}");
    assert_eq!(seen.lock().len(), 1);
}

/// An application that switches to an echo, if `switches`.
async fn echo(switches: bool) -> (SocketAddr, Seen, impl Sized) {
    let seen = Seen::default();
    let got = seen.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let got = got.clone();
        async move {
            let asked = read_until(&mut socket, "\r\n\r\n").await;
            got.lock().push(asked);
            if !switches {
                let _ = socket.write_all(HELLO.as_bytes()).await;
                read_until(&mut socket, "never").await;
                return;
            }
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: abc\r\n\r\nfirst";
            let _ = socket.write_all(head.as_bytes()).await;
            let (mut read, mut write) = socket.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.write_all(b"bye").await;
        }
    })
    .await;
    (address, seen, running)
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: cart\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

#[tokio::test]
async fn upgrades_become_tunnels_with_half_close() {
    let (application, seen, _running) = echo(true).await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(UPGRADE.as_bytes()).await.expect("sent");
    let head = read_until(&mut socket, "first").await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for header in ["upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-accept: abc\r\n"] {
        assert!(head.contains(header), "{head}");
    }
    assert!(!head.contains("malla"), "{head}");
    socket.write_all(b"ping").await.expect("sent");
    assert_eq!(read_until(&mut socket, "ping").await, "ping");
    socket.shutdown().await.expect("closed");
    assert_eq!(read_until(&mut socket, "bye").await, "bye", "the end passes, and what comes after it");
    let asked = seen.lock()[0].clone();
    assert!(asked.starts_with("GET /chat HTTP/1.1\r\n"), "{asked}");
    for header in
        ["upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"]
    {
        assert!(asked.contains(header), "{asked}");
    }
    let switched = ["status=\"101\"", "reason=\"\""];
    eventually("it is counted", || counted(&pair.outbound.worker, "malla_requests_total", &switched) == 1).await;
}

#[tokio::test]
async fn an_application_may_ignore_the_upgrade() {
    let (application, _seen, _running) = echo(false).await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(UPGRADE.as_bytes()).await.expect("sent");
    let answer = read_until(&mut socket, "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn what_comes_after_an_ignored_upgrade_is_read_as_strictly_as_any_request() {
    let (application, seen, _running) = answers(HELLO).await;
    let pair = pair(application).await;
    let next = "GET /next HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
    let answer = exchange_raw(pair.outbound.address, &format!("{UPGRADE}{next}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "it was HTTP all the same: {answer}");
    // Sent with the request for an upgrade, it must not get past the framing before the application has answered.
    for smuggled in ["GET /next HTTP/1.1\nhost: cart\n\n", "GET /next HTTP/1.1\r\nhost: cart\r\n folded\r\n\r\n"] {
        let answer = exchange_raw(pair.outbound.address, &format!("{UPGRADE}{smuggled}")).await;
        assert!(answer.contains("HTTP/1.1 200 OK") && answer.contains("HTTP/1.1 400"), "{answer}");
    }
    let asked: Vec<String> = seen.lock().iter().filter_map(|head| Some(head.split(' ').nth(1)?.to_owned())).collect();
    assert_eq!(asked, ["/chat", "/next", "/chat", "/chat"]);
}

#[tokio::test]
async fn a_body_whose_chunks_can_be_read_in_two_ways_ends_its_request() {
    let (application, _running) = scripted(|_, mut socket| async move {
        let seen = read_until(&mut socket, "0\r\n\r\n").await;
        assert!(!seen.ends_with("0\r\n\r\n"), "cut short, not complete: {seen}");
    })
    .await;
    let pair = pair(application).await;
    let request = "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\nabc\n0\n\n";
    let answer = tokio::time::timeout(Duration::from_secs(20), exchange_raw(pair.outbound.address, request)).await;
    assert!(!answer.expect("it does not wait for more").contains(" 200 "));
    let refused = || counted(&pair.outbound.worker, "malla_connections_refused_total", &["protocol_error"]);
    eventually("it is counted", || refused() == 1).await;
}

#[tokio::test]
async fn what_is_sent_before_the_switch_arrives_after_it() {
    let (application, seen, _running) = echo(true).await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(format!("{UPGRADE}GET / HTTP/1.1\r\n\r\n").as_bytes()).await.expect("sent");
    let answer = read_until(&mut socket, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(seen.lock()[0].ends_with("\r\n\r\n") && !seen.lock()[0].contains("GET / "), "{:?}", seen.lock());
}

#[tokio::test]
async fn invalid_requests_are_refused_and_counted() {
    let (application, seen, _running) = answers(HELLO).await;
    let pair = pair(application).await;
    let both = "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let big = format!("GET / HTTP/1.1\r\nhost: cart\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nhost: cart\r\n{}\r\n", "x: 1\r\n".repeat(101));
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nx: y\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost: cart\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost : cart\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost: cart\r\nx: a\0b\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost: cart\r\ncontent-length: +5\r\n\r\nhello", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", "HTTP/1.1 400"),
        ("GET http://cart/ HTTP/1.1\r\nhost: bank\r\n\r\n", "HTTP/1.1 400"),
        ("POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nhost: cart\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx", "HTTP/1.1 400"),
        ("\x16\x03\x01\x02garbage\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\nhost: cart\n\n", "HTTP/1.1 400 Bad Request\r\nmalla-reason: protocol_error"),
        (both, "HTTP/1.1 400 Bad Request\r\nmalla-reason: protocol_error"),
        (&*big, "HTTP/1.1 431"),
        (&*many, "HTTP/1.1 431"),
    ] {
        let answer = exchange_raw(pair.outbound.address, request).await;
        assert!(answer.starts_with(expected), "{:.60}: {answer}", request);
    }
    assert!(seen.lock().is_empty(), "none of them reaches the application");
    let told = exchange_raw(pair.outbound.address, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(told.contains("malla-reason: protocol_error"), "{told}");
    assert!(
        told.contains("protocol_error: the client's bytes are not a valid request (the request has no Host"),
        "{told}"
    );
    // The heads of these were good: their bodies are not, which is no going away.
    for (body, what) in [
        ("xyz\r\n", "a chunk has no valid size"),
        ("1 x\r\na\r\n0\r\n\r\n", "Invalid chunk size"),
        ("0\r\nx y: z\r\n\r\n", "invalid header name"),
    ] {
        let body = format!("POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let told = exchange_raw(pair.outbound.address, &body).await;
        assert!(told.starts_with("HTTP/1.1 400") && told.contains(what), "{told}");
        assert!(told.contains("malla-reason: protocol_error"), "{told}");
    }
    let refused = |reason| counted(&pair.outbound.worker, "malla_connections_refused_total", &[reason]);
    assert_eq!((refused("protocol_error"), refused("headers_too_large")), (13, 2));
    let of_requests = || counted(&pair.outbound.worker, "malla_requests_total", &["reason=\"protocol_error\""]);
    eventually("requests with hosts or bodies that are wrong are counted", || of_requests() == 7).await;
}

#[tokio::test]
async fn each_refusal_of_a_head_has_status_reason_sentence_and_count() {
    let (application, seen, _running) = answers(HELLO).await;
    let pair = pair(application).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 16));
    let large = format!("GET / HTTP/1.1\r\nhost: cart\r\nx: {}\r\n\r\n", "a".repeat(1 << 16));
    let many = format!("GET / HTTP/1.1\r\nhost: cart\r\n{}\r\n", "x: 1\r\n".repeat(101));
    let mut counts = std::collections::BTreeMap::new();
    for (request, status, reason, what) in [
        ("G(T / HTTP/1.1\r\n", 400, "protocol_error", "the method has a character that no method has"),
        ("GET\r\n", 400, "protocol_error", "the request line has no target"),
        ("GET  HTTP/1.1\r\n", 400, "protocol_error", "the request line has a space too many"),
        ("GET /\r\n", 400, "protocol_error", "the request line has no version"),
        ("GET /a<b HTTP/1.1\r\n", 400, "protocol_error", "the target has a character or a form that no target has"),
        ("GET http:// HTTP/1.1\r\n", 400, "protocol_error", "the target has a character or a form that no target has"),
        ("GET / HTTP/1.7\r\n", 505, "protocol_error", "the version is neither HTTP/1.1 nor HTTP/1.0"),
        ("GET / HTCPCP/1.0\r\n", 400, "protocol_error", "the request line has no valid version"),
        ("GET / HTTP/1.1\r\nhost\r\n", 400, "protocol_error", "a header line has no colon"),
        ("GET / HTTP/1.1\r\n: a\r\n", 400, "protocol_error", "a header has no name"),
        ("GET / HTTP/1.1\r\nhost : a\r\n", 400, "protocol_error", "a header's name has a space in it or after it"),
        ("GET / HTTP/1.1\r\nx\0: a\r\n", 400, "protocol_error", "a header's name has a character that no name has"),
        ("GET / HTTP/1.1\r\nx: a\0\r\n", 400, "protocol_error", "a header's value has a control character in it"),
        ("GET / HTTP/1.1\r\nx: a\r\n b\r\n", 400, "protocol_error", "a header line is folded"),
        ("GET / HTTP/1.1\r\ncontent-length: +1\r\n", 400, "protocol_error", "the length is not a number of bytes"),
        (
            "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n",
            400,
            "protocol_error",
            "the request has a transfer coding in HTTP/1.0",
        ),
        (&*many, 431, "headers_too_large", "more than 100 headers"),
        (&*large, 431, "headers_too_large", "the head is larger than 64 KiB"),
        (&*long, 414, "headers_too_large", "the request line is longer than 64 KiB"),
    ] {
        let answer = exchange_raw(pair.outbound.address, request).await;
        let request: String = request.chars().take(60).collect();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        assert!(head.contains(&format!("malla-reason: {reason}\r\n")), "{request:?}: {head}");
        assert!(head.contains("connection: close"), "{request:?}: {head}");
        assert!(body.starts_with(&format!("{reason}: ")) && body.contains(what), "{request:?}: {body}");
        let count = counts.entry(reason).or_insert(0);
        *count += 1;
        assert_eq!(counted(&pair.outbound.worker, "malla_connections_refused_total", &[reason]), *count, "{request:?}");
    }
    assert!(seen.lock().is_empty(), "none of them reaches the application");
    let answer = exchange_raw(pair.outbound.address, "GET / HTTP/1.1\r\nhost: cart\r\n\r\nGET / HTTP/3.0\r\n").await;
    assert!(answer.contains("\r\n\r\nhelloHTTP/1.1 505 "), "what came before is answered: {answer}");
}

#[tokio::test]
async fn only_sidecars_give_reasons() {
    let (application, _seen, _running) =
        answers("HTTP/1.1 503 Service Unavailable\r\nmalla-reason: draining\r\ncontent-length: 2\r\n\r\nno").await;
    let pair = pair(application).await;
    let answer = exchange_raw(pair.outbound.address, "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("no"), "{answer}");
    assert!(!answer.contains("malla-reason"), "{answer}");
}

#[tokio::test]
async fn a_dead_application_is_named_by_its_sidecar() {
    let (application, _seen, running) = answers(HELLO).await;
    let pair = pair(application).await;
    drop(running);
    let answer = exchange_raw(pair.outbound.address, "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("malla-reason: connect_refused"), "{answer}");
    assert!(answer.contains(&application.to_string()), "{answer}");
    let labels = ["reason=\"connect_refused\"", "status=\"503\""];
    eventually("the outbound side knows too", || counted(&pair.outbound.worker, "malla_requests_total", &labels) == 1)
        .await;
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_answer() {
    let (application, _seen, _running) = answers(HELLO).await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
    socket.shutdown().await.expect("closed");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer and its end");
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn a_client_that_has_gone_cancels_the_applications_work() {
    let (gone, when_gone) = tokio::sync::oneshot::channel();
    let gone = Arc::new(Mutex::new(Some(gone)));
    let (application, _running) = scripted(move |_, mut socket| {
        let gone = gone.clone();
        async move {
            read_until(&mut socket, "\r\n\r\n").await;
            // It answers for ever; reading nothing more is the cancellation.
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
            gone.lock().take().map(|gone| gone.send(()));
        }
    })
    .await;
    let pair = pair(application).await;
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
    read_until(&mut socket, "xxxx").await;
    drop(socket);
    when_gone.await.expect("the application's connection is closed");
    let labels = ["reason=\"client_reset\""];
    eventually("it is counted", || counted(&pair.outbound.worker, "malla_requests_total", &labels) == 1).await;
}

/// The side of a workload that the configuration does not know.
pub(super) fn nowhere() -> Inbound {
    Inbound {
        service: "cart.shop:80".into(),
        port: 80,
        peer: None,
        proof: None,
        source: std::net::Ipv4Addr::LOCALHOST.into(),
        original_destination: None,
        before: None,
    }
}

#[tokio::test]
async fn heads_that_do_not_end_are_given_up_at_once_without_memory() {
    let mut worker = worker(Snapshot::default(), "cart");
    let own = Arc::get_mut(&mut worker).and_then(|worker| Arc::get_mut(&mut worker.shared)).expect("nobody else's");
    own.memory = Memory::new(MemoryLimit::Bytes(1 << 16));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let serving = tokio::spawn(serve(worker.clone(), server, Version::Http1, Side::Inbound(nowhere())));
    client.write_all(b"GET / HTTP/1.1\r\nx: ").await.expect("sent");
    let mut pieces = 0;
    while client.write_all(b"not the end of it").await.is_ok() && pieces < 10_000 {
        pieces += 1;
        tokio::task::yield_now().await;
    }
    assert!(pieces > 10, "nobody had looked yet");
    assert!(pieces < 10_000, "it reads on");
    serving.await.expect("no panic");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("overloaded"), "{answer}");
    let labels = ["direction=\"inbound\"", "reason=\"overloaded\""];
    assert_eq!(counted(&worker, "malla_connections_refused_total", &labels), 1);
}

#[tokio::test(start_paused = true)]
async fn heads_that_do_not_end_are_given_up() {
    let worker = worker(Snapshot::default(), "cart");
    let side = nowhere();
    let (mut client, server) = tokio::io::duplex(1024);
    let serving = tokio::spawn(serve(worker.clone(), server, Version::Http1, Side::Inbound(side)));
    client.write_all(b"GET / HTTP/1.1\r\nhost: ca").await.expect("sent");
    let begun = tokio::time::Instant::now();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(begun.elapsed().as_secs(), 10);
    serving.await.expect("it ends");
    assert_eq!(counted(&worker, "malla_connections_refused_total", &["header_timeout"]), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_kept_for_an_hour() {
    let worker = worker(Snapshot::default(), "cart");
    let side = nowhere();
    let (mut client, server) = tokio::io::duplex(1024);
    tokio::spawn(serve(worker, server, Version::Http1, Side::Inbound(side)));
    client.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
    let mut piece = [0; 1024];
    assert!(client.read(&mut piece).await.expect("an answer") > 0);
    let begun = tokio::time::Instant::now();
    while client.read(&mut piece).await.expect("no error") > 0 {}
    assert!((3600..=7200).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn works_as_http_proxy() {
    let (application, seen, _running) = answers(HELLO).await;
    let plain = Arc::new(Cluster { http: UpstreamHttp::Http1, ..cluster("cart.shop:80", vec![endpoint(application)]) });
    let proxy = http_proxy(worker(knows(route(&plain)), "web")).await;
    for request in [
        "GET http://cart/x HTTP/1.1\r\nhost: cart\r\nproxy-authorization: x\r\nproxy-connection: close\r\nconnection: close\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: cart.shop.svc.cluster.local\r\nconnection: close\r\n\r\n",
    ] {
        let answer = exchange_raw(proxy.address, request).await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    let hosts = ["cart", "cart.shop.svc.cluster.local"];
    for (seen, host) in seen.lock().iter().zip(hosts) {
        assert_eq!(*seen, format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    }
    let unknown = exchange_raw(proxy.address, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(unknown.starts_with("HTTP/1.0 400") && unknown.contains("names no host"), "{unknown}");
}

#[tokio::test]
async fn draining_closes_connections_after_their_answer() {
    let (application, _seen, _running) = answers(HELLO).await;
    let plain = Arc::new(cluster("cart.shop:80", vec![endpoint(application)]));
    let sidecar = outbound(worker(knows(route(&plain)), "web"), Version::Http1).await;
    let mut idle = TcpStream::connect(sidecar.address).await.expect("connected");
    let mut busy = TcpStream::connect(sidecar.address).await.expect("connected");
    for socket in [&mut idle, &mut busy] {
        socket.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
        read_until(socket, "hello").await;
    }
    busy.write_all(b"GET / HTTP/1.1\r\nho").await.expect("sent");
    tokio::task::yield_now().await;
    sidecar.worker.shared.drain.begin();
    assert_eq!(idle.read(&mut [0; 16]).await.expect("closed in order"), 0);
    let _ = tokio::time::timeout(Duration::from_secs(5), busy.write_all(b"st: cart\r\n\r\n")).await;
    let answer = read_until(&mut busy, "hello").await;
    assert!(answer.is_empty() || answer.contains("connection: close"), "{answer}");
}

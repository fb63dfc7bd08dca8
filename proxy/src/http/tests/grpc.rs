//! HTTP/2 and gRPC, frame by frame: the four kinds of calls, trailers, deadlines, cancellation, back-pressure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Request, Response};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::super::Version;
use super::super::testing::{Pair, cluster, counted, endpoint, eventually, knows, outbound, route, scripted, worker};
use crate::snapshot::{Cluster, UpstreamHttp};

/// An HTTP/2 application.
pub(super) async fn application<F, Fut>(builder: h2::server::Builder, serve: F) -> (SocketAddr, impl Sized)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    scripted(move |_, socket| {
        let (builder, serve) = (builder.clone(), serve.clone());
        async move {
            let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(serve(request, respond));
            }
        }
    })
    .await
}

/// An HTTP/2 client.
pub(super) async fn client(address: SocketAddr) -> (SendRequest<Bytes>, AbortOnDropHandle<()>) {
    let socket = TcpStream::connect(address).await.expect("connected");
    socket.set_nodelay(true).expect("an option");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        .handshake(socket)
        .await
        .expect("HTTP/2");
    let driving = tokio::spawn(async move {
        let _ = connection.await;
    });
    (client, AbortOnDropHandle::new(driving))
}

pub(super) fn call(path: &str) -> Request<()> {
    Request::post(format!("http://cart{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request")
}

fn ok() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("a response")
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().expect("a value"));
    trailers
}

async fn message(body: &mut RecvStream) -> Option<Bytes> {
    let data = body.data().await?.ok()?;
    let _ = body.flow_control().release_capacity(data.len());
    Some(data)
}

async fn collect(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut whole = Vec::new();
    while let Some(data) = message(&mut body).await {
        whole.extend_from_slice(&data);
    }
    (whole, body.trailers().await.ok().flatten())
}

/// Answers each message with itself, as it comes, and ends with status 0.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let Ok(mut stream) = respond.send_response(ok(), false) else { return };
    while let Some(data) = message(&mut body).await {
        if stream.send_data(data, false).is_err() {
            return;
        }
    }
    let _ = stream.send_trailers(status("0"));
}

async fn pair(application: SocketAddr) -> Pair {
    Pair::new(application, Version::Http2, UpstreamHttp::AsReceived).await
}

pub(super) async fn send(client: &mut SendRequest<Bytes>, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
    let mut ready = client.clone().ready().await.expect("ready");
    ready.send_request(request, false).expect("sent")
}

#[tokio::test]
async fn messages_flow_in_both_directions_before_either_ends() {
    let (application, _running) = application(h2::server::Builder::new(), echo).await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let (response, mut stream) = send(&mut client, call("/s/m")).await;
    let response = response.await.expect("a head, before any message");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for number in 0..3_u8 {
        stream.send_data(Bytes::from(vec![number; 5]), false).expect("sent");
        assert_eq!(message(&mut body).await.as_deref(), Some(&[number; 5][..]));
    }
    stream.send_data(Bytes::new(), true).expect("ended");
    let (rest, trailers) = collect(body).await;
    assert!(rest.is_empty());
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    let labels = ["protocol=\"grpc\"", "grpc_status=\"0\"", "status=\"200\"", "reason=\"\""];
    for sidecar in [&pair.outbound.worker, &pair.inbound.worker] {
        eventually("both count it", || counted(sidecar, "malla_requests_total", &labels) == 1).await;
    }
}

#[tokio::test]
async fn request_trailers_and_trailers_only_answers_pass() {
    let (application, _running) = application(h2::server::Builder::new(), |request, mut respond| async move {
        let headers = request.headers().clone();
        let (_, trailers) = collect(request.into_body()).await;
        let told = trailers.is_some_and(|trailers| trailers.contains_key("x-sum"));
        assert_eq!(headers.get("te").map(|te| te.as_bytes()), Some(&b"trailers"[..]));
        assert!(!headers.contains_key("malla-http"), "it is for the sidecar");
        let mut head = ok();
        head.headers_mut().extend(status(if told { "5" } else { "3" }));
        let _ = respond.send_response(head, true);
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let (response, mut stream) = send(&mut client, call("/s/m")).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().expect("a value"));
    stream.send_data(Bytes::from_static(b"abc"), false).expect("sent");
    stream.send_trailers(trailers).expect("sent");
    let response = response.await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(response.body().is_end_stream(), "it is trailers-only");
}

#[tokio::test]
async fn the_callers_deadline_is_kept() {
    let (seen, mut cancelled) = tokio::sync::mpsc::unbounded_channel();
    let (application, _running) = application(h2::server::Builder::new(), move |request, mut respond| {
        let seen = seen.clone();
        async move {
            assert!(request.headers().contains_key("grpc-timeout"));
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            let _ = seen.send(reset.ok());
        }
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let mut request = call("/s/m");
    request.headers_mut().insert("grpc-timeout", "100m".parse().expect("a value"));
    let (response, _stream) = send(&mut client, request).await;
    let response = response.await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "4", "DEADLINE_EXCEEDED");
    assert_eq!(response.headers()["malla-reason"], "request_timeout");
    assert_eq!(cancelled.recv().await, Some(Some(h2::Reason::CANCEL)), "the server is told");
}

#[tokio::test]
async fn a_deadline_within_the_response_ends_in_trailers() {
    let (application, _running) = application(h2::server::Builder::new(), |_, mut respond| async move {
        let Ok(mut stream) = respond.send_response(ok(), false) else { return };
        let _ = stream.send_data(Bytes::from_static(b"one"), false);
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let mut request = call("/s/m");
    request.headers_mut().insert("grpc-timeout", "200m".parse().expect("a value"));
    let (response, _stream) = send(&mut client, request).await;
    let (body, trailers) = collect(response.await.expect("a head").into_body()).await;
    assert_eq!(body, b"one");
    assert_eq!(trailers.expect("trailers")["grpc-status"], "4");
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_server() {
    let (seen, mut cancelled) = tokio::sync::mpsc::unbounded_channel();
    let (application, _running) = application(h2::server::Builder::new(), move |_, mut respond| {
        let seen = seen.clone();
        async move {
            let Ok(mut stream) = respond.send_response(ok(), false) else { return };
            let _ = stream.send_data(Bytes::from_static(b"one"), false);
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            let _ = seen.send(reset.ok());
        }
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let (response, stream) = send(&mut client, call("/s/m")).await;
    let mut response = response.await.expect("a head");
    assert!(message(response.body_mut()).await.is_some());
    drop((response, stream));
    assert_eq!(cancelled.recv().await, Some(Some(h2::Reason::CANCEL)));
    let labels = ["reason=\"client_reset\""];
    eventually("it is counted", || counted(&pair.outbound.worker, "malla_requests_total", &labels) == 1).await;
}

#[tokio::test]
async fn a_call_without_route_gets_a_status() {
    let mut snapshot = crate::snapshot::Snapshot::default();
    let unknown = crate::snapshot::Outbound::Unknown(crate::snapshot::UnknownDestination::Deny);
    snapshot.outbound.insert(super::super::testing::SERVICE.into(), unknown.into());
    let sidecar = outbound(worker(snapshot, "web"), Version::Http2).await;
    let (mut client, _driving) = client(sidecar.address).await;
    let (response, _stream) = send(&mut client, call("/s/m")).await;
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(response.headers()["malla-reason"], "no_route");
    assert!(response.headers()["grpc-message"].to_str().is_ok_and(|text| text.contains("no route matches")));
}

#[tokio::test]
async fn empty_frames_are_not_passed_on() {
    let frames = Arc::new(AtomicUsize::new(0));
    let seen = frames.clone();
    let (application, _running) = application(h2::server::Builder::new(), move |request, mut respond| {
        let seen = seen.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                if data.is_empty() && !body.is_end_stream() {
                    seen.fetch_add(1, Relaxed);
                }
            }
            let _ = respond.send_response(ok(), true);
        }
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let (response, mut stream) = send(&mut client, call("/s/m")).await;
    for _ in 0..50 {
        stream.send_data(Bytes::new(), false).expect("sent");
    }
    stream.send_data(Bytes::from_static(b"x"), true).expect("sent");
    assert_eq!(response.await.expect("an answer").status(), 200);
    assert_eq!(frames.load(Relaxed), 0);
}

#[tokio::test]
async fn heads_are_no_larger_in_http2_than_in_http1() {
    let (application, _running) = application(h2::server::Builder::new(), echo).await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let mut request = call("/s/m");
    for number in 0..40 {
        let name = HeaderName::try_from(format!("x-{number}")).expect("a name");
        request.headers_mut().insert(name, "y".repeat(2000).parse().expect("a value"));
    }
    let (response, _stream) = send(&mut client, request).await;
    assert_eq!(response.await.expect("an answer").status(), 431);
}

/// Sends without end, as fast as the window permits, and counts.
async fn flood(mut stream: SendStream<Bytes>, sent: Arc<AtomicUsize>) {
    let piece = Bytes::from(vec![7; 16 * 1024]);
    loop {
        stream.reserve_capacity(piece.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let length = room.min(piece.len());
                if stream.send_data(piece.slice(..length), false).is_err() {
                    return;
                }
                sent.fetch_add(length, Relaxed);
            }
            _ => return,
        }
    }
}

/// Waits until a counter stands still, and returns where.
async fn at_rest(counter: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    loop {
        let now = counter.load(Relaxed);
        if now == last && now > 0 {
            return now;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What may be under way in both sidecars, their sockets' buffers, and the windows between them.
const UNDER_WAY: usize = 12 * 1024 * 1024;

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_server_and_nobody_else() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let (application, _running) = application(h2::server::Builder::new(), move |request, mut respond| {
        let counter = counter.clone();
        async move {
            if request.uri().path() == "/echo" {
                return echo(request, respond).await;
            }
            if let Ok(stream) = respond.send_response(ok(), false) {
                flood(stream, counter).await;
            }
        }
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let (response, _stream) = send(&mut client, call("/flood")).await;
    let mut unread = response.await.expect("a head").into_body();
    let stopped = at_rest(&sent).await;
    assert!(stopped < UNDER_WAY, "{stopped} bytes are under way");

    let (response, mut stream) = send(&mut client, call("/echo")).await;
    stream.send_data(Bytes::from_static(b"still"), true).expect("sent");
    let (body, _) = collect(response.await.expect("a head").into_body()).await;
    assert_eq!(body, b"still", "another call on the same connections");

    let mut read = 0;
    while read < 64 * 1024 * 1024 {
        read += message(&mut unread).await.expect("more").len();
        assert!(sent.load(Relaxed) - read < UNDER_WAY, "memory stays flat");
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_the_client() {
    let (application, _running) = application(h2::server::Builder::new(), |request, _respond| async move {
        let _unread = request;
        std::future::pending::<()>().await;
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let (_response, stream) = send(&mut client, call("/s/m")).await;
    let sent = Arc::new(AtomicUsize::new(0));
    tokio::spawn(flood(stream, sent.clone()));
    let stopped = at_rest(&sent).await;
    assert!(stopped < UNDER_WAY, "{stopped} bytes are under way");
}

#[tokio::test]
async fn informational_responses_pass_between_http2_hops() {
    let (application, _running) = application(h2::server::Builder::new(), |request, mut respond| async move {
        let mut body = request.into_body();
        let mut proceed = Response::new(());
        *proceed.status_mut() = http::StatusCode::CONTINUE;
        let _ = respond.send_informational(proceed);
        let sent = message(&mut body).await;
        let code = if sent.as_deref() == Some(b"body") { 200 } else { 500 };
        let _ = respond.send_response(Response::builder().status(code).body(()).expect("a response"), true);
    })
    .await;
    let pair = pair(application).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    let mut request = call("/upload");
    request.headers_mut().insert("expect", "100-continue".parse().expect("a value"));
    let (mut response, mut stream) = send(&mut client, request).await;
    let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
    assert_eq!(interim.expect("an interim response").expect("no error").status(), 100);
    stream.send_data(Bytes::from_static(b"body"), true).expect("sent");
    assert_eq!(response.await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn websockets_of_http2_reach_applications_of_http1() {
    use tokio::io::AsyncWriteExt;
    let (application, _running) = scripted(|_, mut socket| async move {
        let asked = super::super::testing::read_until(&mut socket, "\r\n\r\n").await;
        assert!(asked.contains("upgrade: websocket") && asked.contains("sec-websocket-key: "), "{asked}");
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let _ = socket.write_all(head.as_bytes()).await;
        let (mut read, mut write) = socket.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let pair = Pair::new(application, Version::Http2, UpstreamHttp::Http1).await;
    let (mut client, _driving) = client(pair.outbound.address).await;
    eventually("the sidecar's settings come", || client.is_extended_connect_protocol_enabled()).await;
    let request = Request::connect("http://cart/chat")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .expect("a request");
    let (response, mut stream) = send(&mut client, request).await;
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("malla-upgrade"));
    let mut body = response.into_body();
    stream.send_data(Bytes::from_static(b"ping"), false).expect("sent");
    assert_eq!(message(&mut body).await.as_deref(), Some(&b"ping"[..]));
}

#[tokio::test]
async fn draining_lets_calls_finish_and_takes_no_new_ones() {
    let (application, _running) = application(h2::server::Builder::new(), echo).await;
    let plain = Arc::new(Cluster { http: UpstreamHttp::Http2, ..cluster("cart.shop:80", vec![endpoint(application)]) });
    let sidecar = outbound(worker(knows(route(&plain)), "web"), Version::Http2).await;
    let (mut client, driving) = client(sidecar.address).await;
    let (response, mut stream) = send(&mut client, call("/s/m")).await;
    let response = response.await.expect("a head");
    sidecar.worker.shared.drain.begin();
    let refused = std::future::poll_fn(|cx| match client.poll_ready(cx) {
        std::task::Poll::Ready(Ok(())) => {
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        }
        other => other,
    });
    assert!(tokio::time::timeout(Duration::from_secs(5), refused).await.expect("GOAWAY comes").is_err());
    stream.send_data(Bytes::from_static(b"last"), true).expect("sent");
    let (body, trailers) = collect(response.into_body()).await;
    assert_eq!(body, b"last");
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    drop((stream, client));
    driving.await.expect("the connection ends");
}

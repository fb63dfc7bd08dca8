//! An application of gRPC that answers each call with its own name and the head of the request. The header `do` says how: words with a
//! value, of which some are for one application alone (`status-NAME=14`).
//!
//! - `status`: this status instead of a message; `once`: only for the first call with this path and these words;
//! - `late`: this status after a message;
//! - `wait`: so many milliseconds before the answer begins.
//!
//! It is asked for its health by `grpc.health.v1.Health/Check`, as [`Callee::is_well`] has said.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::local::PATIENCE;

/// An application on HTTP/2.
#[derive(Clone)]
pub(crate) struct Callee {
    /// What it calls itself.
    pub(crate) name: &'static str,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    well: Arc<AtomicBool>,
    heads: Arc<Mutex<Vec<String>>>,
    asked: Arc<Mutex<Vec<Bytes>>>,
}

impl Callee {
    /// Starts it; it ends with the runtime.
    pub(crate) async fn start(name: &'static str) -> Callee {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let well = Arc::new(AtomicBool::new(true));
        let callee = Callee { name, address, well, heads: Arc::default(), asked: Arc::default() };
        let own = callee.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let own = own.clone();
                let service = service_fn(move |request| own.clone().answer(request));
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(serving);
            }
        });
        callee
    }

    /// What it says of its health from now on.
    pub(crate) fn is_well(&self, well: bool) {
        self.well.store(well, Relaxed);
    }

    /// The heads of its calls so far.
    pub(crate) fn heads(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.heads.lock().expect("nobody has panicked")
    }

    /// The messages with which it was asked for its health.
    pub(crate) fn asked(&self) -> std::sync::MutexGuard<'_, Vec<Bytes>> {
        self.asked.lock().expect("nobody has panicked")
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let (head, body) = request.into_parts();
        // As every server of gRPC: who answers earlier leaves nothing whole to copy to mirrors.
        let message = body.collect().await.map(|whole| whole.to_bytes()).unwrap_or_default();
        if head.uri.path() == "/grpc.health.v1.Health/Check" {
            self.asked().push(message);
            let serving = if self.well.load(Relaxed) { 1 } else { 2 };
            return Ok(reply(self.name, &[8, serving], 0));
        }
        let words = head.headers.get("do").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let said = |word: &str| {
            let own = format!("{word}-{}", self.name);
            let values = words.split(' ').filter_map(|pair| pair.split_once('='));
            values.filter(|(key, _)| *key == word || *key == own).find_map(|(_, value)| value.parse::<u16>().ok())
        };
        let told: String = head.headers.iter().map(|(name, value)| format!("{name}: {value:?}\n")).collect();
        let told = format!("{} {}\n{told}", head.method, head.uri).replace('"', "");
        let same = |earlier: &&String| {
            let path = |head: &str| head.lines().next().map(str::to_owned);
            path(earlier) == path(&told) && earlier.contains(&format!("do: {words}\n"))
        };
        let first = self.heads().iter().find(same).is_none();
        self.heads().push(told.clone());
        sleep(Duration::from_millis(said("wait").unwrap_or(0).into())).await;
        if let Some(status) = said("status").or(said("once").filter(|_| first)) {
            let mut response = Response::new(Empty::new().boxed());
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response.headers_mut().insert("grpc-status", status.into());
            return Ok(response);
        }
        Ok(reply(self.name, format!("{}\n{told}", self.name).as_bytes(), said("late").unwrap_or(0)))
    }
}

/// An answer with one message.
fn reply(name: &'static str, text: &[u8], status: u16) -> Response<BoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    let body = Full::new(framed(text)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("served-by", HeaderValue::from_static(name));
    headers.insert("x-internal", HeaderValue::from_static("1"));
    response
}

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// Makes a call with an empty message, and returns all that comes of the answer: its status, headers, message and trailers.
/// `headers` are lines.
pub(crate) async fn call(address: SocketAddr, authority: &str, path: &str, headers: &str) -> String {
    let socket = TcpStream::connect(address).await.expect("connected");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut client, connection) = handshake.await.expect("HTTP/2");
    let driving = tokio::spawn(connection);
    let mut request = Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(framed(b""))).expect("a request");
    let answer = timeout(PATIENCE, client.send_request(request)).await.expect("in time").expect("an answer");
    let (head, body) = answer.into_parts();
    let whole = timeout(PATIENCE, body.collect()).await.expect("in time").expect("a whole answer");
    let lines = |headers: &HeaderMap| -> String {
        headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap_or("?"))).collect()
    };
    let trailers = whole.trailers().map(lines).unwrap_or_default();
    let message = whole.to_bytes();
    let text = String::from_utf8_lossy(message.get(5..).unwrap_or_default()).into_owned();
    driving.abort();
    format!("HTTP {}\n{}\n{text}\n{trailers}", head.status.as_u16(), lines(&head.headers))
}

//! What the sidecar takes bytes for, without a connection and without an upstream: the code that reads clients, on bytes at hand.
//! For whoever compares it with other readers (`fuzz/`).
//!
//! Nothing here is on the way of a request, and nothing decides differently from what is.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Body;
use super::client_io::{ClientIo, ClientState};
use super::head::Head;
use super::server1::{builder, follows};

/// A request of HTTP/1 as the sidecar took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Method.
    pub method: String,
    /// Host and port, canonical; `None` where an HTTP/1.0 client named none.
    pub authority: Option<String>,
    /// Canonical path and query.
    pub path: String,
    /// Headers that would travel on, in order of names.
    pub headers: HeaderMap,
    /// The body, without its framing; `None` if it was cut short or refused.
    pub body: Option<Vec<u8>>,
}

/// How the reading of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection would be closed in order: all was read, or the last request asked for it.
    Closed,
    /// What came last is refused, or was not complete when the bytes ended.
    Refused,
    /// It is refused by hyper, which does not say why. A defect.
    Unnamed,
    /// Nothing of these: the sidecar would wait although there is more to read. A defect.
    Stuck,
}

/// What a connection's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its requests in order; `None` for one whose framing is good and whose head is refused, the last one.
    pub requests: Vec<Option<Taken>>,
    /// What became of the rest.
    pub end: End,
}

/// Reads these bytes as an HTTP/1 client's, received `piece` bytes at a time. Every request is answered at once and every upgrade
/// ignored.
pub fn http1(bytes: &[u8], piece: usize) -> Reading {
    let state = Arc::new(ClientState::default());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        state.request_begun(follows(&request));
        let (state, requests) = (state.clone(), requests.clone());
        async move {
            let close = !take(request, &state, &requests).await;
            state.response_ended();
            let mut response = Response::new(Empty::<Bytes>::new());
            if close {
                response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let given = Given { bytes: Bytes::copy_from_slice(bytes), piece: piece.max(1) };
    let io = TokioIo::new(ClientIo::new(given, state.clone()));
    let mut connection = pin!(builder().serve_connection(io, service).with_upgrades());
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut end = End::Stuck;
    while woken.0.swap(false, Relaxed) {
        let polled = connection.as_mut().poll(&mut Context::from_waker(&waker));
        if state.violation().is_some() || state.broken_body().is_some() && polled.is_ready() {
            end = End::Refused;
            break;
        }
        if let Poll::Ready(result) = polled {
            end = match result {
                Ok(()) => End::Closed,
                Err(cause) if cause.is_parse() => End::Unnamed,
                Err(_) => End::Refused,
            };
            break;
        }
    }
    let requests = std::mem::take(&mut *requests.lock());
    Reading { requests, end }
}

/// Notes a request; whether its head was taken.
async fn take(mut request: Request<Incoming>, state: &Arc<ClientState>, requests: &Mutex<Vec<Option<Taken>>>) -> bool {
    let asked = request.extensions_mut().remove::<OnUpgrade>();
    let (parts, body) = request.into_parts();
    let body = Body::from_client(body, state);
    let head = Head::from_http1(parts).ok();
    let body = if head.is_some() { body.collect().await.ok() } else { None };
    let taken = head.is_some();
    requests.lock().push(head.map(|head| Taken {
        method: head.method.to_string(),
        authority: head.authority.map(|authority| authority.to_string()),
        path: head.path.to_string(),
        headers: head.headers,
        body: body.map(|body| body.to_bytes().to_vec()),
    }));
    if asked.is_some() {
        state.resumed();
    }
    taken
}

/// One request on both ways on: what rules look at, and what the next hop is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// Host and path as routes and rules see them.
    pub judged: (String, String),
    /// Host and path of the request line in HTTP/1.
    pub http1: (String, String),
    /// `:authority` and `:path` in HTTP/2.
    pub http2: (String, String),
}

/// What becomes of a target and a host; `None` if they are refused. `target` is the path and query of the request line.
pub fn forwarded(method: &str, target: &str, host: &str) -> Option<Forwarded> {
    let request = Request::builder().method(method).uri(target).header("host", host).body(()).ok()?;
    if request.method() == Method::CONNECT {
        return None;
    }
    let head = Head::from_http1(request.into_parts().0).ok()?;
    let judged = (head.host().to_owned(), head.path.as_str().to_owned());
    let path = |uri: &Uri| uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let one = head.clone().into_http1("", ());
    let named = one.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let two = head.into_http2(false);
    let authority = two.uri().authority().map_or("", |authority| authority.as_str());
    Some(Forwarded {
        judged,
        http1: (named.to_owned(), path(one.uri())),
        http2: (authority.to_owned(), path(two.uri())),
    })
}

/// Bytes that came from nowhere; answers go nowhere.
struct Given {
    bytes: Bytes,
    piece: usize,
}

impl AsyncRead for Given {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.bytes.len()).min(buffer.remaining());
        buffer.put_slice(&self.bytes.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Given {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether somebody wants to be polled again.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_one_after_the_other() {
        let bytes = b"POST /a/../b?c HTTP/1.1\r\nhost: Cart\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                      GET / HTTP/1.1\r\nhost: cart\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\
                      GET /last HTTP/1.1\r\nhost: cart\r\n\r\n";
        for piece in [1, 7, 1000] {
            let reading = http1(bytes, piece);
            assert_eq!(reading.end, End::Closed, "{piece}");
            let seen: Vec<_> =
                reading.requests.iter().flatten().map(|taken| (&*taken.path, taken.body.clone())).collect();
            assert_eq!(seen, [("/b?c", Some(b"abc".to_vec())), ("/", Some(Vec::new())), ("/last", Some(Vec::new()))]);
        }
    }

    #[test]
    fn what_is_refused_ends_the_reading() {
        let bad = http1(b"GET / HTTP/1.1\nhost: cart\n\n", 1000);
        assert_eq!((bad.requests.len(), bad.end), (0, End::Refused));
        let no_host = http1(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nhost: cart\r\n\r\n", 1000);
        assert_eq!((no_host.requests, no_host.end), (vec![None], End::Closed));
    }
}

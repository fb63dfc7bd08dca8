//! HTTP/1.0 and 1.1 towards clients, on hyper's connection; what hyper does not watch — heads that do not end, input that has
//! ended, connections that nobody uses — is watched here, with one timer that only slow connections ever start.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, sleep};

use super::body::Body;
use super::client_io::{ClientIo, ClientState, HALF_CLOSED_GRACE};
use super::exchange::{Arrived, Served, begin, serve};
use super::failure::Failure;
use super::framing::Follows;
use super::head::Head;
use super::response::{Exchange, ResponseBody};
use super::tunnel::Tunnel;
use super::{Connection, HEAD_LIMIT, IDLE_LIMIT};
use crate::outbound;
use crate::pool::{HTTP1_BUFFER, LARGEST_HEAD};
use crate::reason::Reason;
use crate::woken::when_woken;

/// A connection that has switched, after hyper has let go of it.
#[allow(clippy::large_enum_variant, reason = "one per connection that is upgraded")]
enum After {
    Tunnel(OnUpgrade, Box<Tunnel>),
    Connect(OnUpgrade, outbound::Tunnel, Box<Exchange>),
}

/// What a head takes at most from one look at it to the next, about: hyper reads into a buffer of this size at first.
const OF_HEAD: u64 = 8 << 10;

type AfterSlot = Mutex<Option<After>>;

/// Serves a connection to its end.
pub(super) async fn run<IO>(connection: Arc<Connection>, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::new(ClientState::default());
    let after = Arc::new(AfterSlot::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (connection, state, after) = (connection.clone(), state.clone(), after.clone());
        state.request_begun(follows(&request));
        // Boxed while it runs: otherwise the connection would keep room for it while it is idle.
        Box::pin(async move { Ok::<_, Infallible>(respond(&connection, &state, &after, request).await) })
    });
    let io = TokioIo::new(ClientIo::new(io, state.clone()));
    let mut http = builder().serve_connection(io, service).with_upgrades();
    let ended = Watched { connection: &connection, state: &state, timer: None, requests_before: 0 };
    let end = ended.drive(&mut http).await;
    if let Some(violation) = state.broken_body() {
        connection.count(Reason::ProtocolError);
        return connection.log(Reason::ProtocolError, &violation.to_string());
    }
    match end {
        End::Finished(Ok(())) => {}
        End::Finished(Err(_)) if state.has_stalled() => connection.count(Reason::IdleTimeout),
        End::Finished(Err(cause)) => refused(&connection, &cause),
        End::Refused(failure) => {
            connection.count(failure.reason);
            connection.log(failure.reason, &failure.what);
            if let Some(parts) = http.into_parts() {
                let mut io = parts.io.into_inner().into_inner();
                // Whoever sends heads like this may not read either: the answer is tried, not waited for.
                let _ = io.write_all(&failure.last_words()).now_or_never();
                let _ = io.shutdown().now_or_never();
            }
            return;
        }
        End::Idle => return,
    }
    let after = after.lock().take();
    match after {
        None => {}
        Some(After::Tunnel(client, tunnel)) => {
            state.switched();
            state.release_end();
            if let Ok(client) = client.await {
                tunnel.run(client.into()).await;
            }
        }
        Some(After::Connect(client, tunnel, mut exchange)) => {
            state.switched();
            state.release_end();
            if let Ok(client) = client.await {
                tunnel.carry(Box::new(TokioIo::new(client))).await;
            }
            exchange.finish();
        }
    }
}

/// How hyper reads clients.
pub(super) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.auto_date_header(false).header_read_timeout(None);
    builder.max_header_size(LARGEST_HEAD as usize).max_buf_size(HTTP1_BUFFER);
    builder
}

/// How a connection ended.
enum End {
    Finished(hyper::Result<()>),
    /// Before hyper could take a request.
    Refused(Failure),
    Idle,
}

/// A connection and what is watched on it.
struct Watched<'a> {
    connection: &'a Connection,
    state: &'a ClientState,
    timer: Option<(Waits, Pin<Box<Sleep>>)>,
    requests_before: u64,
}

/// What the timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// A head has begun.
    Head,
    /// The client's input has ended, an answer is due.
    HalfClosed,
    /// For the next request.
    Idle,
}

/// What the watch asks of the connection.
enum Verdict {
    Wait,
    PollAgain,
    End(End),
}

impl Watched<'_> {
    async fn drive<IO, S>(mut self, http: &mut http1::UpgradeableConnection<IO, S>) -> End
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
        S: hyper::service::HttpService<Incoming, ResBody = ResponseBody> + Unpin,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let closing = pin!(self.connection.closing());
        let mut draining = when_woken(closing);
        let mut drains = false;
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = Pin::new(&mut *http).poll(cx) {
                    return Poll::Ready(End::Finished(result));
                }
                if !drains && Pin::new(&mut draining).poll(cx).is_ready() {
                    drains = true;
                    Pin::new(&mut *http).graceful_shutdown();
                    continue;
                }
                match self.watch(cx) {
                    Verdict::Wait => return Poll::Pending,
                    Verdict::PollAgain => {}
                    Verdict::End(end) => return Poll::Ready(end),
                }
            }
        })
        .await
    }

    fn watch(&mut self, cx: &mut Context<'_>) -> Verdict {
        if let Some(violation) = self.state.violation() {
            return Verdict::End(End::Refused(violation.failure()));
        }
        let waits = if self.state.awaits_head() {
            let memory = &self.connection.worker.shared.memory;
            memory.takes(OF_HEAD);
            if memory.connections() {
                let what = "its memory is used up, and the head was not complete";
                return Verdict::End(End::Refused(Failure::new(Reason::Overloaded, what)));
            }
            Waits::Head
        } else if self.state.end_is_held() {
            Waits::HalfClosed
        } else {
            Waits::Idle
        };
        let timer = match &mut self.timer {
            Some((for_what, timer)) if *for_what == waits => timer,
            // The timer of an idle connection is left to run: it finds out itself whether there were requests.
            other => {
                *other = Some((waits, Box::pin(sleep(waits.limit()))));
                match other {
                    Some((_, timer)) => timer,
                    None => return Verdict::Wait,
                }
            }
        };
        if timer.as_mut().poll(cx).is_pending() {
            return Verdict::Wait;
        }
        match waits {
            Waits::Head => {
                let what = "after 10 s, the head was not complete";
                Verdict::End(End::Refused(Failure::new(Reason::HeaderTimeout, what)))
            }
            Waits::HalfClosed => {
                self.state.release_end();
                Verdict::PollAgain
            }
            Waits::Idle => {
                timer.as_mut().reset(Instant::now() + IDLE_LIMIT);
                let (requests, serving) = self.state.activity();
                if serving || requests != self.requests_before {
                    self.requests_before = requests;
                    return Verdict::PollAgain;
                }
                Verdict::End(End::Idle)
            }
        }
    }
}

impl Waits {
    fn limit(self) -> Duration {
        match self {
            Waits::Head => HEAD_LIMIT,
            Waits::HalfClosed => HALF_CLOSED_GRACE,
            Waits::Idle => IDLE_LIMIT,
        }
    }
}

/// Counts and logs why hyper gave a connection up.
fn refused(connection: &Connection, cause: &hyper::Error) {
    let reason = if cause.is_parse_too_large() {
        Reason::HeadersTooLarge
    } else if cause.is_parse() {
        Reason::ProtocolError
    } else {
        // The client went away; a request that this cut short has its own record.
        return;
    };
    connection.count(reason);
    connection.log(reason, &crate::pool::chain(cause));
}

/// What hyper will take to follow a head.
pub(super) fn follows(request: &Request<Incoming>) -> Follows {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) {
        return Follows::Chunked;
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
    // In HTTP/1.0 there is no upgrade (RFC 9110 §7.8).
    let upgrades = headers.contains_key(UPGRADE) && request.version() != http::Version::HTTP_10;
    let may_switch = request.method() == http::Method::CONNECT || upgrades;
    if may_switch && length == 0 { Follows::Undecided } else { Follows::Length(length) }
}

/// Answers a request. A panic costs this request, not the connection's other ones and not the sidecar.
async fn respond(
    connection: &Arc<Connection>,
    state: &Arc<ClientState>,
    after: &AfterSlot,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let client = request.extensions_mut().remove::<OnUpgrade>();
    let (parts, body) = request.into_parts();
    let head = Head::from_http1(parts).map(Box::new);
    let refused = head.is_err();
    let mut body = Body::from_client(body, state);
    let read = body.counted();
    let outcome = begin(connection, &head);
    let arrived = Arrived { head, body, read, outcome, gate: None, client: Some(state.clone()) };
    let Ok(served) = AssertUnwindSafe(serve(connection, arrived)).catch_unwind().await else {
        return Failure::new(Reason::Internal, "it was a panic, and is in the log")
            .response()
            .map(ResponseBody::without_record);
    };
    let (slot, head) = match (served, client) {
        (Served::Answer(mut response), asked) => {
            if asked.is_some() {
                state.resumed();
            }
            if refused {
                // Whoever writes heads that can be read in two ways may do so with the next one (RFC 9112 §11.2).
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return response;
        }
        (Served::Switched(head, tunnel), Some(client)) => (After::Tunnel(client, tunnel), head),
        (Served::Connect(tunnel, exchange), Some(client)) => {
            (After::Connect(client, tunnel, Box::new(exchange)), Response::new(()).into_parts().0)
        }
        (Served::Switched(..) | Served::Connect(..), None) => {
            // Only requests that ask for an upgrade get here, and hyper gives each of them the handle.
            return Failure::new(Reason::Internal, "the connection cannot switch")
                .response()
                .map(ResponseBody::without_record);
        }
    };
    *after.lock() = Some(slot);
    Response::from_parts(head, ResponseBody::detached())
}

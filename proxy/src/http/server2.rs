//! HTTP/2 towards clients and other sidecars.
//!
//! On `h2` itself: a request is a future of its connection's task, so that it ends with the connection and costs no task of its
//! own, and what several of them send leaves in one write. hyper's server would hide informational responses.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, Stream as _};
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::body::Body;
use super::exchange::{Arrived, Served, begin, serve};
use super::head::Head;
use super::pipe::{Pipe, PipeError};
use super::request_body::Gate;
use super::response::ResponseBody;
use super::tunnel::{StreamIo, TunnelIo};
use super::verdicts::{Streams, Verdicts};
use super::{Connection, HEAD_LIMIT, IDLE_LIMIT, Side};
use crate::pool::{CONNECTION_WINDOW, LARGEST_HEAD, SEND_BUFFER, STREAM_WINDOW, chain};
use crate::reason::Reason;
use crate::woken::Part;

/// Requests at once on one connection.
const STREAMS: u32 = 100;
/// Requests that the client has reset before they were looked at; one more ends the connection (rapid reset, CVE-2023-44487).
const RESETS_AHEAD: usize = 20;
/// The same for another sidecar, which carries the requests of many clients on one connection: that several of them go away at
/// once must not end it for the others.
const RESETS_AHEAD_OF_MANY: usize = 1000;
/// Resets that the client's mistakes make us send, in the life of a connection; one more ends it (CVE-2025-8671). Each may have
/// reached an upstream that others share.
const PROVOKED_RESETS: usize = 100;
/// The same for another sidecar, whose mistakes these are not: what comes late for streams that we have reset counts too.
const PROVOKED_RESETS_OF_MANY: usize = 10_000;
/// Streams that we have reset and of which late frames are still expected, and for how long.
const RESET_STREAMS: usize = 50;
const RESET_REMEMBERED: Duration = Duration::from_secs(1);
/// How often a connection looks at what its requests have for it, and at them, before others have their turn.
const ROUNDS: usize = 8;
/// A client that sends no requests is asked for a sign of life after this, and given up if none comes within the same time.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Serves a connection to its end.
pub(super) async fn run<IO>(connection: Arc<Connection>, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let of_many = matches!(&connection.side, Side::Inbound(side) if side.peer.is_some());
    let streams = Arc::<Streams>::default();
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(LARGEST_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(if of_many { RESETS_AHEAD_OF_MANY } else { RESETS_AHEAD })
        .max_local_error_reset_streams(Some(if of_many { PROVOKED_RESETS_OF_MANY } else { PROVOKED_RESETS }))
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_REMEMBERED)
        .enable_connect_protocol()
        .handshake::<_, Bytes>(Verdicts::new(io, streams.clone()));
    let cause = match timeout(HEAD_LIMIT, handshake).await {
        Err(_) => return connection.count(Reason::HeaderTimeout),
        Ok(Err(cause)) => cause,
        Ok(Ok(http)) => {
            let ended = drive(&connection, http, &streams).await;
            streams.count_refused(&connection);
            match ended {
                Ok(()) => return,
                Err(cause) => cause,
            }
        }
    };
    // What the library found wrong is the client's doing; a connection that merely broke is nobody's.
    if cause.is_library() {
        connection.count(Reason::ProtocolError);
        connection.log(Reason::ProtocolError, &chain(&cause));
    }
}

async fn drive<IO>(
    connection: &Arc<Connection>,
    mut http: server::Connection<IO, Bytes>,
    streams: &Streams,
) -> Result<(), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut requests = FuturesUnordered::new();
    let mut draining = pin!(connection.closing());
    let mut idle = pin!(sleep(IDLE_LIMIT));
    let (mut drains, mut accepted, mut accepted_before) = (false, 0_u64, 0);
    let mut life = SignOfLife::new(http.ping_pong());
    let (peer, chores) = (Part::new(), Part::new());
    std::future::poll_fn(|cx| {
        peer.begins();
        chores.begins();
        for _ in 0..ROUNDS {
            // Accepting also drives the connection: reads, and writes what the requests have queued (which wakes it).
            if peer.was_woken() {
                while let Poll::Ready(next) = http.poll_accept(&mut peer.context()) {
                    match next {
                        Some(Ok((request, respond))) => {
                            accepted = accepted.saturating_add(1);
                            streams.accepted(respond.stream_id());
                            requests.push(guarded(connection.clone(), request, respond));
                        }
                        Some(Err(cause)) => return Poll::Ready(Err(cause)),
                        None => return Poll::Ready(Ok(())),
                    }
                }
                streams.count_refused(connection);
            }
            while let Poll::Ready(Some(())) = Pin::new(&mut requests).poll_next(cx) {}
            if chores.was_woken() {
                let cx = &mut chores.context();
                if !drains && draining.as_mut().poll(cx).is_ready() {
                    drains = true;
                    http.graceful_shutdown();
                    peer.wake();
                }
                match life.poll(cx, accepted) {
                    Alive::Yes => {}
                    Alive::Asked => peer.wake(), // flush the question
                    Alive::No => {
                        connection.count(Reason::IdleTimeout);
                        return Poll::Ready(Ok(()));
                    }
                }
                if idle.as_mut().poll(cx).is_ready() {
                    idle.as_mut().reset(Instant::now() + IDLE_LIMIT);
                    chores.wake();
                    if requests.is_empty() && accepted == accepted_before {
                        http.graceful_shutdown();
                        peer.wake();
                    }
                    accepted_before = accepted;
                }
            }
            if peer.rests(cx) && chores.rests(cx) {
                return Poll::Pending;
            }
        }
        // Others have their turn; what was not looked at is still woken.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Whether the client is still there: asked by PING (RFC 9113 §6.7) when no request has come for a while. TCP tells nothing of a
/// client whose machine is gone, or that holds its connection without reading.
struct SignOfLife {
    /// What the library gives out once.
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    awaited: bool,
    requests_before: u64,
}

enum Alive {
    Yes,
    Asked,
    No,
}

impl SignOfLife {
    fn new(pings: Option<PingPong>) -> Self {
        SignOfLife { pings, timer: Box::pin(sleep(KEEP_ALIVE)), awaited: false, requests_before: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>, requests: u64) -> Alive {
        let Some(pings) = &mut self.pings else { return Alive::Yes };
        if self.awaited && pings.poll_pong(cx).is_ready() {
            self.awaited = false;
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Alive::Yes;
        }
        self.timer.as_mut().reset(Instant::now() + KEEP_ALIVE);
        // Registers the timer anew.
        let _ = self.timer.as_mut().poll(cx);
        let came = std::mem::replace(&mut self.requests_before, requests) != requests;
        match (came, self.awaited) {
            (true, _) => Alive::Yes,
            (false, true) => Alive::No,
            (false, false) => {
                self.awaited = pings.send_ping(Ping::opaque()).is_ok();
                Alive::Asked
            }
        }
    }
}

/// One request to its end. A panic costs this request alone: its stream is reset when its handles are dropped.
async fn guarded(connection: Arc<Connection>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    if AssertUnwindSafe(respond_to(&connection, request, respond)).catch_unwind().await.is_err() {
        tracing::error!("a request panicked");
    }
}

async fn respond_to(connection: &Arc<Connection>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (arrived, tunnel) = arrive(connection, request);
    let gate = arrived.gate.clone();
    let served = {
        // Pinned where it is made: a future that takes another one by value has room for it twice.
        let serving = pin!(serve(connection, arrived));
        unless_reset(serving, &mut respond, gate).await
    };
    let Some(served) = served else { return };
    match served {
        Served::Answer(response) => answer(response, respond).await,
        Served::Switched(head, upstream) => {
            let Some(receive) = tunnel else { return };
            if let Ok(send) = respond.send_response(Response::from_parts(head, ()), false) {
                Box::pin(upstream.run(TunnelIo::Http2(StreamIo::new(send, receive)))).await;
            }
        }
        Served::Connect(upstream, mut exchange) => {
            let Some(receive) = tunnel else { return };
            if let Ok(send) = respond.send_response(Response::new(()), false) {
                Box::pin(upstream.carry(Box::new(TunnelIo::Http2(StreamIo::new(send, receive))))).await;
            }
            exchange.finish();
        }
    }
}

/// A request as it came, and its stream, if that is to become a tunnel. (Not a part of [`respond_to`], whose future would keep
/// room for every value on the way.)
fn arrive(connection: &Arc<Connection>, request: Request<RecvStream>) -> (Arrived, Option<RecvStream>) {
    let (parts, received) = request.into_parts();
    let expects = parts.headers.contains_key(http::header::EXPECT);
    let head = Head::from_http2(parts).map(Box::new);
    let outcome = begin(connection, &head);
    // The stream of an upgrade is no body.
    let upgrades = matches!(&head, Ok(head) if head.upgrade.is_some());
    let (mut body, tunnel) = if upgrades { (Body::empty(), Some(received)) } else { (Body::http2(received), None) };
    let (read, gate) = (body.counted(), expects.then(Arc::<Gate>::default));
    (Arrived { head, body, read, outcome, gate, client: None }, tunnel)
}

/// The outcome of `serving`, unless the client gives the request up before; tells it `100 Continue` in between.
async fn unless_reset(
    mut serving: Pin<&mut impl Future<Output = Served>>,
    respond: &mut SendResponse<Bytes>,
    mut gate: Option<Arc<Gate>>,
) -> Option<Served> {
    std::future::poll_fn(|cx: &mut Context<'_>| {
        if let Poll::Ready(served) = serving.as_mut().poll(cx) {
            return Poll::Ready(Some(served));
        }
        if gate.as_ref().is_some_and(|gate| gate.poll_opened(cx).is_ready()) {
            gate = None;
            let mut proceed = Response::new(());
            *proceed.status_mut() = StatusCode::CONTINUE;
            // Fails only on a stream that has been reset, which is noticed next.
            let _ = respond.send_informational(proceed);
        }
        respond.poll_reset(cx).map(|_| None)
    })
    .await
}

async fn answer(response: Response<ResponseBody>, mut respond: SendResponse<Bytes>) {
    let (head, body) = response.into_parts();
    let ended = body.is_end_stream();
    let Ok(stream): Result<SendStream<Bytes>, _> = respond.send_response(Response::from_parts(head, ()), ended) else {
        // What cannot be said in HTTP/2 (a head that the application made wrong) ends the stream.
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return;
    };
    if !ended {
        let mut pipe = Pipe::new(body, stream);
        // How it ended otherwise, the body's own record says.
        if matches!((&mut pipe).await, Err(PipeError::Stalled)) {
            pipe.into_body().stalled();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what a function returns.
    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_under_way_takes_little_memory() {
        // It is moved when it begins, and there may be thousands.
        let size = size(guarded);
        assert!(size <= 7 * 1024, "{size} bytes");
    }
}

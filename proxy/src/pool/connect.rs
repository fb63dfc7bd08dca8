//! Making a connection to an upstream, and the task that drives it to its end.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::sync::{oneshot, watch};
use tokio::time::{Sleep, sleep, timeout};

use super::host::Host;
use super::http1::IdleConnection;
use super::http2::MultiplexedConnection;
use super::life::{Heard, Life, SignOfLife};
use super::{Target, Version};
use crate::balance::UsageGuard;
use crate::metrics::Direction;
use crate::reason::Reason;
use crate::shared::{Shared, Worker};
use crate::snapshot::Cluster;
use crate::stream::Stream;
use crate::tls::{self, Alpn, ConnectError};
use crate::woken::when_woken;

/// Streams that a peer is assumed to permit until its settings have come. Not 100, which many announce: so it can be told
/// whether they have come.
pub(super) const ASSUMED_STREAMS: usize = 99;
/// HTTP/2 windows: of a stream, and of the connection: enough for every stream of a connection to be left unread and more, so
/// that clients that never read stop nobody else.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW + 1024 * 1024;
/// What a connection of HTTP/1 reads at once, and so the largest piece of a body: each stream holds two of them for who does not
/// read, and hyper's own limit is 400 KiB.
pub(crate) const HTTP1_BUFFER: usize = LARGEST_HEAD as usize;
/// What one stream may have buffered for sending.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;
/// Heads larger than this are refused.
pub(crate) const LARGEST_HEAD: u32 = 64 * 1024;

/// Why there is no connection; nothing was sent. Shared by all requests that waited for the attempt.
#[derive(Debug, Clone)]
pub(crate) struct ConnectFailure {
    /// The word.
    pub(crate) reason: Reason,
    /// Who and why.
    pub(crate) what: Cow<'static, str>,
    /// Whether another endpoint may fare better.
    pub(crate) elsewhere: bool,
}

impl From<ConnectError> for ConnectFailure {
    fn from(error: ConnectError) -> Self {
        ConnectFailure { reason: error.reason(), what: chain(&error).into(), elsewhere: error.elsewhere() }
    }
}

/// An error with its causes, as one sentence.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        // Writing to a string does not fail.
        let _ = write!(text, ": {next}");
        cause = next.source();
    }
    text
}

/// One attempt, for a host: connects, hands the connection over, drives it to its end.
pub(super) async fn attempt(
    host: Arc<Host>,
    worker: Arc<Worker>,
    cluster: Arc<Cluster>,
    place: UsageGuard,
    generation: u64,
) {
    let metrics = worker.shared.metrics.clone();
    let result = match host.version() {
        Version::Http1 => http1(&host, &worker, &cluster, generation).await,
        Version::Http2 => http2(&host, &worker, &cluster, generation).await,
    };
    match result {
        Ok(connection) => {
            metrics.upstream_connected(&cluster.name);
            let driven = async {
                match connection {
                    Driven::Http1(connection) => connection.drive().await,
                    Driven::Http2(connection) => connection.drive().await,
                }
            };
            // What is under way on it when the certificate is renewed may take long.
            let peer = match host.target() {
                Target::Endpoint(endpoint) => endpoint.identity.as_ref().map(|identity| (endpoint, identity)),
                Target::Address(_) | Target::Name(..) => None,
            };
            match peer {
                Some((endpoint, identity)) => {
                    let known = pin!(async {
                        tokio::select! {
                            never = tls::keep_known(&worker.shared, &cluster, endpoint) => match never {},
                            // What is under way with whom we would not speak any more is cut.
                            () = worker.shared.identity.distrusted(identity.trust_domain()) => {}
                        }
                    });
                    tokio::select! {
                        () = driven => {}
                        () = when_woken(known) => {}
                    }
                }
                None => driven.await,
            }
            drop(place);
            metrics.upstream_closed(&cluster.name);
            host.ended(&worker, &cluster);
        }
        Err(failure) => {
            drop(place);
            metrics.upstream_connect_failed(&cluster.name, failure.reason);
            if matches!(failure.reason, Reason::TlsFailed | Reason::TlsUntrusted | Reason::TlsWrongIdentity) {
                metrics.tls_failed(Direction::Outbound, failure.reason);
            }
            host.not_connected(&failure);
        }
    }
}

#[allow(clippy::large_enum_variant, reason = "it lives in the task of its connection alone")]
enum Driven {
    Http1(Http1Connection),
    Http2(Box<Http2Connection>),
}

async fn stream(worker: &Worker, cluster: &Cluster, target: &Target, alpn: Alpn) -> Result<Stream, ConnectError> {
    #[cfg(test)]
    if let (Some(network), Target::Endpoint(endpoint)) = (&worker.shared.dialer.network, target) {
        return network.connect(endpoint.address, cluster.connect_timeout).await;
    }
    match target {
        Target::Endpoint(endpoint) => Ok(tls::connect(&worker.shared, cluster, endpoint, alpn).await?.stream),
        Target::Address(address) => Ok(worker.shared.dialer.dial(*address, cluster.connect_timeout).await?.into()),
        Target::Name(name, port) => {
            let Shared { resolver, dialer, .. } = &*worker.shared;
            Ok(resolver.connect(dialer, name, *port, cluster.connect_timeout).await?.into())
        }
    }
}

async fn http1(
    host: &Arc<Host>,
    worker: &Worker,
    cluster: &Cluster,
    generation: u64,
) -> Result<Driven, ConnectFailure> {
    let io = stream(worker, cluster, host.target(), Alpn::H2).await?;
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_header_size(LARGEST_HEAD as usize)
        .max_buf_size(HTTP1_BUFFER)
        .handshake(TokioIo::new(io))
        .await;
    let (sender, connection) = handshake.map_err(|cause| failed(host, &cause))?;
    host.connected_http1(IdleConnection::new(sender, generation));
    Ok(Driven::Http1(Http1Connection { connection, host: host.clone(), idle: cluster.idle_timeout }))
}

async fn http2(
    host: &Arc<Host>,
    worker: &Worker,
    cluster: &Cluster,
    generation: u64,
) -> Result<Driven, ConnectFailure> {
    let (io, heard) = Heard::new(stream(worker, cluster, host.target(), Alpn::H2).await?);
    let handshake = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(LARGEST_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(ASSUMED_STREAMS)
        .handshake::<_, Bytes>(io);
    let late = |_| ConnectFailure {
        reason: Reason::ConnectTimeout,
        what: format!("{} took our connection, but not our HTTP/2 preface", host.target()).into(),
        elsewhere: true,
    };
    let handshake = timeout(cluster.connect_timeout, handshake).await.map_err(late)?;
    let (sender, mut connection) = handshake.map_err(|cause| failed(host, &cause))?;
    // The application on this machine may stand still for as long as it likes.
    let is_sidecar = matches!(host.target(), Target::Endpoint(endpoint) if endpoint.identity.is_some());
    let life = SignOfLife::new(connection.ping_pong().filter(|_| is_sidecar), heard);
    let (wakes_task, last_lease_gone) = oneshot::channel();
    let (settled, has_settled) = watch::channel(false);
    let shared = Arc::new(MultiplexedConnection::new(sender, wakes_task, has_settled));
    let weak = Arc::downgrade(&shared);
    host.connected_http2(shared, generation);
    Ok(Driven::Http2(Box::new(Http2Connection {
        connection,
        life,
        host: host.clone(),
        shared: weak,
        last_lease_gone,
        settled,
        idle: cluster.idle_timeout,
    })))
}

fn failed(host: &Host, cause: &dyn Error) -> ConnectFailure {
    let what = format!("{} did not take our HTTP connection: {}", host.target(), chain(cause));
    ConnectFailure { reason: Reason::ConnectFailed, what: what.into(), elsewhere: true }
}

struct Http1Connection {
    connection: hyper::client::conn::http1::Connection<TokioIo<Stream>, crate::http::RequestBody>,
    host: Arc<Host>,
    idle: Duration,
}

impl Http1Connection {
    /// To its end. What goes wrong, the request that it concerns is told.
    async fn drive(self) {
        let Http1Connection { connection, host, idle } = self;
        let grow_old = pin!(async {
            loop {
                sleep(idle).await;
                host.close_idle(idle);
            }
        });
        let result = tokio::select! {
            result = connection.with_upgrades() => result,
            () = when_woken(grow_old) => Ok(()),
        };
        if let Err(cause) = result {
            tracing::debug!(cause = %chain(&cause), "an HTTP/1 connection to an upstream ended");
        }
    }
}

struct Http2Connection {
    connection: h2::client::Connection<Heard<Stream>, Bytes>,
    life: SignOfLife,
    host: Arc<Host>,
    /// Weak: the connection ends when neither the host nor a lease has it.
    shared: Weak<MultiplexedConnection>,
    last_lease_gone: oneshot::Receiver<()>,
    settled: watch::Sender<bool>,
    /// Without a request for this long it is closed.
    idle: Duration,
}

impl Http2Connection {
    /// To its end: the peer closes it, or nobody needs it any more.
    async fn drive(mut self) {
        let limit = self.idle;
        let mut idle = pin!(sleep(limit));
        let mut gone = false;
        let mut opened = 0;
        let result: Result<(), h2::Error> = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
                    return Poll::Ready(result);
                }
                if !*self.settled.borrow() && self.shared.upgrade().is_some_and(|shared| shared.has_settled()) {
                    self.settled.send_replace(true);
                }
                // Once the last lease is gone, the connection must be polled again to find that out.
                if !gone && Pin::new(&mut self.last_lease_gone).poll(cx).is_ready() {
                    gone = true;
                    continue;
                }
                let (streams, ever) =
                    self.shared.upgrade().map_or((0, 0), |shared| (shared.streams(), shared.opened()));
                match self.life.poll(cx, streams > 0, ever) {
                    Life::Goes => {}
                    Life::Asks => continue,
                    Life::Gone => {
                        tracing::info!(upstream = %self.host.target(), "an upstream gives no sign of life");
                        return Poll::Ready(Ok(()));
                    }
                }
                if idle.as_mut().poll(cx).is_ready() {
                    self.retire_if_idle(&mut opened);
                    reset(idle.as_mut(), limit);
                    continue;
                }
                return Poll::Pending;
            }
        })
        .await;
        if let Some(shared) = self.shared.upgrade() {
            shared.close();
        }
        if let Err(cause) = result {
            tracing::debug!(cause = %chain(&cause), upstream = %self.host.target(), "an HTTP/2 connection ended");
        }
    }

    fn retire_if_idle(&self, opened_before: &mut u64) {
        let Some(shared) = self.shared.upgrade() else { return };
        let opened = shared.opened();
        if shared.streams() == 0 && opened == *opened_before {
            self.host.retire(&shared);
        }
        *opened_before = opened;
    }
}

fn reset(idle: Pin<&mut Sleep>, limit: Duration) {
    idle.reset(tokio::time::Instant::now() + limit);
}

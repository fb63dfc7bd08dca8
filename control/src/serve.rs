//! The xDS port: accepts, speaks TLS and HTTP/2, hands calls to [`ads`](crate::ads), and what people look at to [`observe`].
//!
//! Everything is bounded: connections, handshakes in time, connections without calls in time, the life of a connection. A
//! connection lives some hours: whoever is behind it then proves a certificate that is valid then.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use malla_xds::grpc;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ads::{ControlPlane, MESSAGE_LIMIT, Peer};
use crate::metrics::Reason;
use crate::{admin, ca, observe};

/// Connections at once.
const CONNECTION_LIMIT: usize = 50_000;
/// From accepting to the end of the TLS handshake: 10 s, except where a test waits for it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// A connection without calls is closed after one to two of these.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// A connection is closed after so long …
const LIFETIME: Duration = Duration::from_secs(4 * 3600);
/// … and up to so long more, so that not all come back at once.
const LIFETIME_JITTER: Duration = Duration::from_secs(2 * 3600);
/// From asking a connection to end until it is cut.
const CLOSING_TIME: Duration = Duration::from_secs(5);
/// Pause when no connection can be accepted (file descriptors are used up).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts until stopped. Connections are tasks of `connections` and end with `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    plane: Arc<ControlPlane>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let pages = admin::observed(plane.clone());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_about_the_connection(&error) {
                    refused(&plane, "accept_failed");
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept connections for a moment");
                    sleep(ACCEPT_BACKOFF).await;
                }
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            refused(&plane, "too_many_connections");
            continue;
        };
        // The one that verifies by the trust anchors of now.
        let acceptor = TlsAcceptor::from(tls.load_full());
        let (plane, pages, stop) = (plane.clone(), pages.clone(), stop.child_token());
        connections.spawn(async move {
            plane.metrics.connections.inc();
            connection(socket, address, acceptor, &plane, pages, stop).await;
            plane.metrics.connections.dec();
            drop(permit);
        });
    }
}

/// From the accepted socket to its end.
async fn connection(
    socket: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    plane: &Arc<ControlPlane>,
    pages: Router,
    stop: CancellationToken,
) {
    // Small messages must not wait for each other; if this fails, the connection is broken anyway.
    let _ = socket.set_nodelay(true);
    let handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket));
    let stream = match stop.run_until_cancelled(handshake).await {
        None => return,
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => {
            refused(plane, "tls_handshake");
            tracing::debug!(%address, error = &error as &dyn std::error::Error, "TLS handshake failed");
            return;
        }
        Some(Err(_)) => {
            refused(plane, "handshake_timeout");
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = certificate.and_then(ca::identity);
    if certificate.is_some() && identity.is_none() {
        refused(plane, "no_identity");
        tracing::warn!(%address, "a client certificate of this mesh names no identity");
        return;
    }
    let serial = certificate.and_then(ca::serial);
    let peer = Peer { address, identity, serial, closing: stop.clone(), calls: Arc::default() };
    let calls = peer.calls.clone();
    let service = service_fn(|mut request: http::Request<Incoming>| {
        let (plane, peer, pages) = (plane.clone(), peer.clone(), pages.clone());
        async move {
            // Calls of gRPC are POSTs.
            if request.method() == http::Method::GET {
                return Ok(observe::serve(plane, pages, peer, request).await);
            }
            request.extensions_mut().insert(peer);
            Ok::<_, Infallible>(grpc::serve(plane, MESSAGE_LIMIT, request).await)
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(256 << 10)
        .max_header_list_size(32 << 10)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let lifetime = Instant::now() + LIFETIME + LIFETIME_JITTER.mul_f64(fastrand::f64());
    let mut idle = interval(IDLE_INTERVAL);
    idle.tick().await;
    let mut was_idle = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%address, error = &error as &dyn std::error::Error, "connection ended");
                }
                return;
            }
            () = stop.cancelled() => break,
            () = sleep_until(lifetime) => break,
            _ = idle.tick() => {
                let is_idle = calls.load(Ordering::Relaxed) == 0;
                if is_idle && was_idle {
                    break;
                }
                was_idle = is_idle;
            }
        }
    }
    stop.cancel();
    connection.as_mut().graceful_shutdown();
    // Whether it ended well or was cut makes no difference to anyone.
    let _ = timeout(CLOSING_TIME, connection).await;
}

/// Whether an error of accepting is about the connection that was accepted, so that the next one may be tried at once.
pub(crate) fn is_about_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn refused(plane: &ControlPlane, reason: &'static str) {
    plane.metrics.connections_refused.get_or_create(&Reason { reason }).inc();
}

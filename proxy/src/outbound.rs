//! The way of a connection that leaves the application, in the order of execution.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::clock;
use crate::detect::{self, Detected};
use crate::http::{self, Side, Version};
use crate::metrics::{self, Direction};
use crate::names::Name;
use crate::original_dst::original_dst;
use crate::outcome::UNKNOWN;
use crate::reason::Reason;
use crate::route::by_server_name;
use crate::shared::{Shared, Worker};
use crate::snapshot::{Outbound, OutboundService, Protocol, TcpRoute, UnknownDestination};
use crate::stream::{Peeked, Stream};
use crate::tcp::{self, Account, OpenError, Outside, Upstream};

pub use self::tunnel::{Tunnel, tunnel};

/// Label for what is outside of the mesh: a name from outside labels no metric.
const OUTSIDE: &str = "outside";

/// A connection that the kernel has redirected.
pub async fn transparent(worker: Arc<Worker>, socket: TcpStream, peer: SocketAddr) {
    let arrived = clock::now();
    let shared = worker.shared.clone();
    let Ok(original) = original_dst(&socket) else { return };
    let stream = Stream::from(socket);
    if !original.redirected {
        return refuse(&shared, stream, Reason::Loop, &original.address);
    }
    let destination = Name::from(original.address.to_string());
    let found = shared.directory.lookup(&destination).await;
    // Only now: whoever opened the connection has had the time to say so.
    if shared.dialer.is_own(peer, original.address) {
        tracing::error!(%peer, %destination, "the redirection does not exempt this sidecar: see `malla-proxy init --help`");
        return refuse(&shared, stream, Reason::Loop, &destination);
    }
    Box::pin(to(worker, stream, Some(peer.ip()), destination, found, arrived)).await;
}

/// A connection to a local port that leads to one destination.
pub async fn local(worker: Arc<Worker>, socket: TcpStream, destination: Name) {
    let arrived = clock::now();
    let found = worker.shared.directory.lookup(&destination).await;
    let source = source(&socket);
    Box::pin(to(worker, socket.into(), source, destination, found, arrived)).await;
}

/// A connection to the HTTP listener of explicit mode: each request says where it goes.
pub async fn explicit(worker: Arc<Worker>, socket: TcpStream) {
    let source = source(&socket);
    let mut stream = Stream::from(socket);
    match version(&worker.shared, &mut stream).await {
        Ok(version) => {
            let side = Side::Outbound(http::Outbound::ByAuthority);
            Box::pin(http::serve_from(worker, stream, version, side, source)).await;
        }
        Err(Reason::ClientReset | Reason::Draining) => {}
        Err(reason) => refuse(&worker.shared, stream, reason, &"the HTTP listener"),
    }
}

/// The client's address.
fn source(socket: &TcpStream) -> Option<IpAddr> {
    socket.peer_addr().ok().map(|peer| peer.ip())
}

/// Look up → protocol → HTTP, a route by SNI, or TCP.
async fn to(
    worker: Arc<Worker>,
    mut stream: Stream,
    source: Option<IpAddr>,
    destination: Name,
    found: Result<Arc<Outbound>, Reason>,
    arrived: Instant,
) {
    let shared = worker.shared.clone();
    let account = |service: &Name| Account::begin(&shared, Direction::Outbound, service, arrived);
    let service = match found.as_deref() {
        Ok(Outbound::Service(service)) => service,
        Ok(Outbound::Unknown(UnknownDestination::PassThrough)) => {
            let mut account = account(&OUTSIDE.into());
            return match open_outside(&shared, &destination, &mut account).await {
                Ok(upstream) => tcp::carry(&shared, Direction::Outbound, stream, None, upstream, account).await,
                Err((reason, what)) => {
                    account.failed(reason, &what);
                    refuse(&shared, stream, reason, &what);
                }
            };
        }
        Ok(Outbound::Unknown(UnknownDestination::Deny)) => {
            account(&UNKNOWN.into()).failed(Reason::NoRoute, &destination);
            return refuse(&shared, stream, Reason::NoRoute, &destination);
        }
        Err(reason) => {
            account(&UNKNOWN.into()).failed(*reason, &destination);
            return refuse(&shared, stream, *reason, &destination);
        }
    };
    let route = match protocol(&shared, service, &mut stream).await {
        Ok(Spoken::Http(version)) => {
            let side = Side::Outbound(http::Outbound::To(destination));
            return Box::pin(http::serve_from(worker, stream, version, side, source)).await;
        }
        Ok(Spoken::Stream(route)) => route,
        Err(Reason::ClientReset | Reason::Draining) => return,
        Err(reason) => return refuse(&shared, stream, reason, &service.name),
    };
    let mut account = account(&service.name);
    match Box::pin(tcp::open_route(&shared, route, &mut account)).await {
        Ok(upstream) => tcp::carry(&shared, Direction::Outbound, stream, None, upstream, account).await,
        Err(error) => {
            account.failed(error.reason(), &error);
            fail(&shared, stream, &service.name, &error);
        }
    }
}

/// What a client of a service speaks.
enum Spoken<'a> {
    Http(Version),
    Stream(&'a TcpRoute),
}

async fn protocol<'a>(
    shared: &Shared,
    service: &'a OutboundService,
    stream: &mut Stream,
) -> Result<Spoken<'a>, Reason> {
    let number = port(&service.name);
    let raw = || service.tcp.as_ref().map(Spoken::Stream).ok_or(Reason::ProtocolError);
    let spoken = match number.map(|port| shared.settings.spoken(service.protocol, port)) {
        Some(Protocol::Http) if service.http.is_none() => service.protocol,
        spoken => spoken.unwrap_or(service.protocol),
    };
    match spoken {
        Protocol::Http => version(shared, stream).await.map(Spoken::Http),
        Protocol::Tls if !service.sni.is_empty() => {
            let detected = stream.peek(detect::UNDECLARED, detect::tls).await;
            match detected.map_err(|_| Reason::ClientReset)? {
                Peeked::Decided(Detected::Tls { sni: Some(sni) }) => {
                    by_server_name(&service.sni, &sni).map_or_else(raw, |route| Ok(Spoken::Stream(route)))
                }
                _ => raw(),
            }
        }
        Protocol::Tcp | Protocol::Tls => raw(),
        Protocol::Detect if service.http.is_none() || number.is_some_and(detect::never_http) => raw(),
        Protocol::Detect => {
            let decide = |bytes: &[u8]| Some(detect::detect(bytes)).filter(|found| *found != Detected::NeedMore);
            let detected = stream.peek(detect::UNDECLARED, decide).await.map_err(|_| Reason::ClientReset)?;
            shared.metrics.detected(Direction::Outbound, counted(&detected));
            match detected {
                Peeked::Decided(Detected::Http1) => Ok(Spoken::Http(Version::Http1)),
                Peeked::Decided(Detected::Http2) => Ok(Spoken::Http(Version::Http2)),
                _ => raw(),
            }
        }
    }
}

/// Of HTTP, where nothing else is spoken. A connection that has sent nothing yet is idle, and ends when the drain begins.
async fn version(shared: &Shared, stream: &mut Stream) -> Result<Version, Reason> {
    let peeked = tokio::select! {
        biased;
        peeked = stream.peek(detect::CLIENT_FIRST, detect::http_version) => peeked,
        () = shared.drain.draining() => return Err(Reason::Draining),
    };
    match peeked {
        Ok(Peeked::Decided(version)) => Ok(version),
        Ok(Peeked::Silent) => Err(Reason::IdleTimeout),
        Ok(Peeked::Undecided) => Err(Reason::HeaderTimeout),
        Ok(Peeked::Closed) | Err(_) => Err(Reason::ClientReset),
    }
}

/// For metrics.
pub(crate) fn counted(detected: &Peeked<Detected>) -> metrics::Detected {
    match detected {
        Peeked::Decided(Detected::Http1) => metrics::Detected::Http1,
        Peeked::Decided(Detected::Http2) => metrics::Detected::Http2,
        Peeked::Decided(Detected::Tls { .. }) => metrics::Detected::Tls,
        Peeked::Decided(_) | Peeked::Undecided | Peeked::Closed => metrics::Detected::Tcp,
        Peeked::Silent => metrics::Detected::Silent,
    }
}

fn port(destination: &str) -> Option<u16> {
    destination.rsplit_once(':')?.1.parse().ok()
}

async fn open_outside(shared: &Shared, destination: &str, account: &mut Account) -> Result<Upstream, (Reason, String)> {
    let outside = Outside::parse(destination).ok_or_else(|| (Reason::NoRoute, destination.to_owned()))?;
    let opened = Box::pin(tcp::open_outside(shared, &outside, OUTSIDE, account)).await;
    opened.map_err(|error| (error.reason(), error.to_string()))
}

fn fail(shared: &Shared, stream: Stream, service: &Name, error: &OpenError) {
    shared.metrics.tcp(Direction::Outbound, service, "", "").failed(error.reason());
    refuse(shared, stream, error.reason(), error);
}

/// Counts, says why, and resets: a clean end would look like an empty answer.
fn refuse(shared: &Shared, stream: Stream, reason: Reason, what: &dyn std::fmt::Display) {
    shared.metrics.connection_refused(Direction::Outbound, reason);
    tracing::info!(%reason, %what, "outbound connection refused");
    stream.abort_on_drop();
}

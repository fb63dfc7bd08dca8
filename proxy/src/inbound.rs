//! The way of a connection to the application, in the order of execution.
//!
//! TLS with an SNI of the mesh is ours and ends here; other TLS is the application's and passes untouched; plaintext is
//! refused unless the port's mode is permissive. Whose connection it is, is known before the application hears of it.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod plaintext;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::authorize::{Subject, Verdict, authorize};
use crate::clock;
use crate::detect::{self, Detected};
use crate::http::{self, Side, Version};
use crate::metrics::Direction;
use crate::names::SpiffeId;
use crate::original_dst::{OriginalDst, original_dst};
use crate::outbound::counted;
use crate::peers::Proof;
use crate::reason::Reason;
use crate::shared::{Shared, Worker};
use crate::snapshot::{Inbound, InboundPort, Plaintext, Protocol};
use crate::stays::denied_later;
use crate::stream::{PeekLimits, Peeked, Replay, Stream};
use crate::tcp::{self, Account};
use crate::tls::{self, Alpn};
use crate::woken::when_woken;

/// For a client that must speak first, and shows in its first bytes who it is.
const CLIENT_HELLO: PeekLimits = PeekLimits { first: Duration::from_secs(10), rest: Duration::from_secs(10) };

/// Where plaintext is permitted on a port of TCP: a client of the mesh sends its ClientHello at once, another may wait for the
/// server to speak.
const BRIEFLY: PeekLimits = PeekLimits { first: Duration::from_millis(200), rest: Duration::from_secs(10) };

/// How long a client that has shown its certificate may take to take our last words.
const FAREWELL: Duration = Duration::from_secs(10);

/// What the names of the mesh end in.
const MESH: &str = ".mesh";

/// A connection to the inbound listener.
pub async fn serve(worker: Arc<Worker>, socket: TcpStream, peer: SocketAddr) {
    let shared = worker.shared.clone();
    let Ok(original) = original_dst(&socket) else { return };
    let mut stream = Replay::from(socket);
    let Some(inbound) = shared.directory.snapshot().inbound.clone() else {
        return refuse(&shared, stream.into(), Reason::NoConfiguration, &peer);
    };
    // Not redirected: explicit mode, or this sidecar itself. Then only an SNI names the port.
    let port = if original.redirected { inbound.by_port(original.address.port()) } else { None };
    match stream.peek(limits(&shared, port), detect::tls).await {
        Ok(Peeked::Decided(Detected::Tls { sni })) => {
            let sni = sni.as_deref().unwrap_or_default();
            match (mesh_port(&inbound, port, sni), port) {
                (Some(port), _) => Box::pin(mesh(worker, port, stream, original, peer)).await,
                (None, Some(port)) if !sni.ends_with(MESH) => {
                    Box::pin(application_tls(&worker, port, stream, original, peer)).await;
                }
                _ => refuse(&shared, stream.into(), Reason::NoInboundPort, &sni),
            }
        }
        Ok(Peeked::Decided(_) | Peeked::Closed) => {
            Box::pin(plaintext::serve(worker, port, stream, original, peer)).await;
        }
        Ok(Peeked::Silent) if port.is_some_and(|port| port.plaintext == Plaintext::Accepted) => {
            Box::pin(plaintext::serve(worker, port, stream, original, peer)).await;
        }
        Ok(Peeked::Silent | Peeked::Undecided) => refuse(&shared, stream.into(), Reason::HeaderTimeout, &peer),
        Err(_) => shared.metrics.connection_refused(Direction::Inbound, Reason::ClientReset),
    }
}

/// How long the first bytes may take: a client of the mesh sends them at once.
fn limits(shared: &Shared, port: Option<&InboundPort>) -> PeekLimits {
    let Some(port) = port.filter(|port| port.plaintext == Plaintext::Accepted) else { return CLIENT_HELLO };
    match shared.settings.spoken(port.protocol, port.port) {
        Protocol::Tcp => BRIEFLY,
        Protocol::Detect => detect::UNDECLARED,
        Protocol::Http | Protocol::Tls => CLIENT_HELLO,
    }
}

/// The port that TLS of the mesh is for; `None` if the TLS is not the mesh's, or names no port of this workload.
///
/// Clients that are not sidecars (proxyless gRPC) may send the service's own name. On a port that is declared HTTP, the
/// application speaks no TLS, so it can only be the mesh's.
fn mesh_port<'a>(inbound: &'a Inbound, port: Option<&'a InboundPort>, sni: &str) -> Option<&'a InboundPort> {
    if sni.ends_with(MESH) {
        return inbound.by_sni(sni);
    }
    let host =
        |port: &&InboundPort| port.service.rsplit_once(':').is_some_and(|(host, _)| !sni.is_empty() && host == sni);
    match port {
        Some(port) => (port.protocol == Protocol::Http).then_some(port),
        None => inbound.ports.iter().find(|port| port.protocol == Protocol::Http && host(port)),
    }
}

/// Handshake → who is it → HTTP or TCP.
async fn mesh(worker: Arc<Worker>, port: &InboundPort, stream: Replay, original: OriginalDst, peer: SocketAddr) {
    let shared = worker.shared.clone();
    let credentials = shared.identity.credentials();
    // Boxed, as is whatever is large and short: what remains of a connection is what it needs while it is idle.
    let accepted = match Box::pin(tls::accept(credentials.as_deref(), stream)).await {
        Ok(accepted) => accepted,
        Err(error) => {
            shared.metrics.tls_failed(Direction::Inbound, error.reason());
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            return tracing::info!(reason = %error.reason(), %error, cause, %peer, "inbound handshake failed");
        }
    };
    shared.metrics.tls_completed(Direction::Inbound, accepted.handshake);
    let proof = shared.peers.shown(&accepted.peer, peer.ip(), accepted.until);
    if accepted.alpn == Some(Alpn::Renewed) {
        // That was all: other connections of the client's stay.
        let mut stream = accepted.stream;
        let _ = timeout(FAREWELL, stream.shutdown()).await;
        return;
    }
    carry(worker, port, accepted.stream, accepted.alpn, Some((accepted.peer, proof)), original, peer).await;
}

/// To the application, as what the port speaks; `alpn` is what the client said about it.
async fn carry(
    worker: Arc<Worker>,
    port: &InboundPort,
    mut stream: Stream,
    alpn: Option<Alpn>,
    client: Option<(SpiffeId, Proof)>,
    original: OriginalDst,
    peer: SocketAddr,
) {
    let shared = worker.shared.clone();
    let (client, proof) = client.unzip();
    let spoken = match alpn {
        None => shared.settings.spoken(port.protocol, port.port),
        Some(_) => port.protocol,
    };
    let version = match (spoken, alpn) {
        (Protocol::Tcp | Protocol::Tls, _) | (Protocol::Detect, Some(Alpn::Tcp | Alpn::Renewed)) => None,
        (Protocol::Http | Protocol::Detect, Some(Alpn::H2)) => Some(Version::Http2),
        (Protocol::Http, _) => match stream.peek(CLIENT_HELLO, detect::http_version).await {
            Ok(Peeked::Decided(version)) => Some(version),
            Ok(Peeked::Closed) | Err(_) => return,
            Ok(_) => return refuse(&shared, stream, Reason::HeaderTimeout, &port.service),
        },
        (Protocol::Detect, None) => {
            let decide = |bytes: &[u8]| Some(detect::detect(bytes)).filter(|found| *found != Detected::NeedMore);
            let Ok(detected) = stream.peek(detect::UNDECLARED, decide).await else { return };
            shared.metrics.detected(Direction::Inbound, counted(&detected));
            match detected {
                Peeked::Decided(Detected::Http1) => Some(Version::Http1),
                Peeked::Decided(Detected::Http2) => Some(Version::Http2),
                _ => None,
            }
        }
    };
    let destination = SocketAddr::new(original.address.ip(), port.port);
    match version {
        Some(version) => {
            let side = Side::Inbound(http::Inbound {
                service: port.service.clone(),
                port: port.port,
                peer: client.clone(),
                proof: proof.clone(),
                source: peer.ip(),
                original_destination: Some(destination),
                before: Some((port.upstream.clone(), port.authorization.clone())),
            });
            // Requests under way when the client's proof ends have the time to end that those of a drained sidecar have.
            let ended = pin!(nobody_any_more(&shared, client.as_ref(), proof.as_ref(), shared.settings.drain));
            let reason = tokio::select! {
                () = Box::pin(http::serve(worker, stream, version, side)) => return,
                reason = when_woken(ended) => reason,
            };
            shared.metrics.connection_refused(Direction::Inbound, reason);
            tracing::info!(%reason, %peer, service = %port.service, "inbound connection cut");
        }
        None => raw(&worker, port, stream, client.as_ref(), proof.as_ref(), destination, peer).await,
    }
}

/// The application's own TLS, untouched: who the client is, is the application's to judge.
async fn application_tls(worker: &Worker, port: &InboundPort, stream: Replay, original: OriginalDst, peer: SocketAddr) {
    let destination = SocketAddr::new(original.address.ip(), port.port);
    raw(worker, port, stream.into(), None, None, destination, peer).await;
}

/// Ends, and says why, when a client that has proved who it is has not done so for this long, or at once when its trust domain is
/// trusted no longer; never in plaintext.
async fn nobody_any_more(shared: &Shared, client: Option<&SpiffeId>, proof: Option<&Proof>, grace: Duration) -> Reason {
    match (client, proof) {
        (Some(client), Some(proof)) => tokio::select! {
            () = Box::pin(proof.outlived(grace)) => Reason::PeerExpired,
            () = Box::pin(shared.identity.distrusted(client.trust_domain())) => Reason::TlsUntrusted,
        },
        _ => std::future::pending().await,
    }
}

async fn raw(
    worker: &Worker,
    port: &InboundPort,
    stream: Stream,
    client: Option<&SpiffeId>,
    proof: Option<&Proof>,
    destination: SocketAddr,
    peer: SocketAddr,
) {
    let (shared, identity) = (&worker.shared, client.map_or("", SpiffeId::as_str));
    let changes = shared.directory.inbound_changes();
    let mut account = Account::begin(shared, Direction::Inbound, &port.service, clock::now()).client(client);
    if !may(worker, port, client, peer) {
        account.failed(Reason::Denied, &peer);
        shared.metrics.tcp(Direction::Inbound, &port.service, identity, "").failed(Reason::Denied);
        return refuse(shared, stream, Reason::Denied, &format_args!("{peer} {identity} to {}", port.service));
    }
    match Box::pin(tcp::open(shared, &port.upstream, Some(destination), &mut account)).await {
        Ok(upstream) => {
            let upstream = upstream.labelled(&port.service);
            let subject = subject(port, client, peer);
            let ends = async {
                tokio::select! {
                    reason = nobody_any_more(shared, client, proof, Duration::ZERO) => reason,
                    () = denied_later(shared, &port.service, &subject, changes) => Reason::Denied,
                }
            };
            tcp::carry_until(shared, Direction::Inbound, stream, client, upstream, account, ends).await;
        }
        Err(error) => {
            account.failed(error.reason(), &error);
            shared.metrics.tcp(Direction::Inbound, &port.service, identity, "").failed(error.reason());
            refuse(shared, stream, error.reason(), &error);
        }
    }
}

/// What is known of a raw stream.
fn subject<'a>(port: &InboundPort, client: Option<&'a SpiffeId>, peer: SocketAddr) -> Subject<'a> {
    Subject { peer: client, source: peer.ip(), port: port.port, head: None }
}

/// Asks the rules of the port about a raw stream.
fn may(worker: &Worker, port: &InboundPort, client: Option<&SpiffeId>, peer: SocketAddr) -> bool {
    let Some(rules) = &port.authorization else { return true };
    let (metrics, verdict) = (&worker.shared.metrics, authorize(rules, &subject(port, client, peer)));
    let Verdict { allowed, denied, audited } = verdict;
    if let Some(policy) = audited {
        metrics.audited(&port.service, policy);
        let caller = client.map_or("", SpiffeId::as_str);
        tracing::info!(service = %port.service, policy, caller, %peer, "a policy would refuse this connection");
    }
    match denied {
        Some(policy) => metrics.denied(&port.service, policy),
        None => worker.shard.allowed(&port.service, allowed),
    }
    denied.is_none()
}

/// Counts, says why, and resets: a clean end would look like an empty answer.
fn refuse(shared: &Shared, stream: Stream, reason: Reason, what: &dyn Display) {
    shared.metrics.connection_refused(Direction::Inbound, reason);
    tracing::info!(%reason, %what, "inbound connection refused");
    stream.abort_on_drop();
}

//! Metrics: one struct per sidecar, labelled only by configuration.
//!
//! What happens for each request goes to the shard of a worker; what happens for each connection goes to the families here.

use std::sync::Arc;
use std::time::Duration;

use crate::names::Name;
use crate::reason::Reason;

/// All metrics of a sidecar.
#[derive(Debug, Default)]
pub struct Metrics {}

/// What one worker counts for each request.
#[derive(Debug, Default)]
pub struct Shard {}

/// Direction of traffic, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// What the first bytes of a connection were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detected {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// A ClientHello.
    Tls,
    /// Something else.
    Tcp,
    /// Nothing within the limit: carried as TCP.
    Silent,
}

/// A TCP connection that is being carried; counts its end on drop.
#[derive(Debug)]
pub struct TcpConnection {}

/// One row of the live table: a source, a destination, and what passed between them.
#[derive(Debug, Clone)]
pub struct EdgeRow {
    /// Direction as seen by this sidecar.
    pub direction: Direction,
    /// Workload (outbound: this one) or identity (inbound: of the client) where it comes from.
    pub source: Arc<str>,
    /// Destination service (`cart.shop:80`).
    pub destination: Name,
    /// `http/1.1`, `http/2`, `grpc`, `tcp`.
    pub protocol: &'static str,
    /// Identity of the peer, empty where the connection is in plaintext.
    pub identity: Arc<str>,
    /// Requests or connections since the start.
    pub requests: u64,
    /// Those of them that failed: status 500 and above, a gRPC status that is the server's fault, or a reason.
    pub failures: u64,
    /// Requests by duration: upper bound and number, not cumulated; the last bound is `Duration::MAX`.
    pub latency: Vec<(Duration, u64)>,
    /// Bytes towards the destination and back (TCP).
    pub bytes: (u64, u64),
}

impl Metrics {
    /// An empty registry; `workload` (`cart-1.shop`) is the name of the workload beside the sidecar.
    pub fn new(workload: &str) -> Arc<Self> {
        let _ = workload;
        Arc::new(Self::default())
    }

    /// A shard for a worker.
    pub fn shard(&self) -> Arc<Shard> {
        Arc::default()
    }

    /// The text exposition (OpenMetrics 1.0).
    pub fn exposition(&self) -> String {
        String::new()
    }

    /// Every edge that this sidecar has seen.
    pub fn edges(&self) -> Vec<EdgeRow> {
        Vec::new()
    }

    /// A connection was refused or could not be made.
    pub fn connection_refused(&self, direction: Direction, reason: Reason) {
        let _ = (direction, reason);
    }

    /// A connection was accepted.
    pub fn connection_accepted(&self, direction: Direction) {
        let _ = direction;
    }

    /// A connection's protocol was detected.
    pub fn detected(&self, direction: Direction, result: Detected) {
        let _ = (direction, result);
    }

    /// A TLS handshake failed (`Inbound`: with a client, `Outbound`: with an endpoint).
    pub fn tls_failed(&self, direction: Direction, reason: Reason) {
        let _ = (direction, reason);
    }

    /// A plaintext connection of another workload was accepted because the mode is permissive.
    pub fn plaintext_accepted(&self, service: &Name) {
        let _ = service;
    }

    /// A TCP connection begins; `peer` is the other side's identity (empty in plaintext), `workload` that of the endpoint.
    pub fn tcp(&self, direction: Direction, service: &Name, peer: &str, workload: &str) -> TcpConnection {
        let _ = (direction, service, peer, workload);
        TcpConnection {}
    }
}

impl TcpConnection {
    /// Bytes carried towards the destination.
    pub fn sent(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Bytes carried back.
    pub fn received(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The connection ended for this reason; without it, in order.
    pub fn failed(&mut self, reason: Reason) {
        let _ = reason;
    }
}

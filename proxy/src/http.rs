//! HTTP connections of clients: from bytes to requests, and each request to an upstream and back.
//!
//! [`serve`] takes a connection whose protocol is known and owns it to its end. Bodies stream; nothing is collected.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod body;
mod client_io;
mod exchange;
mod failure;
mod forward;
mod framing;
mod grpc_timeout;
mod head;
mod hedge;
mod idle;
mod mirror;
mod pipe;
pub mod reading;
mod replay;
mod request_body;
mod request_bytes;
mod response;
mod server1;
mod server2;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
mod tunnel;
mod verdicts;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::authorize::Authorization;
use crate::clock;
use crate::metrics::Direction;
use crate::names::{Name, SpiffeId};
use crate::peers::Proof;
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::Cluster;

pub(crate) use self::head::{Head, MALLA_HTTP, is_dot_segment};
pub use self::mirror::Mirrors;
pub(crate) use self::request_body::RequestBody;

/// How long a head may take from its first byte to its last, and the beginning of an HTTP/2 connection.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may be without a request.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);

/// Which HTTP a connection speaks, as detected or agreed by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2, agreed or by prior knowledge.
    Http2,
}

/// From where a connection came and where its requests may go.
#[derive(Debug, Clone)]
pub enum Side {
    /// From the local application.
    Outbound(Outbound),
    /// From another workload to the local application.
    Inbound(Inbound),
}

/// Where the requests of a connection of the local application go.
#[derive(Debug, Clone)]
pub enum Outbound {
    /// Explicit mode: each request names its destination by its authority, as `Host` or as to an HTTP proxy (absolute form,
    /// `CONNECT`).
    ByAuthority,
    /// To one destination: the name to look up (`cart.shop:80`, `10.96.0.7:80`), given by the original destination or the
    /// local listener.
    To(Name),
}

/// A connection to the local application.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Service port that the client named (`cart.shop:80`): together with `port` it selects the
    /// [`crate::snapshot::InboundPort`], anew for each request.
    pub service: Name,
    /// Port of the application.
    pub port: u16,
    /// Identity of the client's sidecar; `None` in plaintext.
    pub peer: Option<SpiffeId>,
    /// Until when that is proved.
    pub proof: Option<Proof>,
    /// Address of the peer that connected.
    pub source: IpAddr,
    /// Address that the client connected to before redirection; used for upstreams of the original destination.
    pub original_destination: Option<SocketAddr>,
    /// Where the application was, and who might call it, when the connection came in. It serves the connection on when the
    /// configuration forgets the workload: clients may not have been told yet.
    pub before: Option<(Arc<Cluster>, Option<Arc<Authorization>>)>,
}

/// Serves one connection until it ends, is drained or is cut by the drop of the future.
///
/// Never fails: what goes wrong is counted, logged once and, where HTTP allows, answered.
pub async fn serve<IO>(worker: Arc<Worker>, io: IO, version: Version, side: Side)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_from(worker, io, version, side, None).await;
}

/// The same, for a client whose address is known.
pub async fn serve_from<IO>(worker: Arc<Worker>, io: IO, version: Version, side: Side, source: Option<IpAddr>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http2 = version == Version::Http2;
    let connection = Arc::new(Connection { worker, side, http2, source, last_authority: Mutex::default() });
    match version {
        Version::Http1 => server1::run(connection, io).await,
        Version::Http2 => server2::run(connection, io).await,
    }
}

/// What the requests of a connection share.
#[derive(Debug)]
struct Connection {
    worker: Arc<Worker>,
    side: Side,
    http2: bool,
    /// The client's address, where it is known.
    source: Option<IpAddr>,
    /// The authority of the last request, and the name that it normalizes to.
    last_authority: Mutex<Option<(Authority, Name)>>,
}

impl Connection {
    fn direction(&self) -> Direction {
        match self.side {
            Side::Outbound(_) => Direction::Outbound,
            Side::Inbound(_) => Direction::Inbound,
        }
    }

    /// Ends when the connection shall take no more requests: the sidecar stops, or the client is nobody any more.
    async fn closing(&self) {
        let draining = self.worker.shared.drain.draining();
        match &self.side {
            Side::Inbound(Inbound { proof: Some(proof), .. }) => tokio::select! {
                () = draining => {}
                () = Box::pin(proof.outlived(Duration::ZERO)) => {}
            },
            Side::Inbound(_) | Side::Outbound(_) => draining.await,
        }
    }

    /// The connection is ended for this reason, outside of any request.
    fn count(&self, reason: Reason) {
        self.worker.shared.metrics.connection_refused(self.direction(), reason);
    }

    fn log(&self, reason: Reason, what: &str) {
        if let Some(suppressed) = self.worker.shard.log.permit(clock::now()) {
            let direction = self.direction().word();
            tracing::info!(reason = reason.word(), direction, suppressed, "{}: {what}", reason.sentence());
        }
    }
}

#[cfg(test)]
mod tests;

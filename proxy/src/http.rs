//! HTTP connections of clients: from bytes to requests, and each request to an upstream and back.
//!
//! [`serve`] takes a connection whose protocol is known and owns it to its end. Bodies stream; nothing is collected.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::names::{Name, SpiffeId};
use crate::shared::Worker;

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
    /// Address that the client connected to before redirection; used for upstreams of the original destination.
    pub original_destination: Option<SocketAddr>,
}

/// Serves one connection until it ends, is drained or is cut by the drop of the future.
///
/// Never fails: what goes wrong is counted, logged once and, where HTTP allows, answered.
pub async fn serve<IO>(worker: Arc<Worker>, io: IO, version: Version, side: Side)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = (worker, io, version, side);
}

//! Raw TCP: choosing where a connection goes, connecting, and carrying the bytes.
//!
//! Nothing of a client's is sent before the upstream is connected, so a connect that fails is tried again at another endpoint,
//! within the retry budget.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod account;
mod copy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::balance::{self, LoadGuard, UsageGuard};
use crate::metrics::Direction;
use crate::names::{Name, SpiffeId};
use crate::reason::Reason;
use crate::shared::Shared;
use crate::snapshot::{Cluster, Endpoint, Endpoints, TcpRoute, WeightedClusters};
use crate::stream::Stream;
use crate::tls::{self, Alpn, ConnectError};

pub use self::account::Account;
pub use self::copy::{End, copy};

/// Endpoints that are tried for one connection: one more than the first. The other is tried at once, because nobody has
/// got anything yet.
const TRIES: usize = 2;

/// After so long without a byte in either direction a connection to outside of the mesh is closed.
const IDLE: Duration = Duration::from_secs(3600);

/// An upstream that is connected, with what counts it.
#[derive(Debug)]
pub struct Upstream {
    stream: Stream,
    /// Label for metrics: the cluster's name, or a fixed word for what is outside of the mesh.
    service: Name,
    peer: Option<SpiffeId>,
    /// Who is connected, of a cluster with known addresses.
    endpoint: Option<Arc<Endpoint>>,
    /// Without a byte in either direction for this long, it is closed.
    idle: Duration,
    /// Where the endpoint has to be shown each new certificate, of this cluster.
    verifies: Option<Arc<Cluster>>,
    _counted: Option<(UsageGuard, Option<LoadGuard>)>,
}

impl Upstream {
    /// Counted as a connection to this service instead of its cluster.
    pub fn labelled(self, service: &Name) -> Self {
        Upstream { service: service.clone(), ..self }
    }
}

/// Why there is no upstream.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The route leads nowhere.
    #[error("the route {0} has no backend with a weight above zero")]
    NoBackend(Arc<str>),
    /// Nothing to connect to.
    #[error("{0} has no endpoint")]
    NoEndpoints(Name),
    /// As many connections as are permitted.
    #[error("{0} has as many connections as its limit permits")]
    CircuitOpen(Name),
    /// Nobody knows where the connection was going.
    #[error("{0} is reached at the connection's original destination, and this one has none")]
    NoDestination(Name),
    /// The last try.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl OpenError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            OpenError::NoBackend(_) | OpenError::NoEndpoints(_) => Reason::NoEndpoints,
            OpenError::CircuitOpen(_) => Reason::CircuitOpen,
            OpenError::NoDestination(_) => Reason::NoInboundPort,
            OpenError::Connect(error) => error.reason(),
        }
    }
}

/// Connects to one of a route's clusters.
///
/// # Errors
/// [`OpenError`]; counted.
pub async fn open_route(shared: &Shared, route: &TcpRoute, account: &mut Account) -> Result<Upstream, OpenError> {
    account.route(&route.name);
    let drawn = route.clusters.as_ref().and_then(WeightedClusters::next);
    let (_, cluster) = drawn.ok_or_else(|| OpenError::NoBackend(route.name.clone()))?;
    open(shared, cluster, None, account).await
}

/// Connects to a cluster; `original` is where the client was going, if anyone knows.
///
/// # Errors
/// [`OpenError`]; counted.
pub async fn open(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    original: Option<SocketAddr>,
    account: &mut Account,
) -> Result<Upstream, OpenError> {
    let place = cluster.usage.connection(&cluster.limits);
    let place = place.ok_or_else(|| OpenError::CircuitOpen(cluster.name.clone()))?;
    let opened = match &cluster.endpoints {
        Endpoints::Set(_) => open_endpoint(shared, cluster, place, account).await,
        Endpoints::Dns { host, port } => {
            account.tried(None);
            let connected = shared.resolver.connect(&shared.dialer, host, *port, cluster.connect_timeout).await;
            connected.map(|stream| direct(stream.into(), cluster, place)).map_err(OpenError::from)
        }
        Endpoints::OriginalDst => {
            let to = original.ok_or_else(|| OpenError::NoDestination(cluster.name.clone()))?;
            account.tried(None);
            let connected = shared.dialer.dial(to, cluster.connect_timeout).await;
            connected.map(|stream| direct(stream.into(), cluster, place)).map_err(OpenError::from)
        }
    };
    if let Err(error) = &opened {
        tracing::debug!(cluster = %cluster.name, reason = %error.reason(), %error, "no upstream");
    }
    if let Err(OpenError::Connect(error)) = &opened {
        count_failure(shared, cluster, error);
    }
    opened
}

fn count_failure(shared: &Shared, cluster: &Cluster, error: &ConnectError) {
    let reason = error.reason();
    shared.metrics.upstream_connect_failed(&cluster.name, reason);
    if matches!(reason, Reason::TlsFailed | Reason::TlsUntrusted | Reason::TlsWrongIdentity) {
        shared.metrics.tls_failed(Direction::Outbound, reason);
    }
}

/// A name or address outside of the mesh, untouched. `label` is a fixed word: names from outside label no metric.
///
/// # Errors
/// [`ConnectError`].
pub async fn open_outside(
    shared: &Shared,
    to: &Outside,
    label: &str,
    account: &mut Account,
) -> Result<Upstream, ConnectError> {
    const LIMIT: Duration = Duration::from_secs(10);
    account.tried(None);
    let stream = match to {
        Outside::Address(address) => shared.dialer.dial(*address, LIMIT).await?,
        Outside::Name(host, port) => shared.resolver.connect(&shared.dialer, host, *port, LIMIT).await?,
    };
    Ok(Upstream {
        stream: stream.into(),
        service: label.into(),
        peer: None,
        endpoint: None,
        idle: IDLE,
        verifies: None,
        _counted: None,
    })
}

/// A destination outside of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// By address.
    Address(SocketAddr),
    /// By name and port.
    Name(String, u16),
}

impl Outside {
    /// Reads a normalized destination (`10.1.2.3:80`, `example.com:443`).
    pub fn parse(destination: &str) -> Option<Self> {
        if let Ok(address) = destination.parse() {
            return Some(Outside::Address(address));
        }
        let (host, port) = destination.rsplit_once(':')?;
        Some(Outside::Name(host.to_owned(), port.parse().ok()?))
    }
}

fn direct(stream: Stream, cluster: &Cluster, place: UsageGuard) -> Upstream {
    let (service, idle) = (cluster.name.clone(), cluster.idle_timeout);
    Upstream { stream, service, peer: None, endpoint: None, idle, verifies: None, _counted: Some((place, None)) }
}

async fn open_endpoint(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    place: UsageGuard,
    account: &mut Account,
) -> Result<Upstream, OpenError> {
    let mut tried: SmallVec<[SocketAddr; TRIES]> = SmallVec::new();
    loop {
        let Some(mut picked) = balance::pick(cluster, &tried) else {
            return Err(match balance::why_none(cluster) {
                Reason::CircuitOpen => OpenError::CircuitOpen(cluster.name.clone()),
                _ => OpenError::NoEndpoints(cluster.name.clone()),
            });
        };
        let endpoint = picked.endpoint;
        account.tried(Some(&endpoint));
        let error = match tls::connect(shared, cluster, &endpoint, Alpn::Tcp).await {
            Ok(connected) => {
                picked.guard.answered();
                let verifies = connected.peer.is_some().then(|| cluster.clone());
                return Ok(Upstream {
                    verifies,
                    stream: connected.stream,
                    service: cluster.name.clone(),
                    peer: connected.peer,
                    endpoint: Some(endpoint),
                    idle: cluster.idle_timeout,
                    _counted: Some((place, Some(picked.guard))),
                });
            }
            Err(error) => error,
        };
        if error.elsewhere() {
            picked.guard.failed();
        } else {
            picked.guard.discard();
        }
        tried.push(endpoint.address);
        let others = matches!(&cluster.endpoints, Endpoints::Set(set) if set.len() > tried.len());
        if !error.elsewhere() || tried.len() >= TRIES || !others {
            return Err(error.into());
        }
        count_failure(shared, cluster, &error);
        account.tries_again(error.reason());
        tracing::debug!(cluster = %cluster.name, %error, "trying another endpoint");
    }
}

/// Carries a connection to its end, and counts it.
pub async fn carry(
    shared: &Shared,
    direction: Direction,
    client: Stream,
    peer: Option<&SpiffeId>,
    upstream: Upstream,
    account: Account,
) {
    let verifies = upstream.verifies.clone().zip(upstream.endpoint.clone());
    let server = upstream.peer.clone();
    let ends = async {
        match verifies.as_ref().zip(server.as_ref()) {
            Some(((cluster, endpoint), server)) => tokio::select! {
                never = tls::keep_known(shared, cluster, endpoint) => match never {},
                () = shared.identity.distrusted(server.trust_domain()) => Reason::TlsUntrusted,
            },
            None => std::future::pending().await,
        }
    };
    carry_until(shared, direction, client, peer, upstream, account, ends).await;
}

/// The same, unless `ends` ends it before, and says why.
pub async fn carry_until(
    shared: &Shared,
    direction: Direction,
    mut client: Stream,
    peer: Option<&SpiffeId>,
    upstream: Upstream,
    mut account: Account,
    ends: impl Future<Output = Reason>,
) {
    let Upstream { mut stream, service, peer: server, endpoint, idle, verifies: _, _counted } = upstream;
    let identity = match direction {
        Direction::Inbound => peer,
        Direction::Outbound => server.as_ref(),
    };
    let workload = endpoint.as_ref().map_or("", |endpoint| &endpoint.workload);
    let mut record = shared.metrics.tcp(direction, &service, identity.map_or("", SpiffeId::as_str), workload);
    account.connected(&record);
    let end = tokio::select! {
        end = copy(&mut client, &mut stream, idle, &record) => end,
        reason = ends => {
            record.failed(reason);
            account.failed(reason, &"it was ended by this sidecar");
            tracing::info!(%service, %reason, caller = identity.map_or("", SpiffeId::as_str), "a TCP connection was ended");
            client.abort_on_drop();
            return stream.abort_on_drop();
        }
    };
    let reason = match &end {
        Ok(()) => return account.ended(),
        Err(End::Idle) => Reason::IdleTimeout,
        Err(End::Client(_)) => Reason::ClientReset,
        Err(End::Upstream(_)) => Reason::UpstreamReset,
    };
    record.failed(reason);
    account.failed(reason, &service);
    if let Err(End::Client(cause) | End::Upstream(cause)) = &end {
        tracing::debug!(%service, %reason, %cause, "a TCP connection broke");
        // What either side has received is not all that there was: a clean end would hide that.
        client.abort_on_drop();
        stream.abort_on_drop();
    }
}

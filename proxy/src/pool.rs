//! Connections to upstreams, kept by one worker and shared by its requests.
//!
//! A `Host` is one endpoint of one cluster in one HTTP version. A request takes a lease: a stream of a multiplexed
//! HTTP/2 connection, or a whole HTTP/1 connection, and gives it back by dropping it. Where none is free, the request waits in
//! the host's queue, which is bounded in number and in time, while a connection is made for whoever is first in it; an attempt
//! belongs to the host, not to the request that caused it, and survives its cancellation.
//!
//! A connection that the peer ends (GOAWAY, close) is taken out when it says so; one made with an older certificate
//! ([`Pool::rotate`]) or used for long gets no more requests, and ends with its last one.

mod connect;
mod host;
mod http1;
mod http2;
mod life;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rapidhash::fast::{RandomState, RapidHasher};
use tokio_util::task::AbortOnDropHandle;

use self::host::Host;
use crate::names::Name;
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::{Cluster, Endpoint, Endpoints, PathMatch, Retry, Route, RouteAction, RouteMatch};

pub(crate) use self::connect::{
    CONNECTION_WINDOW, ConnectFailure, HTTP1_BUFFER, LARGEST_HEAD, SEND_BUFFER, STREAM_WINDOW, chain,
};
pub(crate) use self::http1::Http1Lease;
pub(crate) use self::http2::Http2Lease;
#[cfg(test)]
pub(crate) use self::life::{PATIENCE, SILENCE};

/// The pool of a worker. Made empty; connects on demand.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<PoolShared>,
    /// Destinations outside the mesh, as one cluster: for its limits.
    outside: Arc<Cluster>,
    /// The route of what has none: everything, once more where that is safe, without time-outs.
    pass_through: Route,
    /// Follows the sidecar's identity, from the first connection on.
    identity: OnceLock<AbortOnDropHandle<()>>,
}

/// What connections know of their pool.
#[derive(Debug, Default)]
pub(crate) struct PoolShared {
    hosts: Mutex<HashMap<u64, Arc<Host>, RandomState>>,
    /// Hosts that wait for an idle connection of another one of their cluster to end, to have its place.
    waiting_for_place: Mutex<Vec<Weak<Host>>>,
}

/// Where a connection goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A known endpoint.
    Endpoint(Arc<Endpoint>),
    /// An address without configuration: the original destination, or outside of the mesh.
    Address(SocketAddr),
    /// A name outside of the mesh.
    Name(Name, u16),
}

/// The HTTP version of a connection to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl Default for Pool {
    fn default() -> Self {
        let outside = Cluster {
            name: "outside".into(),
            endpoints: Endpoints::OriginalDst,
            connect_timeout: Duration::from_secs(5),
            ..Cluster::default()
        };
        let everything = RouteMatch { path: PathMatch::Any, method: None, headers: Vec::new(), query: Vec::new() };
        let pass_through = Route {
            name: "default".into(),
            matcher: everything,
            action: RouteAction::NoBackend,
            timeout: None,
            try_timeout: None,
            retry: Retry::default(),
            filters: None,
            mirrors: Vec::new(),
            limits: Vec::new(),
        };
        Pool { shared: Arc::default(), outside: Arc::new(outside), pass_through, identity: OnceLock::new() }
    }
}

impl Pool {
    /// New requests get new connections from now on (the sidecar has a new certificate); old ones finish what they carry.
    pub fn rotate(&self) {
        self.shared.rotate();
    }

    /// The cluster that stands for everything outside of the mesh.
    pub(crate) fn outside(&self) -> &Arc<Cluster> {
        &self.outside
    }

    /// The route of what has none.
    pub(crate) fn pass_through(&self) -> &Route {
        &self.pass_through
    }

    /// A whole HTTP/1 connection. `fresh_enough`: the longest time for which it may have been idle.
    ///
    /// # Errors
    /// No connection came about; nothing was sent.
    pub(crate) async fn http1(
        &self,
        worker: &Arc<Worker>,
        cluster: &Arc<Cluster>,
        target: &Target,
        fresh_enough: Duration,
    ) -> Result<Http1Lease, ConnectFailure> {
        let host = self.host(worker, cluster, target, Version::Http1);
        if let Some(lease) = host.idle(fresh_enough) {
            return Ok(lease);
        }
        Box::pin(host.wait_http1(worker, cluster)).await.map(Http1Lease::waited_for)
    }

    /// A stream of an HTTP/2 connection.
    ///
    /// # Errors
    /// No connection came about; nothing was sent.
    pub(crate) async fn http2(
        &self,
        worker: &Arc<Worker>,
        cluster: &Arc<Cluster>,
        target: &Target,
    ) -> Result<Http2Lease, ConnectFailure> {
        let host = self.host(worker, cluster, target, Version::Http2);
        if let Some(lease) = host.stream() {
            return Ok(lease);
        }
        Box::pin(host.wait_http2(worker, cluster)).await.map(Http2Lease::waited_for)
    }

    fn host(&self, worker: &Arc<Worker>, cluster: &Arc<Cluster>, target: &Target, version: Version) -> Arc<Host> {
        self.identity.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(follow(worker, &self.shared))));
        let mut key = target.key(cluster, version);
        let mut hosts = self.shared.hosts.lock();
        loop {
            match hosts.get(&key) {
                Some(host) if host.is(cluster, target, version) => return host.clone(),
                // Two hosts with the same hash: the later one takes the next place.
                Some(_) => key = key.wrapping_add(1),
                None => break,
            }
        }
        let host = Arc::new(Host::new(key, cluster, target.clone(), version, Arc::downgrade(&self.shared)));
        hosts.insert(key, host.clone());
        host
    }
}

/// Rotates the pool with each new certificate, and when the certificate expires: what was agreed with it ends with it.
fn follow(worker: &Arc<Worker>, pool: &Arc<PoolShared>) -> impl Future<Output = ()> + use<> {
    let identity = worker.shared.identity.clone();
    let mut generation = identity.subscribe();
    let pool: Weak<PoolShared> = Arc::downgrade(pool);
    async move {
        let mut has_expired = false;
        loop {
            tokio::select! {
                changed = generation.changed() => match changed {
                    Ok(()) => has_expired = false,
                    Err(_) => return,
                },
                () = identity.expiry(), if !has_expired => has_expired = true,
            }
            let Some(pool) = pool.upgrade() else { return };
            pool.rotate();
        }
    }
}

impl PoolShared {
    fn rotate(&self) {
        let hosts: Vec<Arc<Host>> = self.hosts.lock().values().cloned().collect();
        for host in hosts {
            host.rotate();
        }
    }

    /// Sees to it that a connection that nobody uses makes place for one to a host that has none, where the service's limit permits no
    /// more; whether there was one.
    fn make_place(&self, wanting: &Arc<Host>) -> bool {
        let others: Vec<Arc<Host>> =
            self.hosts.lock().values().filter(|host| host.is_beside(wanting)).cloned().collect();
        // Told first: the connection may end at once.
        self.waiting_for_place.lock().push(Arc::downgrade(wanting));
        others.iter().any(|host| host.close_one())
    }

    /// A connection of a host has ended: those who wait for its place.
    fn place_is_free(&self, of: &Arc<Host>) -> Vec<Arc<Host>> {
        let mut waiting = self.waiting_for_place.lock();
        if waiting.is_empty() {
            return Vec::new();
        }
        let (woken, rest) = waiting.drain(..).filter_map(|host| host.upgrade()).partition(|host| host.is_beside(of));
        let rest: Vec<Arc<Host>> = rest;
        waiting.extend(rest.iter().map(Arc::downgrade));
        woken
    }

    /// Forgets a host that has nothing left.
    fn remove_if_empty(&self, host: &Arc<Host>) {
        let mut hosts = self.hosts.lock();
        if hosts.get(&host.key()).is_some_and(|found| Arc::ptr_eq(found, host)) && host.is_empty() {
            hosts.remove(&host.key());
        }
    }
}

impl Target {
    fn key(&self, cluster: &Cluster, version: Version) -> u64 {
        let mut hasher = RapidHasher::default();
        cluster.name.hash(&mut hasher);
        version.hash(&mut hasher);
        match self {
            Target::Endpoint(endpoint) => {
                endpoint.address.hash(&mut hasher);
                endpoint.identity.hash(&mut hasher);
            }
            Target::Address(address) => address.hash(&mut hasher),
            Target::Name(name, port) => (name, port).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Whether connections to one may serve for the other.
    fn same(&self, other: &Target) -> bool {
        match (self, other) {
            (Target::Endpoint(one), Target::Endpoint(two)) => {
                Arc::ptr_eq(one, two) || (one.address == two.address && one.identity == two.identity)
            }
            (Target::Address(one), Target::Address(two)) => one == two,
            (Target::Name(one, port), Target::Name(two, other)) => one == two && port == other,
            _ => false,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Endpoint(endpoint) => endpoint.address.fmt(f),
            Target::Address(address) => address.fmt(f),
            Target::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

fn circuit_open(what: &'static str) -> ConnectFailure {
    ConnectFailure { reason: Reason::CircuitOpen, what: what.into(), elsewhere: false }
}

//! The connections to one endpoint, and the requests that wait for one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connect::{self, ConnectFailure};
use super::http1::{Http1Lease, IdleConnection};
use super::http2::{Http2Lease, MultiplexedConnection};
use super::{PoolShared, Target, Version, circuit_open};
use crate::names::{Name, SpiffeId};
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::Cluster;

/// One endpoint of one cluster, in one HTTP version.
#[derive(Debug)]
pub(super) struct Host {
    key: u64,
    cluster: Name,
    /// SNI and identities of the TLS settings that its connections were verified against.
    tls: Option<(Arc<str>, Vec<SpiffeId>)>,
    target: Target,
    version: Version,
    pool: Weak<PoolShared>,
    /// Whether somebody waits: read without the lock by each lease that ends.
    has_waiting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// HTTP/1: the most recently used last.
    idle: Vec<IdleConnection>,
    /// HTTP/2.
    multiplexed: Vec<Arc<MultiplexedConnection>>,
    waiting: VecDeque<Waiter>,
    /// Attempts to connect that are under way.
    attempts: usize,
    /// Connections that live, leased or not.
    live: usize,
    /// Rises when connections made before must get no more requests.
    generation: u64,
}

#[derive(Debug)]
enum Waiter {
    Http1(oneshot::Sender<Result<Http1Lease, ConnectFailure>>),
    Http2(oneshot::Sender<Result<Http2Lease, ConnectFailure>>),
}

impl Host {
    pub(super) fn new(key: u64, cluster: &Cluster, target: Target, version: Version, pool: Weak<PoolShared>) -> Self {
        let tls = cluster.tls.as_ref().map(|tls| (tls.sni.clone(), tls.identities.clone()));
        let has_waiting = AtomicBool::new(false);
        Host { key, cluster: cluster.name.clone(), tls, target, version, pool, has_waiting, state: Mutex::default() }
    }

    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Whether its connections serve for this endpoint. The TLS settings are compared only where there are any in use.
    pub(super) fn is(&self, cluster: &Cluster, target: &Target, version: Version) -> bool {
        let verified_alike = || match (&self.tls, &cluster.tls) {
            (None, None) => true,
            (Some((sni, identities)), Some(tls)) => *sni == tls.sni && *identities == tls.identities,
            _ => false,
        };
        self.version == version && self.cluster == cluster.name && self.target.same(target) && verified_alike()
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.live == 0 && state.attempts == 0 && state.waiting.is_empty()
    }

    /// An HTTP/1 connection that is ready and was used lately enough.
    pub(super) fn idle(self: &Arc<Self>, fresh_enough: Duration) -> Option<Http1Lease> {
        let mut state = self.state.lock();
        state.idle.retain(|connection| !connection.is_closed());
        // Last in, first out: what is left over grows old and is closed.
        let position = state.idle.iter().rposition(IdleConnection::is_ready)?;
        if state.idle.get(position)?.idle_for() > fresh_enough {
            return None;
        }
        Some(Http1Lease::new(self.clone(), state.idle.remove(position)))
    }

    /// Closes HTTP/1 connections that have been idle for this long.
    pub(super) fn close_idle(&self, limit: Duration) {
        self.state.lock().idle.retain(|connection| connection.idle_for() < limit);
    }

    /// A stream of the HTTP/2 connection that has the fewest.
    pub(super) fn stream(self: &Arc<Self>) -> Option<Http2Lease> {
        self.state.lock().stream(self)
    }

    /// Waits for an HTTP/1 connection, and sees to it that one is made.
    pub(super) async fn wait_http1(
        self: Arc<Self>,
        worker: &Arc<Worker>,
        cluster: &Arc<Cluster>,
    ) -> Result<Http1Lease, ConnectFailure> {
        let (sender, receiver) = oneshot::channel();
        self.wait(worker, cluster, Waiter::Http1(sender), receiver).await
    }

    /// Waits for a stream of an HTTP/2 connection, and sees to it that there is one.
    pub(super) async fn wait_http2(
        self: Arc<Self>,
        worker: &Arc<Worker>,
        cluster: &Arc<Cluster>,
    ) -> Result<Http2Lease, ConnectFailure> {
        let (sender, receiver) = oneshot::channel();
        self.wait(worker, cluster, Waiter::Http2(sender), receiver).await
    }

    async fn wait<L>(
        self: &Arc<Self>,
        worker: &Arc<Worker>,
        cluster: &Arc<Cluster>,
        waiter: Waiter,
        receiver: oneshot::Receiver<Result<L, ConnectFailure>>,
    ) -> Result<L, ConnectFailure> {
        let waiting = cluster.usage.wait(&cluster.limits);
        // Whose connection can be begun at once does not wait for a limit.
        if waiting.is_none() && !self.begin(&mut self.state.lock(), worker, cluster) {
            return Err(circuit_open("too many requests wait for a connection"));
        }
        {
            let mut state = self.state.lock();
            state.waiting.push_back(waiter);
            self.has_waiting.store(true, Relaxed);
        }
        self.attempt_for_the_waiting(worker, cluster);
        let mut receiver = receiver;
        let mut waited = timeout(cluster.limits.pending_timeout, &mut receiver).await;
        let connecting = waited.is_err() && self.state.lock().attempts > 0;
        if connecting {
            let rest = cluster.connect_timeout.saturating_sub(cluster.limits.pending_timeout);
            waited = timeout(rest, receiver).await;
        }
        match waited {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(circuit_open("the connection that was waited for did not come about")),
            Err(_) if connecting => Err(ConnectFailure {
                reason: Reason::ConnectTimeout,
                what: format!("no connection to {} in time", self.target).into(),
                elsewhere: true,
            }),
            Err(_) => Err(circuit_open("no connection became free in time")),
        }
    }

    /// Begins as many attempts as those who wait need.
    pub(super) fn attempt_for_the_waiting(self: &Arc<Self>, worker: &Arc<Worker>, cluster: &Arc<Cluster>) {
        loop {
            let mut state = self.state.lock();
            state.waiting.retain(|waiter| !waiter.has_gone());
            let needed = match self.version {
                Version::Http1 => state.waiting.len(),
                Version::Http2 => state.waiting.len().div_ceil(connect::ASSUMED_STREAMS),
            };
            if state.attempts >= needed {
                return;
            }
            if self.begin(&mut state, worker, cluster) {
                continue;
            }
            // Those who wait get a connection that becomes free, if there is any.
            let alone = state.live == 0 && state.attempts == 0;
            drop(state);
            if alone && !self.pool.upgrade().is_some_and(|pool| pool.make_place(self)) {
                for waiter in self.state.lock().waiting.drain(..) {
                    waiter.fail(circuit_open("the service has reached its limit of connections"));
                }
            }
            return;
        }
    }

    /// Begins an attempt, if the limits permit one more connection.
    fn begin(self: &Arc<Self>, state: &mut State, worker: &Arc<Worker>, cluster: &Arc<Cluster>) -> bool {
        if state.live + state.attempts >= cluster.limits.endpoint_connections as usize {
            return false;
        }
        let Some(place) = cluster.usage.connection(&cluster.limits) else { return false };
        state.attempts += 1;
        let generation = state.generation;
        tokio::spawn(connect::attempt(self.clone(), worker.clone(), cluster.clone(), place, generation));
        true
    }

    /// An HTTP/1 connection was made.
    pub(super) fn connected_http1(self: &Arc<Self>, connection: IdleConnection) {
        {
            let mut state = self.state.lock();
            state.attempts -= 1;
            state.live += 1;
        }
        self.give(connection);
    }

    /// An HTTP/2 connection was made.
    pub(super) fn connected_http2(self: &Arc<Self>, connection: Arc<MultiplexedConnection>, generation: u64) {
        let mut state = self.state.lock();
        state.attempts -= 1;
        state.live += 1;
        if state.generation == generation {
            state.multiplexed.push(connection);
        }
        let left_over = self.serve_waiting(&mut state);
        drop(state);
        drop(left_over);
    }

    /// An attempt failed: so do those who would have used it.
    pub(super) fn not_connected(self: &Arc<Self>, failure: &ConnectFailure) {
        let mut state = self.state.lock();
        state.attempts -= 1;
        let failing = match self.version {
            Version::Http1 => 1,
            Version::Http2 => connect::ASSUMED_STREAMS,
        };
        for _ in 0..failing.min(state.waiting.len()) {
            if let Some(waiter) = state.waiting.pop_front() {
                waiter.fail(failure.clone());
            }
        }
        drop(state);
        self.remove_if_empty();
    }

    /// A connection has ended.
    pub(super) fn ended(self: &Arc<Self>, worker: &Arc<Worker>, cluster: &Arc<Cluster>) {
        let mut state = self.state.lock();
        state.live -= 1;
        state.idle.retain(|connection| !connection.is_closed());
        state.multiplexed.retain(|connection| !connection.is_closed());
        let waiting = !state.waiting.is_empty();
        drop(state);
        if waiting {
            self.attempt_for_the_waiting(worker, cluster);
        }
        for other in self.pool.upgrade().map(|pool| pool.place_is_free(self)).unwrap_or_default() {
            other.attempt_for_the_waiting(worker, cluster);
        }
        self.remove_if_empty();
    }

    /// Whether it is another host of the same cluster.
    pub(super) fn is_beside(&self, other: &Host) -> bool {
        self.cluster == other.cluster && !std::ptr::eq(self, other)
    }

    /// Closes a connection that nobody uses; whether there was one.
    pub(super) fn close_one(&self) -> bool {
        let mut state = self.state.lock();
        if state.idle.pop().is_some() {
            return true;
        }
        let unused = state.multiplexed.iter().position(|connection| connection.streams() == 0);
        unused.map(|place| state.multiplexed.swap_remove(place)).is_some()
    }

    /// An HTTP/1 connection is free: for the first who waits, or to be kept.
    pub(super) fn give(self: &Arc<Self>, mut connection: IdleConnection) {
        if connection.is_closed() {
            return;
        }
        let mut state = self.state.lock();
        if connection.generation() != state.generation {
            return;
        }
        // Its last exchange may have to be seen to its end by its own task first: who gets it now could not send.
        if !state.waiting.is_empty()
            && !connection.is_ready()
            && let Ok(runtime) = Handle::try_current()
        {
            let host = self.clone();
            runtime.spawn(async move {
                if connection.ready().await {
                    host.give(connection);
                }
            });
            return;
        }
        while let Some(waiter) = state.waiting.pop_front() {
            let Waiter::Http1(waiter) = waiter else { continue };
            let lease = Http1Lease::new(self.clone(), connection);
            match waiter.send(Ok(lease)) {
                Ok(()) => return,
                Err(returned) => match returned.ok().and_then(Http1Lease::into_connection) {
                    Some(back) => connection = back,
                    None => return,
                },
            }
        }
        self.has_waiting.store(false, Relaxed);
        state.idle.push(connection);
    }

    /// A stream has ended.
    pub(super) fn stream_ended(self: &Arc<Self>) {
        if self.has_waiting.load(Relaxed) {
            let mut state = self.state.lock();
            let left_over = self.serve_waiting(&mut state);
            drop(state);
            drop(left_over);
        }
    }

    /// Gives streams to those who wait. Of those some may have gone: what they leave over is to be dropped by the caller once the state
    /// is unlocked, for its end is told here.
    #[must_use]
    fn serve_waiting(self: &Arc<Self>, state: &mut State) -> Option<LeftOver> {
        let mut left_over: Option<Http2Lease> = None;
        while !state.waiting.is_empty() {
            let lease = left_over.take().or_else(|| state.stream(self))?;
            left_over = match state.waiting.pop_front() {
                Some(Waiter::Http2(waiter)) => waiter.send(Ok(lease)).err().and_then(Result::ok),
                Some(Waiter::Http1(_)) | None => Some(lease),
            };
        }
        self.has_waiting.store(false, Relaxed);
        left_over.map(LeftOver)
    }

    /// Takes a connection out: it gets no more streams and ends with its last one.
    pub(super) fn retire(&self, connection: &Arc<MultiplexedConnection>) {
        self.state.lock().multiplexed.retain(|kept| !Arc::ptr_eq(kept, connection));
    }

    /// Every connection made so far gets no more requests.
    pub(super) fn rotate(&self) {
        if !matches!(&self.target, Target::Endpoint(endpoint) if endpoint.identity.is_some()) {
            return; // no TLS, no certificate
        }
        let mut state = self.state.lock();
        state.generation += 1;
        state.idle.clear();
        state.multiplexed.clear();
    }

    fn remove_if_empty(self: &Arc<Self>) {
        if let Some(pool) = self.pool.upgrade() {
            pool.remove_if_empty(self);
        }
    }
}

/// A lease under which no stream was opened.
struct LeftOver(Http2Lease);

impl Drop for LeftOver {
    fn drop(&mut self) {
        self.0.unused();
    }
}

impl State {
    fn stream(&mut self, host: &Arc<Host>) -> Option<Http2Lease> {
        self.multiplexed.retain(|connection| connection.is_usable());
        let least = self.multiplexed.iter().filter(|connection| connection.has_room());
        let connection = least.min_by_key(|connection| connection.streams())?;
        Some(Http2Lease::new(host.clone(), connection.clone()))
    }
}

impl Waiter {
    fn has_gone(&self) -> bool {
        match self {
            Waiter::Http1(waiter) => waiter.is_closed(),
            Waiter::Http2(waiter) => waiter.is_closed(),
        }
    }

    fn fail(self, failure: ConnectFailure) {
        // Who has gone needs no answer.
        match self {
            Waiter::Http1(waiter) => drop(waiter.send(Err(failure))),
            Waiter::Http2(waiter) => drop(waiter.send(Err(failure))),
        }
    }
}

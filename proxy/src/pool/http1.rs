//! HTTP/1 connections to upstreams: one request at a time, idle in between.

use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::host::Host;
use crate::http::RequestBody;

/// A connection that nobody uses.
#[derive(Debug)]
pub(super) struct IdleConnection {
    sender: SendRequest<RequestBody>,
    /// When its last request ended; `None` before the first.
    last_used: Option<Instant>,
    generation: u64,
}

/// A connection for one request; goes back by being dropped, if it is still good.
#[derive(Debug)]
pub(crate) struct Http1Lease {
    host: Arc<Host>,
    connection: Option<IdleConnection>,
    /// When it was there, if it was waited for.
    waited_until: Option<Instant>,
}

impl IdleConnection {
    pub(super) fn new(sender: SendRequest<RequestBody>, generation: u64) -> Self {
        IdleConnection { sender, last_used: None, generation }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether its last exchange is over on the wire.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready() || self.last_used.is_none()
    }

    /// Waits for that; `false` if the connection has ended instead.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.last_used.map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Http1Lease {
    pub(super) fn new(host: Arc<Host>, connection: IdleConnection) -> Self {
        Http1Lease { host, connection: Some(connection), waited_until: None }
    }

    /// It was waited for until now.
    pub(super) fn waited_for(mut self) -> Self {
        self.waited_until = Some(Instant::now());
        self
    }

    /// When it was there, if it was waited for.
    pub(crate) fn waited_until(&self) -> Option<Instant> {
        self.waited_until
    }

    /// For how long it had been idle when it was taken; `None` if this is its first request.
    pub(crate) fn was_idle_for(&self) -> Option<Duration> {
        self.connection.as_ref()?.last_used.map(|at| at.elapsed())
    }

    /// To send the request with.
    pub(crate) fn sender(&mut self) -> Option<&mut SendRequest<RequestBody>> {
        self.connection.as_mut().map(|connection| &mut connection.sender)
    }

    /// The connection as it was before it was leased.
    pub(super) fn into_connection(mut self) -> Option<IdleConnection> {
        self.connection.take()
    }

    /// The connection has become something else (an upgrade), or is in an unknown state.
    pub(crate) fn keep_out(&mut self) {
        self.connection = None;
    }
}

impl Drop for Http1Lease {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.last_used = Some(Instant::now());
            self.host.give(connection);
        }
    }
}

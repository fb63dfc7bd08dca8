//! HTTP/2 connections to upstreams: many requests at a time.
//!
//! Directly on `h2`, not on hyper's client: hyper carries each request through a channel and two tasks of its own, and hides
//! informational responses and the moment at which a stream is opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::connect::ASSUMED_STREAMS;
use super::host::Host;

/// Most streams on one connection, however many the peer permits.
const MOST_STREAMS: usize = 1000;
/// Streams given up before their end, after which a connection is replaced: peers count resets, and end connections that
/// have too many.
const MOST_RESETS: u32 = 500;
/// Streams after which a connection is replaced, long before stream identifiers run out.
const MOST_STREAMS_EVER: u64 = 1 << 28;

/// A connection that requests share.
pub(super) struct MultiplexedConnection {
    sender: Mutex<SendRequest<Bytes>>,
    /// Wakes the connection's task when the last lease is gone, which `h2` does not do by itself.
    _wakes_task: oneshot::Sender<()>,
    /// Streams at this moment.
    streams: AtomicU32,
    /// Streams so far.
    opened: AtomicU64,
    /// Streams that were given up.
    resets: AtomicU32,
    closed: AtomicBool,
    /// Whether the peer's settings have come.
    settled: watch::Receiver<bool>,
}

/// A stream's place on a connection; ends by being dropped.
pub(crate) struct Http2Lease {
    host: Arc<Host>,
    connection: Arc<MultiplexedConnection>,
    complete: bool,
    /// When there was one, if it was waited for.
    waited_until: Option<Instant>,
}

impl MultiplexedConnection {
    pub(super) fn new(
        sender: SendRequest<Bytes>,
        wakes_task: oneshot::Sender<()>,
        settled: watch::Receiver<bool>,
    ) -> Self {
        MultiplexedConnection {
            sender: Mutex::new(sender),
            _wakes_task: wakes_task,
            streams: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            settled,
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Whether new streams may be opened: not after GOAWAY, and not on one that is worn out.
    pub(super) fn is_usable(&self) -> bool {
        let ready = || self.sender.lock().poll_ready(&mut Context::from_waker(Waker::noop()));
        !self.is_closed()
            && self.resets.load(Relaxed) < MOST_RESETS
            && self.opened.load(Relaxed) < MOST_STREAMS_EVER
            && !matches!(ready(), Poll::Ready(Err(_)))
    }

    pub(super) fn has_room(&self) -> bool {
        let permitted = self.sender.lock().current_max_send_streams().min(MOST_STREAMS);
        (self.streams() as usize) < permitted
    }

    /// Whether the peer's settings have come.
    pub(super) fn has_settled(&self) -> bool {
        self.sender.lock().current_max_send_streams() != ASSUMED_STREAMS
    }

    /// Streams so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    pub(super) fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }
}

impl Http2Lease {
    pub(super) fn new(host: Arc<Host>, connection: Arc<MultiplexedConnection>) -> Self {
        connection.streams.fetch_add(1, Relaxed);
        connection.opened.fetch_add(1, Relaxed);
        Http2Lease { host, connection, complete: false, waited_until: None }
    }

    /// It was waited for until now.
    pub(super) fn waited_for(mut self) -> Self {
        self.waited_until = Some(Instant::now());
        self
    }

    /// When there was one, if it was waited for.
    pub(crate) fn waited_until(&self) -> Option<Instant> {
        self.waited_until
    }

    /// Opens the stream with the request's head.
    ///
    /// # Errors
    /// The connection takes no more streams; nothing was sent.
    pub(crate) fn open(
        &self,
        head: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.connection.sender.lock().send_request(head, end_of_stream)
    }

    /// Whether the peer takes extended `CONNECT`; waits for its settings on a new connection.
    pub(crate) async fn takes_extended_connect(&self) -> bool {
        let mut settled = self.connection.settled.clone();
        // An error is a connection that has ended, which takes nothing.
        settled.wait_for(|settled| *settled).await.is_ok()
            && self.connection.sender.lock().is_extended_connect_protocol_enabled()
    }

    /// The stream ended in order, on both sides.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// No stream was opened.
    pub(super) fn unused(&mut self) {
        self.complete = true;
    }

    /// The connection is of no more use to others either.
    pub(crate) fn retire(&self) {
        self.host.retire(&self.connection);
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Relaxed);
        if !self.complete && self.connection.resets.fetch_add(1, Relaxed) + 1 >= MOST_RESETS {
            self.retire();
        }
        self.host.stream_ended();
    }
}

impl std::fmt::Debug for MultiplexedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MultiplexedConnection").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Http2Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.connection.fmt(f)
    }
}

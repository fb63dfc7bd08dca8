//! The IO of an HTTP/1 client's connection, watched: how its bytes are framed, and what the end of the input means.
//!
//! Of what was read, hyper gets at most up to the end of the next head; what follows is kept until it is known to be a body
//! or another head.
//!
//! A client may close its sending side after a request and wait for the answer, or it may have gone; TCP shows the same for
//! both. While an answer is due, the end of the input is therefore held back for [`HALF_CLOSED_GRACE`]: long enough for ordinary
//! answers to half-closed clients, short enough that the work for clients that have gone is given up.
//!
//! A client that takes nothing of what is there for it for [`LIMIT`](super::stall::LIMIT) is given up too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Follows, Framing, Violation};
use super::stall::Stall;

/// How long an answer is awaited for a client whose input has ended.
pub(super) const HALF_CLOSED_GRACE: Duration = Duration::from_secs(5);

/// What the parts of one connection know of each other. Touched by one thread; atomics because tasks must be `Send`.
#[derive(Debug)]
pub(crate) struct ClientState {
    /// A request is being served: from its complete head to the end of its response.
    serving: AtomicBool,
    /// The body of that request has been read to its end.
    body_ended: AtomicBool,
    /// Bytes came in while no request was being served.
    head_begun: AtomicBool,
    /// The input has ended and the connection has not been told.
    end_held: AtomicBool,
    /// The end must not be held back any longer.
    end_released: AtomicBool,
    /// Requests so far.
    requests: AtomicU64,
    /// What follows the head that hyper has read, or one of the codes below.
    follows: AtomicU64,
    /// Hyper was told to wait until it is known what follows.
    blocked: AtomicBool,
    /// Why the client's bytes are refused.
    violation: OnceLock<Violation>,
    /// Why the body that is being read is refused: the request fails that it belongs to.
    broken_body: OnceLock<Violation>,
    /// The client takes nothing of its answer.
    stalled: AtomicBool,
    /// Reads again once the end, or what follows a head, is held back no longer.
    reader: AtomicWaker,
}

/// Nothing new is known of what follows.
const UNCHANGED: u64 = u64::MAX;
const CHUNKED: u64 = u64::MAX - 1;
const UNDECIDED: u64 = u64::MAX - 2;
/// What could have been another protocol is HTTP still.
const RESUMED: u64 = u64::MAX - 3;
/// It is another protocol.
const SWITCHED: u64 = u64::MAX - 4;

impl Default for ClientState {
    fn default() -> Self {
        ClientState {
            serving: AtomicBool::default(),
            body_ended: AtomicBool::default(),
            head_begun: AtomicBool::default(),
            end_held: AtomicBool::default(),
            end_released: AtomicBool::default(),
            requests: AtomicU64::default(),
            follows: AtomicU64::new(UNCHANGED),
            blocked: AtomicBool::default(),
            violation: OnceLock::new(),
            broken_body: OnceLock::new(),
            stalled: AtomicBool::default(),
            reader: AtomicWaker::new(),
        }
    }
}

impl ClientState {
    /// A head is complete.
    pub(super) fn request_begun(&self, follows: Follows) {
        let code = match follows {
            Follows::Length(length) => length.min(SWITCHED - 1),
            Follows::Chunked => CHUNKED,
            Follows::Undecided => UNDECIDED,
        };
        self.decided(code);
        self.serving.store(true, Relaxed);
        self.body_ended.store(false, Relaxed);
        self.head_begun.store(false, Relaxed);
        self.requests.fetch_add(1, Relaxed);
    }

    /// The request's body has been read.
    pub(crate) fn body_ended(&self) {
        self.body_ended.store(true, Relaxed);
    }

    /// The response has been handed over to its last byte.
    pub(crate) fn response_ended(&self) {
        self.serving.store(false, Relaxed);
        if self.end_held.load(Relaxed) {
            self.reader.wake();
        }
    }

    /// The upstream did not switch to another protocol.
    pub(super) fn resumed(&self) {
        // A body that has not been begun is still to come.
        if matches!(self.follows.load(Relaxed), UNCHANGED | UNDECIDED) {
            self.decided(RESUMED);
        }
    }

    /// The upstream switched to another protocol.
    pub(super) fn switched(&self) {
        self.decided(SWITCHED);
    }

    fn decided(&self, code: u64) {
        self.follows.store(code, Relaxed);
        if self.blocked.swap(false, Relaxed) {
            self.reader.wake();
        }
    }

    /// Why the client's bytes are refused, once the requests before them are answered.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation.get().copied().filter(|_| !self.serving.load(Relaxed))
    }

    /// Why a body was refused, which ended the connection.
    pub(super) fn broken_body(&self) -> Option<Violation> {
        self.broken_body.get().copied()
    }

    /// Whether the connection was given up because the client took nothing of its answer for too long.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// A head has begun and is not complete.
    pub(super) fn awaits_head(&self) -> bool {
        self.head_begun.load(Relaxed) && !self.serving.load(Relaxed)
    }

    /// The input has ended and is being held back.
    pub(super) fn end_is_held(&self) -> bool {
        self.end_held.load(Relaxed) && !self.end_released.load(Relaxed) && self.serving.load(Relaxed)
    }

    /// Tells the connection, at its next read, that the input has ended.
    pub(super) fn release_end(&self) {
        self.end_released.store(true, Relaxed);
    }

    /// Requests so far, and whether one is being served.
    pub(super) fn activity(&self) -> (u64, bool) {
        (self.requests.load(Relaxed), self.serving.load(Relaxed))
    }

    /// Where nothing is handed on: hyper waits, unless it reads a body that will not go on.
    fn refused(&self) -> Poll<io::Result<()>> {
        match self.broken_body() {
            Some(violation) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation.to_string()))),
            None => Poll::Pending,
        }
    }

    /// The end of the input, unless an answer is due to a request that has come in whole.
    fn poll_end(&self, cx: &Context<'_>, complete: Option<bool>) -> Poll<io::Result<()>> {
        let Some(complete) = complete else {
            self.blocked.store(true, Relaxed);
            return Poll::Pending;
        };
        let complete = complete || self.body_ended.load(Relaxed);
        if self.serving.load(Relaxed) && complete && !self.end_released.load(Relaxed) {
            self.reader.register(cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// The connection of a client.
#[derive(Debug)]
pub(super) struct ClientIo<IO> {
    io: IO,
    framing: Framing,
    /// Read, and not handed on yet.
    held: Bytes,
    stall: Stall,
    state: Arc<ClientState>,
}

impl<IO> ClientIo<IO> {
    pub(super) fn new(io: IO, state: Arc<ClientState>) -> Self {
        ClientIo { io, framing: Framing::default(), held: Bytes::new(), stall: Stall::default(), state }
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }

    /// How many of these bytes may be handed on; `None` if hyper must wait, for good if they are refused.
    fn admit(&mut self, bytes: &[u8]) -> Option<usize> {
        match self.framing.admit(bytes) {
            Ok(0) => {
                self.state.blocked.store(true, Relaxed);
                None
            }
            Ok(admitted) => {
                if !self.state.serving.load(Relaxed) {
                    self.state.head_begun.store(true, Relaxed);
                }
                Some(admitted)
            }
            Err(violation) => {
                // Only the first is told.
                let of_body = self.framing.in_body();
                let _ = if of_body { &self.state.broken_body } else { &self.state.violation }.set(violation);
                None
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ClientIo<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.state.follows.load(Relaxed) {
            UNCHANGED => {}
            code => {
                this.state.follows.store(UNCHANGED, Relaxed);
                match code {
                    RESUMED => this.framing.resume(),
                    CHUNKED => this.framing.begin(Follows::Chunked),
                    UNDECIDED => this.framing.begin(Follows::Undecided),
                    SWITCHED => this.framing.switch(),
                    length => this.framing.begin(Follows::Length(length)),
                }
            }
        }
        this.state.reader.register(cx.waker());
        if this.state.violation.get().is_some() || this.state.broken_body().is_some() {
            return this.state.refused();
        }
        if !this.held.is_empty() {
            let fits = this.held.slice(..this.held.len().min(buffer.remaining()));
            let Some(admitted) = this.admit(&fits) else { return this.state.refused() };
            buffer.put_slice(fits.get(..admitted).unwrap_or_default());
            this.held.advance(admitted);
            return Poll::Ready(Ok(()));
        }
        if this.state.end_held.load(Relaxed) {
            return this.state.poll_end(cx, this.framing.complete());
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        if read.is_empty() {
            this.state.end_held.store(buffer.remaining() > 0, Relaxed);
            return this.state.poll_end(cx, this.framing.complete());
        }
        let length = read.len();
        let admitted = this.admit(read).unwrap_or(0);
        if admitted < length {
            let end = before.saturating_add(admitted);
            this.held = Bytes::copy_from_slice(buffer.filled().get(end..).unwrap_or_default());
            buffer.set_filled(end);
        }
        if admitted == 0 { this.state.refused() } else { Poll::Ready(Ok(())) }
    }
}

impl<IO> ClientIo<IO> {
    /// What became of a write; an error once too many have come to nothing.
    fn watch_write(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall.end();
            return written;
        }
        ready!(self.stall.poll(cx));
        self.state.stalled.store(true, Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ClientIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

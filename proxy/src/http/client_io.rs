//! The IO of an HTTP/1 client's connection, watched: which bytes belong to a head, and what the end of the input means.
//!
//! A client may close its sending side after a request and wait for the answer, or it may have gone; TCP shows the same for
//! both. While an answer is due, the end of the input is therefore held back for [`HALF_CLOSED_GRACE`]: long enough for ordinary
//! answers to half-closed clients, short enough that the work for clients that have gone is given up.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long an answer is awaited for a client whose input has ended.
pub(super) const HALF_CLOSED_GRACE: Duration = Duration::from_secs(5);

/// What the parts of one connection know of each other. Touched by one thread; atomics because tasks must be `Send`.
#[derive(Debug, Default)]
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
    /// Reads again once the end is held back no longer.
    reader: AtomicWaker,
}

impl ClientState {
    /// A head is complete.
    pub(crate) fn request_begun(&self) {
        self.serving.store(true, Relaxed);
        self.body_ended.store(false, Relaxed);
        self.head_begun.store(false, Relaxed);
        self.requests.store(self.requests.load(Relaxed) + 1, Relaxed);
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

    /// The end of the input, unless an answer is due.
    fn poll_end(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.serving.load(Relaxed) && self.body_ended.load(Relaxed) && !self.end_released.load(Relaxed) {
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
    state: Arc<ClientState>,
}

impl<IO> ClientIo<IO> {
    pub(super) fn new(io: IO, state: Arc<ClientState>) -> Self {
        ClientIo { io, state }
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ClientIo<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.state.end_held.load(Relaxed) {
            return self.state.poll_end(cx);
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = polled {
            if buffer.filled().len() > before {
                if !self.state.serving.load(Relaxed) {
                    self.state.head_begun.store(true, Relaxed);
                }
            } else if buffer.remaining() > 0 {
                self.state.end_held.store(true, Relaxed);
                return self.state.poll_end(cx);
            }
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ClientIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
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

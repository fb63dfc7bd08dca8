//! What a connection or stream becomes after an upgrade: bytes in both directions, at the pace of the slower side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::head::Head;
use super::response::Exchange;
use super::{Connection, Side};
use crate::authorize::Subject;
use crate::reason::Reason;
use crate::stays::denied_later;

/// Largest piece that is written into an HTTP/2 stream at once.
const PIECE: usize = 16 * 1024;

/// One side of a tunnel.
#[derive(Debug)]
pub(crate) enum TunnelIo {
    /// An HTTP/1 connection that switched.
    Http1(TokioIo<Upgraded>),
    /// A stream of extended `CONNECT`.
    Http2(StreamIo),
}

/// An upstream that switched, waiting for the client's side.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) upstream: TunnelIo,
    /// Ends with the tunnel.
    pub(crate) exchange: Exchange,
    /// What it was let in for, towards the application.
    pub(super) judged: Option<Judged>,
}

/// A request that became a tunnel, to be judged again when the rules change.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) connection: Arc<Connection>,
    pub(super) head: Box<Head>,
}

impl Judged {
    /// Ends when it would not be let in any more.
    async fn denied(&self) {
        let Side::Inbound(side) = &self.connection.side else { return std::future::pending().await };
        let subject =
            Subject { peer: side.peer.as_ref(), source: side.source, port: side.port, head: Some(self.head.seen()) };
        let shared = &self.connection.worker.shared;
        denied_later(shared, &side.service, &subject, shared.directory.inbound_changes()).await;
    }
}

impl Tunnel {
    /// Carries bytes until both sides have ended, or the caller may no longer.
    pub(crate) async fn run(mut self, mut client: TunnelIo) {
        let denied = async {
            match &self.judged {
                Some(judged) => judged.denied().await,
                None => std::future::pending().await,
            }
        };
        let copied = tokio::select! {
            copied = copy_bidirectional_with_sizes(&mut client, &mut self.upstream, PIECE, PIECE) => copied,
            () = denied => {
                self.exchange.outcome.failed(Reason::Denied, &"the rules have changed since it was let in");
                return client.abort();
            }
        };
        if let Err(cause) = copied {
            tracing::debug!(%cause, "an upgraded connection broke");
        }
        self.exchange.finish();
    }
}

impl TunnelIo {
    /// Tells the other side of a failure instead of an end, where that can be told.
    fn abort(self) {
        if let TunnelIo::Http2(mut stream) = self {
            stream.send.send_reset(h2::Reason::CONNECT_ERROR);
        }
    }
}

impl From<Upgraded> for TunnelIo {
    fn from(upgraded: Upgraded) -> Self {
        TunnelIo::Http1(TokioIo::new(upgraded))
    }
}

/// A stream of HTTP/2, as a connection.
#[derive(Debug)]
pub(crate) struct StreamIo {
    send: SendStream<Bytes>,
    receive: RecvStream,
    received: Bytes,
}

impl StreamIo {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        StreamIo { send, receive, received: Bytes::new() }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.received.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.received = data,
                Some(Err(error)) => return Poll::Ready(end_of_input(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.received.len().min(buffer.remaining());
        buffer.put_slice(self.received.get(..length).unwrap_or_default());
        self.received.advance(length);
        // Fails only on a stream that has ended, which has no window.
        let _ = self.receive.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(bytes.len().min(PIECE));
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = self.send.capacity().min(bytes.len());
        let piece = Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default());
        Poll::Ready(self.send.send_data(piece, false).map(|()| length).map_err(broken))
    }

    fn shut_down(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(broken)
    }
}

/// A peer that resets the stream without an error has ended it.
fn end_of_input(error: h2::Error) -> io::Result<()> {
    match error.reason() {
        Some(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => Ok(()),
        _ => Err(broken(error)),
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TunnelIo::Http1(io) => Pin::new(io).poll_read(cx, buffer),
            TunnelIo::Http2(io) => io.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TunnelIo::Http1(io) => Pin::new(io).poll_write(cx, bytes),
            TunnelIo::Http2(io) => io.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TunnelIo::Http1(io) => Pin::new(io).poll_flush(cx),
            TunnelIo::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TunnelIo::Http1(io) => Pin::new(io).poll_shutdown(cx),
            TunnelIo::Http2(io) => Poll::Ready(io.shut_down()),
        }
    }
}

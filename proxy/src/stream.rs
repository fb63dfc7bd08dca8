//! The one type of connection that the rest of the sidecar reads and writes: plain or TLS, with the bytes that detection
//! has read put back in front.
//!
//! Detection reads, it does not `MSG_PEEK`: a peek that finds half a ClientHello would be woken again at once by the very
//! bytes it has left in the socket. What was read is held here and given out first, so nobody behind sees a difference.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A connection to a client, to an endpoint or to the application.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(Replay),
    /// TLS over TCP, either side. Boxed: the state of a TLS connection is more than a kilobyte.
    Tls(Box<TlsStream<Replay>>),
}

impl Stream {
    /// The socket underneath.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(replay) => replay.socket(),
            Stream::Tls(tls) => tls.get_ref().0.socket(),
        }
    }

    /// Address of the other side.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Stream::Plain(socket.into())
    }
}

impl From<Replay> for Stream {
    fn from(replay: Replay) -> Self {
        Stream::Plain(replay)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_read(cx, buffer),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_write_vectored(cx, slices),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(replay) => replay.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// A TCP connection whose first bytes were read already, and are given out first.
#[derive(Debug)]
pub struct Replay {
    prefix: Bytes,
    socket: TcpStream,
}

impl Replay {
    /// Puts `prefix` in front of what the socket still has.
    pub fn new(prefix: Bytes, socket: TcpStream) -> Self {
        Replay { prefix, socket }
    }

    /// The socket; reading from it directly would skip the prefix.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What was read already.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl From<TcpStream> for Replay {
    fn from(socket: TcpStream) -> Self {
        Replay { prefix: Bytes::new(), socket }
    }
}

impl AsyncRead for Replay {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let length = self.prefix.len().min(buffer.remaining());
            let head = self.prefix.split_to(length);
            buffer.put_slice(&head);
            if self.prefix.is_empty() {
                self.prefix = Bytes::new(); // releases the memory
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Replay {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

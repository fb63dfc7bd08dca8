//! The one type of connection that the rest of the sidecar reads and writes: plain, TLS or a tunnel, with the bytes that
//! detection has read put back in front.
//!
//! Detection reads, it does not `MSG_PEEK`: a peek that finds half a ClientHello would be woken again at once by the very
//! bytes it has left in the socket. What was read is held here and given out first, so nobody behind sees a difference.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

use crate::dial::Own;

/// Most bytes that are held while a decision is awaited: more than any ClientHello with post-quantum keys, or request line.
pub const PEEK_LIMIT: usize = 32 * 1024;

/// Bytes read at once while a decision is awaited.
const PEEK_READ: usize = 4 * 1024;

/// Bytes read at once for whoever reads little at a time: two records of TLS.
const AHEAD: usize = 32 * 1024;

/// A connection to a client, to an endpoint or to the application.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(Replay),
    /// TLS over TCP, either side. Boxed: the state of a TLS connection is more than a kilobyte.
    Tls(Box<Replay<TlsStream<Replay>>>),
    /// What a client sends through an HTTP `CONNECT`.
    Tunnel(Replay<Box<dyn Duplex>>),
}

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Duplex for IO {}

impl Stream {
    /// The socket underneath; a tunnel has none.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Stream::Plain(replay) => Some(replay.get_ref()),
            Stream::Tls(tls) => Some(tls.get_ref().get_ref().0.get_ref()),
            Stream::Tunnel(_) => None,
        }
    }

    /// From now on, dropping it tells the other side of a failure (RST) instead of an end (FIN): what it has received is not
    /// all that there was.
    pub fn abort_on_drop(&self) {
        if let Some(socket) = self.socket() {
            // A socket that refuses is closed already.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Reads until `decide` has decided, without consuming. See [`Replay::peek`]. TLS is never looked into twice: the answer is
    /// [`Peeked::Closed`] for it.
    pub async fn peek<T>(
        &mut self,
        limits: PeekLimits,
        decide: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Peeked<T>> {
        match self {
            Stream::Plain(replay) => replay.peek(limits, decide).await,
            Stream::Tunnel(replay) => replay.peek(limits, decide).await,
            Stream::Tls(_) => Ok(Peeked::Closed),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Stream::Plain(socket.into())
    }
}

impl From<TlsStream<Replay>> for Stream {
    fn from(tls: TlsStream<Replay>) -> Self {
        Stream::Tls(Box::new(Replay::new(Bytes::new(), tls)))
    }
}

impl From<Box<dyn Duplex>> for Stream {
    fn from(tunnel: Box<dyn Duplex>) -> Self {
        Stream::Tunnel(Replay::new(Bytes::new(), tunnel))
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
            Stream::Tunnel(replay) => Pin::new(replay).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Stream::Tunnel(replay) => Pin::new(replay).poll_write(cx, bytes),
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
            Stream::Tunnel(replay) => Pin::new(replay).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(replay) => replay.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
            Stream::Tunnel(replay) => replay.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Stream::Tunnel(replay) => Pin::new(replay).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(replay) => Pin::new(replay).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Stream::Tunnel(replay) => Pin::new(replay).poll_shutdown(cx),
        }
    }
}

/// A connection whose first bytes were read already, and are given out first.
///
/// Whoever reads little at a time while there is more (TLS asks for 4 KiB, however long the record) is served from memory: what is
/// there is then read at once.
#[derive(Debug)]
pub struct Replay<IO = TcpStream> {
    /// Read, and not given out yet.
    prefix: Bytes,
    /// The last read had too little room for what there was.
    more: bool,
    io: IO,
    /// Ends the knowledge of the address when the connection ends.
    _own: Option<Own>,
}

/// How long a decision about the first bytes may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeekLimits {
    /// Until the first byte.
    pub first: Duration,
    /// From then on.
    pub rest: Duration,
}

/// What came of awaiting the first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peeked<T> {
    /// A decision.
    Decided(T),
    /// Not one byte in time.
    Silent,
    /// Some bytes, but neither a decision nor the end in time, or more than [`PEEK_LIMIT`].
    Undecided,
    /// The end came before a decision.
    Closed,
}

impl<IO> Replay<IO> {
    /// Puts `prefix` in front of what the connection still has.
    pub fn new(prefix: Bytes, io: IO) -> Self {
        Replay { prefix, more: false, io, _own: None }
    }

    /// The connection; reading from it directly would skip the prefix.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// What was read already.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl Replay {
    /// One of the sidecar's own connections.
    pub(crate) fn dialled(socket: TcpStream, own: Option<Own>) -> Self {
        Replay { prefix: Bytes::new(), more: false, io: socket, _own: own }
    }
}

impl<IO: AsyncRead + Unpin> Replay<IO> {
    /// Reads until `decide` has decided on the bytes so far (called whenever there are more); they stay to be read again.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn peek<T>(
        &mut self,
        limits: PeekLimits,
        mut decide: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Peeked<T>> {
        if self.prefix.is_empty() {
            match timeout(limits.first, poll_fn(|cx| self.poll_peek(cx))).await {
                Ok(Ok(0)) => return Ok(Peeked::Closed),
                Ok(read) => read?,
                Err(_) => return Ok(Peeked::Silent),
            };
        }
        if let Some(decision) = decide(&self.prefix) {
            return Ok(Peeked::Decided(decision));
        }
        let mut deadline = std::pin::pin!(sleep(limits.rest));
        while self.prefix.len() < PEEK_LIMIT {
            let read = tokio::select! {
                biased;
                read = poll_fn(|cx| self.poll_peek(cx)) => read?,
                () = &mut deadline => return Ok(Peeked::Undecided),
            };
            if read == 0 {
                return Ok(Peeked::Closed);
            }
            if let Some(decision) = decide(&self.prefix) {
                return Ok(Peeked::Decided(decision));
            }
        }
        Ok(Peeked::Undecided)
    }

    /// Reads once more behind the prefix. The buffer is on the stack: a silent connection holds none.
    fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [const { MaybeUninit::uninit() }; PEEK_READ];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        if self.prefix.is_empty() {
            self.prefix = Bytes::copy_from_slice(read);
        } else if !read.is_empty() {
            let mut prefix = BytesMut::from(std::mem::take(&mut self.prefix));
            prefix.extend_from_slice(read);
            self.prefix = prefix.freeze();
        }
        Poll::Ready(Ok(read.len()))
    }
}

impl From<TcpStream> for Replay {
    fn from(socket: TcpStream) -> Self {
        Replay::new(Bytes::new(), socket)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Replay<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            if !this.more || buffer.remaining() > AHEAD / 2 {
                let room = buffer.remaining();
                ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
                this.more = buffer.remaining() == 0 && room > 0;
                return Poll::Ready(Ok(()));
            }
            let mut ahead = BytesMut::with_capacity(AHEAD);
            ready!(poll_read_buf(Pin::new(&mut this.io), cx, &mut ahead))?;
            this.more = ahead.len() == ahead.capacity();
            this.prefix = ahead.freeze();
        }
        let length = this.prefix.len().min(buffer.remaining());
        buffer.put_slice(this.prefix.get(..length).unwrap_or_default());
        this.prefix.advance(length);
        if this.prefix.is_empty() {
            this.prefix = Bytes::new(); // releases the memory
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Replay<IO> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMITS: PeekLimits = PeekLimits { first: Duration::from_secs(1), rest: Duration::from_secs(10) };

    fn ends_with_newline(bytes: &[u8]) -> Option<usize> {
        bytes.ends_with(b"\n").then_some(bytes.len())
    }

    #[tokio::test]
    async fn what_was_peeked_is_read_again() {
        let (mut client, server) = duplex(64);
        let mut replay = Replay::new(Bytes::new(), server);
        let write = async {
            for byte in b"hello\n" {
                client.write_all(&[*byte]).await.expect("write");
                tokio::task::yield_now().await;
            }
            client.write_all(b"world").await.expect("write");
            drop(client);
        };
        let (peeked, ()) = tokio::join!(replay.peek(LIMITS, ends_with_newline), write);
        assert_eq!(peeked.expect("peek"), Peeked::Decided(6));
        let mut all = String::new();
        replay.read_to_string(&mut all).await.expect("read");
        assert_eq!(all, "hello\nworld");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_half_a_message_and_the_end_are_told_apart() {
        let (mut client, server) = duplex(64);
        let mut replay = Replay::new(Bytes::new(), server);
        assert_eq!(replay.peek(LIMITS, ends_with_newline).await.expect("peek"), Peeked::Silent);
        client.write_all(b"half").await.expect("write");
        assert_eq!(replay.peek(LIMITS, ends_with_newline).await.expect("peek"), Peeked::Undecided);
        drop(client);
        assert_eq!(replay.peek(LIMITS, ends_with_newline).await.expect("peek"), Peeked::Closed);
        assert_eq!(replay.prefix(), b"half");
    }

    #[tokio::test]
    async fn holds_no_more_than_the_limit() {
        let (mut client, server) = duplex(1024);
        let mut replay = Replay::new(Bytes::new(), server);
        let endless = async { while client.write_all(&[b'x'; 1024]).await.is_ok() {} };
        let peeked = tokio::select! {
            peeked = replay.peek(LIMITS, ends_with_newline) => peeked.expect("peek"),
            () = endless => unreachable!("the reader is still there"),
        };
        assert_eq!(peeked, Peeked::Undecided);
        assert!(replay.prefix().len() < PEEK_LIMIT + PEEK_READ);
    }

    /// Gives out what it has, and counts how often it was asked.
    struct Counting<'a>(&'a [u8], usize);

    impl AsyncRead for Counting<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let length = self.0.len().min(buffer.remaining());
            buffer.put_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            self.1 += 1;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn little_reads_of_much_are_few_reads_of_the_connection() {
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let mut replay = Replay::new(Bytes::from_static(b"first"), Counting(&sent, 0));
        let (mut received, mut little) = (Vec::new(), [0; 4096]);
        loop {
            match replay.read(&mut little).await.expect("read") {
                0 => break,
                read => received.extend_from_slice(&little[..read]),
            }
        }
        assert_eq!(received.strip_prefix(b"first"), Some(&*sent));
        assert!(replay.get_ref().1 <= 2 + sent.len() / AHEAD + 2, "{} reads", replay.get_ref().1);
        assert!(replay.prefix().is_empty());
    }
}

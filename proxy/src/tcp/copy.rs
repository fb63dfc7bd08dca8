//! Bytes in both directions until both have ended.
//!
//! The buffer for reading is on the stack and exists only while something is read: an idle connection holds none. It is filled as
//! far as there is something to read before it is written, because TLS gives out one record at a time. What the other side does
//! not take at once is kept, and nothing more is read until it is gone: that is the back-pressure. Where there was any, the
//! memory for it is read into directly, and is given back with the first pause. The end of one direction is passed on as its end (half-close), and the other goes on; so it does where a receiver is gone, because it
//! may have answered before it went.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tokio_util::io::poll_read_buf;

use crate::metrics::TcpConnection;

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// Why copying ended before both sides had ended.
#[derive(Debug)]
pub enum End {
    /// No byte for too long.
    Idle,
    /// The client's connection broke.
    Client(io::Error),
    /// The upstream's connection broke.
    Upstream(io::Error),
}

/// Copies until both directions have ended, or nothing has moved for `idle`. Counts as it goes.
///
/// # Errors
/// [`End`] tells which side broke.
pub async fn copy<C, U>(client: &mut C, upstream: &mut U, idle: Duration, counts: &TcpConnection) -> Result<(), End>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut moved = Instant::now();
    let mut timer = pin!(sleep_until(moved + idle));
    poll_fn(|cx| {
        let mut progress = false;
        let ended_up = up.poll(cx, client, upstream, |bytes| {
            progress = true;
            counts.sent(bytes);
        });
        let ended_down = down.poll(cx, upstream, client, |bytes| {
            progress = true;
            counts.received(bytes);
        });
        if let Poll::Ready(Err(cause)) = ended_up {
            return Poll::Ready(Err(End::Client(cause)));
        }
        if let Poll::Ready(Err(cause)) = ended_down {
            return Poll::Ready(Err(End::Upstream(cause)));
        }
        if ended_up.is_ready() && ended_down.is_ready() {
            let refused_by_upstream = up.refused.take().map(End::Upstream);
            return Poll::Ready(refused_by_upstream.or(down.refused.take().map(End::Client)).map_or(Ok(()), Err));
        }
        if progress {
            moved = Instant::now();
        }
        // The timer is looked at when it fires, not moved with each byte.
        while timer.as_mut().poll(cx).is_ready() {
            let deadline = moved + idle;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(End::Idle));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    /// Read, but not yet written.
    kept: Vec<u8>,
    written: usize,
    unflushed: bool,
    state: State,
    /// The source broke behind what is kept.
    broken: Option<io::Error>,
    /// Why the destination takes no more.
    refused: Option<io::Error>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    /// The source has ended; the destination is yet to be told.
    Ending,
    Ended,
}

impl Direction {
    /// Resolves when the source has ended or the destination takes no more; fails if the source broke.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: impl FnMut(u64),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match ready!(self.poll_move(cx, from, to, count)) {
            Ok(()) => {}
            Err(Broken::Reading(cause)) => return Poll::Ready(Err(cause)),
            Err(Broken::Writing(cause)) => self.refused = Some(cause),
        }
        self.state = State::Ended;
        self.kept = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mut count: impl FnMut(u64),
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while let Some(rest) = self.kept.get(self.written..).filter(|rest| !rest.is_empty()) {
                self.unflushed = true;
                let written = ready!(write(to, cx, rest))?;
                count(written as u64);
                self.written = self.written.saturating_add(written);
            }
            self.kept.clear();
            self.written = 0;
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::Writing)?;
                    return Poll::Ready(Ok(()));
                }
                State::Copying => ready!(self.poll_read(cx, from, to, &mut count))?,
            }
        }
    }

    /// Reads what there is and writes what it can.
    fn poll_read<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &mut impl FnMut(u64),
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut kept = std::mem::take(&mut self.kept);
        if self.broken.is_none() && kept.capacity() >= READ {
            // There was back-pressure: what is read now may have to wait as well.
            self.fill(cx, from, &mut (&mut kept).limit(READ));
            if !kept.is_empty() {
                self.kept = kept;
                return Poll::Ready(Ok(()));
            }
        } else if self.broken.is_none() {
            let mut scratch = [const { MaybeUninit::uninit() }; READ];
            let mut buffer = ReadBuf::uninit(&mut scratch);
            self.fill(cx, from, &mut buffer);
            let mut rest = buffer.filled();
            let any = !rest.is_empty();
            while !rest.is_empty() {
                self.unflushed = true;
                match write(to, cx, rest) {
                    Poll::Ready(written) => {
                        let written = written?;
                        count(written as u64);
                        rest = rest.get(written..).unwrap_or_default();
                    }
                    Poll::Pending => {
                        self.kept = Vec::with_capacity(READ);
                        self.kept.extend_from_slice(rest);
                        return Poll::Pending;
                    }
                }
            }
            if any {
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(cause) = self.broken.take() {
            return Poll::Ready(Err(Broken::Reading(cause)));
        }
        if self.state == State::Copying {
            if self.unflushed {
                ready!(Pin::new(to).poll_flush(cx)).map_err(Broken::Writing)?;
                self.unflushed = false;
            }
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until there is nothing at this moment, no more room, or no more ever.
    fn fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R, buffer: &mut impl BufMut) {
        while buffer.has_remaining_mut() {
            match poll_read_buf(Pin::new(&mut *from), cx, buffer) {
                Poll::Ready(Ok(0)) => return self.state = State::Ending,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(cause)) => return self.broken = Some(cause),
                Poll::Pending => return,
            }
        }
    }
}

#[derive(Debug)]
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

fn write<W: AsyncWrite + Unpin>(to: &mut W, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Broken>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Broken::Writing(io::ErrorKind::WriteZero.into()))),
        Ok(written) => Poll::Ready(Ok(written)),
        Err(cause) => Poll::Ready(Err(Broken::Writing(cause))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::metrics::{self, Metrics};

    fn counts() -> TcpConnection {
        Metrics::new("test.test").tcp(metrics::Direction::Outbound, &"a.b:1".into(), "", "")
    }

    /// A relay for one connection to `to`.
    async fn relay(to: SocketAddr) -> (SocketAddr, tokio::task::JoinHandle<Result<(), End>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.expect("accept");
            let mut upstream = TcpStream::connect(to).await.expect("connect");
            copy(&mut client, &mut upstream, Duration::from_secs(60), &counts()).await
        });
        (address, task)
    }

    #[tokio::test]
    async fn half_close_passes_both_ways_and_the_server_may_speak_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let (address, relay) = relay(listener.local_addr().expect("bound")).await;
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("accept");
            socket.write_all(b"greeting").await.expect("write");
            let mut request = Vec::new();
            socket.read_to_end(&mut request).await.expect("the client ends first");
            socket.write_all(&request).await.expect("write after the client has ended");
        });
        let mut client = TcpStream::connect(address).await.expect("connect");
        let mut greeting = [0; 8];
        client.read_exact(&mut greeting).await.expect("greeting before anything was sent");
        let body = vec![7; 3_000_001];
        client.write_all(&body).await.expect("write");
        client.shutdown().await.expect("half-close");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("read");
        assert!(answer == body);
        server.await.expect("server");
        assert!(matches!(relay.await.expect("relay"), Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_read_stops_the_writer() {
        let (mut client, mut client_side) = duplex(1024);
        let (mut upstream_side, _upstream) = duplex(1024);
        let counts = counts();
        let copying = copy(&mut client_side, &mut upstream_side, Duration::from_secs(60), &counts);
        let mut copying = pin!(copying);
        let mut taken = 0;
        loop {
            tokio::select! {
                biased;
                end = &mut copying => unreachable!("{end:?}"),
                written = tokio::time::timeout(Duration::from_millis(50), client.write(&[1; 512])) => match written {
                    Ok(written) => taken += written.expect("open"),
                    Err(_) => break,
                },
            }
        }
        assert!(taken <= 1024 + READ + 1024, "{taken} bytes were taken without a reader");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_but_a_byte_in_either_direction_does_not() {
        let (mut client, mut client_side) = duplex(64);
        let (mut upstream_side, mut upstream) = duplex(64);
        let begun = Instant::now();
        let counts = counts();
        let copying = copy(&mut client_side, &mut upstream_side, Duration::from_secs(100), &counts);
        let talk = async {
            sleep_until(begun + Duration::from_secs(90)).await;
            upstream.write_all(b"x").await.expect("open");
            client.read_u8().await.expect("open");
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            end = copying => end,
            () = talk => unreachable!("it waits for ever"),
        };
        assert!(matches!(end, Err(End::Idle)));
        assert_eq!(begun.elapsed().as_secs(), 190);
    }

    #[tokio::test]
    async fn an_answer_before_a_reset_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let (address, relay) = relay(listener.local_addr().expect("bound")).await;
        let mut client = TcpStream::connect(address).await.expect("connect");
        client.write_all(&[1; 100]).await.expect("write");
        let (mut server, _) = listener.accept().await.expect("accept");
        server.write_all(b"go away").await.expect("write");
        server.readable().await.expect("something came");
        drop(server); // with unread bytes: a reset
        let mut answer = [0; 7];
        client.read_exact(&mut answer).await.expect("the answer came before the reset");
        assert_eq!(&answer, b"go away");
        while client.write_all(&[1; 4096]).await.is_ok() {}
        assert!(matches!(relay.await.expect("relay"), Err(End::Upstream(_))));
    }
}

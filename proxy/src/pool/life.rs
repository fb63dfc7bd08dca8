//! Whether another sidecar is still there that owes us answers on an HTTP/2 connection: one that says nothing is asked by PING
//! (RFC 9113 §6.7). TCP tells nothing of a process that stands still, and of a machine that is gone only after a quarter of an hour.
//!
//! Whatever the peer says is a sign of life. A connection that owes nothing is left to TCP's keep-alive.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A peer that owes an answer and has said nothing for this long is asked, twice as long at most.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// How long it may then take to say anything at all. A machine without processor time to spare is slow, not gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Until it is asked again when it has answered, and nothing else has come. Servers of gRPC end connections on which they send
/// nothing and are asked three times within five minutes of each other (gRFC A8).
const AGAIN: Duration = Duration::from_secs(20);
const AGAIN_AND_AGAIN: Duration = Duration::from_secs(305);

/// Watches one connection.
#[derive(Debug)]
pub(super) struct SignOfLife {
    /// What the library gives out once.
    pings: Option<PingPong>,
    /// Set by each read.
    heard: Arc<AtomicBool>,
    timer: Pin<Box<Sleep>>,
    state: State,
    /// Requests so far, when it was last looked.
    opened: u64,
    /// Questions in a row that brought an answer, and nothing else.
    answered: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is owed: the timer does not count.
    AtRest,
    /// Answers are owed.
    Watching,
    /// It was asked.
    Asked,
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Goes,
    /// The question is to be sent: the connection must be polled again.
    Asks,
    Gone,
}

impl SignOfLife {
    pub(super) fn new(pings: Option<PingPong>, heard: Arc<AtomicBool>) -> Self {
        SignOfLife { pings, heard, timer: Box::pin(sleep(SILENCE)), state: State::AtRest, opened: 0, answered: 0 }
    }

    /// Looks again, and sees to it that the task is woken for the next look; `opened`: requests so far.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, owes: bool, opened: u64) -> Life {
        let Some(pings) = &mut self.pings else { return Life::Goes };
        let new = std::mem::replace(&mut self.opened, opened) != opened;
        if self.state == State::AtRest {
            if !owes {
                return Life::Goes;
            }
            self.state = State::Watching;
            self.heard.store(false, Relaxed);
            self.timer.as_mut().reset(Instant::now() + SILENCE);
        } else if new && self.state == State::Watching {
            let soon = Instant::now() + SILENCE;
            if self.timer.deadline() > soon {
                self.timer.as_mut().reset(soon);
            }
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Life::Goes;
        }
        let heard = self.heard.swap(false, Relaxed);
        let answered = pings.poll_pong(cx).is_ready();
        let wait = match (owes, heard) {
            (false, _) => {
                self.answered = 0;
                self.state = State::AtRest;
                return Life::Goes;
            }
            (true, true) => {
                let asked = std::mem::replace(&mut self.state, State::Watching) == State::Asked;
                match (asked && answered, self.answered) {
                    (false, _) => {
                        self.answered = 0;
                        SILENCE
                    }
                    (true, 0..=1) => AGAIN,
                    (true, 2..) => AGAIN_AND_AGAIN,
                }
            }
            (true, false) if self.state == State::Asked => return Life::Gone,
            (true, false) => {
                // A question that is still under way is one too.
                let _ = pings.send_ping(Ping::opaque());
                self.answered = self.answered.saturating_add(1);
                self.state = State::Asked;
                PATIENCE
            }
        };
        self.timer.as_mut().reset(Instant::now() + wait);
        // Registers the timer anew.
        let _ = self.timer.as_mut().poll(cx);
        if self.state == State::Asked { Life::Asks } else { Life::Goes }
    }
}

/// A connection that notes when something is read from it.
#[derive(Debug)]
pub(super) struct Heard<IO> {
    io: IO,
    heard: Arc<AtomicBool>,
}

impl<IO> Heard<IO> {
    pub(super) fn new(io: IO) -> (Self, Arc<AtomicBool>) {
        let heard = Arc::<AtomicBool>::default();
        (Heard { io, heard: heard.clone() }, heard)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Heard<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        self.heard.store(true, Relaxed);
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Heard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
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

//! The body of a request on its way upstream, and the gate in front of it that `Expect: 100-continue` asks for.
//!
//! With that expectation (RFC 9110 §10.1.1) the client sends no body until the server has said `100 Continue`. The gate keeps
//! the sidecar from asking the client for it: reading the body of an HTTP/1 client is what sends it the `100`. The gate opens when
//! the upstream says so, or after a second, because not every server that means to go on says so.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::body::{Body, BodyError};
use super::idle::Idle;
use crate::reason::Reason;

/// How long the upstream's `100 Continue` is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The body of a request on its way upstream.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Body,
    gate: Option<(Arc<Gate>, Pin<Box<Sleep>>)>,
    /// Who wants to know that something moves.
    idle: Option<Arc<Idle>>,
}

/// Keeps a body back.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU8,
    /// Who reads the body.
    reader: AtomicWaker,
    /// Who tells the client.
    teller: AtomicWaker,
}

const SHUT: u8 = 0;
const OPEN: u8 = 1;
const ABANDONED: u8 = 2;

impl Gate {
    /// The upstream wants the body.
    pub(crate) fn open(&self) {
        if self.state.compare_exchange(SHUT, OPEN, Relaxed, Relaxed).is_ok() {
            self.reader.wake();
            self.teller.wake();
        }
    }

    /// The upstream has answered without it: nobody will want it.
    pub(crate) fn abandon(&self) {
        if self.state.compare_exchange(SHUT, ABANDONED, Relaxed, Relaxed).is_ok() {
            self.reader.wake();
        }
    }

    /// Resolves when the client is to be told `100 Continue`; never if it is not.
    pub(crate) fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.teller.register(cx.waker());
        if self.state.load(Relaxed) == OPEN { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl RequestBody {
    pub(crate) fn new(body: Body, gate: Option<Arc<Gate>>, idle: Option<Arc<Idle>>) -> Self {
        RequestBody { body, gate: gate.map(|gate| (gate, Box::pin(sleep(PATIENCE)))), idle }
    }

    /// What was received.
    pub(crate) fn into_inner(self) -> Body {
        self.body
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some((gate, patience)) = &mut this.gate {
            gate.reader.register(cx.waker());
            match gate.state.load(Relaxed) {
                SHUT => {
                    ready!(patience.as_mut().poll(cx));
                    gate.open();
                }
                ABANDONED => return Poll::Ready(Some(Err(BodyError::Ended(Reason::UpstreamReset)))),
                _ => {}
            }
            this.gate = None;
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(idle) = &this.idle {
            idle.touch();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

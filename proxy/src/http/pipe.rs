//! A body on its way into an HTTP/2 stream, at the pace of the stream's window.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::SendStream;
use http_body::Body;

use super::body::BodyError;
use super::stall::Stall;

/// Sends a body; resolves when its end is handed over.
#[derive(Debug)]
pub(crate) struct Pipe<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// A chunk that waits for room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    stall: Stall,
    begun: bool,
}

/// Why a body did not get through.
#[derive(Debug)]
pub(crate) enum PipeError {
    /// It ended before its end. The stream was reset.
    Body(BodyError),
    /// The receiver wants no more of it.
    Stream,
    /// The receiver took nothing for too long. The stream was reset.
    Stalled,
}

impl<B> Pipe<B> {
    pub(crate) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Pipe { body, stream, waiting: None, stall: Stall::default(), begun: false }
    }

    /// What is left of the body.
    pub(crate) fn into_body(self) -> B {
        self.body
    }

    /// The body, if nothing was taken from it.
    pub(crate) fn into_untouched(self) -> Option<B> {
        (!self.begun).then_some(self.body)
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Pipe<B> {
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        loop {
            // Without a waker: room that is given on asking for it wakes whoever waits for room or for a reset. Woken by what it
            // does itself, each body would be polled twice, and those of a connection would not be written together.
            if self.stream.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready() {
                return Poll::Ready(Err(PipeError::Stream));
            }
            if self.waiting.is_some() {
                while self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => self.stall.end(),
                        Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(PipeError::Stream)),
                        Poll::Pending => {
                            ready!(self.stall.poll(cx));
                            self.stream.send_reset(h2::Reason::CANCEL);
                            return Poll::Ready(Err(PipeError::Stalled));
                        }
                    }
                }
                if let Some((chunk, last)) = self.waiting.take() {
                    self.send(chunk, last)?;
                    if last {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            // The next chunk is asked for only now: one chunk at most is held beyond the window.
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // Whoever resets the stream wants no more, also while there is nothing to send.
                return self.stream.poll_reset(cx).map(|_| Err(PipeError::Stream));
            };
            let frame = match frame {
                None => {
                    self.begun = true;
                    self.send(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => {
                    self.begun = true;
                    self.stream.send_reset(error.code());
                    return Poll::Ready(Err(PipeError::Body(error)));
                }
                Some(Ok(frame)) => frame,
            };
            self.begun = true;
            match frame.into_data() {
                Ok(chunk) => {
                    // A token claim: the library raises it to what is buffered. Claiming all of it before there is room
                    // would take the connection's window from other streams.
                    self.stream.reserve_capacity(1);
                    self.waiting = Some((chunk, self.body.is_end_stream()));
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    self.stream.reserve_capacity(0);
                    let sent = self.stream.send_trailers(trailers);
                    return Poll::Ready(sent.map_err(|_| PipeError::Stream));
                }
            }
        }
    }

    fn send(&mut self, chunk: Bytes, last: bool) -> Result<(), PipeError> {
        self.stream.send_data(chunk, last).map_err(|_| PipeError::Stream)
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Future for Pipe<B> {
    type Output = Result<(), PipeError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_pipe(cx)
    }
}

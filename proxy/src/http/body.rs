//! Bodies, as they are received: concrete types, streamed, nothing collected.
//!
//! A body of HTTP/2 gives its flow-control window back when a chunk is taken out, and a chunk is taken out only when there
//! is room for it on the other side: that is all of the back-pressure. Empty chunks are left out here, as h2 leaves out
//! empty DATA frames that are not the last (some peers count them and end the connection after a hundred).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::client_io::ClientState;
use super::framing::Violation;
use super::head;
use super::replay::Reader;
use crate::reason::Reason;

/// A received body, or a text of the sidecar's own.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    /// Who wants to know how many bytes were taken out.
    taken: Option<Arc<AtomicU64>>,
}

#[derive(Debug)]
enum Source {
    Empty,
    Text(Bytes),
    Http1(Incoming),
    /// From a client: tells when it has ended, so that a half-closed connection is told from one that broke.
    Client(Incoming, Arc<ClientState>),
    Http2(h2::RecvStream, Progress),
    /// Kept for a further try while it is read.
    Replayed(Reader),
}

/// What of an HTTP/2 body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Data,
    Trailers,
    Ended,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// On an HTTP/1 connection.
    #[error("the HTTP/1 message was cut short")]
    Http1(#[source] hyper::Error),
    /// A client's body is not what HTTP/1 permits.
    #[error("{0}")]
    Malformed(Violation),
    /// On an HTTP/2 connection.
    #[error("the HTTP/2 stream was reset")]
    Http2(#[source] h2::Error),
    /// The sidecar ended it.
    #[error("{0}")]
    Ended(Reason),
}

impl BodyError {
    /// The code to pass on in `RST_STREAM`.
    pub(crate) fn code(&self) -> h2::Reason {
        match self {
            BodyError::Http2(error) => match error.reason() {
                // A stream that ended like this without having ended is broken all the same.
                None | Some(h2::Reason::NO_ERROR) => h2::Reason::INTERNAL_ERROR,
                Some(code) => code,
            },
            BodyError::Http1(_) | BodyError::Malformed(_) => h2::Reason::INTERNAL_ERROR,
            BodyError::Ended(_) => h2::Reason::CANCEL,
        }
    }

    /// Why a request with this body fails.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            BodyError::Malformed(_) => Reason::ProtocolError,
            BodyError::Http1(cause) if is_malformed(cause) => Reason::ProtocolError,
            // More or less than its length, for example: the library resets it.
            BodyError::Http2(cause) if cause.is_library() && cause.reason() == Some(h2::Reason::PROTOCOL_ERROR) => {
                Reason::ProtocolError
            }
            BodyError::Http1(_) | BodyError::Http2(_) | BodyError::Ended(_) => Reason::ClientReset,
        }
    }
}

/// Whether hyper found chunks or trailers that are none, not merely the end of the connection.
fn is_malformed(cause: &hyper::Error) -> bool {
    use std::error::Error as _;
    let cause = cause.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause
        .is_some_and(|cause| matches!(cause.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData))
}

impl Body {
    const fn of(source: Source) -> Self {
        Body { source, taken: None }
    }

    pub(crate) const fn empty() -> Self {
        Self::of(Source::Empty)
    }

    pub(crate) const fn text(text: Bytes) -> Self {
        Self::of(Source::Text(text))
    }

    pub(crate) fn http1(body: Incoming) -> Self {
        if http_body::Body::is_end_stream(&body) { Self::empty() } else { Self::of(Source::Http1(body)) }
    }

    pub(crate) fn from_client(body: Incoming, state: &Arc<ClientState>) -> Self {
        if http_body::Body::is_end_stream(&body) {
            state.body_ended();
            return Self::empty();
        }
        Self::of(Source::Client(body, state.clone()))
    }

    /// How many bytes of it will have been taken out; nothing of a body that has none.
    pub(crate) fn counted(&mut self) -> Option<Arc<AtomicU64>> {
        if !http_body::Body::is_end_stream(self) {
            self.taken = Some(Arc::default());
        }
        self.taken.clone()
    }

    pub(crate) const fn replayed(reader: Reader) -> Self {
        Self::of(Source::Replayed(reader))
    }

    pub(crate) fn http2(body: h2::RecvStream) -> Self {
        if body.is_end_stream() { Self::empty() } else { Self::of(Source::Http2(body, Progress::Data)) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll(cx);
        if let (Some(taken), Poll::Ready(Some(Ok(frame)))) = (&this.taken, &polled)
            && let Some(data) = frame.data_ref()
        {
            taken.fetch_add(data.len() as u64, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Text(text) => text.is_empty(),
            Source::Http1(body) | Source::Client(body, _) => http_body::Body::is_end_stream(body),
            Source::Http2(stream, progress) => *progress == Progress::Ended || stream.is_end_stream(),
            Source::Replayed(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Text(text) => SizeHint::with_exact(text.len() as u64),
            Source::Http1(body) | Source::Client(body, _) => http_body::Body::size_hint(body),
            // The length, if known, is in the header `content-length`, which goes along.
            Source::Http2(..) => SizeHint::default(),
            Source::Replayed(reader) => reader.size_hint(),
        }
    }
}

impl Body {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Text(text) => {
                let text = std::mem::take(text);
                self.source = Source::Empty;
                Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
            }
            Source::Http1(body) => poll_http1(body, cx),
            Source::Client(body, state) => {
                let polled = ready!(poll_http1(body, cx));
                let last = polled.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
                if last || http_body::Body::is_end_stream(body) {
                    state.body_ended();
                }
                Poll::Ready(match state.broken_body() {
                    Some(violation) if matches!(polled, Some(Err(_))) => Some(Err(BodyError::Malformed(violation))),
                    _ => polled,
                })
            }
            Source::Http2(stream, progress) => poll_http2(stream, progress, cx),
            Source::Replayed(reader) => reader.poll_frame(cx),
        }
    }
}

fn poll_http1(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    loop {
        return Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => continue,
            Some(Ok(frame)) => Some(Ok(cleaned(frame))),
            Some(Err(cause)) => Some(Err(BodyError::Http1(cause))),
            None => None,
        });
    }
}

use http_body::Body as _;

fn poll_http2(
    stream: &mut h2::RecvStream,
    progress: &mut Progress,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    while *progress == Progress::Data {
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Fails only on a stream that has ended, which has no window.
                let _ = stream.flow_control().release_capacity(data.len());
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
            Some(Err(cause)) => {
                *progress = Progress::Ended;
                return Poll::Ready(Some(Err(BodyError::Http2(cause))));
            }
            None => *progress = Progress::Trailers,
        }
    }
    if *progress == Progress::Ended {
        return Poll::Ready(None);
    }
    let trailers = ready!(stream.poll_trailers(cx));
    *progress = Progress::Ended;
    Poll::Ready(match trailers {
        Ok(Some(trailers)) => Some(Ok(cleaned(Frame::trailers(trailers)))),
        Ok(None) => None,
        Err(cause) => Some(Err(BodyError::Http2(cause))),
    })
}

fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            head::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// The gRPC status in a head or in trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

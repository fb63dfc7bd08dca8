//! A response on its way to the client, and what is held until its last byte: the record, the connection, the places within the
//! cluster's limits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::task::AbortOnDropHandle;

use super::body::{Body, BodyError, grpc_status};
use super::client_io::ClientState;
use super::failure::Failure;
use super::idle::Watch;
use super::request_body::Gate;
use crate::balance::{LoadGuard, RetryGuard, UsageGuard};
use crate::outcome::Outcome;
use crate::pool::{Http1Lease, Http2Lease};
use crate::reason::Reason;

/// A response on its way to the client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Body,
    exchange: Option<Exchange>,
}

/// A request and its answer, from head to end. Dropping it gives everything back; unfinished, it cancels the upstream's work.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) outcome: Outcome,
    /// Whether a failure can be told in trailers of gRPC.
    pub(crate) grpc: bool,
    /// When the exchange must be over, and the word for it.
    pub(crate) deadline: Option<(Pin<Box<Sleep>>, Reason)>,
    /// Ends it when nothing moves.
    pub(crate) idle: Option<Watch>,
    pub(crate) held: Option<Held>,
    /// How many bytes of the request's body were read.
    pub(crate) read: Option<Arc<AtomicU64>>,
    /// The HTTP/1 connection of the client.
    pub(crate) client: Option<Arc<ClientState>>,
}

/// What an upstream's response holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) load: Option<LoadGuard>,
    pub(crate) _place: UsageGuard,
    pub(crate) _retry: Option<RetryGuard>,
    /// The rest of the request's body, if the response came before its end.
    pub(crate) upload: Option<AbortOnDropHandle<()>>,
    pub(crate) gate: Option<Arc<Gate>>,
}

/// A connection, or a stream of one.
#[derive(Debug)]
pub(crate) enum Lease {
    Http1(Http1Lease),
    Http2(Http2Lease),
}

impl Lease {
    /// When the connection was there, if it was waited for.
    pub(crate) fn waited_until(&self) -> Option<tokio::time::Instant> {
        match self {
            Lease::Http1(lease) => lease.waited_until(),
            Lease::Http2(lease) => lease.waited_until(),
        }
    }
}

impl ResponseBody {
    /// A body that is the whole rest of the exchange.
    pub(crate) fn new(body: Body, mut exchange: Exchange) -> Self {
        if body.is_end_stream() {
            exchange.finish();
            return ResponseBody { body, exchange: None };
        }
        ResponseBody { body, exchange: Some(exchange) }
    }

    /// No body, and the exchange lives elsewhere (an upgrade).
    pub(crate) fn detached() -> Self {
        ResponseBody { body: Body::empty(), exchange: None }
    }

    /// A body whose exchange has its record already.
    pub(crate) fn without_record(body: Body) -> Self {
        ResponseBody { body, exchange: None }
    }

    /// The client took nothing of it for too long.
    pub(crate) fn stalled(mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.stalled();
        }
    }

    fn finish(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.finish();
        }
    }

    /// Ends it because of a failure: gRPC calls get it in trailers, others see the message cut short.
    fn fail(&mut self, failure: &Failure, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        let mut exchange = self.exchange.take()?;
        exchange.outcome.failed(failure.reason, failure);
        self.body = Body::empty();
        let reset = matches!(&error, BodyError::Http2(cause) if cause.is_reset());
        if !exchange.grpc || reset {
            return Some(Err(error));
        }
        let mut trailers = HeaderMap::with_capacity(2);
        failure.grpc_trailers(&mut trailers);
        exchange.outcome.grpc_status(grpc_status(&trailers));
        Some(Ok(Frame::trailers(trailers)))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(Exchange { deadline: Some((sleep, reason)), .. }) = &mut this.exchange
            && sleep.as_mut().poll(cx).is_ready()
        {
            let reason = *reason;
            let failure = Failure::new(reason, "the response had begun");
            return Poll::Ready(this.fail(&failure, BodyError::Ended(reason)));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Some(Exchange { idle: Some(idle), .. }) = &mut this.exchange {
            if polled.is_ready() {
                idle.touch();
            } else if idle.poll_over(cx).is_ready() {
                let failure = Failure::new(Reason::IdleTimeout, "the response had begun");
                return Poll::Ready(this.fail(&failure, BodyError::Ended(Reason::IdleTimeout)));
            }
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(exchange)) = (frame.data_ref(), &mut this.exchange) {
                    exchange.outcome.response_bytes(data.len());
                }
                if let Some(trailers) = frame.trailers_ref() {
                    if let Some(exchange) = &mut this.exchange {
                        exchange.trailers(trailers);
                    }
                    this.finish();
                } else if this.body.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let what = format!("within the response: {}", crate::pool::chain(&error));
                if let Some(Exchange { held: Some(Held { load: Some(load), .. }), .. }) = &mut this.exchange {
                    load.broke();
                }
                Poll::Ready(this.fail(&Failure::new(Reason::UpstreamReset, what), error))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Exchange {
    /// The client has got everything.
    pub(crate) fn finish(&mut self) {
        self.outcome.answered();
        if let Some(Held { lease: Lease::Http2(lease), upload, .. }) = &mut self.held
            && upload.as_ref().is_none_or(AbortOnDropHandle::is_finished)
        {
            lease.complete();
        }
        self.held = None;
    }

    fn stalled(&mut self) {
        self.outcome.failed(Reason::IdleTimeout, &"the client took nothing of the response");
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = grpc_status(trailers) {
            self.outcome.grpc_status(Some(status));
            if let Some(Held { load: Some(load), .. }) = &mut self.held {
                load.ended(trailers);
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(read) = &self.read {
            self.outcome.request_bytes(read.load(Relaxed));
        }
        let Some(client) = &self.client else { return };
        client.response_ended();
        if client.has_stalled() && self.held.is_some() {
            self.stalled();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            gate.abandon();
        }
    }
}

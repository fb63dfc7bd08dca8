//! Distributed tracing: whether a request is followed, the context that it takes along, and the spans told of it.
//!
//! Inbound, a request is one span of kind server, within which the application works: the application sees the sidecar's span
//! as its parent. Outbound, each try is one span of kind client. Who came before has decided whether a trace is followed; a request
//! that brings no context begins a trace, of which a share is followed. The decision travels with the request, so that a
//! trace is whole or absent.
//!
//! Nothing here waits: spans that the collector does not take in time are dropped and counted. A request that is not followed
//! costs a look at its headers and one header more.

mod context;
mod export;
mod otlp;
mod sample;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::HeaderMap;
pub use malla_xds::telling::Collector;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc};

use self::context::{Incoming, Parent};
pub(crate) use self::export::Exporter;
use self::sample::Sampler;
use crate::clock;
use crate::filter::Share;
use crate::metrics::Direction;
use crate::outcome::Record;
use crate::reason::Reason;
use crate::snapshot::Endpoint;

/// Spans that may wait for the collector, each of few kilobytes at most; more are dropped and counted.
const QUEUE: usize = 4096;
/// Spans in one message to the collector.
const BATCH: usize = 512;

/// Where spans go and which requests get them.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The collector.
    pub collector: Collector,
    /// Share of the traces that begin here to be followed, 0 to 1. Default 0.01.
    pub share: f64,
    /// Traces that may begin here in a second. Default 100.
    pub per_second: u32,
    /// Whether requests that fail are told of although their trace is not followed. Only this sidecar's part is then known.
    pub failures: bool,
    /// Requests that take longer are told of although their trace is not followed.
    pub slow: Option<Duration>,
}

impl Tracing {
    /// Follows every request: for demonstrations and tests.
    pub fn everything(collector: Collector) -> Self {
        Tracing { collector, share: 1.0, per_second: u32::MAX, failures: false, slow: None }
    }
}

/// Follows the requests of one sidecar.
#[derive(Debug)]
pub(crate) struct Tracer {
    sampler: Sampler,
    failures: bool,
    slow: Option<Duration>,
    /// Each as OTLP has it.
    spans: mpsc::Sender<Vec<u8>>,
    /// Taken by the exporter when it starts.
    waiting: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
    /// As many wait as one message holds.
    full: Notify,
    pub(crate) counts: Counts,
}

/// What became of the spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The collector took them.
    pub(crate) exported: AtomicU64,
    /// There was no room for them.
    pub(crate) dropped: AtomicU64,
    /// The collector did not take them.
    pub(crate) failed: AtomicU64,
}

/// One request's part in a trace.
#[derive(Debug)]
pub(crate) struct Trace {
    tracer: Arc<Tracer>,
    incoming: Incoming,
    direction: Direction,
    trace: u128,
    /// The span of the request as a whole (inbound).
    own: u64,
    /// Whether it is; outbound, where nobody has decided before, open until the route is known.
    followed: Option<bool>,
    tries: SmallVec<[Try; 1]>,
}

/// One sending of a request.
#[derive(Debug)]
struct Try {
    span: u64,
    started: Instant,
    endpoint: Option<Arc<Endpoint>>,
    /// Whether it was sent while another went on.
    hedge: bool,
    /// When it ended, if it did not end the request: why it failed, or nothing where it was cancelled for another.
    ended: Option<(Instant, Option<Reason>)>,
}

impl Tracer {
    pub(crate) fn new(settings: &Tracing) -> Arc<Self> {
        let (spans, waiting) = mpsc::channel(QUEUE);
        Arc::new(Tracer {
            sampler: Sampler::new(settings.share, settings.per_second),
            failures: settings.failures,
            slow: settings.slow,
            spans,
            waiting: Mutex::new(Some(waiting)),
            full: Notify::new(),
            counts: Counts::default(),
        })
    }

    /// The spans told so far, in a test without a collector.
    #[cfg(test)]
    pub(crate) fn told(&self) -> Vec<opentelemetry_proto::tonic::trace::v1::Span> {
        let mut waiting = self.waiting.lock();
        let bytes = std::iter::from_fn(|| waiting.as_mut()?.try_recv().ok());
        bytes.map(|bytes| prost::Message::decode(&*bytes).expect("it is a span")).collect()
    }

    /// Looks at the context of a request that has arrived, decides if it can, and leaves in its headers what the next hop shall see.
    /// Outbound, the route has a say where nobody has decided before ([`Trace::routed`]), and each try of a request that is followed writes
    /// its own ([`Trace::sends`]).
    pub(crate) fn begin(self: &Arc<Self>, direction: Direction, headers: &mut HeaderMap, now: Instant) -> Trace {
        let incoming = context::read(headers);
        let mut trace = Trace {
            tracer: self.clone(),
            direction,
            trace: incoming.parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace),
            own: fastrand::u64(1..),
            followed: None,
            tries: SmallVec::new(),
            incoming,
        };
        match incoming.sampled {
            Some(followed) => trace.decided(followed, headers),
            None if direction == Direction::Inbound => trace.routed(None, headers, now),
            None => {}
        }
        trace
    }
}

impl Trace {
    /// The route of the request is known, which may say what share of the traces that begin with its requests is followed. Leaves in its
    /// headers what the next hop shall see.
    pub(crate) fn routed(&mut self, share: Option<Share>, headers: &mut HeaderMap, now: Instant) {
        if self.followed.is_none() {
            let followed = self.tracer.sampler.follows(self.trace, share, now);
            self.decided(followed, headers);
        }
    }

    /// There is no route that could have a say: it is a connection, or a request that ends without one.
    pub(crate) fn unrouted(&mut self, now: Instant) {
        let follows = || self.tracer.sampler.follows(self.trace, None, now);
        self.followed = Some(self.followed.unwrap_or_else(follows));
    }

    fn decided(&mut self, followed: bool, headers: &mut HeaderMap) {
        let Trace { incoming, trace, own, .. } = *self;
        self.followed = Some(followed);
        match (followed, incoming.parent) {
            (true, _) if self.direction == Direction::Inbound => {
                context::write(headers, Parent { trace, span: own }, true, &incoming);
            }
            (true, _) => {}
            (false, None) => context::write(headers, Parent { trace, span: own }, false, &incoming),
            // Nobody had decided (B3 permits that): now somebody has.
            (false, Some(parent)) if incoming.sampled.is_none() => context::write(headers, parent, false, &incoming),
            (false, Some(_)) => {}
        }
    }

    fn is_followed(&self) -> bool {
        self.followed == Some(true)
    }

    /// The request is sent, to this endpoint if it is one: what receives it works within the try's span.
    pub(crate) fn sends(&mut self, endpoint: Option<Arc<Endpoint>>, headers: &mut HeaderMap) {
        if self.direction == Direction::Inbound {
            return;
        }
        let span = fastrand::u64(1..);
        if self.is_followed() {
            context::write(headers, Parent { trace: self.trace, span }, true, &self.incoming);
        }
        self.tries.push(Try { span, started: clock::now(), endpoint, hedge: false, ended: None });
    }

    /// The request is sent to this endpoint too, while the last try goes on.
    pub(crate) fn hedges(&mut self, endpoint: Arc<Endpoint>, headers: &mut HeaderMap) {
        self.sends(Some(endpoint), headers);
        if let Some(last) = self.tries.last_mut() {
            last.hedge = true;
        }
    }

    /// Of the last two tries, one has decided; the other has failed for this reason, or is cancelled.
    pub(crate) fn raced(&mut self, second_decided: bool, lost: Option<Reason>) {
        let loser = self.tries.iter_mut().rev().nth(usize::from(second_decided));
        if let Some(loser) = loser {
            loser.ended = Some((clock::now(), lost));
        }
    }

    /// The last try has failed and another follows.
    pub(crate) fn sends_again(&mut self, cause: Reason) {
        if let Some(last) = self.tries.iter_mut().rev().find(|one| one.ended.is_none()) {
            last.ended = Some((clock::now(), Some(cause)));
        }
    }

    /// The trace's id, if spans will be told of it: because it is followed, or because of how it has ended, as its record says. For the log,
    /// and for exemplars.
    pub(crate) fn told<'a>(&self, record: impl FnOnce() -> Record<'a>) -> Option<u128> {
        let Tracer { failures, slow, .. } = *self.tracer;
        let at_the_end = || {
            let record = record();
            (failures && record.has_failed())
                // How long a raw connection lives says nothing.
                || record.exchange().is_some() && slow.is_some_and(|slow| record.duration() >= slow)
        };
        let told = self.is_followed() || ((failures || slow.is_some()) && at_the_end());
        told.then_some(self.trace)
    }

    /// The request is over, as its record says, which names the trace if spans are told of it.
    pub(crate) fn end(self, record: &Record<'_>) {
        let tracer = &self.tracer;
        if record.trace.is_none() {
            return;
        }
        for span in span::spans(&self, record) {
            if tracer.spans.try_send(span).is_err() {
                tracer.counts.dropped.fetch_add(1, Relaxed);
            }
        }
        if QUEUE - tracer.spans.capacity() >= BATCH {
            tracer.full.notify_one();
        }
    }
}

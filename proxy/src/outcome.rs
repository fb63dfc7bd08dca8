//! What became of a request: one record, written when the [`Outcome`] is dropped — however the request ended, by its answer, by
//! a failure, by the client's going away or by a panic. Connections that carry bytes end in the same form
//! ([`crate::tcp::Account`]).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;

use crate::clock;
use crate::metrics::{Direction, Protocol, Request};
use crate::names::{Name, SpiffeId};
use crate::reason::Reason;
use crate::shared::{Shared, Worker};
use crate::snapshot::{Endpoint, Route};
use crate::trace::Trace;

/// The record of a request, filled in on its way and written once, on drop: metrics, logs and spans.
pub struct Outcome {
    worker: Arc<Worker>,
    direction: Direction,
    protocol: Protocol,
    started: Instant,
    method: Method,
    path: Option<PathAndQuery>,
    service: Option<Name>,
    route: Option<Name>,
    client: Option<SpiffeId>,
    endpoint: Option<Arc<Endpoint>>,
    status: u16,
    grpc_status: Option<u8>,
    reason: Option<Reason>,
    what: Option<Box<str>>,
    tries: u8,
    hedge: Option<Hedge>,
    answered: bool,
    first_byte: Option<Instant>,
    request_bytes: u64,
    response_bytes: u64,
    /// Where somebody wants to know.
    times: Option<Times>,
    /// Boxed: most sidecars follow few requests.
    trace: Option<Box<Trace>>,
}

/// When what happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    /// The last try began.
    pub(crate) sent: Option<Instant>,
    /// There was a connection for it: at once, or after it was waited for.
    pub(crate) connected: Option<Instant>,
    /// The answer began.
    pub(crate) answered: Option<Instant>,
}

/// Whose answer a request has got that was sent to a second endpoint while the first was slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hedge {
    /// The second's.
    Won,
    /// The first's, or none.
    Lost,
}

impl Hedge {
    /// For logs and spans.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Hedge::Won => "won",
            Hedge::Lost => "lost",
        }
    }
}

/// Label of what configuration has no name for.
pub(crate) const UNKNOWN: &str = "unknown";

impl Outcome {
    /// A request whose head is complete. If nothing more is told, the client went away.
    pub fn new(worker: Arc<Worker>, direction: Direction, protocol: Protocol, method: Method) -> Self {
        let timed = worker.shared.access_log.is_some() || worker.shared.taps.any();
        let times = timed.then(Times::default);
        Outcome {
            worker,
            direction,
            protocol,
            started: clock::now(),
            method,
            path: None,
            service: None,
            route: None,
            client: None,
            endpoint: None,
            status: 0,
            grpc_status: None,
            reason: None,
            what: None,
            tries: 0,
            hedge: None,
            answered: false,
            first_byte: None,
            request_bytes: 0,
            response_bytes: 0,
            times,
            trace: None,
        }
    }

    /// When the request's head was complete.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What the application of the client speaks.
    pub fn protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// Its path, for the log.
    pub fn path(&mut self, path: Option<PathAndQuery>) {
        self.path = path;
    }

    /// The service that it was for.
    pub fn service(&mut self, service: Name) {
        self.service = Some(service);
    }

    /// The route that it took.
    pub fn route(&mut self, route: Name) {
        self.route = Some(route);
    }

    /// The route that it takes outbound, and what share of the traces that begin with its requests this wants to be followed.
    pub(crate) fn routed(&mut self, route: &Route, headers: &mut HeaderMap) {
        self.route = Some(route.name.clone());
        if let Some(trace) = &mut self.trace {
            trace.routed(route.filters.as_ref().and_then(|filters| filters.sampling), headers, self.started);
        }
    }

    /// Who the client is (inbound).
    pub fn client(&mut self, identity: Option<SpiffeId>) {
        self.client = identity;
    }

    /// Reads the trace context of its headers and leaves there what the next hop shall see.
    pub fn follow(&mut self, headers: &mut HeaderMap) {
        if let Some(tracer) = &self.worker.shared.tracer {
            self.trace = Some(Box::new(tracer.begin(self.direction, headers, self.started)));
        }
    }

    /// It is sent, to this endpoint if it is one; called again for each further try.
    pub fn tried(&mut self, endpoint: Option<&Arc<Endpoint>>, headers: &mut HeaderMap) {
        if let Some(trace) = &mut self.trace {
            trace.sends(endpoint.cloned(), headers);
        }
        if let Some(times) = &mut self.times {
            *times = Times { sent: Some(clock::now()), ..Times::default() };
        }
        if let Some(endpoint) = endpoint {
            self.endpoint = Some(endpoint.clone());
            self.tries = self.tries.saturating_add(1);
        }
    }

    /// The last try has failed for this reason, and another follows.
    pub fn tries_again(&mut self, cause: Reason) {
        // An answer that the client does not get has not begun for it.
        self.first_byte = None;
        if let Some(trace) = &mut self.trace {
            trace.sends_again(cause);
        }
    }

    /// It is sent to this endpoint too, while the last try goes on.
    pub(crate) fn hedges(&mut self, endpoint: &Arc<Endpoint>, headers: &mut HeaderMap) {
        if let Some(trace) = &mut self.trace {
            trace.hedges(endpoint.clone(), headers);
        }
        self.hedge = Some(Hedge::Lost);
        self.tries = self.tries.saturating_add(1);
    }

    /// Of the two tries one has decided: the second, of which this tells where it went and since when, or the first. The other has failed
    /// for a reason, or is cancelled.
    pub(crate) fn raced(&mut self, second: Option<(&Arc<Endpoint>, tokio::time::Instant)>, lost: Option<Reason>) {
        if let Some(trace) = &mut self.trace {
            trace.raced(second.is_some(), lost);
        }
        let Some((endpoint, begun)) = second else { return };
        self.hedge = Some(Hedge::Won);
        self.endpoint = Some(endpoint.clone());
        if let Some(times) = &mut self.times {
            times.sent = Some(begun.into_std());
        }
    }

    /// The try that is answered had its connection at that time, if it had to wait for it; else at once.
    pub(crate) fn connected(&mut self, at: Option<tokio::time::Instant>) {
        if let Some(times) = &mut self.times {
            times.connected = at.map(tokio::time::Instant::into_std).or(times.sent);
        }
    }

    /// Tries so far.
    pub fn tries(&self) -> u8 {
        self.tries
    }

    /// The answer has begun.
    pub fn status(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.first_byte.get_or_insert_with(clock::now);
    }

    /// The answer that the client will get has begun at that time, as far as somebody has looked at the clock.
    pub(crate) fn begun(&mut self, at: Option<Instant>) {
        self.first_byte = at;
    }

    /// So many bytes of its body were read.
    pub(crate) fn request_bytes(&mut self, bytes: u64) {
        self.request_bytes = bytes;
    }

    /// So many more bytes of the answer's body were taken.
    pub(crate) fn response_bytes(&mut self, bytes: usize) {
        self.response_bytes = self.response_bytes.wrapping_add(bytes as u64);
    }

    /// The call's gRPC status, from the head or the trailers.
    pub fn grpc_status(&mut self, status: Option<u8>) {
        self.grpc_status = status;
    }

    /// It failed. The first reason stays.
    pub fn failed(&mut self, reason: Reason, what: &dyn fmt::Display) {
        if self.reason.is_none() {
            self.reason = Some(reason);
            self.what = Some(what.to_string().into_boxed_str());
        }
    }

    /// Another sidecar said in its answer why it failed, and has logged it.
    pub fn failed_elsewhere(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    /// The client got a whole answer.
    pub fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if self.reason.is_none() && !self.answered {
            if std::thread::panicking() {
                self.failed(Reason::Internal, &"panicked");
            } else {
                self.reason = Some(Reason::ClientReset);
            }
        }
        if self.status == 0 {
            self.status = self.reason.map_or(Reason::ClientReset, |reason| reason).status();
        }
        let identity = match self.direction {
            Direction::Outbound => self.endpoint.as_ref().and_then(|endpoint| endpoint.identity.as_ref()),
            Direction::Inbound => self.client.as_ref(),
        };
        let ended = clock::now();
        let duration = ended.saturating_duration_since(self.started);
        if let Some(trace) = &mut self.trace {
            trace.unrouted(ended);
        }
        // How it has ended decides too whether spans are told of it.
        let told = self.trace.as_ref().and_then(|trace| trace.told(|| self.record(ended, None)));
        self.worker.shard.record(&Request {
            direction: self.direction,
            service: self.service.as_deref().unwrap_or(UNKNOWN),
            route: self.route.as_deref().unwrap_or(UNKNOWN),
            protocol: self.protocol,
            identity,
            workload: self.endpoint.as_ref().map_or("", |endpoint| &endpoint.workload),
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            duration,
            first_byte: self.first_byte.map(|at| at.saturating_duration_since(self.started)),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            trace: told,
        });
        if let (Some(reason), Some(what)) = (self.reason, &self.what) {
            self.log(reason, what, duration, told);
        }
        let trace = self.trace.take();
        let tapped = self.worker.shared.taps.any();
        if told.is_some() || self.times.is_some() || tapped {
            self.record(ended, told).tell(&self.worker.shared, trace);
        }
    }
}

/// A request or a connection that is over, for those who tell of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) started: Instant,
    /// As far as they were measured.
    pub(crate) times: Times,
    pub(crate) ended: Instant,
    pub(crate) direction: Direction,
    /// `cart.shop:80`.
    pub(crate) service: &'a str,
    pub(crate) route: &'a str,
    /// Who the client is (inbound).
    pub(crate) client: Option<&'a SpiffeId>,
    /// The last that was tried.
    pub(crate) endpoint: Option<&'a Endpoint>,
    pub(crate) reason: Option<Reason>,
    /// What failed, in words.
    pub(crate) what: Option<&'a str>,
    pub(crate) tries: u8,
    /// Its trace, if spans are told of it.
    pub(crate) trace: Option<u128>,
    pub(crate) of: Of<'a>,
}

/// What is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    /// A request.
    Request(Exchange<'a>),
    /// A connection that carried bytes: so many from the client, and so many to it.
    Connection { sent: u64, received: u64 },
}

/// What there is of a request and of no connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) method: &'a Method,
    pub(crate) path: Option<&'a PathAndQuery>,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u8>,
    /// What came of a second try beside the first, if there was one.
    pub(crate) hedge: Option<Hedge>,
}

impl Record<'_> {
    /// Whether somebody would look for it among the failures of servers: [`failed`].
    pub(crate) fn has_failed(&self) -> bool {
        let (status, grpc_status) = self.exchange().map_or((0, None), |one| (one.status, one.grpc_status));
        failed(status, grpc_status, self.reason)
    }

    /// The request, if it is one.
    pub(crate) fn exchange(&self) -> Option<&Exchange<'_>> {
        match &self.of {
            Of::Request(exchange) => Some(exchange),
            Of::Connection { .. } => None,
        }
    }

    pub(crate) fn duration(&self) -> Duration {
        self.ended.saturating_duration_since(self.started)
    }

    /// To the access log, to whoever taps, and as spans.
    pub(crate) fn tell(&self, shared: &Shared, trace: Option<Box<Trace>>) {
        if let Some(log) = &shared.access_log {
            log.record(self);
        }
        if shared.taps.any() {
            shared.taps.record(self);
        }
        if let Some(trace) = trace {
            trace.end(self);
        }
    }
}

/// Whether the server, or the way to it, failed, and not the client: the same for tables, logs and traces. Of gRPC these are UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS (OpenTelemetry, semantic conventions for gRPC).
pub(crate) fn failed(status: u16, grpc_status: Option<u8>, reason: Option<Reason>) -> bool {
    status >= 500
        || matches!(grpc_status, Some(2 | 4 | 12 | 13 | 14 | 15))
        || reason.is_some_and(|reason| reason.status() >= 500)
}

impl Outcome {
    fn record(&self, ended: Instant, trace: Option<u128>) -> Record<'_> {
        Record {
            started: self.started,
            times: Times { answered: self.first_byte, ..self.times.unwrap_or_default() },
            ended,
            direction: self.direction,
            service: self.service.as_deref().unwrap_or(UNKNOWN),
            route: self.route.as_deref().unwrap_or(UNKNOWN),
            client: self.client.as_ref(),
            endpoint: self.endpoint.as_deref(),
            reason: self.reason,
            what: self.what.as_deref(),
            tries: self.tries,
            trace,
            of: Of::Request(Exchange {
                protocol: self.protocol,
                method: &self.method,
                path: self.path.as_ref(),
                status: self.status,
                grpc_status: self.grpc_status,
                hedge: self.hedge,
            }),
        }
    }

    /// One line. What the client did wrong is no warning.
    fn log(&self, reason: Reason, what: &str, duration: Duration, trace: Option<u128>) {
        let Some(suppressed) = self.worker.shard.log.permit(clock::now()) else { return };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    reason = reason.word(),
                    status = self.status,
                    direction = self.direction.word(),
                    service = self.service.as_deref().unwrap_or(UNKNOWN),
                    route = self.route.as_deref().unwrap_or(UNKNOWN),
                    method = self.method.as_str(),
                    path = self.path.as_ref().map_or("", PathAndQuery::path),
                    client = self.client.as_ref().map_or("", SpiffeId::as_str),
                    endpoint = self.endpoint.as_ref().map(|endpoint| tracing::field::display(endpoint.address)),
                    tries = self.tries,
                    trace = trace.map(|id| tracing::field::display(format!("{id:032x}"))),
                    milliseconds = duration.as_millis() as u64,
                    suppressed,
                    "{}: {what}",
                    reason.sentence()
                )
            };
        }
        match reason.status() {
            400..=499 => line!(info),
            _ => line!(warn),
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome").field("status", &self.status).field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// Bounds the lines of a worker: `LINES` at once, then one per `INTERVAL`; what was left out is counted in the next line.
#[derive(Debug, Default)]
pub struct LogLimit {
    state: Mutex<Limited>,
}

#[derive(Debug, Default)]
struct Limited {
    /// When the allowance will be whole again.
    whole_at: Option<Instant>,
    suppressed: u64,
}

/// Lines at once.
const LINES: u32 = 20;
/// Time after which one more line is permitted.
const INTERVAL: Duration = Duration::from_millis(200);

impl LogLimit {
    /// Permission for one line, with the number of those that were suppressed since the last one.
    pub fn permit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let next = state.whole_at.map_or(now, |at| at.max(now)) + INTERVAL;
        if next > now + INTERVAL * LINES {
            state.suppressed += 1;
            return None;
        }
        state.whole_at = Some(next);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_logged_and_a_flood_is_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let permitted = (0..100).filter(|_| limit.permit(start).is_some()).count();
        assert_eq!(permitted, 20);
        assert_eq!(limit.permit(start + INTERVAL), Some(80));
        assert_eq!(limit.permit(start + INTERVAL), None);
    }
}

//! What a span says of a request or a connection, in the words of OpenTelemetry's semantic conventions for HTTP, RPC and networks,
//! and in `malla.…` where they have none.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::Method;
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use smallvec::SmallVec;

use super::otlp::{Frame, Span};
use super::{Trace, Try};
use crate::clock;
use crate::metrics::{Direction, Protocol};
use crate::outcome::{Exchange, Of, Record};
use crate::reason::Reason;

/// The spans of a request, as OTLP has them: one inbound, one for each try outbound. A request that was refused before it was sent
/// anywhere is one span too.
pub(super) fn spans(trace: &Trace, record: &Record<'_>) -> SmallVec<[Vec<u8>; 1]> {
    let teller = Teller { trace, record, name: &name(record), clock: Clock::look() };
    match trace.direction {
        Direction::Outbound if !trace.tries.is_empty() => {
            trace.tries.iter().enumerate().map(|(number, one)| teller.of_try(number, one)).collect()
        }
        direction => {
            let kind = if direction == Direction::Inbound { SpanKind::Server } else { SpanKind::Client };
            let mut span = teller.span(trace.own, kind, (record.started, record.ended));
            teller.ending(&mut span);
            SmallVec::from_iter([span.finish()])
        }
    }
}

/// Turns the times of the monotonic clock into those of the wall.
struct Clock {
    monotonic: Instant,
    /// Nanoseconds since the epoch.
    wall: u64,
}

impl Clock {
    fn look() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { monotonic: clock::now(), wall: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX) }
    }

    fn wall(&self, at: Instant) -> u64 {
        let ago = self.monotonic.saturating_duration_since(at).as_nanos();
        self.wall.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
    }
}

/// What the spans of one request have in common.
struct Teller<'a> {
    trace: &'a Trace,
    record: &'a Record<'a>,
    name: &'a str,
    clock: Clock,
}

impl Teller<'_> {
    fn of_try(&self, number: usize, one: &Try) -> Vec<u8> {
        let ended = one.ended.map_or(self.record.ended, |(at, _)| at);
        let mut span = self.span(one.span, SpanKind::Client, (one.started, ended));
        if let Some(endpoint) = &one.endpoint {
            span.text("network.peer.address", &endpoint.address.ip().to_string());
            span.number("network.peer.port", endpoint.address.port().into());
            if !endpoint.workload.is_empty() {
                span.text("malla.workload", &endpoint.workload);
            }
            span.flag("malla.mtls", endpoint.identity.is_some());
            if let Some(identity) = &endpoint.identity {
                span.text("malla.peer", identity.as_str());
            }
        }
        if number > 0 && self.record.exchange().is_some() {
            span.number("http.request.resend_count", number as u64);
        }
        if one.hedge {
            span.flag("malla.hedge", true);
        }
        match one.ended {
            Some((_, Some(cause))) => {
                reason(&mut span, cause);
                span.error(cause.sentence());
            }
            Some((_, None)) => span.flag("malla.cancelled", true),
            None => self.ending(&mut span),
        }
        span.finish()
    }

    /// A span with what is known of the request before it has ended.
    fn span(&self, id: u64, kind: SpanKind, (started, ended): (Instant, Instant)) -> Span {
        let Teller { trace, record, name, clock } = self;
        let mut span = Span::new(&Frame {
            trace: trace.trace,
            span: id,
            parent: trace.incoming.parent.map(|parent| parent.span),
            sampled: trace.is_followed(),
            name,
            kind,
            started: clock.wall(started),
            ended: clock.wall(ended),
        });
        let (host, port) = host_and_port(record.service);
        span.text("server.address", host);
        if let Some(port) = port {
            span.number("server.port", port.into());
        }
        match &record.of {
            Of::Request(exchange) => request(&mut span, exchange),
            Of::Connection { .. } => span.text("network.transport", "tcp"),
        }
        if let Some((service, method)) = rpc(record) {
            span.text("rpc.system", "grpc");
            span.text("rpc.service", service);
            span.text("rpc.method", method);
        }
        span.text("malla.direction", trace.direction.word());
        span.text("malla.route", record.route);
        if trace.direction == Direction::Inbound {
            span.flag("malla.mtls", record.client.is_some());
            if let Some(client) = record.client {
                span.text("malla.peer", client.as_str());
            }
        }
        if !trace.is_followed() {
            // Decided when the request was over, by this sidecar alone: the rest of the trace is not to be found.
            span.text("malla.sampling", "tail");
        }
        span
    }

    /// How the request ended. An error has the sentence of its reason, and what it was about.
    fn ending(&self, span: &mut Span) {
        let record = self.record;
        let exchange = record.exchange();
        if let Of::Connection { sent, received } = record.of {
            span.number("malla.sent_bytes", sent);
            span.number("malla.received_bytes", received);
        }
        if let Some(exchange) = exchange {
            span.number("http.response.status_code", exchange.status.into());
        }
        if let Some(status) = exchange.and_then(|exchange| exchange.grpc_status) {
            span.number("rpc.grpc.status_code", status.into());
        }
        match (record.reason, record.what) {
            (Some(cause), what) => {
                reason(span, cause);
                match what {
                    Some(what) => span.error(&format!("{}: {what}", cause.sentence())),
                    None => span.error(cause.sentence()),
                }
            }
            (None, _) if record.has_failed() => {
                if let Some(exchange) = exchange {
                    span.text("error.type", &exchange.status.to_string());
                }
                span.error("");
            }
            (None, _) => {}
        }
    }
}

fn request(span: &mut Span, Exchange { protocol, method: sent, path, .. }: &Exchange<'_>) {
    let method = method(sent);
    span.text("http.request.method", method);
    if method == OTHER {
        span.text("http.request.method_original", sent.as_str());
    }
    span.text("url.scheme", "http");
    span.text("url.path", path.map_or("", PathAndQuery::path));
    span.text("network.protocol.name", "http");
    let version = match protocol {
        Protocol::Http10 => "1.0",
        Protocol::Http1 => "1.1",
        Protocol::Http2 | Protocol::Grpc => "2",
    };
    span.text("network.protocol.version", version);
}

fn reason(span: &mut Span, cause: Reason) {
    span.text("error.type", cause.word());
    span.text("malla.reason", cause.word());
}

/// `GET cart.shop`, or `shop.Cart/Add`: what it was for, never with a part that a client can choose freely.
fn name(record: &Record<'_>) -> String {
    if let Some((service, method)) = rpc(record) {
        return [service, "/", method].concat();
    }
    let (host, _) = host_and_port(record.service);
    let what = match record.exchange().map(|exchange| method(exchange.method)) {
        None => "TCP",
        Some(OTHER) => "HTTP",
        Some(known) => known,
    };
    [what, " ", host].concat()
}

const OTHER: &str = "_OTHER";

/// The methods of RFC 9110 and PATCH; others are all the same, as the conventions ask.
fn method(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

/// Service and method of a gRPC call.
fn rpc<'a>(record: &'a Record<'_>) -> Option<(&'a str, &'a str)> {
    let exchange = record.exchange().filter(|exchange| exchange.protocol == Protocol::Grpc)?;
    exchange.path?.path().strip_prefix('/')?.split_once('/')
}

fn host_and_port(service: &str) -> (&str, Option<u16>) {
    match service.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (service, None),
    }
}

//! What a span says of a request or a connection, in the words of OpenTelemetry's semantic conventions for HTTP, RPC and networks,
//! and in `malla.…` where they have none.

use std::borrow::Cow;
use std::time::{Instant, SystemTime};

use http::Method;
use http::uri::PathAndQuery;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Trace, Try};
use crate::clock;
use crate::metrics::{Direction, Protocol};
use crate::outcome::{Exchange, Of, Record};
use crate::reason::Reason;

/// The spans of a request: one inbound, one for each try outbound. A request that was refused before it was sent anywhere is one
/// span too.
pub(super) fn spans(trace: &Trace, record: &Record<'_>) -> Vec<SpanData> {
    let clock = Clock { monotonic: clock::now(), wall: SystemTime::now() };
    match trace.direction {
        Direction::Outbound if !trace.tries.is_empty() => {
            trace.tries.iter().enumerate().map(|(number, one)| of_try(trace, record, number, one, &clock)).collect()
        }
        direction => {
            let kind = if direction == Direction::Inbound { SpanKind::Server } else { SpanKind::Client };
            let mut attributes = common(trace, record);
            ending(record, &mut attributes);
            let times = (record.started, record.ended);
            vec![span(trace, record, trace.own, kind, times, attributes, status(record, record.reason), &clock)]
        }
    }
}

/// Turns the times of the monotonic clock into those of the wall.
struct Clock {
    monotonic: Instant,
    wall: SystemTime,
}

impl Clock {
    fn wall(&self, at: Instant) -> SystemTime {
        self.wall.checked_sub(self.monotonic.saturating_duration_since(at)).unwrap_or(self.wall)
    }
}

fn of_try(trace: &Trace, record: &Record<'_>, number: usize, one: &Try, clock: &Clock) -> SpanData {
    let mut attributes = common(trace, record);
    if let Some(endpoint) = &one.endpoint {
        attributes.push(KeyValue::new("network.peer.address", endpoint.address.ip().to_string()));
        attributes.push(KeyValue::new("network.peer.port", i64::from(endpoint.address.port())));
        if !endpoint.workload.is_empty() {
            attributes.push(KeyValue::new("malla.workload", endpoint.workload.to_string()));
        }
        attributes.push(KeyValue::new("malla.mtls", endpoint.identity.is_some()));
        if let Some(identity) = &endpoint.identity {
            attributes.push(KeyValue::new("malla.peer", identity.as_str().to_owned()));
        }
    }
    if number > 0 && record.exchange().is_some() {
        attributes.push(KeyValue::new("http.request.resend_count", i64::try_from(number).unwrap_or(i64::MAX)));
    }
    if one.hedge {
        attributes.push(KeyValue::new("malla.hedge", true));
    }
    let (ended, reason) = match one.ended {
        Some((at, Some(cause))) => {
            attributes.push(KeyValue::new("error.type", cause.word()));
            attributes.push(KeyValue::new("malla.reason", cause.word()));
            (at, Some(cause))
        }
        Some((at, None)) => {
            attributes.push(KeyValue::new("malla.cancelled", true));
            (at, None)
        }
        None => {
            ending(record, &mut attributes);
            (record.ended, record.reason)
        }
    };
    let status = match one.ended {
        Some((_, Some(cause))) => Status::error(cause.sentence()),
        Some((_, None)) => Status::Unset,
        None => status(record, reason),
    };
    span(trace, record, one.span, SpanKind::Client, (one.started, ended), attributes, status, clock)
}

#[allow(clippy::too_many_arguments, reason = "the end of both ways, which differ in all of them")]
fn span(
    trace: &Trace,
    record: &Record<'_>,
    id: u64,
    kind: SpanKind,
    (started, ended): (Instant, Instant),
    attributes: Vec<KeyValue>,
    status: Status,
    clock: &Clock,
) -> SpanData {
    let flags = if trace.is_followed() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from(trace.trace), SpanId::from(id));
    SpanData {
        span_context: SpanContext::new(trace_id, span_id, flags, false, TraceState::default()),
        parent_span_id: trace.incoming.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span)),
        parent_span_is_remote: trace.incoming.parent.is_some(),
        span_kind: kind,
        name: name(record),
        start_time: clock.wall(started),
        end_time: clock.wall(ended),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("malla").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

/// `GET cart.shop`, or `shop.Cart/Add`: what it was for, never with a part that a client can choose freely.
fn name(record: &Record<'_>) -> Cow<'static, str> {
    if let Some((service, method)) = rpc(record) {
        return format!("{service}/{method}").into();
    }
    let (host, _) = host_and_port(record.service);
    match record.exchange().map(|exchange| method(exchange.method)) {
        None => format!("TCP {host}").into(),
        Some(OTHER) => ["HTTP ", host].concat().into(),
        Some(known) => [known, " ", host].concat().into(),
    }
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

fn host_and_port(service: &str) -> (&str, Option<i64>) {
    match service.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (service, None),
    }
}

fn common(trace: &Trace, record: &Record<'_>) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(20);
    let mut add = |key: &'static str, value: opentelemetry::Value| attributes.push(KeyValue::new(key, value));
    let (host, port) = host_and_port(record.service);
    add("server.address", host.to_owned().into());
    if let Some(port) = port {
        add("server.port", port.into());
    }
    match &record.of {
        Of::Request(Exchange { protocol, method: sent, path, .. }) => {
            add("http.request.method", method(sent).into());
            if method(sent) == OTHER {
                add("http.request.method_original", sent.as_str().to_owned().into());
            }
            add("url.scheme", "http".into());
            add("url.path", path.map_or("", PathAndQuery::path).to_owned().into());
            add("network.protocol.name", "http".into());
            let version = match protocol {
                Protocol::Http10 => "1.0",
                Protocol::Http1 => "1.1",
                Protocol::Http2 | Protocol::Grpc => "2",
            };
            add("network.protocol.version", version.into());
        }
        Of::Connection { .. } => add("network.transport", "tcp".into()),
    }
    if let Some((service, method)) = rpc(record) {
        add("rpc.system", "grpc".into());
        add("rpc.service", service.to_owned().into());
        add("rpc.method", method.to_owned().into());
    }
    add("malla.direction", trace.direction.word().into());
    add("malla.route", record.route.to_owned().into());
    if trace.direction == Direction::Inbound {
        add("malla.mtls", record.client.is_some().into());
        if let Some(client) = record.client {
            add("malla.peer", client.as_str().to_owned().into());
        }
    }
    if !trace.is_followed() {
        // Decided when the request was over, by this sidecar alone: the rest of the trace is not to be found.
        add("malla.sampling", "tail".into());
    }
    attributes
}

/// How the request ended.
fn ending(record: &Record<'_>, attributes: &mut Vec<KeyValue>) {
    if let Of::Connection { sent, received } = record.of {
        let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        attributes.push(KeyValue::new("malla.sent_bytes", count(sent)));
        attributes.push(KeyValue::new("malla.received_bytes", count(received)));
    }
    let exchange = record.exchange();
    if let Some(exchange) = exchange {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(exchange.status)));
    }
    if let Some(status) = exchange.and_then(|exchange| exchange.grpc_status) {
        attributes.push(KeyValue::new("rpc.grpc.status_code", i64::from(status)));
    }
    match (record.reason, exchange) {
        (Some(reason), _) => {
            attributes.push(KeyValue::new("error.type", reason.word()));
            attributes.push(KeyValue::new("malla.reason", reason.word()));
        }
        (None, Some(exchange)) if record.has_failed() => {
            attributes.push(KeyValue::new("error.type", exchange.status.to_string()));
        }
        (None, _) => {}
    }
}

/// An error has the sentence of its reason, and what it was about.
fn status(record: &Record<'_>, reason: Option<Reason>) -> Status {
    match (reason, record.what) {
        (Some(reason), Some(what)) => Status::error(format!("{}: {what}", reason.sentence())),
        (Some(reason), None) => Status::error(reason.sentence()),
        (None, _) if record.has_failed() => Status::error(""),
        (None, _) => Status::Unset,
    }
}

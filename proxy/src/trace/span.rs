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
            teller.ending(&mut span, kind);
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
            None => self.ending(&mut span, SpanKind::Client),
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
            Of::Request(exchange) => {
                request(&mut span, exchange);
                if kind == SpanKind::Client {
                    // Without the query, which may hold secrets.
                    let path = exchange.path.map_or("/", PathAndQuery::path);
                    span.text("url.full", &["http://", record.service, path].concat());
                }
            }
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
    fn ending(&self, span: &mut Span, kind: SpanKind) {
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
        // What a client did wrong is an error of its span, and none of the server's.
        let clients_fault = |exchange: &Exchange<'_>| match exchange.grpc_status {
            Some(status) => status != 0,
            None => exchange.status >= 400,
        };
        let connection_broke = exchange.is_none() && record.reason.is_some();
        let is_error = record.has_failed()
            || connection_broke
            || (kind == SpanKind::Client && exchange.is_some_and(clients_fault));
        match (record.reason, exchange) {
            (Some(cause), _) if is_error => reason(span, cause),
            (Some(cause), _) => span.text("malla.reason", cause.word()),
            (None, Some(exchange)) if is_error => span.text("error.type", &code(exchange).to_string()),
            (None, _) => {}
        }
        if is_error {
            match (record.reason, record.what) {
                (Some(cause), Some(what)) => span.error(&format!("{}: {what}", cause.sentence())),
                (Some(cause), None) => span.error(cause.sentence()),
                (None, _) => span.error(""),
            }
        }
    }
}

/// The status that names an error: gRPC's, if there is one that is none of success.
fn code(exchange: &Exchange<'_>) -> u16 {
    exchange.grpc_status.filter(|status| *status != 0).map_or(exchange.status, u16::from)
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

/// `GET cart.shop`: what it was for, without what a client can choose freely. Of gRPC, as the conventions ask, `shop.Cart/Add`.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderMap;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::trace::v1::Span as Message;
    use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
    use prost::Message as _;

    use super::*;
    use crate::http::testing::endpoint;
    use crate::outcome::Times;
    use crate::trace::{Collector, Tracer, Tracing};

    /// What the one span says of something that is over.
    fn told(direction: Direction, of: Of<'_>, reason: Option<Reason>) -> Message {
        let tracer =
            Tracer::new(&Tracing::everything(Collector::Grpc("http://127.0.0.1:4317".parse().expect("a URL"))));
        let (now, mut headers) = (clock::now(), HeaderMap::new());
        let mut trace = tracer.begin(direction, &mut headers, now);
        trace.unrouted(now);
        let endpoint = Arc::new(endpoint("10.0.0.7:8080".parse().expect("an address")));
        trace.sends(Some(endpoint), &mut headers);
        let record = Record {
            started: now,
            times: Times::default(),
            ended: clock::now(),
            direction,
            service: "cart.shop:80",
            route: "HTTPRoute/shop/cart/0",
            client: None,
            endpoint: None,
            reason,
            what: None,
            tries: 1,
            trace: None,
            of,
        };
        let [bytes] = &spans(&trace, &record)[..] else { panic!("one span") };
        Message::decode(&**bytes).expect("it is a span")
    }

    fn attribute(span: &Message, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
        Some(match found.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(flag) => flag.to_string(),
            other => panic!("no attribute is of this kind: {other:?}"),
        })
    }

    fn exchange<'a>(protocol: Protocol, path: &'a PathAndQuery, status: u16, grpc_status: Option<u8>) -> Of<'a> {
        Of::Request(Exchange { protocol, method: &Method::POST, path: Some(path), status, grpc_status, hedge: None })
    }

    #[test]
    fn errors_are_those_of_the_conventions() {
        let path = PathAndQuery::from_static("/shop.Cart/Add?secret=1");
        for (protocol, status, grpc_status, reason, of_client, of_server) in [
            (Protocol::Http1, 200, None, None, None, None),
            (Protocol::Http1, 302, None, None, None, None),
            (Protocol::Http1, 404, None, None, Some("404"), None),
            (Protocol::Http1, 503, None, None, Some("503"), Some("503")),
            (Protocol::Http1, 403, None, Some(Reason::Denied), Some("denied"), None),
            (Protocol::Http1, 499, None, Some(Reason::ClientReset), Some("client_reset"), None),
            (
                Protocol::Http1,
                503,
                None,
                Some(Reason::ConnectRefused),
                Some("connect_refused"),
                Some("connect_refused"),
            ),
            // The answer had begun well.
            (Protocol::Http1, 200, None, Some(Reason::UpstreamReset), Some("upstream_reset"), Some("upstream_reset")),
            (Protocol::Grpc, 200, Some(0), None, None, None),
            (Protocol::Grpc, 200, Some(5), None, Some("5"), None),
            (Protocol::Grpc, 200, Some(12), None, Some("12"), Some("12")),
            (Protocol::Grpc, 200, Some(14), None, Some("14"), Some("14")),
        ] {
            for (direction, kind, expected) in
                [(Direction::Outbound, SpanKind::Client, of_client), (Direction::Inbound, SpanKind::Server, of_server)]
            {
                let case = format!("{protocol:?} {status} {grpc_status:?} {reason:?} {kind:?}");
                let span = told(direction, exchange(protocol, &path, status, grpc_status), reason);
                assert_eq!(span.kind(), kind, "{case}");
                assert_eq!(attribute(&span, "error.type").as_deref(), expected, "{case}");
                let is_error = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
                assert_eq!(is_error, expected.is_some(), "{case}");
                assert_eq!(attribute(&span, "malla.reason").as_deref(), reason.map(Reason::word), "{case}");
            }
        }
    }

    #[test]
    fn attributes_are_those_of_the_conventions() {
        let path = PathAndQuery::from_static("/shop.Cart/Add?secret=1");
        let http = [
            ("http.request.method", Some("POST")),
            ("http.response.status_code", Some("200")),
            ("url.scheme", Some("http")),
            ("url.path", Some("/shop.Cart/Add")),
            ("url.full", Some("http://cart.shop:80/shop.Cart/Add")),
            ("network.protocol.name", Some("http")),
            ("network.protocol.version", Some("2")),
            ("network.peer.address", Some("10.0.0.7")),
            ("network.peer.port", Some("8080")),
            ("server.address", Some("cart.shop")),
            ("server.port", Some("80")),
            ("malla.route", Some("HTTPRoute/shop/cart/0")),
            ("malla.direction", Some("outbound")),
        ];
        let grpc = [
            ("rpc.system", Some("grpc")),
            ("rpc.service", Some("shop.Cart")),
            ("rpc.method", Some("Add")),
            ("rpc.grpc.status_code", Some("0")),
        ];
        let none_of_grpc = grpc.map(|(key, _)| (key, None));
        let tcp = [
            ("network.transport", Some("tcp")),
            ("malla.sent_bytes", Some("10")),
            ("malla.received_bytes", Some("20")),
            ("http.request.method", None),
            ("url.full", None),
        ];
        let call = exchange(Protocol::Grpc, &path, 200, Some(0));
        let request = exchange(Protocol::Http2, &path, 200, None);
        let connection = Of::Connection { sent: 10, received: 20 };
        for (of, name, expected) in [
            (call, "shop.Cart/Add", [&http[..], &grpc].concat()),
            (request, "POST cart.shop", [&http[..], &none_of_grpc].concat()),
            (connection, "TCP cart.shop", tcp.to_vec()),
        ] {
            let span = told(Direction::Outbound, of, None);
            assert_eq!(span.name, name);
            for (key, value) in expected {
                assert_eq!(attribute(&span, key).as_deref(), value, "{name}: {key}");
            }
        }
        assert_eq!(attribute(&told(Direction::Inbound, request, None), "url.full"), None, "servers do not know it");
    }
}

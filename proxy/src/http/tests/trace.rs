//! Traces: what the spans of a request say, and what the next hop sees of its context.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio_util::task::AbortOnDropHandle;

use super::super::Version;
use super::super::testing::{
    Listening, cluster, endpoint, eventually, exchange_raw, inbound_of, knows, meshed, outbound, read_until, route,
    scripted, serves, worker_of,
};
use crate::filter::{Filters, Share};
use crate::shared::Worker;
use crate::snapshot::{Cluster, Route, UpstreamHttp};
use crate::trace::{Collector, Tracing};

fn tracing() -> Tracing {
    // Nobody exports in these tests: the spans are looked at where they wait.
    Tracing::everything(Collector::Grpc("http://127.0.0.1:4317".parse().expect("a URL")))
}

/// An application that answers with the request as it came.
async fn echo() -> (SocketAddr, AbortOnDropHandle<()>) {
    scripted(|_, mut socket| async move {
        loop {
            let request = read_until(&mut socket, "\r\n\r\n").await;
            if request.is_empty() {
                return;
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{request}", request.len());
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

async fn sidecar(cluster: Cluster, tracing: Tracing) -> Listening {
    let worker = worker_of(knows(route(&Arc::new(cluster))), "web", Some(tracing));
    outbound(worker, Version::Http1).await
}

async fn get(sidecar: &Listening, headers: &str) -> String {
    let request = format!("GET /cart HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n{headers}\r\n");
    exchange_raw(sidecar.address, &request).await
}

/// The spans that a sidecar tells of, once there are so many.
async fn spans(worker: &Worker, number: usize) -> Vec<Span> {
    let tracer = worker.shared.tracer.as_ref().expect("it follows requests");
    let mut spans = Vec::new();
    eventually("the spans to be told", || {
        spans.extend(tracer.told());
        spans.len() >= number
    })
    .await;
    assert_eq!(spans.len(), number, "{spans:#?}");
    spans
}

fn page(worker: &Worker) -> String {
    worker.shared.metrics.exposition()
}

/// The traces that the histogram of durations leads to.
fn exemplars(worker: &Worker) -> Vec<String> {
    let text = page(worker);
    let ids = text.split("# {trace_id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    ids.map(str::to_owned).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("no attribute is of this kind: {other:?}"),
    })
}

/// An id as headers have it.
fn digits(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a header in a request as the application saw it.
fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[tokio::test]
async fn both_sidecars_and_the_application_are_one_chain() {
    let (application, _running) = echo().await;
    let inbound =
        inbound_of(worker_of(serves(application, UpstreamHttp::Http1), "cart", Some(tracing())), application).await;
    let sidecar = sidecar(meshed(&[inbound.address]), tracing()).await;
    let answer = get(&sidecar, "").await;
    let client = spans(&sidecar.worker, 1).await.remove(0);
    let server = spans(&inbound.worker, 1).await.remove(0);
    assert_eq!((client.kind(), server.kind()), (SpanKind::Client, SpanKind::Server));
    assert!(client.parent_span_id.is_empty(), "{client:?}");
    assert_eq!(server.parent_span_id, client.span_id);
    assert_eq!(server.trace_id, client.trace_id);
    let seen = format!("00-{}-{}-01", digits(&server.trace_id), digits(&server.span_id));
    assert_eq!(header(&answer, "traceparent"), Some(seen.as_str()));
    for (span, key, value) in [
        (&client, "server.address", "cart.shop"),
        (&client, "server.port", "80"),
        (&client, "malla.workload", "cart-1.shop"),
        (&client, "malla.peer", "spiffe://test/ns/shop/sa/cart"),
        (&client, "network.protocol.version", "1.1"),
        (&server, "http.request.method", "GET"),
        (&server, "url.path", "/cart"),
        (&server, "http.response.status_code", "200"),
        (&server, "malla.peer", "spiffe://test/ns/shop/sa/web"),
        (&server, "malla.mtls", "true"),
    ] {
        assert_eq!(attribute(span, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!((client.name.as_str(), &client.status), ("GET cart.shop", &None));
    assert!(client.start_time_unix_nano <= server.start_time_unix_nano);
    assert!(server.end_time_unix_nano <= client.end_time_unix_nano);
}

#[tokio::test]
async fn each_try_is_a_span_and_the_upstream_sees_its_own() {
    let (application, _running) = echo().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let parent = "00f067aa0ba902b7";
    let mut spans_seen = Vec::new();
    // The refusing endpoint is drawn first every other time.
    for _ in 0..64 {
        let sidecar = sidecar(cluster("cart.shop:80", vec![endpoint(gone), endpoint(application)]), tracing()).await;
        let headers = format!("traceparent: 00-0af7651916cd43dd8448eb211c80319c-{parent}-01\r\ntracestate: a=1\r\n");
        let answer = get(&sidecar, &headers).await;
        assert_eq!(header(&answer, "tracestate"), Some("a=1"));
        let tracer = sidecar.worker.shared.tracer.as_ref().expect("it follows requests");
        eventually("a span to be told", || {
            spans_seen.extend(tracer.told());
            spans_seen.last().is_some_and(|last| last.status.is_none())
        })
        .await;
        if spans_seen.len() == 2 {
            let seen = header(&answer, "traceparent").expect("it is followed").to_owned();
            assert!(seen.contains(&digits(&spans_seen[1].span_id)), "{seen}");
            break;
        }
        spans_seen.clear();
    }
    let [refused, answered] = spans_seen.as_slice() else { panic!("no request was tried twice") };
    assert_eq!(attribute(refused, "malla.reason").as_deref(), Some("connect_refused"));
    assert!(refused.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error), "{refused:?}");
    assert_eq!(attribute(answered, "http.request.resend_count").as_deref(), Some("1"));
    for span in [refused, answered] {
        assert_eq!(digits(&span.parent_span_id), parent);
        assert_eq!(digits(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    }
}

#[tokio::test]
async fn what_is_not_followed_passes_unchanged_and_what_is_malformed_not_at_all() {
    let (application, _running) = echo().await;
    let sidecar = sidecar(cluster("cart.shop:80", vec![endpoint(application)]), tracing()).await;
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00";
    let answer = get(&sidecar, &format!("traceparent: {unsampled}\r\nbaggage: user=1\r\n")).await;
    assert_eq!(header(&answer, "traceparent"), Some(unsampled));
    assert_eq!(header(&answer, "baggage"), Some("user=1"));
    let answer = get(&sidecar, "b3: 0\r\n").await;
    assert!(header(&answer, "b3").is_some_and(|value| value.contains("-0")), "{answer}");
    // A share of everything is followed here: a context that is none begins a new trace.
    let answer = get(&sidecar, "traceparent: 00-nonsense\r\nbaggage: user=2\r\n").await;
    assert!(
        header(&answer, "traceparent").is_some_and(|value| value.ends_with("-01") && value.len() == 55),
        "{answer}"
    );
    assert_eq!(spans(&sidecar.worker, 1).await.len(), 1, "the first two were not followed");
}

#[tokio::test]
async fn a_route_has_a_say_about_traces_that_begin_with_its_requests() {
    let (application, _running) = echo().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7";
    let (followed, not_followed) = (format!("traceparent: {parent}-01\r\n"), format!("traceparent: {parent}-00\r\n"));
    for (of_sidecar, of_route, headers, expected) in [
        (0.0, None, "", false),
        (0.0, Some(1_000_000), "", true),
        (1.0, None, "", true),
        (1.0, Some(0), "", false),
        // Whoever comes with a trace has decided.
        (0.0, Some(0), &followed, true),
        (1.0, Some(1_000_000), &not_followed, false),
        (0.0, Some(1_000_000), "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1\r\n", true),
        (1.0, Some(0), "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1\r\n", false),
    ] {
        let filters = Filters { sampling: of_route.map(Share), ..Filters::default() }.shared();
        let route = Route { filters, ..route(&Arc::new(cluster("cart.shop:80", vec![endpoint(application)]))) };
        let worker = worker_of(knows(route), "web", Some(Tracing { share: of_sidecar, ..tracing() }));
        let sidecar = outbound(worker, Version::Http1).await;
        let answer = get(&sidecar, headers).await;
        let seen = header(&answer, "traceparent").unwrap_or_default();
        assert!(seen.ends_with(if expected { "-01" } else { "-00" }), "{of_sidecar} {of_route:?} {headers}: {answer}");
        spans(&sidecar.worker, usize::from(expected)).await;
    }
}

#[tokio::test]
async fn failures_are_told_of_at_the_end_where_that_was_asked_for() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let refused = || cluster("cart.shop:80", vec![endpoint(gone)]);
    let asked = sidecar(refused(), Tracing { share: 0.0, failures: true, ..tracing() }).await;
    get(&asked, "").await;
    let spans = spans(&asked.worker, 2).await;
    assert!(spans.iter().all(|span| attribute(span, "malla.sampling").as_deref() == Some("tail")), "{spans:#?}");
    assert_eq!(spans[0].flags & 1, 0, "its trace is not followed");
    assert_eq!(exemplars(&asked.worker), [digits(&spans[0].trace_id)], "a graph leads to them");
    let not_asked = sidecar(refused(), Tracing { share: 0.0, ..tracing() }).await;
    get(&not_asked, "").await;
    let tracer = not_asked.worker.shared.tracer.as_ref().expect("it follows requests");
    assert!(tracer.told().is_empty());
    assert!(exemplars(&not_asked.worker).is_empty(), "a link would lead nowhere");
}

#[tokio::test]
async fn slow_requests_are_told_of_at_the_end_where_that_was_asked_for() {
    let (application, _running) = echo().await;
    let answering = || cluster("cart.shop:80", vec![endpoint(application)]);
    let asked = sidecar(answering(), Tracing { share: 0.0, slow: Some(Duration::ZERO), ..tracing() }).await;
    let answer = get(&asked, "").await;
    assert!(header(&answer, "traceparent").is_some_and(|value| value.ends_with("-00")), "{answer}");
    let span = spans(&asked.worker, 1).await.remove(0);
    assert_eq!(exemplars(&asked.worker), [digits(&span.trace_id)]);
    let patient = Tracing { share: 0.0, slow: Some(Duration::from_secs(3600)), ..tracing() };
    let not_slow = sidecar(answering(), patient).await;
    get(&not_slow, "").await;
    eventually("the request to be counted", || page(&not_slow.worker).contains("malla_request_duration_seconds_count"))
        .await;
    assert!(exemplars(&not_slow.worker).is_empty());
}

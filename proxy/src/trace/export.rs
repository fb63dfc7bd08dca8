//! Spans on their way to the collector: in batches, within bounds of number and time, and given up rather than waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::{BATCH, Collector, Counts};
use crate::dial::Dialer;
use crate::dns::Resolver;
use crate::shared::Shared;
use crate::stream;

/// `opentelemetry.proto.collector.trace.v1.TraceService/Export`.
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// How the sidecar names itself to the collector, as the specification of OTLP asks exporters to.
const AGENT: &str = concat!("malla-proxy/", env!("CARGO_PKG_VERSION"));

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long the collector may take for one message.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the last spans may take when the sidecar stops.
const LAST: Duration = Duration::from_secs(2);

/// The task that exports, and the way to end it.
#[derive(Debug)]
pub(crate) struct Exporter {
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Exporter {
    /// Starts it, if there is a collector.
    pub(crate) fn start(shared: &Arc<Shared>) -> Option<Exporter> {
        let collector = shared.settings.tracing.as_ref()?.collector.clone();
        let (end, ended) = oneshot::channel();
        Some(Exporter { task: tokio::spawn(run(shared.clone(), collector, ended)), end })
    }

    /// Sends what is left, for two seconds at most.
    pub(crate) async fn finish(self) {
        drop(self.end);
        let _ = timeout(LAST, self.task).await;
    }
}

/// Exports until the sender of `ended` is dropped, then what is left.
async fn run(shared: Arc<Shared>, collector: Collector, mut ended: oneshot::Receiver<()>) {
    let Some(tracer) = &shared.tracer else { return };
    let Some(mut spans) = tracer.waiting.lock().take() else { return };
    let way = Way { resolver: shared.resolver.clone(), dialer: shared.dialer.clone() };
    let mut sender = Sender::to(collector, way);
    let mut failing = false;
    let mut batch = Vec::with_capacity(BATCH);
    let mut over = false;
    loop {
        if !over {
            over = tokio::select! {
                _ = &mut ended => true,
                received = spans.recv_many(&mut batch, BATCH) => received == 0,
            };
        }
        if !over && batch.len() < BATCH {
            // Not woken for each span that comes meanwhile.
            over = tokio::select! {
                _ = &mut ended => true,
                _ = timeout(LINGER, tracer.full.notified()) => false,
            };
        }
        if over {
            spans.close();
        }
        while batch.len() < BATCH
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        let number = batch.len() as u64;
        if number == 0 {
            return;
        }
        let request = ExportRequest::of(resource(&shared), std::mem::take(&mut batch));
        let result = match timeout(LIMIT, sender.send(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(problem)) => Err(problem.to_string()),
            Err(_) => Err(format!("it did not answer within {} s", LIMIT.as_secs())),
        };
        told(&tracer.counts, number, result, &mut failing);
    }
}

/// Counts, and logs where it begins to fail and where it has stopped failing.
fn told(counts: &Counts, number: u64, result: Result<ExportTraceServiceResponse, String>, failing: &mut bool) {
    let (refused, problem) = match result {
        Ok(answer) => {
            let partial = answer.partial_success.unwrap_or_default();
            let refused = u64::try_from(partial.rejected_spans).unwrap_or(0).min(number);
            (refused, (refused > 0).then_some(partial.error_message))
        }
        Err(problem) => (number, Some(problem)),
    };
    counts.exported.fetch_add(number - refused, Relaxed);
    counts.failed.fetch_add(refused, Relaxed);
    match problem {
        None if std::mem::take(failing) => tracing::info!("the trace collector takes spans again"),
        Some(problem) if !std::mem::replace(failing, true) => {
            tracing::warn!(problem, refused, "the trace collector does not take spans; they are dropped and counted");
        }
        _ => {}
    }
}

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`, of one resource and one scope, with spans that are written
/// already: on the wire a message within a message is bytes with a length.
#[derive(Clone, PartialEq, prost::Message)]
struct ExportRequest {
    #[prost(message, optional, tag = "1")]
    resource_spans: Option<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, optional, tag = "2")]
    scope_spans: Option<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    spans: Vec<Vec<u8>>,
}

impl ExportRequest {
    fn of(resource: Resource, spans: Vec<Vec<u8>>) -> Self {
        let scope = InstrumentationScope {
            name: "malla".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = Some(ScopeSpans { scope: Some(scope), spans });
        ExportRequest { resource_spans: Some(ResourceSpans { resource: Some(resource), scope_spans }) }
    }
}

/// Whose spans they are: the service that the workload is part of, if it is part of one.
fn resource(shared: &Shared) -> Resource {
    let (settings, snapshot) = (&shared.settings, shared.directory.snapshot());
    let port = snapshot.inbound.as_ref().and_then(|inbound| inbound.ports.first());
    let service = port.and_then(|port| port.service.split(['.', ':']).next()).unwrap_or(&settings.workload);
    let attribute = |key: &str, value: String| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
        ..KeyValue::default()
    };
    let attributes = vec![
        attribute("service.name", service.to_owned()),
        attribute("service.namespace", settings.namespace.to_string()),
        attribute("service.instance.id", settings.node_id()),
        attribute("telemetry.sdk.language", "rust".to_owned()),
        attribute("telemetry.sdk.name", "malla".to_owned()),
        attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    Resource { attributes, ..Resource::default() }
}

/// One of the two ways to the collector.
enum Sender {
    Grpc(tonic::client::Grpc<Channel>),
    Http(Uri, Way),
}

impl Sender {
    fn to(collector: Collector, way: Way) -> Sender {
        match collector {
            Collector::Grpc(uri) => Sender::Grpc(tonic::client::Grpc::new(channel(uri, way))),
            Collector::Http(uri) => Sender::Http(uri, way),
        }
    }

    async fn send(&mut self, request: ExportRequest) -> Result<ExportTraceServiceResponse, Problem> {
        match self {
            Sender::Grpc(client) => {
                client.ready().await?;
                let codec = ProstCodec::<ExportRequest, ExportTraceServiceResponse>::default();
                let answer =
                    client.unary(tonic::Request::new(request), PathAndQuery::from_static(METHOD), codec).await?;
                Ok(answer.into_inner())
            }
            Sender::Http(uri, way) => post(uri, way, request.encode_to_vec().into()).await,
        }
    }
}

/// A connection that is made when it is needed, and again when it has ended.
fn channel(uri: Uri, way: Way) -> Channel {
    let connector = tower::service_fn(move |to: Uri| {
        let way = way.clone();
        async move { way.connect(&to).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from(uri);
    endpoint.clone().user_agent(AGENT).unwrap_or(endpoint).connect_with_connector_lazy(connector)
}

/// Opens connections to the collector as the sidecar opens all of its own: past the redirection.
#[derive(Debug, Clone)]
struct Way {
    resolver: Arc<Resolver>,
    dialer: Arc<Dialer>,
}

impl Way {
    async fn connect(&self, to: &Uri) -> Result<stream::Replay, Problem> {
        let host = to.host().ok_or("the collector's URL has no host")?;
        let port = to.port_u16().unwrap_or(80);
        Ok(self.resolver.connect(&self.dialer, host, port, LIMIT).await?)
    }
}

/// Longest answer of a collector that is read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// OTLP over HTTP, on a connection of its own: there is one message in a second, or there is much in each.
async fn post(to: &Uri, way: &Way, body: Bytes) -> Result<ExportTraceServiceResponse, Problem> {
    let stream = way.connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(to.path_and_query().map_or("/", PathAndQuery::as_str))
        .header(HOST, to.authority().map_or("", |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(USER_AGENT, AGENT)
        .body(Full::new(body))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    if !head.status.is_success() {
        return Err(format!("it answered {}", head.status).into());
    }
    let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
    Ok(ExportTraceServiceResponse::decode(body)?)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest};
    use opentelemetry_proto::tonic::trace::v1::Span;

    use super::*;

    #[test]
    fn what_is_sent_is_a_request_to_the_trace_service() {
        let spans = ["one", "two"].map(|name| Span { name: name.to_owned(), ..Span::default() });
        let resource = Resource { dropped_attributes_count: 7, ..Resource::default() };
        let request = ExportRequest::of(resource.clone(), spans.iter().map(Span::encode_to_vec).collect());
        let read = ExportTraceServiceRequest::decode(&*request.encode_to_vec()).expect("it is one");
        let [of_resource] = read.resource_spans.as_slice() else { panic!("one resource: {read:?}") };
        let [of_scope] = of_resource.scope_spans.as_slice() else { panic!("one scope: {read:?}") };
        assert_eq!((of_resource.resource.as_ref(), of_scope.spans.as_slice()), (Some(&resource), &spans[..]));
        assert_eq!(of_scope.scope.as_ref().map(|scope| scope.name.as_str()), Some("malla"));
    }

    #[test]
    fn spans_that_a_collector_refuses_of_a_batch_are_counted_as_failed() {
        let answer = |rejected_spans| ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess { rejected_spans, error_message: "too old".to_owned() }),
        };
        let (counts, mut failing) = (Counts::default(), false);
        let counted = |counts: &Counts| (counts.exported.load(Relaxed), counts.failed.load(Relaxed));
        told(&counts, 10, Ok(ExportTraceServiceResponse::default()), &mut failing);
        assert_eq!((counted(&counts), failing), ((10, 0), false));
        told(&counts, 10, Ok(answer(3)), &mut failing);
        assert_eq!((counted(&counts), failing), ((17, 3), true));
        // A warning beside a batch that was taken, and numbers that cannot be.
        told(&counts, 10, Ok(answer(0)), &mut failing);
        told(&counts, 10, Ok(answer(-5)), &mut failing);
        assert_eq!((counted(&counts), failing), ((37, 3), false));
        told(&counts, 10, Ok(answer(99)), &mut failing);
        told(&counts, 10, Err("it answered 503".to_owned()), &mut failing);
        assert_eq!((counted(&counts), failing), ((37, 23), true));
    }
}

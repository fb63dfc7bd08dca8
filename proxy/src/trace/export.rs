//! Spans on their way to the collector: in batches, within bounds of number and time, and given up rather than waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Endpoint;

use super::{Collector, Counts, Tracing};
use crate::dial::Dialer;
use crate::dns::Resolver;
use crate::shared::Shared;
use crate::stream;

/// Spans in one message.
const BATCH: usize = 512;
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
        let settings = shared.settings.tracing.clone()?;
        let (end, ended) = oneshot::channel();
        Some(Exporter { task: tokio::spawn(run(shared.clone(), settings, ended)), end })
    }

    /// Sends what is left, for two seconds at most.
    pub(crate) async fn finish(self) {
        drop(self.end);
        let _ = timeout(LAST, self.task).await;
    }
}

/// Exports until the sender of `ended` is dropped, then what is left.
async fn run(shared: Arc<Shared>, settings: Tracing, mut ended: oneshot::Receiver<()>) {
    let Some(tracer) = &shared.tracer else { return };
    let Some(mut spans) = tracer.waiting.lock().take() else { return };
    let mut collector = None;
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
        if over {
            spans.close();
        }
        let full = Instant::now() + LINGER;
        while batch.len() < BATCH {
            match timeout_at(full, spans.recv()).await {
                Ok(Some(span)) => batch.push(span),
                Ok(None) | Err(_) => break,
            }
        }
        let number = batch.len() as u64;
        if number == 0 {
            return;
        }
        let exporter = collector.get_or_insert_with(|| exporter(&shared, &settings));
        let result = match exporter {
            Ok(exporter) => export(exporter, std::mem::take(&mut batch)).await,
            Err(problem) => Err(problem.to_string()),
        };
        batch.clear();
        told(&tracer.counts, number, result, &mut failing);
    }
}

async fn export(exporter: &SpanExporter, batch: Vec<SpanData>) -> Result<(), String> {
    match timeout(LIMIT, exporter.export(batch)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(OTelSdkError::InternalFailure(problem))) => Err(problem),
        Ok(Err(other)) => Err(other.to_string()),
        Err(_) => Err(format!("it did not answer within {} s", LIMIT.as_secs())),
    }
}

/// Counts, and logs where it begins to fail and where it has stopped failing.
fn told(counts: &Counts, number: u64, result: Result<(), String>, failing: &mut bool) {
    match result {
        Ok(()) => {
            counts.exported.fetch_add(number, Relaxed);
            if std::mem::take(failing) {
                tracing::info!("the trace collector takes spans again");
            }
        }
        Err(problem) => {
            counts.failed.fetch_add(number, Relaxed);
            if !std::mem::replace(failing, true) {
                tracing::warn!(problem, "the trace collector takes no spans; they are dropped and counted");
            }
        }
    }
}

fn exporter(shared: &Arc<Shared>, settings: &Tracing) -> Result<SpanExporter, ExporterBuildError> {
    let way = Way { resolver: shared.resolver.clone(), dialer: shared.dialer.clone() };
    let mut exporter = match &settings.collector {
        Collector::Grpc(uri) => {
            let connector = tower::service_fn(move |to: Uri| {
                let way = way.clone();
                async move { way.connect(&to).await.map(TokioIo::new) }
            });
            let channel = Endpoint::from(uri.clone()).connect_with_connector_lazy(connector);
            SpanExporter::builder().with_tonic().with_channel(channel).with_timeout(LIMIT).build()?
        }
        Collector::Http(uri) => SpanExporter::builder()
            .with_http()
            .with_http_client(way)
            .with_endpoint(uri.to_string())
            .with_timeout(LIMIT)
            .build()?,
    };
    exporter.set_resource(&resource(shared));
    Ok(exporter)
}

/// Whose spans they are: the service that the workload is part of, if it is part of one.
fn resource(shared: &Shared) -> Resource {
    let (settings, snapshot) = (&shared.settings, shared.directory.snapshot());
    let port = snapshot.inbound.as_ref().and_then(|inbound| inbound.ports.first());
    let service = port.and_then(|port| port.service.split(['.', ':']).next()).unwrap_or(&settings.workload);
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", service.to_owned()),
            KeyValue::new("service.namespace", settings.namespace.to_string()),
            KeyValue::new("service.instance.id", settings.node_id()),
            KeyValue::new("telemetry.sdk.language", "rust"),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
        ])
        .build()
}

/// Opens connections to the collector as the sidecar opens all of its own: past the redirection.
#[derive(Debug, Clone)]
struct Way {
    resolver: Arc<Resolver>,
    dialer: Arc<Dialer>,
}

impl Way {
    async fn connect(&self, to: &Uri) -> Result<stream::Replay, HttpError> {
        let host = to.host().ok_or("the collector's URL has no host")?;
        let port = to.port_u16().unwrap_or(80);
        Ok(self.resolver.connect(&self.dialer, host, port, LIMIT).await?)
    }
}

/// Longest answer of a collector that is read.
const LONGEST_ANSWER: usize = 64 * 1024;

#[async_trait::async_trait]
impl HttpClient for Way {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let stream = self.connect(request.uri()).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        if let Some(authority) = request.uri().authority() {
            let host = HeaderValue::from_str(authority.as_str())?;
            request.headers_mut().insert(http::header::HOST, host);
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.uri_mut() = path;
        let (parts, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
        drop(driver);
        Ok(Response::from_parts(parts, body))
    }
}

//! Admin pages: `/ready`, `/live`, `/metrics`, `/config`. Read-only, HTTP/1, on the main thread: a busy worker does not delay them. What
//! the application is asked for others (`probe`) is asked here.

mod clusters;
mod config;
mod gauges;
mod text;

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_xds::exposition::{self, Form};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::probe;
use crate::reason::Reason;
use crate::shared::Shared;
use crate::subscribe::status::Connection;

pub use self::clusters::CLUSTER_TABLE;
pub(crate) use self::clusters::ClusterMetrics;
pub use self::gauges::SIDECAR_TABLE;
pub(crate) use self::gauges::SidecarMetrics;

/// Which pages a port has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Everything,
    /// `/ready`, `/live`, and the checks that the sidecar makes for an orchestrator (`/probe/…`).
    Health,
}

/// Connections at once on each port.
const CONNECTIONS: usize = 64;
/// Longest life of a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);

/// Serves a port until dropped.
pub async fn serve(listener: TcpListener, scope: Scope, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(cause) => {
            tracing::error!(%cause, "the admin port cannot be served");
            return;
        }
    };
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = free.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(cause) => {
                // No descriptors, most likely: they come back.
                tracing::warn!(%cause, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let at = stream.local_addr().ok().map(|address| address.ip().to_canonical());
            let answer = service_fn(move |request: Request<Incoming>| {
                let shared = shared.clone();
                async move {
                    let response = match from_application(&shared, scope, &request, at).await {
                        Some(response) => response,
                        None => answer(&shared, scope, &request),
                    };
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), answer);
            let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
            drop(place);
        });
    }
}

/// What takes asking the application, at the address of this machine that the question came to.
async fn from_application(
    shared: &Shared,
    scope: Scope,
    request: &Request<Incoming>,
    at: Option<IpAddr>,
) -> Option<Response<Full<Bytes>>> {
    let (settings, path) = (&shared.settings, request.uri().path());
    match (scope, &settings.scrape) {
        _ if request.method() != Method::GET => None,
        (Scope::Everything, Some(scrape)) if path == "/metrics/merged" => {
            let own = exposition::prometheus_text(&shared.metrics.exposition());
            Some(page(StatusCode::OK, exposition::PROMETHEUS_TEXT, probe::merged(&own, scrape, at?).await))
        }
        (Scope::Health, _) => {
            let (status, sentence) = probe::check(settings.probes.get(path)?, at?).await;
            Some(page(status, TEXT, sentence))
        }
        _ => None,
    }
}

fn answer(shared: &Shared, scope: Scope, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "these pages can only be read: use GET\n".to_owned());
    }
    match (request.uri().path(), scope) {
        ("/live", _) => page(StatusCode::OK, TEXT, "live\n".to_owned()),
        ("/ready", _) => match not_ready(shared) {
            None => page(StatusCode::OK, TEXT, "ready\n".to_owned()),
            Some(why) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
        },
        ("/metrics", Scope::Everything) => {
            let accept = request.headers().get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
            let form = Form::asked(accept);
            let (text, native) = match form {
                Form::Protobuf => shared.metrics.exposition_with_native(),
                Form::Text | Form::OpenMetrics => (shared.metrics.exposition(), Vec::new()),
            };
            let (kind, body) = form.page(text, native);
            page(StatusCode::OK, kind, body)
        }
        ("/config", Scope::Everything) => {
            let config = config::Config::of(shared);
            if wants_json(request.headers(), request.uri().query()) {
                let json =
                    serde_json::to_string_pretty(&config).unwrap_or_else(|cause| format!("{{\"error\": \"{cause}\"}}"));
                page(StatusCode::OK, "application/json", json + "\n")
            } else {
                page(StatusCode::OK, TEXT, text::render(&config))
            }
        }
        (_, Scope::Everything) => {
            let pages = "/ready    whether traffic can be served, else what is missing\n/live     whether the process runs\n\
                         /metrics  for Prometheus: OpenMetrics or protobuf to who asks for it\n/config   what is applied; /config?format=json for programs\n";
            page(StatusCode::NOT_FOUND, TEXT, pages.to_owned())
        }
        (_, Scope::Health) => page(StatusCode::NOT_FOUND, TEXT, "/ready\n/live\n".to_owned()),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn wants_json(headers: &HeaderMap, query: Option<&str>) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    query.is_some_and(|query| query.split('&').any(|pair| pair == "format=json"))
        || accepted.is_some_and(|accepted| accepted.contains("application/json"))
}

/// What keeps the sidecar from serving, in words; `None` if nothing does. A lost control server does not: the last good
/// configuration serves on.
fn not_ready(shared: &Shared) -> Option<String> {
    if shared.drain.is_draining() {
        return Some("the sidecar is shutting down".to_owned());
    }
    match shared.identity.current() {
        Ok(_) => {}
        Err(Reason::IdentityExpired) => return Some(with_failure(shared, "the certificate has expired")),
        Err(_) => return Some(with_failure(shared, "there is no certificate yet")),
    }
    if shared.directory.peek().inbound.is_some() {
        return None;
    }
    let state = shared.directory.status().state();
    let name = shared.settings.inbound_name();
    let problem = state.problems.iter().find(|((_, resource), _)| *resource == name);
    let server = &shared.settings.control;
    Some(match (&state.connection, problem) {
        (_, Some((_, problem))) => format!("the configuration of the own ports ({name}) is missing: {problem}"),
        (Connection::Connected(_), None) => {
            format!("connected to {server}, the configuration of the own ports ({name}) has not arrived completely")
        }
        (Connection::Failed(_, problem), None) => {
            format!("there is no connection to the control server {server}: {problem}")
        }
        (Connection::Connecting | Connection::WaitingForCertificate, None) => {
            format!("connecting to the control server {server}")
        }
    })
}

fn with_failure(shared: &Shared, what: &str) -> String {
    let server = &shared.settings.control;
    match shared.identity.failure() {
        Some((_, problem)) => format!("{what} (control server {server}): {problem}"),
        None => format!("{what} (control server {server})"),
    }
}

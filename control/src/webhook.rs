//! The admission webhook's port: HTTPS for API servers. What is asked, [`inject`](crate::inject) decides.
//!
//! The path says what the webhook's configuration has selected by, because an API server does not send the labels of a namespace:
//! `/inject/namespace` for namespaces with the label, `/inject/pod` for pods with it, each with `/baseline` or `/restricted` behind it where
//! the namespace enforces that level of Pod Security. Everything is bounded: connections, handshakes, heads and bodies, in size and time.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inject::{InjectionSettings, Namespace, review};
use crate::metrics::{Metrics, Outcome, Reason};
use crate::serve::is_about_the_connection;

/// Largest question: an API server takes objects of 3 MiB at most.
const LARGEST: usize = 4 << 20;
/// Connections at once: an API server needs few.
const CONNECTION_LIMIT: usize = 256;
/// Questions that are thought about at once; others wait.
const AT_A_TIME: usize = 16;
/// For a handshake, for the head of a request, for its body.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest life of a connection: after it, an API server may find another replica.
const LIFETIME: Duration = Duration::from_secs(600);
/// From asking a connection to end until it is cut.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// What answers.
#[derive(Debug)]
pub(crate) struct Webhook {
    settings: InjectionSettings,
    /// Whom sidecars shall trust, at this moment.
    trust: watch::Receiver<Arc<str>>,
    metrics: Arc<Metrics>,
    places: Semaphore,
}

impl Webhook {
    /// A webhook that makes sidecars as the settings say, but for the trust bundle, which changes while the root is rotated.
    pub(crate) fn new(settings: InjectionSettings, trust: watch::Receiver<Arc<str>>, metrics: Arc<Metrics>) -> Self {
        Webhook { settings, trust, metrics, places: Semaphore::new(AT_A_TIME) }
    }
}

/// Accepts until stopped. Connections are tasks of `connections` and end with `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    webhook: Arc<Webhook>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                if !is_about_the_connection(&error) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the webhook cannot accept for a moment");
                    sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let (acceptor, webhook, stop) = (acceptor.clone(), webhook.clone(), stop.clone());
        connections.spawn(async move {
            connection(socket, acceptor, webhook, stop).await;
            drop(permit);
        });
    }
}

async fn connection(socket: TcpStream, acceptor: TlsAcceptor, webhook: Arc<Webhook>, stop: CancellationToken) {
    let handshake = timeout(PATIENCE, acceptor.accept(socket));
    let stream = match stop.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => {
            // An API server that does not trust this certificate has another CA bundle: that shall be found here too.
            tracing::info!(error = &error as &dyn std::error::Error, "a TLS handshake with the webhook failed");
            return;
        }
        Some(Err(_)) | None => return,
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(answer(&webhook, request).await) }
    });
    let stream = TokioIo::new(stream);
    // What goes wrong on a connection went wrong at the client.
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_concurrent_streams(64).max_header_list_size(32 << 10);
        let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
        if stop.run_until_cancelled(timeout(LIFETIME, &mut connection)).await.is_none_or(|ended| ended.is_err()) {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(CLOSING_TIME, connection).await;
        }
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 << 10);
        let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
        if stop.run_until_cancelled(timeout(LIFETIME, &mut connection)).await.is_none_or(|ended| ended.is_err()) {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(CLOSING_TIME, connection).await;
        }
    }
}

async fn answer(webhook: &Webhook, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/ready" {
        return text(StatusCode::OK, "ready");
    }
    let refused = |reason, status, sentence: &str| {
        webhook.metrics.reviews_refused.get_or_create(&Reason { reason }).inc();
        tracing::warn!(reason, sentence, "the webhook was asked something else");
        text(status, sentence)
    };
    let Some(namespace) = selected_by(request.uri().path()) else {
        let sentence = "the paths are /inject/namespace and /inject/pod, with /baseline or /restricted behind them";
        return refused("wrong_request", StatusCode::NOT_FOUND, sentence);
    };
    if request.method() != Method::POST {
        return refused("wrong_request", StatusCode::METHOD_NOT_ALLOWED, "AdmissionReviews are sent by POST");
    }
    let started = Instant::now();
    let body = match timeout(PATIENCE, axum::body::to_bytes(Body::new(request.into_body()), LARGEST)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let sentence = format!("an AdmissionReview has {} MiB at most, and must be sent to its end", LARGEST >> 20);
            return refused("too_large", StatusCode::PAYLOAD_TOO_LARGE, &sentence);
        }
        Err(_) => {
            return refused("slow_body", StatusCode::REQUEST_TIMEOUT, "the AdmissionReview did not arrive in time");
        }
    };
    match decide(webhook, body, namespace).await {
        Ok(answer) => {
            webhook.metrics.review_seconds.observe(started.elapsed().as_secs_f64());
            answer
        }
        Err(sentence) => refused("bad_review", StatusCode::BAD_REQUEST, &sentence),
    }
}

async fn decide(webhook: &Webhook, body: Bytes, namespace: Namespace) -> Result<Response<Body>, String> {
    let Ok(_place) = webhook.places.acquire().await else { return Err("the control server stops".to_owned()) };
    let trust = webhook.trust.borrow().to_string();
    let settings = InjectionSettings { trust, ..webhook.settings.clone() };
    // A large pod takes milliseconds, which sidecars shall not wait for.
    let thought = tokio::task::spawn_blocking(move || review(&body, namespace, &settings)).await;
    let answer = thought.map_err(|cause| cause.to_string())?.map_err(|cause| cause.to_string())?;
    webhook.metrics.reviews.get_or_create(&Outcome { outcome: answer.outcome.word() }).inc();
    tracing::debug!(outcome = answer.outcome.word(), "answered an AdmissionReview");
    let mut response = Response::new(Body::from(answer.body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn selected_by(path: &str) -> Option<Namespace> {
    let (by, level) = match path.strip_prefix("/inject/")?.split_once('/') {
        None => (path.strip_prefix("/inject/")?, None),
        Some((by, "baseline")) => (by, Some("baseline")),
        Some((by, "restricted")) => (by, Some("restricted")),
        Some(_) => return None,
    };
    match by {
        "namespace" => Some(Namespace { enabled: true, pod_security: level }),
        "pod" => Some(Namespace { enabled: false, pod_security: level }),
        _ => None,
    }
}

fn text(status: StatusCode, sentence: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{sentence}\n")));
    *response.status_mut() = status;
    response
}

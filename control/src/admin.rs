//! The admin port: status for people (`/`, `/status`) and programs (`/status.json`), `/traffic.json`, `/tap`, `/metrics`, `/ready`, `/live`.
//!
//! Plain HTTP without authentication, read-only: keep it off foreign networks. Traffic is shown to this machine alone; to people elsewhere,
//! [`observe`](crate::observe) shows it, if they may look.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_xds::exposition::Form;
use malla_xds::telemetry::Tap;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::ads::ControlPlane;
use crate::metrics::unix_seconds;
use crate::status::Status;
use crate::telemetry::{Target, Traffic};

/// Connections at once.
const CONNECTION_LIMIT: usize = 128;
/// From the first byte of a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// So long after its start at most, a replica is not ready because API servers are not told of its root: longer than another one's lease.
const UNBELIEVED: Duration = Duration::from_secs(30);
/// Longest life of a connection.
const LIFETIME: Duration = Duration::from_secs(600);

/// Serves until stopped. Connections are tasks of `connections` and end with `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    plane: Arc<ControlPlane>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let router = router(plane);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((socket, address)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let service = service_fn(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(address));
                router.clone().call(request)
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(socket), service);
            // What goes wrong here went wrong at the client.
            let _ = stop.run_until_cancelled(timeout(LIFETIME, connection)).await;
            drop(permit);
        });
    }
}

fn router(plane: Arc<ControlPlane>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status", get(table))
        .route("/status.json", get(json))
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/live", get(async || "live\n"))
        .with_state(plane.clone())
        .merge(of_traffic(plane).layer(from_fn(from_here)))
}

/// The pages for people who look at traffic, whoever they are.
pub(crate) fn observed(plane: Arc<ControlPlane>) -> Router {
    of_traffic(plane.clone()).route("/status.json", get(json).with_state(plane))
}

fn of_traffic(plane: Arc<ControlPlane>) -> Router {
    Router::new().route("/traffic.json", get(traffic)).route("/tap", get(tap)).with_state(plane)
}

/// Lets this machine's own requests through.
async fn from_here(ConnectInfo(address): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    if address.ip().to_canonical().is_loopback() {
        return next.run(request).await;
    }
    let sentence = "traffic is shown here to the control server's own machine alone; \
                    from elsewhere, ask its xDS port with `malla … --control`, as one whom `Mesh.spec.observers` names\n";
    (StatusCode::FORBIDDEN, sentence).into_response()
}

async fn table(State(plane): State<Arc<ControlPlane>>) -> String {
    plane.status().table(unix_seconds(SystemTime::now()).unsigned_abs())
}

async fn json(State(plane): State<Arc<ControlPlane>>) -> Json<Status> {
    Json(plane.status())
}

async fn traffic(State(plane): State<Arc<ControlPlane>>) -> Json<Traffic> {
    Json(plane.telemetry.look().await)
}

/// What is to be tapped, as a query.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct TapQuery {
    workload: String,
    method: String,
    path: String,
    status: String,
    identity: String,
    reason: String,
    per_second: u32,
}

/// A line of JSON for each request, until whoever asks goes away.
async fn tap(
    State(plane): State<Arc<ControlPlane>>,
    Query(query): Query<TapQuery>,
) -> Result<Response, (StatusCode, String)> {
    let target: Target = query.workload.parse().map_err(|problem| (StatusCode::BAD_REQUEST, format!("{problem}\n")))?;
    let TapQuery { workload: _, method, path, status, identity, reason, per_second } = query;
    let tap = Tap { id: 0, method, path, status, identity, reason, per_second };
    let tapped = plane.telemetry.tap(target, tap).map_err(|error| (StatusCode::CONFLICT, format!("{error}\n")))?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(tapped)).into_response())
}

async fn metrics(
    State(plane): State<Arc<ControlPlane>>,
    headers: HeaderMap,
) -> ([(HeaderName, &'static str); 1], Vec<u8>) {
    let accept = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    if let Some(cluster) = &plane.cluster {
        // Never more than the gauge can hold.
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        plane.metrics.cluster_kinds_failing.set(number(cluster.failing()));
        plane.metrics.cluster_objects_refused.set(number(cluster.refused()));
    }
    let (kind, page) = Form::asked(accept).page(plane.metrics.text(), Vec::new());
    ([(CONTENT_TYPE, kind)], page)
}

async fn ready(State(plane): State<Arc<ControlPlane>>) -> (StatusCode, &'static str) {
    let bundle = plane.authority.current().trust_bundle().clone();
    let is_believed = plane.cluster.as_ref().is_none_or(|cluster| cluster.is_believed(&bundle));
    if !plane.published.resources.borrow().is_loaded() {
        (StatusCode::SERVICE_UNAVAILABLE, "no valid configuration has been loaded yet: see /status\n")
    } else if !is_believed && plane.authority.up() < UNBELIEVED {
        // It was started with a root that API servers are still to be told of: until then they call another replica.
        (StatusCode::SERVICE_UNAVAILABLE, "API servers do not verify the webhook with this root yet (caBundle)\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn page(State(plane): State<Arc<ControlPlane>>) -> Html<String> {
    let status = plane.status();
    let table = status.table(unix_seconds(SystemTime::now()).unsigned_abs());
    let (class, sentence) = match (status.last_reload.applied, status.version.is_empty()) {
        (true, _) => ("good", "The configuration files are applied."),
        (false, false) => ("bad", "The configuration files are refused. The last good configuration keeps serving."),
        (false, true) => ("bad", "The configuration files are refused. There is no configuration to serve yet."),
    };
    let mut text = String::from(HEAD);
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "<h1>Malla control server</h1><p class=\"{class}\">{sentence}</p><pre>{}</pre>\
         <p><a href=\"/status\">status as text</a> · <a href=\"/status.json\">as JSON</a> · <a href=\"/metrics\">metrics</a></p>",
        escaped(&table)
    );
    Html(text)
}

const HEAD: &str = "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=5><title>Malla</title><style>\
    body{font:16px system-ui,sans-serif;margin:2rem;color-scheme:light dark}pre{overflow:auto;line-height:1.4}\
    .good,.bad{padding:.5rem 1rem;border-left:.4rem solid #2a2}.bad{border-color:#c22}</style>";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_for_this_machine_is_shown_to_no_other() {
        let mut pages = Router::new().route("/tap", get(async || "requests")).layer(from_fn(from_here));
        for (address, expected) in [
            ("127.0.0.1:1", StatusCode::OK),
            ("[::1]:1", StatusCode::OK),
            ("[::ffff:127.0.0.1]:1", StatusCode::OK),
            ("10.0.0.1:1", StatusCode::FORBIDDEN),
            ("[::ffff:10.0.0.1]:1", StatusCode::FORBIDDEN),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = http::Uri::from_static("/tap");
            request.extensions_mut().insert(ConnectInfo(address));
            assert_eq!(pages.call(request).await.map(|response| response.status()), Ok(expected), "{address}");
        }
    }
}

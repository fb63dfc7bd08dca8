//! Active health checks: each endpoint of a cluster that asks for them is asked by one task of the sidecar, not by each worker.
//!
//! Checks are bounded in number and time, and jittered, so that sidecars that start together do not ask together. An endpoint is taken
//! for healthy until its checks say otherwise: a check that is wrong about everybody is answered by the panic threshold. Each check
//! makes a connection of its own: it tells whether one can be made.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::names::Name;
use crate::policy::{CheckKind, HealthCheck};
use crate::shared::Shared;
use crate::snapshot::{Cluster, Endpoint, Endpoints, UpstreamHttp};
use crate::stream::Stream;
use crate::tls::{self, Alpn};

/// How often the configuration is looked at for what is to be checked.
const LOOK: Duration = Duration::from_millis(250);
/// Checks at a time.
const AT_A_TIME: usize = 64;
/// A connection that breaks within this time after it was made leads nowhere: another sidecar takes it before its application does.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest answer that is read.
const LONGEST_ANSWER: usize = 4096;
const SERVING: &[u8] = &[8, 1];

/// What is checked, and by whom.
struct Watched {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    _task: AbortOnDropHandle<()>,
}

/// Checks what the configuration asks for; never ends by itself.
pub(crate) async fn run(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(AT_A_TIME));
    let mut watched: HashMap<(Name, SocketAddr), Watched> = HashMap::new();
    loop {
        let clusters = shared.directory.snapshot().clusters();
        let mut wanted = HashMap::new();
        for (name, cluster) in &clusters {
            if let (Some(check), Endpoints::Set(set)) = (&cluster.policy.health_check, &cluster.endpoints) {
                wanted
                    .extend(set.iter().map(|endpoint| ((name.clone(), endpoint.address), (cluster, endpoint, check))));
            }
        }
        watched.retain(|key, old| {
            let kept = wanted.get(key).is_some_and(|(cluster, endpoint, _)| same(old, cluster, endpoint));
            if !kept && !wanted.contains_key(key) && old.endpoint.load.health.checked(false) {
                old.cluster.feedback.watch.changed();
            }
            kept
        });
        for (key, (cluster, endpoint, check)) in wanted {
            watched.entry(key).or_insert_with(|| {
                let task = watch(shared.clone(), cluster.clone(), endpoint.clone(), check.clone(), permits.clone());
                let task = AbortOnDropHandle::new(tokio::spawn(task));
                Watched { cluster: cluster.clone(), endpoint: endpoint.clone(), _task: task }
            });
        }
        sleep(LOOK).await;
    }
}

/// Whether what is checked, and how, is the same: the other endpoints of the cluster may have changed.
fn same(old: &Watched, cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>) -> bool {
    let tls = |cluster: &Cluster| cluster.tls.as_ref().map(|tls| (tls.sni.clone(), tls.identities.clone()));
    Arc::ptr_eq(&old.endpoint, endpoint)
        && (Arc::ptr_eq(&old.cluster, cluster)
            || (old.cluster.policy.health_check == cluster.policy.health_check
                && old.cluster.http == cluster.http
                && tls(&old.cluster) == tls(cluster)))
}

/// Checks one endpoint for ever.
async fn watch(
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    check: HealthCheck,
    permits: Arc<Semaphore>,
) {
    sleep(check.interval.min(Duration::from_secs(1)).mul_f64(fastrand::f64())).await;
    let (mut passed, mut failed) = (0_u32, 0_u32);
    loop {
        let healthy = {
            let _permit = permits.acquire().await;
            timeout(check.timeout, probe(&shared, &cluster, &endpoint, &check.kind)).await.unwrap_or(false)
        };
        cluster.feedback.watch.count_check(healthy);
        (passed, failed) = if healthy { (passed.saturating_add(1), 0) } else { (0, failed.saturating_add(1)) };
        let news = (passed >= check.healthy_threshold && endpoint.load.health.checked(false))
            || (failed >= check.unhealthy_threshold && endpoint.load.health.checked(true));
        if news {
            cluster.feedback.watch.changed();
            let (cluster, address) = (&cluster.name, endpoint.address);
            tracing::warn!(%cluster, endpoint = %address, healthy, "the health checks of an endpoint say something else now");
        }
        sleep(check.interval.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}

/// Whether an endpoint is healthy.
async fn probe(shared: &Shared, cluster: &Cluster, endpoint: &Endpoint, kind: &CheckKind) -> bool {
    let raw = *kind == CheckKind::Tcp && cluster.http == UpstreamHttp::AsReceived;
    let alpn = if raw { Alpn::Tcp } else { Alpn::H2 };
    let Ok(connected) = tls::connect(shared, cluster, endpoint, alpn).await else { return false };
    let meshed = endpoint.identity.is_some();
    let service = cluster.name.rsplit_once(':').map_or(&*cluster.name, |(host, _)| host);
    match kind {
        CheckKind::Tcp => stays(connected.stream).await,
        CheckKind::Http { path, host } => {
            let host = if host.is_empty() { service } else { host };
            if meshed || cluster.http == UpstreamHttp::Http2 {
                let answer = over_http2(connected.stream, request(Method::GET, host, path, meshed), None).await;
                answer.is_some_and(|(status, _)| status.is_success())
            } else {
                over_http1(connected.stream, host, path).await.is_some_and(|status| status.is_success())
            }
        }
        CheckKind::Grpc { service: asked } => serves(connected.stream, service, asked).await,
    }
}

/// Asks for a service by `grpc.health.v1.Health/Check`: whether it is `SERVING`.
pub(crate) async fn serves(stream: Stream, authority: &str, service: &str) -> bool {
    let mut question = request(Method::POST, authority, "/grpc.health.v1.Health/Check", false);
    let headers = question.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
    let answer = over_http2(stream, question, Some(about(service))).await;
    answer.is_some_and(|(status, body)| status == StatusCode::OK && body.get(5..).is_some_and(says_serving))
}

/// A connection that is not closed as soon as it was made. The other side may speak first.
async fn stays(mut stream: Stream) -> bool {
    !matches!(timeout(SETTLE, stream.read(&mut [0])).await, Ok(Ok(0) | Err(_)))
}

fn request(method: Method, host: &str, path: &str, as_http1: bool) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.version_mut() = Version::HTTP_2;
    let uri = http::Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    // A host or path that is none is asked as it can be; the answer is what it is.
    *request.uri_mut() = uri.unwrap_or_default();
    if as_http1 {
        // What the other sidecar says to its application, where that says nothing else.
        request.headers_mut().insert(crate::http::MALLA_HTTP, http::HeaderValue::from_static("1.1"));
    }
    request
}

/// The status and the body, as far as it matters.
async fn over_http2(stream: Stream, request: Request<()>, body: Option<Bytes>) -> Option<(StatusCode, Bytes)> {
    let (mut sender, connection) = h2::client::handshake(stream).await.ok()?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await.ok()?;
    let (response, mut upload) = sender.send_request(request, body.is_none()).ok()?;
    if let Some(body) = body {
        upload.send_data(body, true).ok()?;
    }
    let (head, mut received) = response.await.ok()?.into_parts();
    let mut answer = BytesMut::new();
    while let Some(Ok(piece)) = received.data().await {
        if answer.len() + piece.len() > LONGEST_ANSWER {
            break;
        }
        let _ = received.flow_control().release_capacity(piece.len());
        answer.extend_from_slice(&piece);
    }
    Some((head.status, answer.freeze()))
}

async fn over_http1(stream: Stream, host: &str, path: &str) -> Option<StatusCode> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::get(path).header(http::header::HOST, host).body(Empty::<Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    // Read to its end, so that the application does not see its answer refused.
    let _ = http_body_util::Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
    Some(status)
}

/// `HealthCheckRequest{service}`, as gRPC frames it.
fn about(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        prost::encoding::string::encode(1, &service.to_owned(), &mut message);
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// `HealthCheckResponse{status: SERVING}`.
fn says_serving(message: &[u8]) -> bool {
    message.starts_with(SERVING)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::balance::{Standing, Wish, choose};
    use crate::http::testing::{self, eventually, read_until, scripted};
    use crate::policy::Policy;
    use crate::testing::{settings, shared};

    fn checked(addresses: &[SocketAddr], kind: CheckKind) -> Arc<Cluster> {
        let check = HealthCheck {
            kind,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            unhealthy_threshold: 2,
            healthy_threshold: 2,
        };
        Arc::new(testing::with_policy(addresses, Policy { health_check: Some(check), ..Policy::default() }))
    }

    fn standing(cluster: &Cluster, at: usize) -> Standing {
        let Endpoints::Set(set) = &cluster.endpoints else { panic!("has endpoints") };
        set[at].load.standing(std::time::Instant::now())
    }

    /// An HTTP/1 application that answers with a status that can be changed.
    async fn application(status: Arc<AtomicU16>) -> (SocketAddr, impl Sized) {
        scripted(move |_, mut socket| {
            let status = status.clone();
            async move {
                let asked = read_until(&mut socket, "\r\n\r\n").await;
                assert!(asked.starts_with("GET /healthz HTTP/1.1\r\nhost: cart.shop\r\n"), "{asked}");
                let head = format!("HTTP/1.1 {} x\r\ncontent-length: 0\r\n\r\n", status.load(Relaxed));
                let _ = socket.write_all(head.as_bytes()).await;
            }
        })
        .await
    }

    #[tokio::test]
    async fn an_endpoint_that_fails_its_checks_gets_nothing_until_it_passes_them() {
        let status = Arc::new(AtomicU16::new(200));
        let (sick, _running) = application(status.clone()).await;
        let (well, _also) = application(Arc::new(AtomicU16::new(204))).await;
        let cluster = checked(&[sick, well], CheckKind::Http { path: "/healthz".into(), host: "".into() });
        let known = testing::knows(testing::route(&cluster));
        let _running = AbortOnDropHandle::new(tokio::spawn(run(shared(settings(), known, None))));
        let Endpoints::Set(set) = &cluster.endpoints else { panic!("has endpoints") };
        let at = set.iter().position(|endpoint| endpoint.address == sick).expect("is there");
        eventually("checks pass", || cluster.feedback.watch.checks().0 > 3).await;
        assert_eq!(standing(&cluster, at), Standing::Available);
        status.store(500, Relaxed);
        eventually("it fails", || standing(&cluster, at) == Standing::FailingChecks).await;
        let chosen = || choose(set, Wish::default(), std::time::Instant::now(), |bound| fastrand::u64(..bound));
        assert!((0..100).all(|_| chosen().is_some_and(|endpoint| endpoint.address == well)));
        status.store(200, Relaxed);
        eventually("it has recovered", || standing(&cluster, at) == Standing::Available).await;
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_unhealthy_by_tcp() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let open = listener.local_addr().expect("bound");
        let closed = {
            let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            unused.local_addr().expect("bound")
        };
        let cluster = checked(&[open, closed], CheckKind::Tcp);
        let known = testing::knows(testing::route(&cluster));
        let _running = AbortOnDropHandle::new(tokio::spawn(run(shared(settings(), known, None))));
        let Endpoints::Set(set) = &cluster.endpoints else { panic!("has endpoints") };
        let at = set.iter().position(|endpoint| endpoint.address == closed).expect("is there");
        eventually("it fails", || standing(&cluster, at) == Standing::FailingChecks).await;
        assert_eq!(standing(&cluster, 1 - at), Standing::Available);
    }

    #[tokio::test]
    async fn grpc_is_asked_in_its_own_words() {
        assert_eq!(&about("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&about("ab")[..], [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        assert!(says_serving(&[8, 1]) && !says_serving(&[8, 2]) && !says_serving(&[]));
    }
}

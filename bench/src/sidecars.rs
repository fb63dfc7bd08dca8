//! A thousand sidecars, as the control server sees them: connections, streams, subscriptions and acknowledgements, without
//! anything behind them. Each tells when a change of the route of `web.shop:80` has reached it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result};
use bench::accounting::now;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use malla_xds::ResourceType;
use malla_xds::delta_client::{Change, DeltaClient};
use malla_xds::envoy::core;
use malla_xds::grpc::ControlClient;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Route names of changes begin like this and end in a number.
pub(crate) const MARK: &str = "change-";

/// What each subscribes to.
const SERVICE: &str = "web.shop:80";

/// Sidecars that connect at once at the beginning.
const AT_ONCE: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The control server
    control: SocketAddr,
    /// PEM files of an identity of the mesh
    certificates: PathBuf,
    /// How many
    count: usize,
}

/// What all of them share.
#[derive(Debug, Default)]
struct Progress {
    /// Those that have everything that they asked for.
    ready: AtomicUsize,
    /// When each change reached whom, in seconds since the machine started.
    reached: Mutex<BTreeMap<u32, Vec<f64>>>,
}

/// Runs until killed. Says `ready`, then for each change the times at which it reached the sidecars, as a line of JSON.
pub(crate) async fn run(Arguments { control, certificates, count }: Arguments) -> Result<()> {
    let tls = Arc::new(tls(&certificates)?);
    let progress = Arc::new(Progress::default());
    for first in (0..count).step_by(AT_ONCE) {
        for number in first..count.min(first + AT_ONCE) {
            tokio::spawn(report(sidecar(control, tls.clone(), number, progress.clone(), count)));
        }
        while progress.ready.load(Ordering::Relaxed) < count.min(first + AT_ONCE) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    println!("ready");
    std::future::pending().await
}

async fn report(sidecar: impl Future<Output = Result<()>>) {
    if let Err(error) = sidecar.await {
        eprintln!("{error:#}");
    }
}

async fn sidecar(
    control: SocketAddr,
    tls: Arc<ClientConfig>,
    number: usize,
    progress: Arc<Progress>,
    count: usize,
) -> Result<()> {
    let stream =
        TlsConnector::from(tls).connect(ServerName::from(control.ip()), TcpStream::connect(control).await?).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut client = ControlClient::new(Connection(sender), http::Uri::from_static("https://control"));
    let node = core::Node { id: format!("simulated-{number}.shop"), ..Default::default() };
    let mut subscriptions = DeltaClient::new(node);
    let wanted = [ResourceType::Listener, ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoints];
    for kind in wanted {
        subscriptions.subscribe(kind, [SERVICE]);
    }
    subscriptions.subscribe(ResourceType::Secret, ["ROOTCA"]);
    let (requests, outgoing) = mpsc::unbounded_channel();
    subscriptions.connected().into_iter().try_for_each(|request| requests.send(request))?;
    let mut responses = client.delta(UnboundedReceiverStream::new(outgoing)).await?;
    let mut missing = wanted.len() + 1;
    while let Some(response) = responses.next().await {
        let mut change = None;
        let mut got = 0;
        let verdict = subscriptions.response(&response?, |found| {
            if let Change::Set { kind, resource, .. } = found {
                got += 1;
                if kind == ResourceType::Route {
                    change = mark(&resource.value);
                }
            }
            Ok(())
        });
        requests.send(verdict)?;
        if missing > 0 {
            missing = missing.saturating_sub(got);
            if missing == 0 {
                progress.ready.fetch_add(1, Ordering::Relaxed);
            }
        } else if let Some(change) = change {
            reached(&progress, change, count)?;
        }
    }
    anyhow::bail!("the control server ended the stream of sidecar {number}")
}

fn reached(progress: &Progress, change: u32, count: usize) -> Result<()> {
    let mut reached = progress.reached.lock();
    let times = reached.entry(change).or_default();
    times.push(now());
    if times.len() == count {
        println!("{}", serde_json::to_string(times)?);
    }
    Ok(())
}

/// The number of the change in a route configuration.
fn mark(resource: &[u8]) -> Option<u32> {
    let at = memchr::memmem::find(resource, MARK.as_bytes())? + MARK.len();
    let digits = resource.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    std::str::from_utf8(&digits.copied().collect::<Vec<u8>>()).ok()?.parse().ok()
}

fn tls(directory: &Path) -> Result<ClientConfig> {
    let certificates = |file: &str| -> Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_file_iter(directory.join(file)).context("reading certificates")?;
        Ok(certificates.collect::<Result<_, _>>()?)
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("ca_certificates.pem")? {
        roots.add(root)?;
    }
    let key = PrivateKeyDer::from_pem_file(directory.join("private_key.pem"))?;
    let mut config = ClientConfig::builder_with_provider(malla_proxy::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("certificates.pem")?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// An HTTP/2 connection as a gRPC channel.
struct Connection(SendRequest<tonic::body::Body>);

impl tower_service::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::mark;

    #[test]
    fn the_mark_of_a_change_is_found_in_a_route_configuration() {
        assert_eq!(mark(b"\x0a\x10HTTPRoute/shop/change-17/0\x12"), Some(17));
        assert_eq!(mark(b"default"), None);
    }
}

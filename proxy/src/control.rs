//! The connection to the control server: TCP, TLS, HTTP/2. What is said over it is `subscribe`'s and `identity`'s.
//!
//! The server is verified by name against the trust file (and the trust anchors of the mesh, once they are known), not as a peer of the
//! mesh: a sidecar must be able to reach it before it has an identity. With an identity the sidecar presents it; the server decides what it entitles to.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use malla_xds::grpc::ControlClient;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;

use crate::dial::Dialer;
use crate::dns::Resolver;
use crate::identity::Identity;
use crate::settings::{HostPort, Settings};

/// Longest time for TCP, TLS and HTTP/2 together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A silent connection is asked for a sign of life after this, and given up if none comes within the same time.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How to reach the control server.
#[derive(Debug, Clone)]
pub struct Connector {
    control: HostPort,
    trust: PathBuf,
    provider: Arc<CryptoProvider>,
    resolver: Arc<Resolver>,
    dialer: Arc<Dialer>,
}

/// A connection; ends when the last clone is dropped.
pub type Client = ControlClient<Channel>;

/// Why the control server cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The trust file.
    #[error("reading the control server's root certificate from {}: {problem}", path.display())]
    Trust {
        /// Path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The address as a TLS name.
    #[error("{host} cannot be the name of a server")]
    Name {
        /// Host.
        host: Arc<str>,
        /// Cause.
        #[source]
        cause: InvalidDnsNameError,
    },
    /// The TLS library refuses the configuration.
    #[error("preparing TLS")]
    Tls(#[from] rustls::Error),
    /// The name does not resolve, or no connection.
    #[error("connecting to {0}")]
    Tcp(HostPort, #[source] crate::tls::ConnectError),
    /// The TLS handshake.
    #[error("TLS handshake with {0}")]
    Handshake(HostPort, #[source] io::Error),
    /// HTTP/2.
    #[error("HTTP/2 with {0}")]
    Http(HostPort, #[source] hyper::Error),
    /// It took too long.
    #[error("{0} did not answer within {seconds} s", seconds = CONNECT_LIMIT.as_secs())]
    Timeout(HostPort),
}

impl Connector {
    /// To the control server of the settings.
    pub fn new(
        settings: &Settings,
        provider: Arc<CryptoProvider>,
        resolver: Arc<Resolver>,
        dialer: Arc<Dialer>,
    ) -> Self {
        Connector { control: settings.control.clone(), trust: settings.trust.clone(), provider, resolver, dialer }
    }

    /// Where it connects to.
    pub fn address(&self) -> &HostPort {
        &self.control
    }

    /// The cryptography in use.
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// Connects, presenting an identity if there is one. Reads the trust file anew each time: it may have been replaced. The mesh's
    /// `trusted` anchors are as good as those in the file: its roots may change while the file stays as it was.
    ///
    /// # Errors
    /// A [`ConnectError`] that tells how far it came.
    pub async fn connect(
        &self,
        identity: Option<&Identity>,
        trusted: &[CertificateDer<'static>],
    ) -> Result<Client, ConnectError> {
        let config = self.tls(identity.map(|identity| identity.certified_key.clone()), trusted)?;
        let host = self.control.host.clone();
        let name = ServerName::try_from(host.to_string()).map_err(|cause| ConnectError::Name { host, cause })?;
        let connecting = self.channel(config, name);
        let channel = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        let channel = channel.map_err(|_| ConnectError::Timeout(self.control.clone()))??;
        let origin = Uri::builder().scheme("https").authority(self.control.to_string()).path_and_query("/").build();
        Ok(ControlClient::new(channel, origin.unwrap_or_default()))
    }

    fn tls(
        &self,
        key: Option<Arc<CertifiedKey>>,
        trusted: &[CertificateDer<'static>],
    ) -> Result<ClientConfig, ConnectError> {
        let mut roots = trust_anchors(&self.trust)?;
        for anchor in trusted {
            roots.add(anchor.clone())?;
        }
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    async fn channel(&self, config: ClientConfig, name: ServerName<'static>) -> Result<Channel, ConnectError> {
        let HostPort { host, port } = &self.control;
        let tcp = self.resolver.connect(&self.dialer, host, *port, CONNECT_LIMIT).await;
        let tcp = tcp.map_err(|cause| ConnectError::Tcp(self.control.clone(), cause))?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        let tls = tls.map_err(|cause| ConnectError::Handshake(self.control.clone(), cause))?;
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|cause| ConnectError::Http(self.control.clone(), cause))?;
        let driver = tokio::spawn(async move {
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "the connection to the control server ended");
            }
        });
        Ok(Channel { send, _driver: Arc::new(AbortOnDropHandle::new(driver)) })
    }
}

/// The certificates of a trust file: at least one.
///
/// # Errors
/// [`ConnectError::Trust`]: it cannot be read, or holds something else.
pub fn trust_anchors(path: &Path) -> Result<RootCertStore, ConnectError> {
    let problem = |problem: String| ConnectError::Trust { path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|cause| problem(cause.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|cause| problem(format!("{cause:?}")))?;
        roots.add(certificate).map_err(|cause| problem(cause.to_string()))?;
    }
    if roots.is_empty() {
        return Err(problem("it holds no certificate (PEM)".to_owned()));
    }
    Ok(roots)
}

/// One HTTP/2 connection as a gRPC transport.
#[derive(Debug, Clone)]
pub struct Channel {
    send: http2::SendRequest<Body>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

type Responding = Pin<Box<dyn Future<Output = Result<http::Response<hyper::body::Incoming>, hyper::Error>> + Send>>;

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Responding;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Responding {
        Box::pin(self.send.send_request(request))
    }
}

/// Waits between attempts: from half a second, doubled each time, to half a minute, each wait jittered by up to a half so that a
/// restarted server is not met by everybody at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: Self::FIRST, longest: Duration::from_secs(30) }
    }
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// There was an answer: begin anew.
    pub fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

/// The chain of causes of an error in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own words.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_begin_anew() {
        let mut backoff = Backoff::default();
        let mut upper = 0.5;
        for _ in 0..10 {
            let wait = backoff.next_wait().as_secs_f64();
            assert!((upper / 2.0..=upper).contains(&wait), "{wait} of {upper}");
            upper = f64::min(upper * 2.0, 30.0);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(500));
    }
}

//! The way to the API server: found as `kubectl` finds it or as pods do, over TLS with the provider that everything else uses.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

/// From the first packet to the end of the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a connection is taken for dead: a watch ends before, by itself.
const READ_TIMEOUT: Duration = Duration::from_secs(305);

/// Where a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClusterAddress {
    /// `KUBECONFIG`, `~/.kube/config`, or what a pod is told.
    #[default]
    Inferred,
    /// A kubeconfig file, and one of its contexts.
    File {
        /// The file.
        path: PathBuf,
        /// Default: the current one.
        context: Option<String>,
    },
}

/// Why there is no way to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing tells where it is.
    #[error("cannot find the cluster: run inside of one, or give a kubeconfig with KUBECONFIG or --kubeconfig")]
    Nowhere(#[source] kube::config::InferConfigError),
    /// The file does not.
    #[error("cannot use {}: give a kubeconfig with --kubeconfig", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: kube::config::KubeconfigError,
    },
    /// It says how to prove who asks, and that cannot be done.
    #[error("cannot use the credentials of the kubeconfig")]
    Credentials(#[source] kube::Error),
    /// Certificates or key are none.
    #[error("cannot use {what} of the kubeconfig: {problem}")]
    Tls {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// A client of the cluster. Connects when it is used.
///
/// # Errors
/// Nothing tells where the cluster is, or how to prove who asks.
pub async fn connect(address: &ClusterAddress) -> Result<Client, ClientError> {
    let config = match address {
        ClusterAddress::Inferred => Config::infer().await.map_err(ClientError::Nowhere)?,
        ClusterAddress::File { path, context } => {
            let unusable = |cause| ClientError::File { path: path.clone(), cause };
            let options = KubeConfigOptions { context: context.clone(), ..Default::default() };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(unusable)?
        }
    };
    client(config)
}

fn client(config: Config) -> Result<Client, ClientError> {
    let tls = if config.cluster_url.scheme_str() == Some("http") { None } else { Some(tls(&config)?) };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    let server_name = config.tls_server_name.clone();
    let mut connector = TimeoutConnector::new(Connector { http, tls, server_name });
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(READ_TIMEOUT));
    let http_client: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build(connector);
    let credentials = config.auth_layer().map_err(ClientError::Credentials)?;
    let headers = config.extra_headers_layer().map_err(ClientError::Credentials)?;
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(credentials)
        .layer(headers)
        .map_err(tower::BoxError::from)
        .service(http_client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

fn tls(config: &Config) -> Result<TlsConnector, ClientError> {
    let wrong = |what, problem: String| ClientError::Tls { what, problem };
    let mut roots = RootCertStore::empty();
    for certificate in config.root_cert.iter().flatten() {
        let added = roots.add(CertificateDer::from(certificate.clone()));
        added.map_err(|cause| wrong("the certificate authority", cause.to_string()))?;
    }
    if roots.is_empty() {
        let problem = "there is none, and the system's are not asked: write certificate-authority-data".to_owned();
        return Err(wrong("the certificate authority", problem));
    }
    if config.accept_invalid_certs {
        let problem = "it is true, and an API server that nobody has verified may say anything".to_owned();
        return Err(wrong("insecure-skip-tls-verify", problem));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| wrong("TLS", cause.to_string()))?
        .with_root_certificates(roots);
    let config = match identity(&config.auth_info)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|cause| wrong("the client certificate", cause.to_string()))?,
        None => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client certificate of a kubeconfig.
fn identity(auth: &AuthInfo) -> Result<Option<Identity>, ClientError> {
    use base64::Engine as _;
    use secrecy::ExposeSecret as _;
    let wrong = |what, problem: String| ClientError::Tls { what, problem };
    let text = |what: &'static str, data: Option<&str>, file: Option<&String>| match (data, file) {
        (Some(data), _) => base64::engine::general_purpose::STANDARD
            .decode(data.trim())
            .map(Some)
            .map_err(|cause| wrong(what, cause.to_string())),
        (None, Some(path)) => std::fs::read(path).map(Some).map_err(|cause| wrong(what, format!("{path}: {cause}"))),
        (None, None) => Ok(None),
    };
    let data = auth.client_key_data.as_ref().map(|data| data.expose_secret());
    let key = text("the client key", data, auth.client_key.as_ref())?;
    let what = "the client certificate";
    let chain = text(what, auth.client_certificate_data.as_deref(), auth.client_certificate.as_ref())?;
    let (Some(key), Some(chain)) = (key, chain) else { return Ok(None) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|cause| wrong(what, cause.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|cause| wrong("the client key", cause.to_string()))?;
    Ok(Some((chain, key)))
}

/// Opens connections, with TLS unless the URL says `http`.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    tls: Option<TlsConnector>,
    server_name: Option<String>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = self.server_name.clone().unwrap_or(host);
        let tls = self.tls.clone();
        let connecting = self.http.call(uri);
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            let stream = match tls {
                Some(tls) => Either::Tls(Box::new(tls.connect(ServerName::try_from(name)?, socket).await?)),
                None => Either::Plain(socket),
            };
            Ok(Stream(TokioIo::new(stream)))
        })
    }
}

/// A connection to the API server.
struct Stream(TokioIo<Either>);

enum Either {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl AsyncRead for Either {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Either::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Either::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Either {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Either::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Either::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Either::Plain(stream) => Pin::new(stream).poll_flush(context),
            Either::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Either::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Either::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

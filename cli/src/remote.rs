//! A control server elsewhere, asked at its xDS port: over TLS 1.3, verified by its name against a trust file, and shown a token or a
//! certificate of the mesh. What that entitles to, the server decides.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use malla_proxy::settings::HostPort;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to reach it, and as whom.
#[derive(Clone)]
pub(crate) struct Remote {
    address: HostPort,
    config: Arc<ClientConfig>,
    token: Option<HeaderValue>,
}

/// What is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Credential<'a> {
    /// A file with a join token, or the token of a service account.
    Token(&'a Path),
    /// Files (PEM) with a certificate and its intermediates, and with its key.
    Certificate { chain: &'a Path, key: &'a Path },
}

type Request = http::Request<Empty<Bytes>>;

impl Remote {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read, or holds something else.
    pub(crate) fn new(address: HostPort, trust: &Path, credential: Credential<'_>) -> anyhow::Result<Remote> {
        let roots = malla_proxy::control::trust_anchors(trust)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let (mut config, token) = match credential {
            Credential::Token(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the token in {}", file.display()))?;
                let mut token = HeaderValue::try_from(format!("Bearer {}", text.trim()))
                    .with_context(|| format!("{} holds no token", file.display()))?;
                token.set_sensitive(true);
                (builder.with_no_client_auth(), Some(token))
            }
            Credential::Certificate { chain, key } => {
                let unread = |file: &Path| format!("cannot read {} as PEM", file.display());
                let certificates: Result<Vec<_>, _> =
                    CertificateDer::pem_file_iter(chain).and_then(|list| list.collect());
                let certificates = certificates.with_context(|| unread(chain))?;
                let private = PrivateKeyDer::from_pem_file(key).with_context(|| unread(key))?;
                let config = builder.with_client_auth_cert(certificates, private);
                (config.with_context(|| format!("{} and {} do not fit", chain.display(), key.display()))?, None)
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Remote { address, config: Arc::new(config), token })
    }

    /// A connection, what drives it, and the request for a path.
    ///
    /// # Errors
    /// Nobody answers there, or not who is trusted.
    #[allow(clippy::type_complexity, reason = "two library types of one connection")]
    pub(crate) async fn open(
        &self,
        path: &str,
    ) -> anyhow::Result<(
        http2::SendRequest<Empty<Bytes>>,
        http2::Connection<TokioIo<TlsStream<TcpStream>>, Empty<Bytes>, TokioExecutor>,
        Request,
    )> {
        let HostPort { host, port } = &self.address;
        let name = ServerName::try_from(host.to_string()).with_context(|| format!("{host} is no name of a server"))?;
        let stream = TcpStream::connect((&**host, *port)).await.with_context(|| format!("cannot connect to {self}"))?;
        let stream = TlsConnector::from(self.config.clone()).connect(name, stream).await;
        let stream = stream.with_context(|| format!("TLS handshake with {self}"))?;
        let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = opened.with_context(|| format!("HTTP/2 with {self}"))?;
        let mut request = http::Request::get(format!("https://{}{path}", self.address));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        Ok((sender, connection, request.body(Empty::new())?))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.address)
    }
}

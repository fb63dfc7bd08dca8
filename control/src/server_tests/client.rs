//! A client of the control server, as a sidecar is one: TLS 1.3, HTTP/2, gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use malla_xds::SpiffeId;
use malla_xds::grpc::ControlClient;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;

use crate::run::Control;

/// A certificate of the mesh and its key, PEM.
pub(super) struct Credentials {
    pub(super) chain: Vec<String>,
    pub(super) key: String,
}

/// Requests of a stream: what is sent here goes out.
pub(super) struct Requests<T>(mpsc::UnboundedSender<T>);

impl<T> Requests<T> {
    pub(super) fn new() -> (Self, UnboundedReceiverStream<T>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Requests(sender), UnboundedReceiverStream::new(receiver))
    }

    pub(super) fn send(&self, request: T) {
        assert!(self.0.send(request).is_ok(), "the stream has ended");
    }
}

/// A new key and a request for its certificate, PEM.
pub(super) fn key_and_request() -> (String, String) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let request = CertificateParams::default().serialize_request(&key).expect("a request");
    (key.serialize_pem(), request.pem().expect("pem"))
}

/// The identity of an issued chain.
pub(super) fn identity(chain: &[String]) -> Option<SpiffeId> {
    crate::ca::identity(&CertificateDer::from_pem_slice(chain[0].as_bytes()).expect("pem"))
}

/// Connects, with or without a certificate, verifying the server by its name.
pub(super) async fn connect(
    control: &Control,
    credentials: Option<&Credentials>,
) -> Result<ControlClient<Connection>, Box<dyn std::error::Error>> {
    let sender = open(control, credentials).await?;
    Ok(ControlClient::new(Connection(sender), http::Uri::from_static("https://127.0.0.1")))
}

/// A connection as it is.
pub(super) async fn open(
    control: &Control,
    credentials: Option<&Credentials>,
) -> Result<SendRequest<Body>, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(control.trust_bundle().as_bytes())?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(credentials) => {
            let chain = credentials.chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
            let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes())?;
            builder.with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(control.xds_address()).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1")?, socket).await?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// An HTTP/2 connection as a gRPC channel.
pub(super) struct Connection(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

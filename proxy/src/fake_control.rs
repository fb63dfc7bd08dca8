//! A control server for tests: a certificate authority and a delta ADS server over TLS, in the process of the test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use malla_xds::grpc::{CertificateRequest, CertificateResponse, Control, serve};
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use malla_xds::{DeltaServer, Limits, Push};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::settings::Settings;
use crate::subscribe::examples::Mesh;
use crate::tls;

/// What survives a restart of the server: its authority, its configuration, its files.
#[derive(Debug)]
pub(crate) struct Realm {
    authority: Issuer<'static, KeyPair>,
    root: String,
    root_der: rustls::pki_types::CertificateDer<'static>,
    mesh: Mutex<Mesh>,
    changed: watch::Sender<u64>,
    /// Life of the certificates that it issues.
    pub(crate) lifetime: Mutex<Duration>,
    /// Refuses certificates.
    pub(crate) refuse: AtomicBool,
    pub(crate) issued: AtomicUsize,
    /// Certificates that were asked for with a certificate instead of a token.
    pub(crate) renewed: AtomicUsize,
    directory: tempfile::TempDir,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub(crate) struct FakeControl {
    pub(crate) address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Realm {
    pub(crate) fn new(mesh: Mesh) -> Arc<Self> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("a root");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("root.pem"), root.pem()).expect("written");
        std::fs::write(directory.path().join("token"), "a.token").expect("written");
        Arc::new(Realm {
            root: root.pem(),
            root_der: root.der().clone(),
            authority: Issuer::new(params, key),
            mesh: Mutex::new(mesh),
            changed: watch::Sender::new(0),
            lifetime: Mutex::new(Duration::from_secs(3600)),
            refuse: AtomicBool::new(false),
            issued: AtomicUsize::new(0),
            renewed: AtomicUsize::new(0),
            directory,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn trust(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    /// Settings of a sidecar `cart-1.shop` of this realm.
    pub(crate) fn settings(&self, control: SocketAddr) -> Settings {
        Settings::embedded("cart-1", "shop", control, self.trust(), self.token())
    }

    /// Changes the configuration and pushes it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Mesh)) {
        change(&mut self.mesh.lock());
        self.changed.send_modify(|version| *version += 1);
    }

    /// Starts a server; `port` 0 lets the kernel choose.
    pub(crate) async fn serve(self: &Arc<Self>, port: u16) -> FakeControl {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let acceptor = TlsAcceptor::from(Arc::new(self.tls()));
        let realm = self.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, realm) = (acceptor.clone(), realm.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let known = stream.get_ref().1.peer_certificates().is_some();
                    let server = Arc::new(Server { realm, known });
                    let service = hyper::service::service_fn(move |request| {
                        let server = server.clone();
                        async move { Ok::<_, std::convert::Infallible>(serve(server, 1 << 20, request).await) }
                    });
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        FakeControl { address, _task: AbortOnDropHandle::new(task) }
    }

    fn tls(&self) -> ServerConfig {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        let certificate = params.signed_by(&key, &self.authority).expect("signed");
        let mut roots = RootCertStore::empty();
        roots.add(self.root_der.clone()).expect("a root");
        let provider = tls::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a configuration");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

struct Server {
    realm: Arc<Realm>,
    /// Whether the client has a certificate of the mesh.
    known: bool,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Control for Server {
    type DeltaStream = Responses<DeltaDiscoveryResponse>;
    type SotwStream = Responses<DiscoveryResponse>;

    async fn delta(
        self: Arc<Self>,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaStream>, Status> {
        if !self.known {
            return Err(Status::unauthenticated("a certificate of the mesh is needed"));
        }
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(100);
        let realm = self.realm.clone();
        let mut changed = realm.changed.subscribe();
        tokio::spawn(async move {
            let mut server = DeltaServer::new(Limits::default());
            loop {
                let responses = tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => {
                            server.request(&request, &*realm.mesh.lock()).map(|reply| reply.responses)
                        }
                        _ => return,
                    },
                    Ok(()) = changed.changed() => server.push(&*realm.mesh.lock(), Push::All),
                };
                for response in responses.expect("within the limits") {
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        let responses = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|response| (response, receiver))
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn sotw(
        self: Arc<Self>,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::SotwStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn create_certificate(
        self: Arc<Self>,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let realm = &self.realm;
        let token = request.metadata().get("authorization").map(|value| value.as_bytes() == b"Bearer a.token");
        let entitled = token.unwrap_or(self.known);
        if realm.refuse.load(Ordering::Relaxed) || !entitled {
            return Err(Status::unauthenticated("the token is not one of this mesh"));
        }
        let asked = CertificateSigningRequestParams::from_pem(&request.into_inner().csr)
            .map_err(|cause| Status::invalid_argument(cause.to_string()))?;
        let mut params = CertificateParams::default();
        let name = "spiffe://cluster.local/ns/shop/sa/cart".try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(name)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(300)).into();
        params.not_after = (now + *realm.lifetime.lock()).into();
        let leaf = params.signed_by(&asked.public_key, &realm.authority).expect("signed");
        realm.issued.fetch_add(1, Ordering::Relaxed);
        realm.renewed.fetch_add(usize::from(token.is_none()), Ordering::Relaxed);
        Ok(Response::new(CertificateResponse { cert_chain: vec![leaf.pem(), realm.root.clone()] }))
    }
}

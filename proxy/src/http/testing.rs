//! Sidecars for tests, in one process: real HTTP connections, real mTLS between two of them, on loopback sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::{Inbound, Outbound, Side, Version, serve};
use crate::authorize::Authorization;
use crate::balance::{EndpointSet, Feedback, Limiter};
use crate::identity::{Identity, IdentityStore, KeyPem};
use crate::names::SpiffeId;
use crate::policy::Policy;
use crate::settings::Settings;
use crate::shared::{Shared, Worker};
use crate::snapshot::{
    self, Cluster, Endpoint, Endpoints, HttpRoutes, InboundPort, OutboundService, PathMatch, Plaintext, Protocol,
    Retry, Route, RouteAction, RouteMatch, Snapshot, UpstreamHttp, UpstreamTls, VirtualHost, WeightedClusters,
};
use crate::subscribe::Directory;
use crate::tls;
use crate::trace::{Tracer, Tracing};

pub(crate) const SERVICE: &str = "cart.shop:80";
const SNI: &str = "80.cart.shop.mesh";

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { workload: "cart-1.shop".into(), ..Endpoint::plain(address) }
}

pub(crate) fn cluster(name: &str, endpoints: Vec<Endpoint>) -> Cluster {
    Cluster {
        name: name.into(),
        endpoints: Endpoints::Set(endpoints.into_iter().map(Arc::new).collect()),
        ..Cluster::default()
    }
}

/// A cluster of plain endpoints with a policy.
pub(crate) fn with_policy(addresses: &[SocketAddr], policy: Policy) -> Cluster {
    limited(Cluster { policy: policy.into(), ..cluster(SERVICE, addresses.iter().map(|at| endpoint(*at)).collect()) })
}

/// The same cluster, linked anew: its policy and its limits hold.
pub(crate) fn limited(cluster: Cluster) -> Cluster {
    let policy = cluster.policy.clone();
    let limiter = policy.overload.clone().map(|overload| Arc::new(Limiter::new(overload)));
    let outliers = policy.outliers.clone();
    let feedback = Arc::new(Feedback { cluster: cluster.name.clone(), outliers, limiter, ..Feedback::default() });
    let Endpoints::Set(before) = &cluster.endpoints else { return cluster };
    let endpoints: Vec<Arc<Endpoint>> = before
        .iter()
        .map(|before| Arc::new(Endpoint { feedback: feedback.clone(), ..endpoint(before.address) }))
        .collect();
    feedback.watch.replace(endpoints.iter().map(|endpoint| (endpoint.address, endpoint.load.clone())).collect());
    let (watch, most) = (feedback.watch.clone(), cluster.limits.endpoint_requests);
    let set = EndpointSet::new(endpoints, policy, watch, &Default::default(), most);
    Cluster { endpoints: Endpoints::Set(set), feedback, ..cluster }
}

pub(crate) fn route(cluster: &Arc<Cluster>) -> Route {
    Route {
        name: "default".into(),
        matcher: RouteMatch { path: PathMatch::Any, method: None, headers: Vec::new(), query: Vec::new() },
        action: WeightedClusters::new([(cluster.clone(), 1)]).map_or(RouteAction::NoBackend, RouteAction::Forward),
        timeout: None,
        try_timeout: None,
        retry: Retry::default(),
        filters: None,
        mirrors: Vec::new(),
        limits: Vec::new(),
    }
}

/// What an outbound sidecar knows of [`SERVICE`].
pub(crate) fn knows(route: Route) -> Snapshot {
    let hosts = vec![VirtualHost { domains: vec!["*".into()], routes: vec![route].into() }];
    let service = OutboundService {
        name: SERVICE.into(),
        protocol: Protocol::Http,
        http: Some(Arc::new(HttpRoutes { name: SERVICE.into(), virtual_hosts: hosts })),
        tcp: None,
        sni: Vec::new(),
    };
    let mut snapshot = Snapshot::default();
    snapshot.outbound.insert(SERVICE.into(), snapshot::Outbound::Service(service).into());
    snapshot
}

/// A worker of a sidecar that knows a fixed configuration and has a certificate of the tests' mesh.
pub(crate) fn worker(snapshot: Snapshot, account: &str) -> Arc<Worker> {
    worker_of(snapshot, account, None)
}

/// The same, which follows requests.
pub(crate) fn worker_of(snapshot: Snapshot, account: &str, tracing: Option<Tracing>) -> Arc<Worker> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { tracing, ..Settings::embedded("test-1", "shop", nowhere, "".into(), "".into()) };
    let identity_store = IdentityStore::new();
    identity_store.install(identity(account));
    let metrics = crate::metrics::Metrics::new("test-1.shop");
    let shared = Shared {
        directory: Directory::fixed(snapshot),
        identity: identity_store,
        peers: Default::default(),
        dialer: crate::dial::Dialer::new(&settings).into(),
        resolver: crate::dns::Resolver::new(&settings).into(),
        metrics: metrics.clone(),
        access_log: None,
        tracer: settings.tracing.as_ref().map(Tracer::new),
        taps: Default::default(),
        memory: crate::memory::Memory::new(settings.memory_limit),
        drain: crate::drain::Drain::new(),
        settings,
    };
    Arc::new(Worker {
        shared: Arc::new(shared),
        index: 0,
        shard: metrics.shard(),
        pool: Default::default(),
        mirrors: Default::default(),
    })
}

fn spiffe_id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://test/ns/shop/sa/{account}")).expect("a valid identity")
}

/// A certificate of the mesh that all tests of this process share.
pub(crate) fn identity(account: &str) -> Identity {
    static ROOT: OnceLock<(CertificateDer<'static>, Issuer<'static, KeyPair>)> = OnceLock::new();
    let (root, issuer) = ROOT.get_or_init(|| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root");
        (root.der().clone(), Issuer::new(params, key))
    });
    let id = spiffe_id(account);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("ASCII"))];
    let leaf = params.signed_by(&key, issuer).expect("a certificate");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let signing = tls::provider().key_provider.load_private_key(private).expect("a usable key");
    let mut anchors = RootCertStore::empty();
    anchors.add(root.clone()).expect("a usable root");
    let now = SystemTime::now();
    Identity {
        spiffe_id: id,
        certified_key: Arc::new(CertifiedKey::new(vec![leaf.der().clone()], signing)),
        key_pem: KeyPem::new(key.serialize_pem()),
        root: root.clone(),
        trust_anchors: Arc::new(anchors),
        trust_certificates: vec![root.clone()],
        federated: Default::default(),
        not_before: now,
        not_after: now + Duration::from_secs(3600),
        generation: 0,
    }
}

/// A listener whose connections are served by a worker, until it is dropped.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) worker: Arc<Worker>,
    _accepting: AbortOnDropHandle<()>,
}

async fn listen<S, F>(worker: Arc<Worker>, serve_one: S) -> Listening
where
    S: Fn(Arc<Worker>, TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let served = worker.clone();
    let accepting = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            tokio::spawn(serve_one(served.clone(), socket));
        }
    });
    Listening { address, worker, _accepting: AbortOnDropHandle::new(accepting) }
}

/// An outbound listener in front of [`SERVICE`].
pub(crate) async fn outbound(worker: Arc<Worker>, version: Version) -> Listening {
    listen(worker, move |worker, socket| serve(worker, socket, version, Side::Outbound(Outbound::To(SERVICE.into()))))
        .await
}

/// An outbound listener that routes by authority.
pub(crate) async fn http_proxy(worker: Arc<Worker>) -> Listening {
    listen(worker, |worker, socket| serve(worker, socket, Version::Http1, Side::Outbound(Outbound::ByAuthority))).await
}

/// What an inbound sidecar knows of its application.
pub(crate) fn serves(application: SocketAddr, http: UpstreamHttp) -> Snapshot {
    let upstream = Cluster { http, ..cluster("inbound/cart-1.shop/80", vec![endpoint(application)]) };
    let port = InboundPort {
        service: SERVICE.into(),
        sni: SNI.into(),
        port: application.port(),
        protocol: Protocol::Http,
        plaintext: Plaintext::Refused,
        upstream: Arc::new(upstream),
        authorization: None,
    };
    let own = snapshot::Inbound { name: "inbound/cart-1.shop".into(), ports: vec![port] };
    Snapshot { inbound: Some(Arc::new(own)), ..Snapshot::default() }
}

/// The same, with rules who may call it.
pub(crate) fn guards(application: SocketAddr, http: UpstreamHttp, rules: Authorization) -> Snapshot {
    let mut snapshot = serves(application, http);
    let rules = Arc::new(rules);
    snapshot.inbound = snapshot.inbound.take().and_then(Arc::into_inner).map(|mut inbound| {
        inbound.ports.iter_mut().for_each(|port| port.authorization = Some(rules.clone()));
        Arc::new(inbound)
    });
    snapshot
}

/// The inbound sidecar of an application.
pub(crate) async fn inbound(application: SocketAddr, http: UpstreamHttp) -> Listening {
    inbound_of(worker(serves(application, http), "cart"), application).await
}

/// The same, of a worker made elsewhere.
pub(crate) async fn inbound_of(worker: Arc<Worker>, application: SocketAddr) -> Listening {
    let side = Inbound {
        service: SERVICE.into(),
        port: application.port(),
        peer: None,
        proof: None,
        source: std::net::Ipv4Addr::LOCALHOST.into(),
        original_destination: None,
        before: None,
    };
    listen(worker, move |worker, socket| {
        let side = side.clone();
        async move {
            let credentials = worker.shared.identity.credentials();
            if let Ok(accepted) = tls::accept(credentials.as_deref(), socket.into()).await {
                let side = Side::Inbound(Inbound { peer: Some(accepted.peer), ..side });
                serve(worker, accepted.stream, Version::Http2, side).await;
            }
        }
    })
    .await
}

/// A cluster of endpoints that have sidecars.
pub(crate) fn meshed(sidecars: &[SocketAddr]) -> Cluster {
    let identity = spiffe_id("cart");
    let endpoints =
        sidecars.iter().map(|address| Endpoint { identity: Some(identity.clone()), ..endpoint(*address) }).collect();
    let tls = UpstreamTls { sni: SNI.into(), identities: vec![identity] };
    Cluster { tls: Some(tls), ..cluster(SERVICE, endpoints) }
}

/// An outbound and an inbound sidecar between a client and an application.
pub(crate) struct Pair {
    pub(crate) outbound: Listening,
    pub(crate) inbound: Listening,
}

impl Pair {
    pub(crate) async fn new(application: SocketAddr, client: Version, http: UpstreamHttp) -> Pair {
        let inbound = inbound(application, http).await;
        let cluster = Arc::new(meshed(&[inbound.address]));
        let outbound = outbound(worker(knows(route(&cluster)), "web"), client).await;
        Pair { outbound, inbound }
    }
}

/// An HTTP/1 application that is a script: for each connection, what it answers to each request's raw bytes.
pub(crate) async fn scripted<F, Fut>(script: F) -> (SocketAddr, AbortOnDropHandle<()>)
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let accepting = tokio::spawn(async move {
        let mut number = 0;
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            tokio::spawn(script(number, socket));
            number += 1;
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

/// An application that switches to another protocol: sends back what it is sent. Also the number of its connections that have ended.
pub(crate) async fn upgrades() -> (SocketAddr, Arc<AtomicUsize>, AbortOnDropHandle<()>) {
    let ended = Arc::<AtomicUsize>::default();
    let count = ended.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let count = count.clone();
        async move {
            read_until(&mut socket, "\r\n\r\n").await;
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            let _ = socket.write_all(head.as_bytes()).await;
            let (mut read, mut write) = socket.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            count.fetch_add(1, Relaxed);
        }
    })
    .await;
    (address, ended, running)
}

/// Reads from a connection until `end` was read; what came so far if it ends before.
pub(crate) async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains(end) {
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends raw bytes on a new connection and returns all that comes until the other side closes.
pub(crate) async fn exchange_raw(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "did not happen: {what}");
}

/// How often a line of the exposition's family with all of these labels counted.
pub(crate) fn counted(worker: &Worker, family: &str, labels: &[&str]) -> u64 {
    let text = worker.shared.metrics.exposition();
    text.lines()
        .filter(|line| line.starts_with(family) && labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

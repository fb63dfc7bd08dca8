//! For tests: a certificate authority, workers over a fixed snapshot, whole sidecars without a control server.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::balance::EndpointSet;
use crate::dial::Dialer;
use crate::dns::Resolver;
use crate::drain::Drain;
use crate::identity::{Identity, IdentityStore, KeyPem};
use crate::listen::Listeners;
use crate::metrics::Metrics;
use crate::names::SpiffeId;
use crate::settings::Settings;
use crate::shared::{Shared, Worker};
use crate::snapshot::{Cluster, Endpoint, Endpoints, Snapshot, TcpRoute, UpstreamTls, WeightedClusters};
use crate::subscribe::Directory;
use crate::tls;
use crate::worker::Workers;

/// A certificate authority of its own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("signed").der().clone();
        Authority { issuer: Issuer::new(params, key), root }
    }

    /// A certificate for one workload, valid now.
    pub(crate) fn identity(&self, uri: &str) -> Identity {
        let now = SystemTime::now();
        self.issue(&[uri], now - Duration::from_secs(60)..now + Duration::from_secs(3600))
    }

    /// A certificate with these URIs, of which the first is who it claims to be.
    pub(crate) fn issue(&self, uris: &[&str], validity: Range<SystemTime>) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["a-dns-name.example".to_owned()]).expect("a name");
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("ASCII")));
        }
        params.not_before = validity.start.into();
        params.not_after = validity.end.into();
        let leaf = params.signed_by(&key, &self.issuer).expect("signed").der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let secret = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let certified = CertifiedKey::from_der(vec![leaf], secret, &tls::provider()).expect("they fit");
        Identity {
            spiffe_id: spiffe(uris.first().copied().unwrap_or("spiffe://test/ns/none/sa/none")),
            certified_key: Arc::new(certified),
            key_pem: KeyPem::new(""),
            root: self.root.clone(),
            trust_anchors: Arc::new(roots),
            trust_certificates: vec![self.root.clone()],
            federated: Default::default(),
            not_before: validity.start,
            not_after: validity.end,
            generation: 0,
        }
    }
}

pub(crate) fn spiffe(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

pub(crate) fn settings() -> Settings {
    Settings::embedded("test", "shop", ([127, 0, 0, 1], 1).into(), "".into(), "".into())
}

pub(crate) fn shared(settings: Settings, snapshot: Snapshot, identity: Option<Identity>) -> Arc<Shared> {
    let store = IdentityStore::new();
    if let Some(identity) = identity {
        store.install(identity);
    }
    Arc::new(Shared {
        directory: Directory::fixed(snapshot),
        identity: store,
        peers: Default::default(),
        dialer: Dialer::new(&settings).into(),
        resolver: Resolver::new(&settings).into(),
        metrics: Metrics::new("test.shop"),
        access_log: None,
        tracer: settings.tracing.as_ref().map(crate::trace::Tracer::new),
        taps: Default::default(),
        memory: crate::memory::Memory::new(settings.memory_limit),
        drain: Drain::new(),
        settings,
    })
}

/// A worker of a sidecar, served by the test's own runtime.
#[allow(dead_code, reason = "for tests of single connections")]
pub(crate) fn worker(shared: Arc<Shared>) -> Arc<Worker> {
    let shard = shared.metrics.shard();
    Arc::new(Worker { shared, index: 0, shard, pool: Default::default(), mirrors: Default::default() })
}

/// A sidecar with listeners and worker threads, but without a control server.
pub(crate) struct Sidecar {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbound: SocketAddr,
    pub(crate) local: Vec<SocketAddr>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Sidecar {
    pub(crate) fn start(settings: Settings, snapshot: Snapshot, identity: Option<Identity>) -> Self {
        let settings = Settings { workers: NonZeroUsize::MIN, ..settings };
        let listeners = Listeners::bind(&settings).expect("free ports");
        let address = |socket: &std::net::TcpListener| socket.local_addr().expect("bound");
        let inbound = address(&listeners.inbound);
        let local = listeners.local.iter().map(|(socket, _)| address(socket)).collect();
        let shared = shared(settings, snapshot, identity);
        let workers = Arc::new(Workers::start(&shared).expect("threads"));
        let accepting = tokio::spawn(listeners.accept(shared.clone(), workers));
        Sidecar { shared, inbound, local, accepting }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.drain.begin();
    }
}

/// A cluster that its endpoints' identities may present; `None` is an endpoint without a sidecar.
pub(crate) fn cluster(name: &str, endpoints: &[(SocketAddr, Option<&str>)]) -> Arc<Cluster> {
    let (service, port) = name.rsplit_once(':').expect("name:port");
    let identities: Vec<SpiffeId> = endpoints.iter().filter_map(|(_, identity)| identity.map(spiffe)).collect();
    let endpoint = |(address, identity): &(SocketAddr, Option<&str>)| {
        let plain = Endpoint::plain(*address);
        Arc::new(Endpoint { identity: identity.map(spiffe), workload: "test-1.shop".into(), ..plain })
    };
    Arc::new(Cluster {
        name: name.into(),
        endpoints: Endpoints::Set(endpoints.iter().map(endpoint).collect::<EndpointSet>()),
        tls: Some(UpstreamTls { sni: format!("{port}.{service}.mesh").into(), identities }),
        connect_timeout: Duration::from_secs(5),
        ..Cluster::default()
    })
}

/// A route to one cluster.
pub(crate) fn route(cluster: Arc<Cluster>) -> TcpRoute {
    TcpRoute { name: "test".into(), clusters: WeightedClusters::new([(cluster, 1)]) }
}

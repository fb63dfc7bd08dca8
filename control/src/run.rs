//! Starts and stops a control server. Only here do the parts meet.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ads::ControlPlane;
use crate::authority::Authority;
use crate::ca::{AuthorityError, RootSource};
use crate::inject::{InjectionSettings, InvalidSetting};
use crate::kubernetes::review::Reviewer;
use crate::kubernetes::store::Store;
use crate::kubernetes::webhook::Told;
use crate::kubernetes::{self, ClusterView};
use crate::metrics::Metrics;
use crate::resources::Published;
use crate::source::{self, Source, SourceError};
use crate::state::{StateDirectory, StateError};
use crate::status::Status;
use crate::tls::{Handshakes, TlsError};
use crate::token::{TokenAuthority, TokenKeyError};
use crate::webhook::{self, Webhook};
use crate::{admin, serve};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;
/// From the order to stop until what still runs is left to the end of the process.
const STOPPING_TIME: Duration = Duration::from_secs(10);

/// What a control server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// Directory tree (or file) of the configuration. In a cluster there need be none.
    pub config: Option<PathBuf>,
    /// State directory: root, keys.
    pub state: PathBuf,
    /// Address of xDS and certificates. Default 0.0.0.0:15012; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of status and metrics: plain HTTP, read-only. Default 127.0.0.1:15014.
    pub admin: SocketAddr,
    /// Further names and addresses by which sidecars reach this server.
    pub advertise: Vec<String>,
    /// Longest, and default, lifetime of certificates. Default 24 h.
    pub certificate_lifetime: Duration,
    /// Where the root comes from. Default: the state directory.
    pub root: RootSource,
    /// The admission webhook of Kubernetes. Default: none.
    pub webhook: Option<WebhookSettings>,
}

/// What the admission webhook is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where API servers ask, over TLS.
    pub listen: SocketAddr,
    /// What sidecars have in common. The root certificates are replaced by the control server's own.
    pub injection: InjectionSettings,
}

/// The cluster that a control server reads from, and writes the conditions of routes to.
pub struct Cluster {
    /// The way to its API server.
    pub client: kube::Client,
    /// The namespace of the control server, which has the lease.
    pub namespace: String,
    /// The name of this replica, unlike every other's.
    pub replica: String,
}

impl ControlSettings {
    /// Defaults for everything but the two directories.
    pub fn new(config: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        ControlSettings {
            config: Some(config.into()),
            state: state.into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 15012)),
            admin: SocketAddr::from(([127, 0, 0, 1], 15014)),
            advertise: Vec::new(),
            certificate_lifetime: Duration::from_secs(24 * 3600),
            root: RootSource::State,
            webhook: None,
        }
    }
}

/// Why a control server did not start. The sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// State directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Root certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Key of join tokens.
    #[error(transparent)]
    Tokens(#[from] TokenKeyError),
    /// Configuration path.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What sidecars shall be like.
    #[error("the admission webhook would make broken pods")]
    Injection(#[from] InvalidSetting),
    /// Somebody else has the port.
    #[error("port {} of {} is taken by another program: stop it, or choose another port with {flag}", address.port(), address.ip())]
    PortTaken {
        /// The address.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// The port cannot be had for another reason.
    #[error("cannot listen on {address}: choose another address with {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// A running control server. Stops when dropped; [`stop`](Self::stop) waits for it.
#[derive(Debug)]
pub struct Control {
    xds_address: SocketAddr,
    admin_address: SocketAddr,
    webhook_address: Option<SocketAddr>,
    plane: Arc<ControlPlane>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _source: Option<Source>,
    /// Follow the cluster; end with this.
    _watches: JoinSet<()>,
}

impl Control {
    /// Starts a server. Must run inside a tokio runtime, on whose threads it then lives.
    ///
    /// # Errors
    /// State, root, configuration path or ports cannot be used. An invalid configuration is no error: the server starts,
    /// certifies, tells the errors, and serves once they are mended.
    pub fn start(settings: ControlSettings) -> Result<Control, StartError> {
        let config = settings.config.clone().ok_or(SourceError::Nothing)?;
        // Before anything is made: a typing error should leave nothing behind.
        source::exists(&config)?;
        Control::start_with(settings, None, |trust_bundle| {
            let source = source::start(&config, trust_bundle)?;
            Ok((source.published.clone(), Some(source)))
        })
    }

    /// Starts a server that reads the mesh from a cluster, and from files too if there are some.
    ///
    /// # Errors
    /// Those of [`start`](Self::start). A cluster that does not answer is no error: the server waits for it, and says so.
    pub fn start_in(cluster: Cluster, settings: ControlSettings) -> Result<Control, StartError> {
        let config = settings.config.clone();
        config.as_deref().map(source::exists).transpose()?;
        let told: Option<Arc<Told>> = settings.webhook.is_some().then(Arc::default);
        let Cluster { client, namespace, replica } = cluster;
        let store: Arc<Store> = Arc::default();
        let judged = watch::Sender::new(None);
        let verdicts = judged.subscribe();
        let reviewer = Reviewer::new(client.clone(), store.clone());
        let view = ClusterView { store: store.clone(), verdicts: verdicts.clone(), reviewer, told: told.clone() };
        let mut control = Control::start_with(settings, Some(view), |trust_bundle| {
            let source = source::cluster::start(config, store.clone(), judged, trust_bundle);
            Ok((source.published.clone(), Some(source)))
        })?;
        control._watches = kubernetes::watch::follow(&client, &store);
        let (leads, led) = (watch::Sender::new(false), control.stop.clone());
        let writing = kubernetes::conditions::write(client.clone(), store, verdicts, leads.subscribe(), led.clone());
        control.tasks.spawn(writing);
        if let Some(told) = told {
            let trusted = control.plane.authority.bundle();
            let (client, namespace, leads, led) = (client.clone(), namespace.clone(), leads.subscribe(), led.clone());
            control.tasks.spawn(kubernetes::webhook::keep_believed(client, namespace, trusted, leads, told, led));
        }
        control.tasks.spawn(kubernetes::lease::take_part(client, namespace, replica, leads, led));
        Ok(control)
    }

    /// Starts a server on what a function makes of the trust bundle, which may change.
    pub(crate) fn start_with(
        settings: ControlSettings,
        cluster: Option<ClusterView>,
        source: impl FnOnce(watch::Receiver<Arc<str>>) -> Result<(Published, Option<Source>), StartError>,
    ) -> Result<Control, StartError> {
        raise_file_limit();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let state = StateDirectory::open(&settings.state)?;
        let lifetime = settings.certificate_lifetime;
        let authority = Arc::new(Authority::open(&state, &settings.root, lifetime, provider.clone())?);
        let tokens = TokenAuthority::open(&state)?;
        let listener = listen(settings.listen, "--listen")?;
        let admin_listener = listen(settings.admin, "--admin")?;
        let unusable = |address, flag| move |cause| StartError::Listen { address, flag, cause };
        let xds_address = listener.local_addr().map_err(unusable(settings.listen, "--listen"))?;
        let admin_address = admin_listener.local_addr().map_err(unusable(settings.admin, "--admin"))?;
        let names = server_names(settings.listen.ip(), &settings.advertise);
        let handshakes = Handshakes::new(authority.clone(), names, provider)?;
        let tls = handshakes.config().clone();
        let webhook = match settings.webhook {
            Some(WebhookSettings { listen: address, mut injection }) => {
                injection.trust = authority.current().trust_bundle().to_string();
                injection.check()?;
                let listener = listen(address, "--webhook-port")?;
                let local = listener.local_addr().map_err(unusable(address, "--webhook-port"))?;
                Some((listener, local, Arc::new(handshakes.webhook_config()?), injection))
            }
            None => None,
        };
        let (published, source) = source(authority.bundle())?;

        let metrics = Arc::new(Metrics::new().with_workloads(published.resources.clone()));
        let plane = Arc::new(ControlPlane::new(published.clone(), authority.clone(), tokens, metrics.clone(), cluster));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(handshakes.keep_fresh(stop.clone()));
        let webhook_address = webhook.map(|(listener, address, tls, injection)| {
            let webhook = Webhook::new(injection, authority.bundle(), metrics.clone());
            tasks.spawn(webhook::serve(listener, tls, webhook.into(), tasks.clone(), stop.clone()));
            tracing::info!(%address, "admission webhook started");
            address
        });
        let followers = {
            let plane = plane.clone();
            move |bundle: &str| plane.followers(bundle)
        };
        tasks.spawn(authority.keep_up(followers, metrics.clone(), stop.clone()));
        tasks.spawn(count_reloads(published, metrics, stop.clone()));
        tasks.spawn(serve::serve(listener, tls, plane.clone(), tasks.clone(), stop.clone()));
        tasks.spawn(admin::serve(admin_listener, plane.clone(), tasks.clone(), stop.clone()));
        tracing::info!(xds = %xds_address, admin = %admin_address, "control server started");
        let _watches = JoinSet::new();
        Ok(Control { xds_address, admin_address, webhook_address, plane, tasks, stop, _source: source, _watches })
    }

    /// Address of xDS and certificates.
    pub fn xds_address(&self) -> SocketAddr {
        self.xds_address
    }

    /// Address of status and metrics.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Address of the admission webhook, if there is one.
    pub fn webhook_address(&self) -> Option<SocketAddr> {
        self.webhook_address
    }

    /// Trust anchors, PEM: what sidecars are given as `--trust`.
    pub fn trust_bundle(&self) -> Arc<str> {
        self.plane.authority.current().trust_bundle().clone()
    }

    /// Makes join tokens.
    pub fn tokens(&self) -> &TokenAuthority {
        &self.plane.tokens
    }

    /// What is served, and what the last reload came to.
    pub fn published(&self) -> &Published {
        &self.plane.published
    }

    /// What `/status.json` tells.
    pub fn status(&self) -> Status {
        self.plane.status()
    }

    /// Stops: accepts nothing more, tells every stream to connect elsewhere, waits until all has ended (10 s at most).
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.plane.tasks.close();
        let ended = async {
            self.plane.tasks.wait().await;
            self.tasks.wait().await;
        };
        if tokio::time::timeout(STOPPING_TIME, ended).await.is_err() {
            tracing::warn!("connections were still open when the control server stopped");
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn count_reloads(published: Published, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut last_reload = published.last_reload;
    metrics.reloaded(&last_reload.borrow_and_update());
    while let Some(Ok(())) = stop.run_until_cancelled(last_reload.changed()).await {
        metrics.reloaded(&last_reload.borrow_and_update());
    }
}

fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => StartError::PortTaken { address, flag },
        _ => StartError::Listen { address, flag, cause },
    })
}

/// By what names sidecars may reach this server.
fn server_names(listen: IpAddr, advertise: &[String]) -> Vec<String> {
    let mut names: BTreeSet<String> =
        ["localhost", "127.0.0.1", "::1", "malla-control", "malla-control.malla-system.svc"]
            .into_iter()
            .map(str::to_owned)
            .collect();
    if !listen.is_unspecified() {
        names.insert(listen.to_string());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // A host name with an underscore is no DNS name, and would spoil the whole certificate for some verifiers.
    if !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
        names.insert(host);
    }
    names.extend(advertise.iter().cloned());
    names.into_iter().collect()
}

/// Thousands of sidecars are thousands of files: takes what the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Without it, the server works for fewer sidecars.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

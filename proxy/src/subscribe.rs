//! The directory of destinations: what is applied, and asking the control server for what is not known yet.
//!
//! Subscriptions are made on demand, coalesced, bounded in number, and dropped when a name has been idle. The parts: `world`
//! decides, `store` holds resources, `link` makes snapshots of them, `stream` speaks to the server.

#[cfg(test)]
pub(crate) mod examples;
mod link;
pub mod offline;
pub mod status;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use malla_xds::envoy::core;
use malla_xds::resource::string_struct;
use tokio::sync::{mpsc, oneshot, watch};

use self::status::Status;
use self::stream::{Runner, Timers};
use self::world::World;
use crate::control::{Client, Connector};
use crate::identity::IdentityStore;
use crate::names::Name;
use crate::reason::Reason;
use crate::settings::Settings;
use crate::snapshot::{Outbound, Snapshot};

/// How long a connection waits for the control server to describe its destination.
pub const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Look-ups that may wait to be taken up at once.
const QUEUE: usize = 1024;

/// Handle on what is known; clones share it.
#[derive(Debug, Clone)]
pub struct Directory {
    snapshot: Arc<ArcSwap<Snapshot>>,
    asks: mpsc::Sender<Ask>,
    /// Rises every half minute: tells idle names from used ones without reading a clock for each request.
    tick: Arc<AtomicU32>,
    /// Told of each change of this workload's own ports.
    inbound: Arc<watch::Sender<()>>,
    status: Arc<Status>,
    control: Arc<watch::Sender<Option<Client>>>,
}

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Destinations on demand, this workload's own ports, the trust bundle.
    Sidecar,
    /// The trust bundle alone.
    TrustBundle,
}

/// A look-up of a name that is not in the snapshot.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) name: Name,
    pub(crate) answer: oneshot::Sender<Result<Arc<Outbound>, Reason>>,
}

impl Directory {
    /// An empty directory, and the look-ups that it makes.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(QUEUE);
        let directory = Directory {
            snapshot: Arc::default(),
            asks,
            tick: Arc::default(),
            inbound: Arc::default(),
            status: Arc::default(),
            control: Arc::default(),
        };
        (directory, receiver)
    }

    /// What a sidecar of these settings subscribes to, kept up to date by the future, which never ends. To be called on the runtime
    /// that runs it.
    pub(crate) fn follow(
        self,
        asks: mpsc::Receiver<Ask>,
        settings: &Settings,
        subject: Subject,
        connector: Connector,
        identity: IdentityStore,
    ) -> impl Future<Output = ()> + Send + 'static {
        let node = core::Node {
            id: settings.node_id(),
            metadata: Some(string_struct([
                ("workload", &*settings.workload),
                ("namespace", &*settings.namespace),
                ("version", env!("CARGO_PKG_VERSION")),
            ])),
            user_agent_name: "malla-proxy".to_owned(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
                env!("CARGO_PKG_VERSION").to_owned(),
            )),
            ..Default::default()
        };
        let inbound = matches!(subject, Subject::Sidecar).then(|| settings.inbound_name());
        let pinned = settings.listen.iter().map(|listen| listen.destination.clone());
        let world = World::new(node, inbound, pinned, self.tick.clone(), self.status.clone());
        Runner { directory: self, world, asks, connector, identity, timers: Timers::new() }.run()
    }

    /// A directory that knows a fixed snapshot and asks nobody: for tests of what comes after it.
    pub fn fixed(snapshot: Snapshot) -> Self {
        let (directory, _) = Self::new();
        directory.snapshot.store(Arc::new(snapshot));
        directory
    }

    /// Another snapshot, as if the control server had sent it.
    #[cfg(test)]
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.inbound.send_replace(());
    }

    /// The connection to the control server and what is wrong, for people.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// The connection to the control server over which the directory is kept up to date, while there is one.
    pub(crate) fn control(&self) -> watch::Receiver<Option<Client>> {
        self.control.subscribe()
    }

    /// Makes a snapshot visible, if it is another than the one before.
    fn apply(&self, snapshot: &Arc<Snapshot>) {
        let before = self.snapshot.load();
        if Arc::ptr_eq(&before, snapshot) {
            return;
        }
        let own_ports = |snapshot: &Snapshot| snapshot.inbound.as_ref().map(Arc::as_ptr);
        let changed = own_ports(&before) != own_ports(snapshot);
        self.snapshot.store(snapshot.clone());
        if changed {
            self.inbound.send_replace(());
        }
    }

    /// Told of each change of this workload's own ports, and who may call them.
    pub fn inbound_changes(&self) -> watch::Receiver<()> {
        self.inbound.subscribe()
    }

    /// What is applied at this moment, to be held for the life of a request or connection.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The same without touching its reference count; not to be held across an await.
    pub fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// What a normalized destination (`cart.shop:80`, `10.96.0.7:80`) is. Known: at once, without allocation. Unknown: subscribes and
    /// waits, at most [`LOOKUP_LIMIT`].
    ///
    /// # Errors
    /// [`Reason::NoConfiguration`] when no usable answer came in time, [`Reason::Overloaded`] when too many names wait already.
    pub async fn lookup(&self, name: &str) -> Result<Arc<Outbound>, Reason> {
        if let Some(known) = self.snapshot.load().outbound.get(name) {
            let now = self.tick.load(Ordering::Relaxed);
            if known.last_used.load(Ordering::Relaxed) != now {
                known.last_used.store(now, Ordering::Relaxed);
            }
            return Ok(known.outbound.clone());
        }
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask { name: name.into(), answer }).map_err(|_| Reason::Overloaded)?;
        match tokio::time::timeout(LOOKUP_LIMIT, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Reason::NoConfiguration),
        }
    }
}

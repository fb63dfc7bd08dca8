//! Assembly: settings in, a running sidecar out. The only module that knows all the others.
//!
//! A sidecar is a main thread (control server, certificate, accepting, admin) and its workers. It has no globals: a process may
//! run several.

#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::access_log::AccessLog;
use crate::admin::{self, ClusterMetrics, Scope, SidecarMetrics};
use crate::control::Connector;
use crate::dial::Dialer;
use crate::dns::Resolver;
use crate::drain::{Drain, Drained};
use crate::health_check;
use crate::identity::{IdentityStore, Renewal};
use crate::listen::{self, Listeners};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::subscribe::{Ask, Directory, Subject};
use crate::telemetry;
use crate::tls;
use crate::trace::{Exporter, Tracer};
use crate::worker::Workers;

/// A running sidecar. Dropping it cuts everything; [`Proxy::drain_and_stop`] ends it gracefully.
#[derive(Debug)]
pub struct Proxy {
    addresses: Addresses,
    shared: Arc<Shared>,
    /// Tells the main thread to drain within a limit; dropped, to cut at once.
    stop: oneshot::Sender<Duration>,
    stopped: oneshot::Receiver<Drained>,
}

/// Where a sidecar listens, with the ports that the kernel chose where 0 was asked for.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Traffic that leaves the application.
    pub outbound: SocketAddr,
    /// Traffic from other sidecars.
    pub inbound: SocketAddr,
    /// Admin and metrics.
    pub admin: SocketAddr,
    /// Health.
    pub health: SocketAddr,
    /// Local ports, in the order of the settings.
    pub listen: Vec<SocketAddr>,
}

/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or may not be bound.
    #[error("cannot listen on {address} ({purpose}): choose another with {flag}, or stop what uses it")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What it is for.
        purpose: &'static str,
        /// Flag that changes it.
        flag: &'static str,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}: give a file that this user can read with {flag}", path.display())]
    File {
        /// Path.
        path: PathBuf,
        /// Flag that names it.
        flag: &'static str,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The system refuses a thread or a runtime.
    #[error("cannot start a thread: raise the limits of this user or container")]
    Thread(#[source] io::Error),
}

impl Proxy {
    /// Binds every listener, starts the threads, and returns; it does not wait for the control server. Needs no runtime.
    ///
    /// # Errors
    /// A [`StartError`] that names the port or file and what to do.
    pub fn start(settings: Settings) -> Result<Proxy, StartError> {
        readable(&settings.trust, "--trust")?;
        readable(&settings.token, "--token")?;
        let sockets = Sockets::bind(&settings)?;
        let addresses = sockets.addresses().map_err(StartError::Thread)?;
        let (directory, asks) = Directory::new();
        let access_log = settings.access_log.clone().map(|log| AccessLog::start(log, io::stdout()));
        let shared = Arc::new(Shared {
            access_log: access_log.transpose().map_err(StartError::Thread)?.map(Arc::new),
            directory,
            identity: IdentityStore::new(),
            peers: Default::default(),
            dialer: Dialer::new(&settings).into(),
            resolver: Resolver::new(&settings).into(),
            metrics: Metrics::new(&settings.node_id()),
            tracer: settings.tracing.as_ref().map(Tracer::new),
            taps: Default::default(),
            memory: Memory::new(settings.memory_limit),
            drain: Drain::new(),
            settings,
        });
        shared.metrics.register(Box::new(SidecarMetrics::new(&shared)));
        shared.metrics.register(Box::new(ClusterMetrics { directory: shared.directory.clone() }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let (stop, stopping) = oneshot::channel();
        let (stopped_sender, stopped) = oneshot::channel();
        let workers = Workers::start(&shared).map_err(StartError::Thread)?;
        let main = {
            let shared = shared.clone();
            move || {
                let workers = Arc::new(workers);
                let drained = runtime.block_on(supervise(shared.clone(), sockets, asks, workers.clone(), stopping));
                shared.drain.cut();
                // Ends every task that is left, and with them their hold on the workers.
                drop(runtime);
                if let Some(workers) = Arc::into_inner(workers) {
                    workers.join();
                }
                if let Some(log) = &shared.access_log {
                    log.flush();
                }
                let _ = stopped_sender.send(drained);
            }
        };
        match thread::Builder::new().name("malla-main".to_owned()).spawn(main) {
            Ok(_) => Ok(Proxy { addresses, shared, stop, stopped }),
            Err(cause) => {
                shared.drain.cut();
                Err(StartError::Thread(cause))
            }
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What its connections share: configuration, identity, metrics.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until the sidecar has ended, which it does by itself only after a defect of its own (told in the log).
    pub async fn ended(&mut self) -> Drained {
        (&mut self.stopped).await.unwrap_or(Drained { cut: 0 })
    }

    /// Stops accepting, lets what is in flight finish, cuts at the deadline of the settings, and ends all threads.
    pub async fn drain_and_stop(self) -> Drained {
        let limit = self.shared.settings.drain;
        let _ = self.stop.send(limit);
        self.stopped.await.unwrap_or(Drained { cut: 0 })
    }
}

/// Every listening socket of a sidecar.
#[derive(Debug)]
struct Sockets {
    listeners: Listeners,
    admin: TcpListener,
    health: TcpListener,
}

impl Sockets {
    fn bind(settings: &Settings) -> Result<Self, StartError> {
        Ok(Sockets {
            listeners: Listeners::bind(settings)?,
            admin: listen::bind(settings.admin, "the admin page and metrics", "--admin-port")?,
            health: listen::bind(settings.health, "health", "--health-port")?,
        })
    }

    fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            outbound: self.listeners.outbound.local_addr()?,
            inbound: self.listeners.inbound.local_addr()?,
            admin: self.admin.local_addr()?,
            health: self.health.local_addr()?,
            listen: self.listeners.local.iter().map(|(listener, _)| listener.local_addr()).collect::<Result<_, _>>()?,
        })
    }
}

fn readable(path: &Path, flag: &'static str) -> Result<(), StartError> {
    let opened = std::fs::File::open(path);
    opened.map(drop).map_err(|cause| StartError::File { path: path.to_owned(), flag, cause })
}

/// The life of the main thread: runs what a sidecar does apart from carrying traffic, until told to stop.
async fn supervise(
    shared: Arc<Shared>,
    sockets: Sockets,
    asks: mpsc::Receiver<Ask>,
    workers: Arc<Workers>,
    stop: oneshot::Receiver<Duration>,
) -> Drained {
    let (resolver, dialer) = (shared.resolver.clone(), Arc::new(shared.dialer.for_itself()));
    let connector = Connector::new(&shared.settings, tls::provider(), resolver, dialer);
    let (settings, identity) = (&shared.settings, &shared.identity);
    let exporter = Exporter::start(&shared);
    let mut tasks = JoinSet::new();
    tasks.spawn(shared.directory.clone().follow(asks, settings, Subject::Sidecar, connector.clone(), identity.clone()));
    tasks.spawn(Renewal::new(identity.clone(), connector, settings).run());
    tasks.spawn(health_check::run(shared.clone()));
    tasks.spawn(telemetry::run(shared.clone()));
    tasks.spawn(shared.memory.clone().watch());
    tasks.spawn(admin::serve(sockets.admin, Scope::Everything, shared.clone()));
    tasks.spawn(admin::serve(sockets.health, Scope::Health, shared.clone()));
    tasks.spawn(sockets.listeners.accept(shared.clone(), workers));
    // None of these ends by itself. A sidecar without one of them would look alive and not be: it drains and ends, and whoever
    // watches over it starts another.
    let defect = async {
        loop {
            match tasks.join_next().await {
                Some(Err(cause)) => {
                    tracing::error!(%cause, "a part of the sidecar has ended by a defect of its own, the sidecar ends too");
                    return shared.drain.run(shared.settings.drain).await;
                }
                Some(Ok(())) => {}
                None => std::future::pending().await,
            }
        }
    };
    // Everything above goes on while the drain lasts: connections in flight may still look up destinations.
    let stopped = async {
        match stop.await {
            Ok(limit) => shared.drain.run(limit).await,
            Err(_) => Drained { cut: shared.drain.in_flight() },
        }
    };
    let drained = tokio::select! {
        drained = defect => drained,
        drained = stopped => drained,
    };
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    drained
}

//! What an operator wrote, made ready: flags and `MALLA_…` variables in, [`Settings`] out.
//!
//! The only place of the sidecar that reads the environment. Nothing downstream meets an invalid value. It opens no socket
//! and reads no file but the gRPC bootstrap file and the token (for its namespace).

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::names::Name;

/// All that a sidecar must be told. Ready: `Proxy::start` takes it as it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Control server: xDS and certificates.
    pub control: HostPort,
    /// PEM file with the trust anchors for the control server's own certificate.
    pub trust: PathBuf,
    /// File with the join token or service-account token; read again each time it is needed.
    pub token: Option<PathBuf>,
    /// This workload's name.
    pub workload: Arc<str>,
    /// Namespace of this workload; names without a namespace are completed with it.
    pub namespace: Arc<str>,
    /// How traffic reaches the sidecar.
    pub mode: Mode,
    /// Listener for traffic that leaves the application: redirected connections, or an HTTP proxy in explicit mode.
    pub outbound: SocketAddr,
    /// Listener for traffic from other sidecars.
    pub inbound: SocketAddr,
    /// Listener for `/ready`, `/live`, `/metrics`, `/config`.
    pub admin: SocketAddr,
    /// Listener for `/ready` and `/live` alone, for the orchestrator.
    pub health: SocketAddr,
    /// Local ports that lead to one destination each, for TCP in explicit mode.
    pub listen: Vec<LocalListen>,
    /// Worker threads. Default 1.
    pub workers: NonZeroUsize,
    /// How long a drain may take before connections are cut. Default 30 s.
    pub drain: Duration,
}

/// How traffic reaches the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel redirects it; original destinations are looked up.
    Transparent,
    /// Programs address the sidecar themselves.
    Explicit,
}

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

/// A local port that leads to one destination: `127.0.0.1:3306=mysql.db:3306`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalListen {
    /// Where the sidecar listens.
    pub local: SocketAddr,
    /// Name that is looked up: `mysql.db:3306`.
    pub destination: Name,
}

impl Settings {
    /// Settings with every default, for a workload and a control server. Explicit mode, every listener on an ephemeral port of
    /// 127.0.0.1: what tests and programs that embed sidecars start from.
    pub fn embedded(workload: &str, namespace: &str, control: SocketAddr, trust: PathBuf, token: PathBuf) -> Self {
        let any_port = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        Settings {
            control: HostPort { host: control.ip().to_string().into(), port: control.port() },
            trust,
            token: Some(token),
            workload: workload.into(),
            namespace: namespace.into(),
            mode: Mode::Explicit,
            outbound: any_port,
            inbound: any_port,
            admin: any_port,
            health: any_port,
            listen: Vec::new(),
            workers: NonZeroUsize::MIN,
            drain: Duration::from_secs(30),
        }
    }

    /// xDS name of this workload's own listener.
    pub fn inbound_name(&self) -> Name {
        format!("inbound/{}.{}", self.workload, self.namespace).into()
    }

    /// xDS node id.
    pub fn node_id(&self) -> String {
        format!("{}.{}", self.workload, self.namespace)
    }
}

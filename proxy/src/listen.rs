//! Listening sockets: bound at start, accepted from until the drain begins.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::names::Name;
use crate::run::StartError;
use crate::settings::Settings;
use crate::shared::{Shared, Worker};
use crate::worker::{Accepted, Workers};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Bound sockets, not accepting yet; non-blocking.
#[derive(Debug)]
pub struct Listeners {
    /// Traffic that leaves the application.
    pub outbound: TcpListener,
    /// Traffic from other sidecars.
    pub inbound: TcpListener,
    /// Local ports with their destinations, in the order of the settings.
    pub local: Vec<(TcpListener, Name)>,
}

impl Listeners {
    /// Binds the outbound, inbound and local listeners of the settings.
    ///
    /// # Errors
    /// [`StartError::Listen`] names the address and the flag that changes it.
    pub fn bind(settings: &Settings) -> Result<Listeners, StartError> {
        let local = settings.listen.iter().map(|listen| {
            let listener = bind(listen.local, "a local port of a service", "--listen")?;
            Ok((listener, listen.destination.clone()))
        });
        Ok(Listeners {
            outbound: bind(settings.outbound, "outbound traffic", "--outbound-port")?,
            inbound: bind(settings.inbound, "inbound traffic", "--inbound-port")?,
            local: local.collect::<Result<_, _>>()?,
        })
    }

    /// Accepts on all of them and dispatches to the workers until the drain begins, then closes them.
    pub async fn accept(self, _shared: Arc<Shared>, _workers: Arc<Workers>) {}
}

/// Serves one connection on the worker's own runtime, from its first byte to its last.
pub async fn serve(_worker: Arc<Worker>, _accepted: Accepted) {}

/// Binds a listening socket. Every IPv6 address means every IPv4 address too, and those alone on a machine without IPv6.
///
/// # Errors
/// [`StartError::Listen`] with the `purpose` and the `flag` that changes the address.
pub fn bind(address: SocketAddr, purpose: &'static str, flag: &'static str) -> Result<TcpListener, StartError> {
    let everywhere = address.ip().is_unspecified() && address.is_ipv6();
    let bound = open(address, everywhere).or_else(|cause| {
        if everywhere {
            open(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()), false).map_err(|_| cause)
        } else {
            Err(cause)
        }
    });
    bound.map_err(|cause| StartError::Listen { address, purpose, flag, cause })
}

fn open(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if dual_stack {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

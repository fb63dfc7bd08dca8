//! Accepting connections: sockets bound, connections accepted and bounded, each handed to a worker.
//!
//! Nothing that a client does and no shortage of this machine ends an accept loop: where sockets run out it pauses, counts,
//! and goes on. What a connection carries is not looked at here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::dial;
use crate::metrics::Direction;
use crate::names::Name;
use crate::reason::Reason;
use crate::run::StartError;
use crate::settings::{Mode, Settings};
use crate::shared::{Shared, Worker};
use crate::worker::{Accepted, Entrance, Workers};
use crate::{inbound, outbound};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Pause of an accept loop when sockets have run out; doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a connection takes before its first byte is looked at, about.
const OF_CONNECTION: u64 = 8 << 10;

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
        raise_descriptor_limit();
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
    pub async fn accept(self, shared: Arc<Shared>, workers: Arc<Workers>) {
        let mut loops = JoinSet::new();
        let outbound = match shared.settings.mode {
            Mode::Transparent => Entrance::OutboundTransparent,
            Mode::Explicit => Entrance::OutboundHttp,
        };
        let local = self.local.into_iter().map(|(socket, destination)| (socket, Entrance::OutboundLocal(destination)));
        for (socket, entrance) in
            [(self.outbound, outbound), (self.inbound, Entrance::Inbound)].into_iter().chain(local)
        {
            let (shared, workers) = (shared.clone(), workers.clone());
            loops.spawn(async move {
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => accept_loop(&socket, &entrance, &shared, &workers).await,
                    Err(cause) => tracing::error!(%cause, ?entrance, "a listener cannot be watched"),
                }
            });
        }
        tokio::select! {
            () = shared.drain.draining() => {}
            () = async { while loops.join_next().await.is_some() {} } => {}
        }
        loops.shutdown().await;
    }
}

/// Never returns; ended by being dropped.
async fn accept_loop(listener: &tokio::net::TcpListener, entrance: &Entrance, shared: &Shared, workers: &Workers) {
    let direction = direction(entrance);
    let mut pause = FIRST_PAUSE;
    loop {
        // The worker registers the socket with its own runtime.
        let accepted = listener.accept().await.and_then(|(socket, peer)| match dial::is_reserved(&socket) {
            true => Err(Errno::MFILE.into()),
            false => Ok((socket.into_std()?, peer)),
        });
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                shared.metrics.connection_accepted(direction);
                if workers.connections() >= shared.settings.max_connections || shared.memory.connections() {
                    shared.metrics.connection_refused(direction, Reason::Overloaded);
                    continue;
                }
                // IPv4 as IPv4, also where one socket takes both.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                if workers.dispatch(Accepted { stream, peer, entrance: entrance.clone() }).await.is_err() {
                    shared.metrics.connection_refused(direction, Reason::Overloaded);
                }
            }
            Err(cause) if is_about_one_connection(&cause) => {
                shared.metrics.connection_refused(direction, Reason::ClientReset);
            }
            Err(cause) => {
                shared.metrics.connection_refused(direction, Reason::Overloaded);
                tracing::warn!(%cause, ?direction, ?pause, "no connection can be accepted at this moment");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Errors of a connection that ended before it was accepted (accept(2)); every other is of this machine.
fn is_about_one_connection(cause: &io::Error) -> bool {
    let errno = cause.raw_os_error().map(Errno::from_raw_os_error);
    cause.kind() == io::ErrorKind::ConnectionAborted
        || matches!(
            errno,
            Some(
                Errno::INTR
                    | Errno::PROTO
                    | Errno::CONNRESET
                    | Errno::NETDOWN
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::HOSTUNREACH
                    | Errno::OPNOTSUPP
                    | Errno::NETUNREACH
                    | Errno::PERM
            )
        )
}

/// Serves one connection on the worker's own runtime, from its first byte to its last.
pub async fn serve(worker: Arc<Worker>, accepted: Accepted) {
    let Accepted { stream, peer, entrance } = accepted;
    let direction = direction(&entrance);
    worker.shared.memory.takes(OF_CONNECTION);
    // It may have waited for its worker while memory ran out.
    if worker.shared.memory.connections() {
        return worker.shared.metrics.connection_refused(direction, Reason::Overloaded);
    }
    let socket = match tokio::net::TcpStream::from_std(stream) {
        Ok(socket) => socket,
        Err(cause) => {
            worker.shared.metrics.connection_refused(direction, Reason::Overloaded);
            return tracing::warn!(%cause, "a connection cannot be watched");
        }
    };
    dial::prepare(&socket);
    match entrance {
        Entrance::OutboundTransparent => outbound::transparent(worker, socket, peer).await,
        Entrance::OutboundHttp => outbound::explicit(worker, socket).await,
        Entrance::OutboundLocal(destination) => outbound::local(worker, socket, destination).await,
        Entrance::Inbound => inbound::serve(worker, socket, peer).await,
    }
}

fn direction(entrance: &Entrance) -> Direction {
    match entrance {
        Entrance::Inbound => Direction::Inbound,
        _ => Direction::Outbound,
    }
}

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

/// As many descriptors as this process may have: each connection that is carried needs two.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(cause) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%cause, "the limit of open files stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn settings() -> Settings {
        Settings::embedded("a", "b", ([127, 0, 0, 1], 1).into(), "".into(), "".into())
    }

    #[test]
    fn a_port_that_is_taken_is_named_with_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let inbound = taken.local_addr().expect("bound");
        let error = Listeners::bind(&Settings { inbound, ..settings() }).expect_err("taken");
        assert!(error.to_string().contains(&inbound.to_string()), "{error}");
        assert!(error.to_string().contains("--inbound-port"), "{error}");
    }

    #[test]
    fn everywhere_means_both_families_on_one_port() {
        let listeners =
            Listeners::bind(&Settings { inbound: "[::]:0".parse().expect("valid"), ..settings() }).expect("free");
        let port = listeners.inbound.local_addr().expect("bound").port();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(TcpStream::connect(("::1", port)).is_ok());
    }
}

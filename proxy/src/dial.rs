//! Opening TCP connections: socket options, the sidecar's mark, and knowing one's own.
//!
//! Two things can lead a sidecar to itself. Where its workload is an endpoint of the service that it calls, the connection
//! would stay inside of the network namespace, past the redirection: it is led to the inbound listener instead
//! ([`Dialer::address_of`]). Where the redirection does not exempt the sidecar (another user than the rules say), what it
//! opens comes back to its own outbound listener: [`Dialer::is_own`] tells, so that it is refused instead of going round.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::settings::{Mode, Settings};
use crate::snapshot::Endpoint;
use crate::stream::Replay;
use crate::tls::ConnectError;

/// How this sidecar opens connections.
#[derive(Debug)]
pub struct Dialer {
    mark: Option<u32>,
    /// Whether it may use up what is kept for the sidecar itself.
    is_for_itself: bool,
    transparent: Option<Transparent>,
    /// Where connections go in simulations, instead of to sockets.
    #[cfg(test)]
    pub(crate) network: Option<crate::simulation::Network>,
}

#[derive(Debug, Clone)]
struct Transparent {
    /// `cart-1.shop`.
    workload: String,
    inbound_port: u16,
    open: Arc<Mutex<HashSet<Ends>>>,
}

/// The two ends of a connection. Our own alone is not enough: the kernel gives a program the port that we use towards
/// somewhere else.
type Ends = (SocketAddr, SocketAddr);

/// A connection of ours that [`Dialer::is_own`] knows until this is dropped.
#[derive(Debug)]
pub(crate) struct Own {
    /// Boxed: it travels with every connection, most of which look at it once.
    ends: Box<Ends>,
    open: Arc<Mutex<HashSet<Ends>>>,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.open.lock().remove(&self.ends);
    }
}

impl Dialer {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Self {
        let transparent = (settings.mode == Mode::Transparent).then(|| Transparent {
            workload: format!("{}.{}", settings.workload, settings.namespace),
            inbound_port: settings.inbound.port(),
            open: Arc::default(),
        });
        Dialer {
            mark: settings.mark,
            is_for_itself: false,
            transparent,
            #[cfg(test)]
            network: None,
        }
    }

    /// The same, for the sidecar's own business: it may take the last descriptors.
    pub(crate) fn for_itself(&self) -> Self {
        Dialer {
            mark: self.mark,
            is_for_itself: true,
            transparent: self.transparent.clone(),
            #[cfg(test)]
            network: None,
        }
    }

    /// A plain TCP connection within `limit`.
    ///
    /// # Errors
    /// [`ConnectError`]: refused, timed out, unreachable, or this machine is out of sockets.
    pub async fn dial(&self, to: SocketAddr, limit: Duration) -> Result<Replay, ConnectError> {
        timeout(limit, self.open(to)).await.unwrap_or(Err(ConnectError::Timeout { to, after: limit }))
    }

    /// The same without a limit of its own.
    pub(crate) async fn open(&self, to: SocketAddr) -> Result<Replay, ConnectError> {
        let failed = |cause| ConnectError::tcp(to, cause);
        let socket = self.socket(to).map_err(failed)?.connect(to).await.map_err(failed)?;
        prepare(&socket);
        let own = self.transparent.as_ref().zip(socket.local_addr().ok()).map(|(transparent, address)| {
            let ends = (address, to);
            transparent.open.lock().insert(ends);
            Own { ends: Box::new(ends), open: transparent.open.clone() }
        });
        Ok(Replay::dialled(socket, own))
    }

    fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if !self.is_for_itself && is_reserved(&socket) {
            return Err(Errno::MFILE.into());
        }
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        Ok(socket)
    }

    /// Where to connect for an endpoint: its address, but our own inbound listener if the endpoint is this workload.
    pub fn address_of(&self, endpoint: &Endpoint) -> SocketAddr {
        match &self.transparent {
            Some(own) if endpoint.identity.is_some() && *endpoint.workload == *own.workload => {
                SocketAddr::new(endpoint.ip(), own.inbound_port)
            }
            _ => endpoint.address,
        }
    }

    /// Whether a connection from `peer` to `destination`, before redirection, is one that this sidecar itself has opened: a loop.
    pub fn is_own(&self, peer: SocketAddr, destination: SocketAddr) -> bool {
        self.transparent.as_ref().is_some_and(|transparent| transparent.open.lock().contains(&(peer, destination)))
    }
}

/// A connection on which nothing moves is probed after this, and so often at this interval, before it is given up: two minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const PROBES: u32 = 4;
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// Options of every connection of the sidecar: no Nagle, and keep-alive so that a peer that vanished is noticed.
/// A socket that refuses an option has just died, which the first read tells better.
///
/// No limit on how long sent data may go unacknowledged (`TCP_USER_TIMEOUT`): it would also end connections whose receiver takes its
/// time to read.
pub(crate) fn prepare(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(PROBE_INTERVAL).with_retries(PROBES);
    let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// Descriptors that no connection of the application's may take: the admin port, health and the control server have them left.
const RESERVED: u64 = 32;

/// Whether a socket has got one of the last descriptors of this process. The system gives out the lowest that is free, so its number
/// tells how many are taken.
pub(crate) fn is_reserved(socket: &impl AsRawFd) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // A limit that leaves hardly anything is not made worse.
    let reserved = RESERVED.min(limit / 4);
    u64::try_from(socket.as_raw_fd()).is_ok_and(|taken| taken >= limit - reserved)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_of_either_direction_are_kept_alive() {
        let settings = Settings::embedded("a", "b", ([127, 0, 0, 1], 1).into(), "".into(), "".into());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let to = listener.local_addr().expect("bound");
        let dialled = Dialer::new(&settings).dial(to, Duration::from_secs(5)).await.expect("listens");
        let (accepted, _) = listener.accept().await.expect("accepted");
        prepare(&accepted);
        for socket in [SockRef::from(dialled.get_ref()), SockRef::from(&accepted)] {
            assert!(socket.keepalive().expect("known") && socket.tcp_nodelay().expect("known"));
            assert_eq!(socket.tcp_keepalive_time().expect("known"), KEEP_ALIVE);
            assert_eq!(socket.tcp_keepalive_interval().expect("known"), PROBE_INTERVAL);
            assert_eq!(socket.tcp_keepalive_retries().expect("known"), PROBES);
        }
    }

    #[tokio::test]
    async fn a_program_on_a_port_of_ours_towards_somewhere_else_is_no_loop() {
        let settings = Settings::embedded("a", "b", ([127, 0, 0, 1], 1).into(), "".into(), "".into());
        let dialer = Dialer::new(&Settings { mode: Mode::Transparent, ..settings });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let to = listener.local_addr().expect("bound");
        let stream = dialer.dial(to, Duration::from_secs(5)).await.expect("listens");
        let ours = stream.get_ref().local_addr().expect("connected");
        assert!(dialer.is_own(ours, to));
        assert!(!dialer.is_own(ours, ([10, 96, 0, 1], 80).into()));
        drop(stream);
        assert!(!dialer.is_own(ours, to));
    }
}

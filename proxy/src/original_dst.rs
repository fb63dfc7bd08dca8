//! Where a connection was going before the kernel redirected it.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that a client connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst {
    /// Address and port, never an IPv4-mapped one.
    pub address: SocketAddr,
    /// Whether the kernel redirected the connection; if not, the client connected to the sidecar's own listener.
    pub redirected: bool,
}

/// Asks the kernel (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`).
///
/// # Errors
/// If the connection has ended already.
pub fn original_dst(socket: &TcpStream) -> io::Result<OriginalDst> {
    let local = plain(socket.local_addr()?);
    let reference = SockRef::from(socket);
    let asked = if local.is_ipv4() { reference.original_dst_v4() } else { reference.original_dst_v6() };
    // Without a redirection the kernel answers ENOENT, or, where it tracks connections for other reasons, our own address.
    let original = asked.ok().and_then(|address| address.as_socket()).map(plain);
    let redirected = original.is_some_and(|original| original != local);
    Ok(OriginalDst { address: original.unwrap_or(local), redirected })
}

/// Without flow label and scope, and IPv4 as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_goes_to_the_listener_itself() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).await.expect("loopback");
            let address = listener.local_addr().expect("bound");
            let _client = TcpStream::connect(address).await.expect("connect");
            let (accepted, _) = listener.accept().await.expect("accept");
            let found = original_dst(&accepted).expect("open");
            assert_eq!(found, OriginalDst { address, redirected: false });
        }
    }
}

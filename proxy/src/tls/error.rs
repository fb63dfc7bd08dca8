//! Why a connection did not come about: who, what, cause, and the word for it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::names::SpiffeId;
use crate::reason::Reason;

/// Why an upstream connection was not made. Nothing of the client's was sent, so another endpoint may always be tried; see
/// [`ConnectError::elsewhere`] for whether that helps.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the sentences show
pub enum ConnectError {
    /// `ECONNREFUSED`.
    #[error("{to} refused the connection")]
    Refused {
        to: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// TCP and TLS together took longer than the cluster's connect time-out.
    #[error("connecting to {to} took longer than {after:?}")]
    Timeout { to: SocketAddr, after: Duration },
    /// No way there.
    #[error("{to} could not be reached")]
    Unreachable {
        to: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// The name did not resolve.
    #[error("{name} could not be resolved")]
    Resolve {
        name: String,
        #[source]
        cause: crate::dns::ResolveError,
    },
    /// No sockets, ports or memory are left on this machine.
    #[error("this machine has no socket left to connect to {to}")]
    Exhausted {
        to: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// We have no certificate yet.
    #[error("{to} wants mesh mTLS and this sidecar has no certificate yet")]
    NoIdentity { to: SocketAddr },
    /// Ours has expired.
    #[error("{to} wants mesh mTLS and this sidecar's certificate expired {ago:?} ago")]
    IdentityExpired { to: SocketAddr, ago: Duration },
    /// The endpoint has a sidecar, but the cluster came without the TLS settings to reach it: never plaintext instead.
    #[error("{to} has the identity {identity}, but its cluster has no TLS settings")]
    NoTlsSettings { to: SocketAddr, identity: SpiffeId },
    /// Chain or validity.
    #[error("{to} presented a certificate that the mesh does not trust")]
    Untrusted {
        to: SocketAddr,
        #[source]
        cause: rustls::Error,
    },
    /// Another workload than expected.
    #[error("{to} presented {found}, expected {expected}")]
    WrongIdentity { to: SocketAddr, expected: SpiffeId, found: String },
    /// Anything else in the handshake.
    #[error("the TLS handshake with {to} failed")]
    Handshake {
        to: SocketAddr,
        #[source]
        cause: io::Error,
    },
}

impl ConnectError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            ConnectError::Refused { .. } => Reason::ConnectRefused,
            ConnectError::Timeout { .. } => Reason::ConnectTimeout,
            ConnectError::Unreachable { .. } => Reason::ConnectFailed,
            ConnectError::Resolve { .. } => Reason::ResolveFailed,
            ConnectError::Exhausted { .. } => Reason::Overloaded,
            ConnectError::NoIdentity { .. } => Reason::IdentityMissing,
            ConnectError::IdentityExpired { .. } => Reason::IdentityExpired,
            ConnectError::Untrusted { .. } => Reason::TlsUntrusted,
            ConnectError::WrongIdentity { .. } => Reason::TlsWrongIdentity,
            ConnectError::Handshake { .. } | ConnectError::NoTlsSettings { .. } => Reason::TlsFailed,
        }
    }

    /// Whether another endpoint may fare better; not if the cause is on our side.
    pub fn elsewhere(&self) -> bool {
        !matches!(
            self,
            ConnectError::NoIdentity { .. }
                | ConnectError::IdentityExpired { .. }
                | ConnectError::Exhausted { .. }
                | ConnectError::Resolve { .. }
        )
    }

    /// Sorts the failure of a TCP connect.
    pub fn tcp(to: SocketAddr, cause: io::Error) -> Self {
        const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
        const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();
        match (cause.kind(), cause.raw_os_error()) {
            (io::ErrorKind::ConnectionRefused, _) => ConnectError::Refused { to, cause },
            (io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory, _) | (_, Some(EMFILE | ENFILE)) => {
                ConnectError::Exhausted { to, cause }
            }
            _ => ConnectError::Unreachable { to, cause },
        }
    }
}

/// Why a mesh TLS connection was not accepted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AcceptError {
    /// We have no certificate yet.
    #[error("this sidecar has no certificate yet")]
    NoIdentity,
    /// Ours has expired.
    #[error("this sidecar's certificate expired {ago:?} ago")]
    IdentityExpired { ago: Duration },
    /// The handshake took too long.
    #[error("the handshake took longer than {after:?}")]
    Timeout { after: Duration },
    /// No certificate, or one that the mesh does not trust.
    #[error("the peer's certificate is not trusted")]
    Untrusted {
        #[source]
        cause: rustls::Error,
    },
    /// Trusted, but not the certificate of a workload.
    #[error("the peer's certificate names {found}, which is not one SPIFFE ID")]
    NoSpiffeId { found: String },
    /// Anything else in the handshake.
    #[error("the handshake failed")]
    Handshake {
        #[source]
        cause: io::Error,
    },
}

impl AcceptError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            AcceptError::NoIdentity => Reason::IdentityMissing,
            AcceptError::IdentityExpired { .. } => Reason::IdentityExpired,
            AcceptError::Untrusted { .. } => Reason::TlsUntrusted,
            AcceptError::NoSpiffeId { .. } => Reason::TlsWrongIdentity,
            AcceptError::Timeout { .. } | AcceptError::Handshake { .. } => Reason::TlsFailed,
        }
    }
}

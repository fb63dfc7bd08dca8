//! Connecting to an endpoint: TCP, then mesh mTLS where the endpoint has a sidecar.
//!
//! Whether TLS is spoken is decided by the endpoint's identity alone: an endpoint that has one is never reached in plaintext.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};
use webpki::KeyUsage;

use super::verify::NotOneSpiffeId;
use super::{Alpn, ConnectError, Credentials};
use crate::names::SpiffeId;
use crate::snapshot::{Cluster, Endpoint, UpstreamTls};
use crate::stream::{Replay, Stream};

/// An upstream connection.
#[derive(Debug)]
pub struct Connected {
    /// Ready for the first byte.
    pub stream: Stream,
    /// Who is there, verified; `None` in plaintext.
    pub peer: Option<SpiffeId>,
}

/// Connects to an endpoint within the cluster's connect time-out (TCP and TLS together).
///
/// `credentials` are needed only where the endpoint has a sidecar.
///
/// # Errors
/// [`ConnectError`]; nothing of the client's was sent.
pub async fn connect(
    credentials: Option<&Credentials>,
    cluster: &Cluster,
    endpoint: &Endpoint,
    alpn: Alpn,
) -> Result<Connected, ConnectError> {
    let to = endpoint.address;
    let Some(identity) = &endpoint.identity else {
        let socket = dial(to, cluster.connect_timeout).await?;
        return Ok(Connected { stream: socket.into(), peer: None });
    };
    let credentials = credentials.ok_or(ConnectError::NoIdentity { to })?;
    if let Some(ago) = credentials.expired(SystemTime::now()) {
        return Err(ConnectError::IdentityExpired { to, ago });
    }
    let Some(tls) = &cluster.tls else {
        return Err(ConnectError::NoTlsSettings { to, identity: identity.clone() });
    };
    let both = async {
        let socket = open(to).await?;
        handshake(credentials, tls, identity, to, socket, alpn).await
    };
    let after = cluster.connect_timeout;
    timeout(after, both).await.unwrap_or(Err(ConnectError::Timeout { to, after }))
}

/// A plain TCP connection.
///
/// # Errors
/// [`ConnectError`]: refused, timed out, unreachable, or this machine is out of sockets.
pub async fn dial(to: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    timeout(limit, open(to)).await.unwrap_or(Err(ConnectError::Timeout { to, after: limit }))
}

async fn open(to: SocketAddr) -> Result<TcpStream, ConnectError> {
    let socket = TcpStream::connect(to).await.map_err(|cause| ConnectError::tcp(to, cause))?;
    prepare(&socket);
    Ok(socket)
}

/// Options of every connection of the sidecar: no Nagle, and keep-alive so that a peer that vanished is noticed.
/// A socket that refuses an option has just died, which the first read tells better.
pub(crate) fn prepare(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(180)).with_interval(Duration::from_secs(60)).with_retries(3);
    let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

async fn handshake(
    credentials: &Credentials,
    tls: &UpstreamTls,
    expected: &SpiffeId,
    to: SocketAddr,
    socket: TcpStream,
    alpn: Alpn,
) -> Result<Connected, ConnectError> {
    let name = ServerName::try_from(&*tls.sni)
        .map_err(|cause| ConnectError::Handshake { to, cause: io::Error::new(io::ErrorKind::InvalidInput, cause) })?
        .to_owned();
    let config = match alpn {
        Alpn::H2 => &credentials.client_h2,
        Alpn::Tcp => &credentials.client_tcp,
    };
    let stream = TlsConnector::from(config.clone())
        .connect(name, Replay::from(socket))
        .await
        .map_err(|cause| failure(to, expected, cause))?;

    let (_, session) = stream.get_ref();
    let agreed = session.alpn_protocol();
    if agreed != Some(alpn.id()) {
        let cause = io::Error::new(
            io::ErrorKind::InvalidData,
            format!("agreed on {agreed:?} instead of {:?}", String::from_utf8_lossy(alpn.id())),
        );
        return Err(ConnectError::Handshake { to, cause });
    }
    // Also after a resumption, which repeats neither the chain's nor the name's verification.
    let chain = session.peer_certificates().unwrap_or_default();
    let found = credentials
        .verifier
        .identify(chain, KeyUsage::server_auth(), SystemTime::now())
        .map_err(|cause| ConnectError::Untrusted { to, cause })?;
    if found != *expected || !(tls.identities.is_empty() || tls.identities.contains(&found)) {
        return Err(ConnectError::WrongIdentity { to, expected: expected.clone(), found: found.to_string() });
    }
    Ok(Connected { stream: Stream::Tls(Box::new(TlsStream::Client(stream))), peer: Some(found) })
}

/// Tells a certificate that is not trusted from a handshake that broke.
fn failure(to: SocketAddr, expected: &SpiffeId, cause: io::Error) -> ConnectError {
    match rustls_error(&cause) {
        Some(error) => match not_one_spiffe_id(error) {
            Some(found) => ConnectError::WrongIdentity { to, expected: expected.clone(), found },
            None => ConnectError::Untrusted { to, cause: error.clone() },
        },
        None => ConnectError::Handshake { to, cause },
    }
}

/// The error about the peer's certificate inside of an I/O error.
pub(super) fn rustls_error(cause: &io::Error) -> Option<&rustls::Error> {
    let error = cause.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented).then_some(error)
}

/// What a trusted certificate names, if it is not one workload's.
pub(super) fn not_one_spiffe_id(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else { return None };
    other.0.downcast_ref::<NotOneSpiffeId>().map(|NotOneSpiffeId(found)| found.clone())
}

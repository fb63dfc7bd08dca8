//! Connecting to an endpoint: TCP, then mesh mTLS where the endpoint has a sidecar.
//!
//! Whether TLS is spoken is decided by the endpoint's identity alone: an endpoint that has one is never reached in plaintext.

use std::io;
use std::net::SocketAddr;
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};
use webpki::KeyUsage;

use super::verify::NotOneSpiffeId;
use super::{Alpn, ConnectError, Credentials};
use crate::metrics::{Direction, Handshake};
use crate::names::SpiffeId;
use crate::shared::Shared;
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
/// # Errors
/// [`ConnectError`]; nothing of the client's was sent.
pub async fn connect(
    shared: &Shared,
    cluster: &Cluster,
    endpoint: &Endpoint,
    alpn: Alpn,
) -> Result<Connected, ConnectError> {
    let to = shared.dialer.address_of(endpoint);
    let Some(identity) = &endpoint.identity else {
        let socket = shared.dialer.dial(to, cluster.connect_timeout).await?;
        return Ok(Connected { stream: socket.into(), peer: None });
    };
    let credentials = shared.identity.credentials().ok_or(ConnectError::NoIdentity { to })?;
    if let Some(ago) = credentials.expired(SystemTime::now()) {
        return Err(ConnectError::IdentityExpired { to, ago });
    }
    let Some(tls) = &cluster.tls else {
        return Err(ConnectError::NoTlsSettings { to, identity: identity.clone() });
    };
    let both = async {
        let socket = shared.dialer.open(to).await?;
        let (connected, kind) = handshake(&credentials, tls, identity, to, socket, alpn).await?;
        shared.metrics.tls_completed(Direction::Outbound, kind);
        Ok(connected)
    };
    let after = cluster.connect_timeout;
    timeout(after, both).await.unwrap_or(Err(ConnectError::Timeout { to, after }))
}

async fn handshake(
    credentials: &Credentials,
    tls: &UpstreamTls,
    expected: &SpiffeId,
    to: SocketAddr,
    socket: Replay,
    alpn: Alpn,
) -> Result<(Connected, Handshake), ConnectError> {
    let name = ServerName::try_from(&*tls.sni)
        .map_err(|cause| ConnectError::Handshake { to, cause: io::Error::new(io::ErrorKind::InvalidInput, cause) })?
        .to_owned();
    let config = match alpn {
        Alpn::H2 => &credentials.client_h2,
        Alpn::Tcp => &credentials.client_tcp,
        Alpn::Renewed => &credentials.client_renewed,
    };
    let stream =
        TlsConnector::from(config.clone()).connect(name, socket).await.map_err(|cause| failure(to, expected, cause))?;

    let (_, session) = stream.get_ref();
    let kind = session.handshake_kind().into();
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
    Ok((Connected { stream: TlsStream::Client(stream).into(), peer: Some(found) }, kind))
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

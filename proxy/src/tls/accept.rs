//! Accepting mesh mTLS: the handshake, and who the client is.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};
use webpki::KeyUsage;

use super::connect::{not_one_spiffe_id, rustls_error};
use super::verify::not_after;
use super::{AcceptError, Alpn, Credentials};
use crate::metrics::Handshake;
use crate::names::SpiffeId;
use crate::stream::{Replay, Stream};

/// How long a client may take for the handshake, once its ClientHello is here.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A client of the mesh.
#[derive(Debug)]
pub struct Accepted {
    /// Ready for the first byte.
    pub stream: Stream,
    /// Who it is, verified.
    pub peer: SpiffeId,
    /// When its certificate expires.
    pub until: SystemTime,
    /// What was agreed to travel inside; `None` if it was nothing of ours.
    pub alpn: Option<Alpn>,
    /// Whether it showed a session that it had before.
    pub handshake: Handshake,
}

/// Completes the handshake of a client that has sent a ClientHello for the mesh.
///
/// # Errors
/// [`AcceptError`]; the client has been sent the alert that fits.
pub async fn accept(credentials: Option<&Credentials>, stream: Replay) -> Result<Accepted, AcceptError> {
    let credentials = credentials.ok_or(AcceptError::NoIdentity)?;
    if let Some(ago) = credentials.expired(SystemTime::now()) {
        return Err(AcceptError::IdentityExpired { ago });
    }
    let accept = TlsAcceptor::from(credentials.server.clone()).accept(stream);
    let stream = match timeout(HANDSHAKE_LIMIT, accept).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => {
            return Err(match rustls_error(&cause) {
                Some(error) => match not_one_spiffe_id(error) {
                    Some(found) => AcceptError::NoSpiffeId { found },
                    None => AcceptError::Untrusted { cause: error.clone() },
                },
                None => AcceptError::Handshake { cause },
            });
        }
        Err(_) => return Err(AcceptError::Timeout { after: HANDSHAKE_LIMIT }),
    };
    let (_, session) = stream.get_ref();
    let handshake = session.handshake_kind().into();
    let alpn = [Alpn::H2, Alpn::Tcp, Alpn::Renewed].into_iter().find(|alpn| session.alpn_protocol() == Some(alpn.id()));
    // Also after a resumption, which does not repeat the chain's verification.
    let chain = session.peer_certificates().unwrap_or_default();
    let peer = credentials
        .verifier
        .identify(chain, KeyUsage::client_auth(), SystemTime::now())
        .map_err(|cause| AcceptError::Untrusted { cause })?;
    let until = not_after(chain).map_err(|cause| AcceptError::Untrusted { cause })?;
    Ok(Accepted { stream: TlsStream::Server(stream).into(), peer, until, alpn, handshake })
}

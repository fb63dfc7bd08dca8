//! TLS of the xDS port: version 1.3, this server's own certificate, client certificates of the mesh asked for and not required
//! (who has none yet may ask for one). The server's certificate is renewed at half of its life.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio_util::sync::CancellationToken;

use crate::ca::{CertificateAuthority, IssueError};

/// Pause after a renewal that failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(30);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's own certificate.
    #[error("cannot make the control server's own certificate (are all names of --advertise DNS names or addresses?)")]
    Certificate(#[source] IssueError),
    /// The root's fault.
    #[error("the root certificate cannot be used to verify clients")]
    Root(#[source] rustls::Error),
    /// The root's fault.
    #[error("the root certificate cannot be used to verify clients")]
    Verifier(#[source] VerifierBuilderError),
    /// TLS 1.3 is not available.
    #[error("TLS 1.3 is not available")]
    Version(#[source] rustls::Error),
}

/// The server's own certificate, which can be replaced while it serves.
pub(crate) struct OwnCertificate {
    authority: Arc<CertificateAuthority>,
    names: Vec<String>,
    current: ArcSwap<CertifiedKey>,
}

impl OwnCertificate {
    /// A new certificate for the names, and when it ends.
    pub(crate) fn new(
        authority: Arc<CertificateAuthority>,
        names: Vec<String>,
    ) -> Result<(Self, SystemTime), TlsError> {
        let (certified, not_after) = authority.server_certificate(&names).map_err(TlsError::Certificate)?;
        Ok((OwnCertificate { authority, names, current: ArcSwap::from_pointee(certified) }, not_after))
    }

    /// Renews it at half of its life, until stopped.
    pub(crate) async fn keep_fresh(self: Arc<Self>, mut not_after: SystemTime, stop: CancellationToken) {
        loop {
            let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
            if stop.run_until_cancelled(tokio::time::sleep((left / 2).max(Duration::from_secs(1)))).await.is_none() {
                return;
            }
            loop {
                match self.authority.server_certificate(&self.names) {
                    Ok((certified, until)) => {
                        self.current.store(Arc::new(certified));
                        not_after = until;
                        break;
                    }
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "cannot renew the control server's own certificate"
                        );
                        if stop.run_until_cancelled(tokio::time::sleep(RENEWAL_RETRY)).await.is_none() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The configuration of the webhook's port: for API servers, which prove nothing about themselves.
pub(crate) fn webhook_config(
    certificate: Arc<OwnCertificate>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Version)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The configuration of the xDS port.
pub(crate) fn server_config(
    authority: &CertificateAuthority,
    certificate: Arc<OwnCertificate>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, TlsError> {
    let anchors = Arc::new(authority.trust_anchors().map_err(TlsError::Root)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(anchors, provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No resumption: every connection proves its certificate anew, and nothing is kept for those that never come back.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

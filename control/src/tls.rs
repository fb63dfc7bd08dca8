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

use crate::authority::Authority;
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
    names: Vec<String>,
    current: ArcSwap<CertifiedKey>,
}

/// What the xDS port needs for handshakes, replaced as the authority changes and the certificate grows old.
pub(crate) struct Handshakes {
    authority: Arc<Authority>,
    certificate: Arc<OwnCertificate>,
    not_after: SystemTime,
    provider: Arc<CryptoProvider>,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl Handshakes {
    /// With a new certificate for the names.
    pub(crate) fn new(
        authority: Arc<Authority>,
        names: Vec<String>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let current = authority.current();
        let (certified, not_after) = current.server_certificate(&names).map_err(TlsError::Certificate)?;
        let certificate = Arc::new(OwnCertificate { names, current: ArcSwap::from_pointee(certified) });
        let config = server_config(&current, certificate.clone(), provider.clone())?;
        let config = Arc::new(ArcSwap::from_pointee(config));
        Ok(Handshakes { authority, certificate, not_after, provider, config })
    }

    /// The configuration for the next handshake.
    pub(crate) fn config(&self) -> &Arc<ArcSwap<ServerConfig>> {
        &self.config
    }

    /// The configuration of the webhook's port: for API servers, which prove nothing about themselves.
    pub(crate) fn webhook_config(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Version)?
            .with_no_client_auth()
            .with_cert_resolver(self.certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Renews the certificate at half of its life and whenever the authority changes, until stopped.
    pub(crate) async fn keep_fresh(mut self, stop: CancellationToken) {
        let mut changes = self.authority.bundle();
        changes.mark_unchanged();
        let mut retry = None;
        loop {
            let left = self.not_after.duration_since(SystemTime::now()).unwrap_or_default();
            let pause = retry.unwrap_or((left / 2).max(Duration::from_secs(1)));
            let due = async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // The authority lives as long as this does.
                    _ = changes.changed() => {}
                }
            };
            if stop.run_until_cancelled(due).await.is_none() {
                return;
            }
            retry = self.renew().err().map(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot renew the control server's own certificate"
                );
                RENEWAL_RETRY
            });
        }
    }

    fn renew(&mut self) -> Result<(), TlsError> {
        let current = self.authority.current();
        let names = &self.certificate.names;
        let (certified, not_after) = current.server_certificate(names).map_err(TlsError::Certificate)?;
        let config = server_config(&current, self.certificate.clone(), self.provider.clone())?;
        self.certificate.current.store(Arc::new(certified));
        self.config.store(Arc::new(config));
        self.not_after = not_after;
        Ok(())
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

/// The configuration of the xDS port.
fn server_config(
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

//! This workload's certificate: what is current, and who is told when it changes.
//!
//! The private key is made in this process and leaves it only through `malla-proxy certificates`.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::names::SpiffeId;
use crate::reason::Reason;
use crate::tls::Credentials;

/// A certificate with its key and what peers are verified against. Immutable.
#[derive(Debug)]
pub struct Identity {
    /// Who this workload is.
    pub spiffe_id: SpiffeId,
    /// Chain (leaf first, without the root) and key, for either side of a handshake.
    pub certified_key: Arc<CertifiedKey>,
    /// Trust anchors of the mesh.
    pub trust_anchors: Arc<RootCertStore>,
    /// The same as certificates.
    pub trust_certificates: Vec<CertificateDer<'static>>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Rises with every change of certificate or trust anchors: the key under which TLS configurations are cached.
    pub generation: u64,
}

/// The current identity of a sidecar.
#[derive(Debug)]
pub struct IdentityStore {
    current: ArcSwapOption<Identity>,
    credentials: ArcSwapOption<Credentials>,
    generation: watch::Sender<u64>,
}

impl Default for IdentityStore {
    fn default() -> Self {
        IdentityStore {
            current: ArcSwapOption::empty(),
            credentials: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
        }
    }
}

impl IdentityStore {
    /// No identity yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The identity to present in a handshake.
    ///
    /// # Errors
    /// [`Reason::IdentityMissing`] before the first certificate, [`Reason::IdentityExpired`] after the end of the last one.
    pub fn current(&self) -> Result<Arc<Identity>, Reason> {
        let identity = self.current.load_full().ok_or(Reason::IdentityMissing)?;
        if identity.not_after <= SystemTime::now() { Err(Reason::IdentityExpired) } else { Ok(identity) }
    }

    /// The last identity made ready for handshakes, which refuse it themselves once it has expired.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.load_full()
    }

    /// The last identity, even if it has expired: for display and renewal.
    pub fn last(&self) -> Option<Arc<Identity>> {
        self.current.load_full()
    }

    /// Told of each new generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Replaces the identity; its generation becomes the next one.
    pub fn install(&self, mut identity: Identity) {
        self.generation.send_modify(|generation| {
            *generation += 1;
            identity.generation = *generation;
            let (key, anchors) = (identity.certified_key.clone(), identity.trust_anchors.clone());
            match Credentials::new(key, anchors, identity.not_after) {
                Ok(credentials) => self.credentials.store(Some(Arc::new(credentials))),
                Err(cause) => tracing::error!(%cause, "the new certificate cannot be used for TLS"),
            }
            self.current.store(Some(Arc::new(identity)));
        });
    }
}

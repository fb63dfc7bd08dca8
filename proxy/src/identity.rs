//! This workload's certificate: what is current, and who is told when it changes.
//!
//! The private key is made in this process and leaves it only through `malla-proxy certificates`. `issue` obtains a certificate,
//! `renew` keeps it fresh.

mod issue;
mod renew;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

pub use self::renew::Renewal;
use crate::decode::{Federated, TrustBundle};
use crate::names::SpiffeId;
use crate::reason::Reason;
use crate::tls::{Credentials, Trust};

/// A certificate with its key and what peers are verified against. Immutable.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who this workload is.
    pub spiffe_id: SpiffeId,
    /// Chain (leaf first, without the root) and key, for either side of a handshake.
    pub certified_key: Arc<CertifiedKey>,
    /// The key as PEM (PKCS #8).
    pub key_pem: KeyPem,
    /// The root that its chain leads to.
    pub root: CertificateDer<'static>,
    /// Trust anchors of the mesh.
    pub trust_anchors: Arc<RootCertStore>,
    /// The same as certificates.
    pub trust_certificates: Vec<CertificateDer<'static>>,
    /// Trust anchors of other trust domains, each for its own identities.
    pub federated: Federated,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Rises with every change of certificate or trust anchors: the key under which TLS configurations are cached.
    pub generation: u64,
}

/// A private key as text; `Debug` does not show it.
#[derive(Clone)]
pub struct KeyPem(Arc<str>);

/// The current identity of a sidecar; clones share it.
#[derive(Debug, Clone, Default)]
pub struct IdentityStore {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    current: ArcSwapOption<Identity>,
    credentials: ArcSwapOption<Credentials>,
    generation: watch::Sender<u64>,
    /// The trust bundle that the control server distributes. Once there is one, it decides, and not the root of the own chain.
    bundle: Mutex<Option<Arc<TrustBundle>>>,
    /// Why the last attempt to obtain a certificate failed.
    failure: Mutex<Option<(SystemTime, String)>>,
}

impl Identity {
    /// By whom peers are verified.
    pub(crate) fn trust(&self) -> Trust {
        let federated = self.federated.iter().filter_map(|(domain, roots)| Some((domain.clone(), anchors(roots)?)));
        Trust {
            domain: self.spiffe_id.trust_domain().into(),
            anchors: self.trust_anchors.clone(),
            federated: federated.collect(),
        }
    }

    /// Whether workloads of this trust domain may be peers.
    fn trusts(&self, domain: &str) -> bool {
        self.is_own(domain) || self.federated.contains_key(domain)
    }

    fn is_own(&self, domain: &str) -> bool {
        self.spiffe_id.trust_domain() == domain
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
        let identity = self.inner.current.load_full().ok_or(Reason::IdentityMissing)?;
        if identity.not_after <= SystemTime::now() { Err(Reason::IdentityExpired) } else { Ok(identity) }
    }

    /// The last identity made ready for handshakes, which refuse it themselves once it has expired.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.inner.credentials.load_full()
    }

    /// The last identity, even if it has expired: for display and renewal.
    pub fn last(&self) -> Option<Arc<Identity>> {
        self.inner.current.load_full()
    }

    /// Whether another root signs by now than the one of this certificate: the first of the trust anchors does.
    pub fn is_of_former_root(&self) -> bool {
        self.last().is_some_and(|last| last.trust_certificates.first().is_some_and(|signs| *signs != last.root))
    }

    /// Told of each new generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.generation.subscribe()
    }

    /// Waits until the identity at hand has expired; for ever if there is none.
    pub async fn expiry(&self) {
        let Some(last) = self.last() else { return std::future::pending().await };
        // In pieces: the clock may be set, and the machine may sleep.
        while let Ok(left) = last.not_after.duration_since(SystemTime::now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(Duration::from_secs(60))).await;
        }
    }

    /// Ends when workloads of this trust domain may be peers no longer: what was agreed with them before ends too. Those of the own
    /// always may.
    pub async fn distrusted(&self, domain: &str) {
        if self.last().is_some_and(|last| last.is_own(domain)) {
            return std::future::pending().await;
        }
        let mut generations = self.subscribe();
        // It may have happened already.
        generations.mark_changed();
        while generations.changed().await.is_ok() {
            if self.last().is_some_and(|last| !last.trusts(domain)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Why the last attempt to obtain a certificate failed, and when; `None` if it succeeded.
    pub fn failure(&self) -> Option<(SystemTime, String)> {
        self.inner.failure.lock().clone()
    }

    /// Replaces the identity; its generation becomes the next one. Its trust anchors give way to the distributed ones.
    pub fn install(&self, mut identity: Identity) {
        let bundle = self.inner.bundle.lock();
        if let Some(bundle) = bundle.as_ref()
            && let Some(trust_anchors) = anchors(&bundle.certificates)
        {
            identity.trust_anchors = trust_anchors;
            identity.trust_certificates = bundle.certificates.clone();
            identity.federated = bundle.federated.clone();
        }
        self.replace(identity);
        *self.inner.failure.lock() = None;
    }

    /// The control server distributes these trust anchors: they replace those known until now.
    pub(crate) fn trust(&self, bundle: &Arc<TrustBundle>) {
        let mut known = self.inner.bundle.lock();
        if known.as_ref() == Some(bundle) {
            return;
        }
        *known = Some(bundle.clone());
        let (Some(last), Some(trust_anchors)) = (self.last(), anchors(&bundle.certificates)) else { return };
        if last.trust_certificates != bundle.certificates || last.federated != bundle.federated {
            let (trust_certificates, federated) = (bundle.certificates.clone(), bundle.federated.clone());
            self.replace(Identity { trust_anchors, trust_certificates, federated, ..Identity::clone(&last) });
        }
    }

    /// To be called with the bundle locked, so that a new certificate and a new bundle cannot undo each other.
    fn replace(&self, mut identity: Identity) {
        self.inner.generation.send_modify(|generation| {
            *generation += 1;
            identity.generation = *generation;
            match Credentials::new(identity.certified_key.clone(), identity.trust(), identity.not_after) {
                Ok(credentials) => self.inner.credentials.store(Some(Arc::new(credentials))),
                Err(cause) => tracing::error!(%cause, "the new certificate cannot be used for TLS"),
            }
            self.inner.current.store(Some(Arc::new(identity)));
        });
    }

    fn failed(&self, problem: String) {
        *self.inner.failure.lock() = Some((SystemTime::now(), problem));
    }
}

impl KeyPem {
    /// A key.
    pub fn new(pem: impl Into<Arc<str>>) -> Self {
        KeyPem(pem.into())
    }

    /// The text, to be written where only its owner can read it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a private key")
    }
}

/// Certificates as trust anchors; `None` if there are none or one of them cannot be.
fn anchors(certificates: &[CertificateDer<'static>]) -> Option<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).ok()?;
    }
    (!store.is_empty()).then(|| Arc::new(store))
}

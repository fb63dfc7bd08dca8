//! The authority of a running server: what its files say, taken up when they change, and what everybody else needs to know of it.
//!
//! Files of the state directory are changed step by step by [`rotation`](crate::rotation), whose steps are taken up as they are. Files that
//! somebody else keeps may be replaced by anything: a root that nobody trusts yet is distributed first and signs only when all
//! who are connected trust it, and the one before stays trusted until no certificate of it is in use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use malla_xds::SpiffeId;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ca::{self, Anchor, AuthorityError, CertificateAuthority, IssueError, Issued, Material, RootSource};
use crate::holders::{HolderStatus, to_come_back};
use crate::ledger::{Entry, Ledger};
use crate::metrics::{Metrics, unix_seconds};
use crate::signing_rate::SigningRate;
use crate::state::{StateDirectory, StateError};
use crate::status::{AnchorStatus, Followers, TrustStatus};

/// Trust anchors that were given by files and are there no more, in the state directory, as long as certificates of theirs are in use.
const FORMER_ANCHORS: &str = "anchors.former.pem";
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The authority.
#[derive(Debug)]
pub(crate) struct Authority {
    current: ArcSwap<CertificateAuthority>,
    /// The trust bundle that is to be distributed.
    bundle: watch::Sender<Arc<str>>,
    /// Signs as soon as everybody trusts its root.
    waiting: Mutex<Option<CertificateAuthority>>,
    /// Why the files as they are now cannot be used.
    problem: Mutex<Option<String>>,
    seen: Mutex<Option<Material>>,
    state: StateDirectory,
    source: RootSource,
    lifetime: Duration,
    provider: Arc<CryptoProvider>,
    ledger: Ledger,
    opened: Instant,
    rate: SigningRate,
}

/// Why no certificate was issued to somebody who may have one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertifyError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("too many certificates were issued for this identity in a short time")]
    TooMany,
    /// What is not written down is not issued.
    #[error("the certificate cannot be written down in the audit file")]
    Audit(#[source] std::io::Error),
}

impl Authority {
    /// Opens the authority, see [`CertificateAuthority::open`].
    pub(crate) fn open(
        state: &StateDirectory,
        source: &RootSource,
        lifetime: Duration,
        provider: Arc<CryptoProvider>,
    ) -> Result<Authority, AuthorityError> {
        let mut current = CertificateAuthority::open(state, source, lifetime, provider.clone())?;
        let ledger = Ledger::open(state);
        if let RootSource::Files { .. } = source {
            current = current.trusting(former_anchors(state)?.into_iter().filter(|former| in_use(&ledger, former)));
        }
        Ok(Authority {
            bundle: watch::Sender::new(current.trust_bundle().clone()),
            current: ArcSwap::from_pointee(current),
            waiting: Mutex::default(),
            problem: Mutex::default(),
            seen: Mutex::default(),
            state: state.clone(),
            source: source.clone(),
            lifetime,
            provider,
            ledger,
            opened: Instant::now(),
            rate: SigningRate::default(),
        })
    }

    /// What signs now.
    pub(crate) fn current(&self) -> Arc<CertificateAuthority> {
        self.current.load_full()
    }

    /// For how long it has been open.
    pub(crate) fn up(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The trust bundle that is to be distributed, told of with each change of the authority.
    pub(crate) fn bundle(&self) -> watch::Receiver<Arc<str>> {
        self.bundle.subscribe()
    }

    /// Certifies the public key of a request for an identity that was proven, and writes it down.
    pub(crate) fn certify(
        &self,
        request: &str,
        identity: &SpiffeId,
        wanted: Option<Duration>,
        proof: String,
        address: String,
    ) -> Result<Issued, CertifyError> {
        if !self.rate.admits(identity, Instant::now()) {
            return Err(CertifyError::TooMany);
        }
        let issued = self.current().issue(request, identity, wanted)?;
        let now = SystemTime::now();
        let seconds = |time| unix_seconds(time).unsigned_abs();
        let entry = Entry {
            at: seconds(now),
            identity: identity.to_string(),
            serial: issued.serial.clone(),
            root: issued.root.to_string(),
            until: seconds(issued.not_after),
            lasts: issued.not_after.duration_since(now).unwrap_or_default().as_secs(),
            address,
            proof,
        };
        self.ledger.issued(&entry).map_err(CertifyError::Audit)?;
        Ok(issued)
    }

    /// Takes up changes of the files, until stopped. `followers` says who follows the trust bundle, and how far they are.
    pub(crate) async fn keep_up(
        self: Arc<Self>,
        followers: impl Fn(&str) -> Followers,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        loop {
            metrics.authority_expiry.set(unix_seconds(self.current().expires()));
            metrics.authority_refused.set(i64::from(self.problem.lock().is_some()));
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
            self.look();
            let bundle = self.bundle.borrow().clone();
            self.settle(&followers(&bundle));
        }
    }

    /// Reads the files, and takes them up if they have changed and can be used.
    fn look(&self) {
        let mut seen = self.seen.lock();
        let found = match Material::read(&self.state, &self.source) {
            Ok(found) => found,
            Err(error) => return self.cannot_use(&error),
        };
        if seen.as_ref() == Some(&found) {
            return;
        }
        match CertificateAuthority::load(&found, self.lifetime, self.provider.clone()) {
            Ok(new) => {
                let first = seen.replace(found).is_none();
                if self.problem.lock().take().is_some() {
                    tracing::info!("the authority's files can be used again");
                }
                if !first || new.trust_bundle() != self.current().trust_bundle() {
                    self.take_up(new);
                }
            }
            // Certificate and key are two files, and change one after the other: they are looked at again.
            Err(error) => self.cannot_use(&error),
        }
    }

    fn cannot_use(&self, error: &dyn std::error::Error) {
        let problem = error.to_string();
        let mut known = self.problem.lock();
        if known.as_ref() != Some(&problem) {
            tracing::error!(
                problem,
                "the authority's files have changed and cannot be used, the authority before goes on"
            );
            *known = Some(problem);
        }
    }

    fn take_up(&self, new: CertificateAuthority) {
        let current = self.current();
        if self.source == RootSource::State {
            // Who takes the steps sees who would be cut off by them.
            return self.replace(new);
        }
        let trusted = |root: &str| current.anchors().iter().any(|anchor| *anchor.fingerprint == *root);
        let both = new.trusting(current.anchors().iter().cloned());
        if trusted(&new.root()) {
            *self.waiting.lock() = None;
            return self.replace(both);
        }
        tracing::info!(root = %new.root(), "a new root was found: it signs as soon as everybody who is connected trusts it");
        let more = new.anchors().to_vec();
        *self.waiting.lock() = Some(both);
        self.replace(current.trusting(more));
    }

    /// Goes on to what had to wait: a new root signs when all trust it, an old one is dropped when nothing of it is in use.
    fn settle(&self, followers: &Followers) {
        let ready = followers.behind.is_empty() && {
            let holders = self.holders(&followers.identities);
            to_come_back(&[TrustStatus { up: self.opened.elapsed().as_secs(), holders, ..TrustStatus::default() }])
                .is_empty()
        };
        if ready && let Some(ready) = self.waiting.lock().take() {
            tracing::info!(root = %ready.root(), "the new root is trusted by everybody who is connected, and signs from now on");
            self.replace(ready);
        }
        if self.source == RootSource::State || self.waiting.lock().is_some() {
            return;
        }
        let Some(found) = self.seen.lock().clone() else { return };
        let Ok(wanted) = CertificateAuthority::load(&found, self.lifetime, self.provider.clone()) else { return };
        let current = self.current();
        let kept = current.anchors().iter().filter(|anchor| in_use(&self.ledger, anchor)).cloned();
        let wanted = wanted.trusting(kept);
        if wanted.anchors().len() < current.anchors().len() && wanted.root() == current.root() {
            tracing::info!("no certificate of a former root is in use any more, it is not trusted from now on");
            self.replace(wanted);
        }
    }

    /// From now on.
    fn replace(&self, new: CertificateAuthority) {
        if let RootSource::Files { .. } = self.source {
            let anchors: String = new.anchors().iter().map(|anchor| anchor.pem.as_str()).collect();
            if let Err(error) = self.state.write(FORMER_ANCHORS, &anchors) {
                tracing::error!(%error, "the trust anchors cannot be kept for a restart");
            }
        }
        tracing::info!(root = %new.root(), anchors = new.anchors().len(), "the authority has changed");
        let bundle = new.trust_bundle().clone();
        self.current.store(Arc::new(new));
        self.bundle.send_replace(bundle);
    }

    /// Who holds certificates, and who of them is connected.
    fn holders(&self, connected: &BTreeMap<String, usize>) -> BTreeMap<String, HolderStatus> {
        let mut holders: BTreeMap<String, HolderStatus> = BTreeMap::new();
        for (identity, certificates) in self.ledger.held() {
            holders.entry(identity).or_default().certificates = certificates;
        }
        for (identity, connected) in connected {
            holders.entry(identity.clone()).or_default().connected = *connected;
        }
        holders
    }

    /// What people are told.
    pub(crate) fn status(&self, followers: Followers) -> TrustStatus {
        let current = self.current();
        let seconds = |time| unix_seconds(time).unsigned_abs();
        let anchors = current.anchors().iter().enumerate().map(|(place, anchor)| {
            let in_use = self.ledger.of_root(&anchor.fingerprint);
            AnchorStatus {
                subject: anchor.subject.clone(),
                fingerprint: anchor.fingerprint.to_string(),
                expires: seconds(anchor.expires),
                signs: place == 0,
                certificates: in_use.certificates,
                last_ends: in_use.until.map(seconds),
                holders: in_use.holders,
            }
        });
        TrustStatus {
            anchors: anchors.collect(),
            followers: followers.number,
            up_to_date: followers.number - followers.behind.len(),
            behind: followers.behind,
            waiting: self.waiting.lock().as_ref().map(|waiting| waiting.root().to_string()),
            problem: self.problem.lock().clone(),
            up: self.opened.elapsed().as_secs(),
            holders: self.holders(&followers.identities),
        }
    }
}

fn in_use(ledger: &Ledger, anchor: &Anchor) -> bool {
    ledger.of_root(&anchor.fingerprint).certificates > 0
}

fn former_anchors(state: &StateDirectory) -> Result<Vec<Anchor>, StateError> {
    Ok(state.read(FORMER_ANCHORS)?.and_then(|text| ca::anchors(&text)).unwrap_or_default())
}

//! What API servers verify the admission webhook with: `caBundle` of the chart's MutatingWebhookConfiguration, kept to what the mesh trusts.
//!
//! While a root is replaced, the webhook's certificate is of one root and a moment later of another. API servers are told of the new root as soon
//! as it is distributed, and it does not sign before they are ([`Told`]). The old one stays for an hour after it is trusted no more, because other
//! replicas may be later. Only the replica that holds the lease writes; webhooks of that configuration that lead elsewhere are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::ca::{self, Anchor};

/// The configuration, and the Service that its webhooks lead to.
pub(crate) const CONFIGURATION: &str = "malla-sidecars";
const SERVICE: &str = "malla-control";
/// How often to look what stands there: Helm writes it too.
const PERIOD: Duration = Duration::from_secs(30);
/// After a failure, and while something is to be told.
const PAUSE: Duration = Duration::from_secs(1);
/// API servers follow what is written a moment later, each for itself.
const TAKEN: Duration = Duration::from_secs(5);
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long after the last change of what is trusted, nothing else is left in the bundle.
const SETTLED: Duration = Duration::from_secs(3600);

/// What API servers are known to verify the webhook with.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Knowledge>);

#[derive(Debug, Default)]
enum Knowledge {
    /// Nobody has looked yet, or the API server does not say.
    #[default]
    None,
    /// There is no configuration: nobody is told anything.
    NobodyAsks,
    /// These roots, by fingerprint, and since when each is known to be there.
    Roots(BTreeMap<Arc<str>, Instant>),
}

impl Told {
    /// Whether API servers know all of a trust bundle, and have had the time to follow it.
    pub(crate) fn knows(&self, bundle: &str) -> bool {
        match &*self.0.lock() {
            Knowledge::None => false,
            Knowledge::NobodyAsks => true,
            Knowledge::Roots(known) => ca::anchors(bundle).is_some_and(|anchors| {
                let taken =
                    |anchor: &Anchor| known.get(&anchor.fingerprint).is_some_and(|since| since.elapsed() > TAKEN);
                anchors.iter().all(taken)
            }),
        }
    }

    fn found(&self, roots: Option<BTreeSet<Arc<str>>>) {
        let mut knowledge = self.0.lock();
        let Some(roots) = roots else {
            *knowledge = Knowledge::NobodyAsks;
            return;
        };
        let before = match std::mem::take(&mut *knowledge) {
            Knowledge::Roots(before) => before,
            _ => BTreeMap::new(),
        };
        let since = |root: &Arc<str>| before.get(root).copied().unwrap_or_else(Instant::now);
        *knowledge = Knowledge::Roots(roots.into_iter().map(|root| (root.clone(), since(&root))).collect());
    }
}

/// Keeps the bundle, and looks what stands there, until stopped.
pub(crate) async fn keep_believed(
    client: Client,
    namespace: String,
    mut trusted: watch::Receiver<Arc<str>>,
    mut leads: watch::Receiver<bool>,
    told: Arc<Told>,
    stop: CancellationToken,
) {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration");
    let resource = ApiResource::from_gvk_with_plural(&kind, "mutatingwebhookconfigurations");
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let (mut changed, mut failing) = (Instant::now(), false);
    loop {
        let bundle = trusted.borrow_and_update().clone();
        let anchors = ca::anchors(&bundle).unwrap_or_default();
        let leading = *leads.borrow_and_update();
        let settled = changed.elapsed() > SETTLED;
        let looking = timeout(PATIENCE, look(&api, &namespace, &anchors, leading.then_some(settled)));
        let problem = match stop.run_until_cancelled(looking).await {
            None => return,
            Some(Ok(Ok(roots))) => {
                told.found(roots);
                None
            }
            Some(Ok(Err(error))) => Some(crate::source::chain(&error)),
            Some(Err(_)) => Some("no answer in time".to_owned()),
        };
        if let Some(error) = problem.as_ref().filter(|_| !failing) {
            tracing::warn!(error, "API servers cannot be told of the root that the webhook's certificate is of");
        }
        failing = problem.is_some();
        // Somebody waits for it.
        let pause = if failing || !told.knows(&bundle) { PAUSE } else { PERIOD };
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = trusted.changed() => changed = Instant::now(),
            Ok(()) = leads.changed() => {}
            () = sleep(pause) => {}
        }
    }
}

/// The roots that all webhooks which lead here are verified with, after writing what is missing if this replica writes; `None` if there is
/// no such webhook.
async fn look(
    api: &Api<DynamicObject>,
    namespace: &str,
    trusted: &[Anchor],
    writes: Option<bool>,
) -> kube::Result<Option<BTreeSet<Arc<str>>>> {
    let Some(mut configuration) = api.get_opt(CONFIGURATION).await? else { return Ok(None) };
    let (mut common, mut changes) = (None::<BTreeSet<Arc<str>>>, false);
    for webhook in configuration.data["webhooks"].as_array_mut().into_iter().flatten() {
        let client = &mut webhook["clientConfig"];
        if client["service"]["name"] != SERVICE || client["service"]["namespace"] != namespace {
            continue;
        }
        let mut written = client["caBundle"].as_str().and_then(decoded).unwrap_or_default();
        if let Some(better) = writes.and_then(|settled| bundle(&written, trusted, settled)) {
            client["caBundle"] = STANDARD.encode(&better).into();
            (written, changes) = (better, true);
        }
        let roots = fingerprints(&ca::anchors(&written).unwrap_or_default());
        common = Some(common.map_or(roots.clone(), |common| common.intersection(&roots).cloned().collect()));
    }
    if changes {
        // Who else has written it meanwhile is looked at again, as after every failure.
        api.replace(CONFIGURATION, &PostParams::default(), &configuration).await?;
        tracing::info!(roots = trusted.len(), "API servers are told which roots the webhook's certificate may be of");
    }
    Ok(common)
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// The bundle that should stand where another is written; nothing if that is as good.
fn bundle(written: &str, trusted: &[Anchor], settled: bool) -> Option<String> {
    let mut known = ca::anchors(written).unwrap_or_default();
    if settled {
        known.clear();
    }
    known.retain(|anchor| trusted.iter().all(|trusted| trusted.fingerprint != anchor.fingerprint));
    let wanted: Vec<Anchor> = trusted.iter().cloned().chain(known).collect();
    let differs = fingerprints(&wanted) != fingerprints(&ca::anchors(written).unwrap_or_default());
    differs.then(|| wanted.iter().map(|anchor| anchor.pem.as_str()).collect())
}

fn fingerprints(anchors: &[Anchor]) -> BTreeSet<Arc<str>> {
    anchors.iter().map(|anchor| anchor.fingerprint.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> (String, Vec<Anchor>) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("signed").pem();
        let anchors = ca::anchors(&pem).expect("PEM");
        (pem, anchors)
    }

    #[test]
    fn a_bundle_grows_at_once_and_shrinks_when_others_have_had_time() {
        let ((old, of_old), (new, of_new)) = (root("old"), root("new"));
        let holds = |bundle: &str| [bundle.contains(old.trim()), bundle.contains(new.trim())];
        assert_eq!(bundle(&old, &of_old, false), None, "it is there");
        assert_eq!(bundle(&format!("# ours\n{old}\n\n"), &of_old, true), None, "however it is written");
        for nothing in ["", "garbage"] {
            assert_eq!(holds(&bundle(nothing, &of_new, false).expect("is written")), [false, true]);
        }
        let both = bundle(&old, &of_new, false).expect("grows");
        assert_eq!(holds(&both), [true, true]);
        assert_eq!(bundle(&both, &of_new, false), None, "another replica may still use the old one");
        assert_eq!(holds(&bundle(&both, &of_new, true).expect("shrinks")), [false, true]);
        let two = [of_new, of_old].concat();
        assert_eq!(bundle(&both, &two, true), None, "while both are trusted");
    }
}

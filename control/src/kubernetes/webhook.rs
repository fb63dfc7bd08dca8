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
/// While something is to be told.
const SOON: Duration = Duration::from_secs(1);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);
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

    /// Whether API servers are told all of a trust bundle, as far as that was looked at.
    pub(crate) fn holds(&self, bundle: &str) -> bool {
        match &*self.0.lock() {
            Knowledge::None => false,
            Knowledge::NobodyAsks => true,
            Knowledge::Roots(known) => ca::anchors(bundle)
                .is_some_and(|anchors| anchors.iter().all(|anchor| known.contains_key(&anchor.fingerprint))),
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
        // Whatever else woke this.
        if trusted.has_changed().is_ok_and(|has_changed| has_changed) {
            changed = Instant::now();
        }
        let bundle = trusted.borrow_and_update().clone();
        let anchors = ca::anchors(&bundle).unwrap_or_default();
        let leading = *leads.borrow_and_update();
        let writes = (leading && !anchors.is_empty()).then(|| changed.elapsed() > SETTLED);
        let looking = timeout(PATIENCE, look(&api, &namespace, &anchors, writes));
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
        let pause = match (failing, told.knows(&bundle)) {
            (true, _) => PAUSE,
            (false, false) => SOON,
            (false, true) => PERIOD,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = trusted.changed() => changed = Instant::now(),
            Ok(()) = leads.changed() => {}
            () = sleep(pause) => {}
        }
    }
}

/// The roots that all webhooks which lead here are verified with; `None` if there is no such webhook. `writes`: before that, this replica writes
/// what is missing, and takes out what is trusted no more if that is settled.
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
    use http::{Method, StatusCode};
    use http_body_util::{BodyExt, Full};
    use serde_json::{Value, json};

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

    /// An API server with one configuration, or one that fails.
    struct Server {
        fails: bool,
        configuration: Value,
        reads: usize,
        writes: usize,
    }

    impl Server {
        fn answer(&mut self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
            match *method {
                Method::PUT => {
                    self.writes += 1;
                    self.configuration = serde_json::from_slice(body).expect("JSON");
                }
                _ => self.reads += 1,
            }
            match self.fails {
                true => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    json!({ "kind": "Status", "status": "Failure", "code": 500, "reason": "InternalError", "message": "as the test wants it" }),
                ),
                false => (StatusCode::OK, self.configuration.clone()),
            }
        }

        fn told(&self) -> String {
            let bundle = &self.configuration["webhooks"][0]["clientConfig"]["caBundle"];
            bundle.as_str().and_then(decoded).expect("base64 of PEM")
        }
    }

    /// What goes on beside a test, whose clock goes as fast as nothing happens.
    struct Running {
        server: Arc<Mutex<Server>>,
        trusted: watch::Sender<Arc<str>>,
        told: Arc<Told>,
        _leads: watch::Sender<bool>,
        _keeping: tokio_util::task::AbortOnDropHandle<()>,
    }

    fn running(written: &str, trusted: &str, fails: bool) -> Running {
        let service = json!({ "name": SERVICE, "namespace": "malla-system" });
        let webhook =
            json!({ "name": "a", "clientConfig": { "caBundle": STANDARD.encode(written), "service": service } });
        let configuration = json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": CONFIGURATION }, "webhooks": [webhook] });
        let server = Arc::new(Mutex::new(Server { fails, configuration, reads: 0, writes: 0 }));
        let answering = server.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let server = answering.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let (status, answer) = server.lock().answer(&head.method, &body);
                let body = Full::new(bytes::Bytes::from(answer.to_string()));
                http::Response::builder().status(status).body(body).map_err(kube::Error::HttpError)
            }
        });
        let client = Client::new(service, "malla-system");
        let (trusted, leads, told) =
            (watch::Sender::new(Arc::from(trusted)), watch::Sender::new(true), Arc::<Told>::default());
        let keeping = keep_believed(
            client,
            "malla-system".into(),
            trusted.subscribe(),
            leads.subscribe(),
            told.clone(),
            CancellationToken::new(),
        );
        let _keeping = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(keeping));
        Running { server, trusted, told, _leads: leads, _keeping }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_fails_is_asked_again_after_a_pause() {
        let (root, _) = root("root");
        let running = running("", &root, true);
        sleep(Duration::from_secs(60)).await;
        let reads = running.server.lock().reads;
        assert!((6..=13).contains(&reads), "{reads}");
        assert!(!running.told.knows(&root), "nobody knows what stands there");

        running.server.lock().fails = false;
        sleep(PAUSE + SOON + TAKEN + SOON).await;
        assert_eq!(running.server.lock().writes, 1);
        assert!(running.told.knows(&root));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_written_while_nothing_is_trusted() {
        let ((old, _), (new, _)) = (root("old"), root("new"));
        let running = running(&old, "", false);
        // Long enough for what is trusted no more to be taken out.
        sleep(SETTLED + PERIOD + PERIOD).await;
        assert_eq!(running.server.lock().writes, 0, "webhooks without roots are believed by nobody");
        running.trusted.send_replace(new.as_str().into());
        sleep(PAUSE).await;
        let server = running.server.lock();
        assert!(server.told().contains(old.trim()) && server.told().contains(new.trim()), "{}", server.told());
    }
}

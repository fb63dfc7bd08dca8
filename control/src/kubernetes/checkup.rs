//! Whether a cluster is as the mesh needs it: before Malla is installed, and after. Each thing that is not says what to do.
//!
//! Only asks. What is found is judged by pure functions; an API server that does not answer is a finding like any other.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use kube::Client;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::kinds::{Kind, permissions};
use crate::ca::{self, Anchor};
use crate::inject::{INJECT, SIDECAR, TRUST};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Objects of a page.
const PAGE: usize = 500;
/// A root that ends sooner is told of.
const ROOT_WARNING: Duration = Duration::from_secs(30 * 24 * 3600);
/// What the chart's Secret with the root is called, unless another is named.
const SECRET: &str = "malla-ca";
/// Names that are told of one kind of fault.
const NAMED: usize = 5;
/// Before this, sidecars are containers among others.
const NATIVE_SIDECARS: (u32, u32) = (1, 29);
/// Before this, nothing is promised.
const OLDEST: (u32, u32) = (1, 25);

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In a few words.
    pub what: String,
    /// What came out.
    pub outcome: Outcome,
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// As it should be.
    Good,
    /// It works, and should not stay so.
    Doubtful(Fault),
    /// It does not work.
    Wrong(Fault),
}

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: String,
}

/// What is expected to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing of Malla's yet.
    Before,
    /// All of it.
    After,
}

type Found<T> = Result<T, Fault>;

/// Looks at everything. `namespace` is the control server's.
pub async fn check(client: &Client, namespace: &str, stage: Stage) -> Vec<Finding> {
    let ask = Ask { client };
    let mut findings = Vec::new();
    let version = ask.get("/version").await.and_then(|version| server_version(&version));
    let answers = version.is_ok();
    findings.push(finding("the API server answers, and is new enough", version));
    if !answers {
        return findings;
    }
    findings.push(finding("Gateway API is installed", ask.served(Kind::HttpRoute).await));
    if stage == Stage::Before {
        return findings;
    }
    findings.push(finding("Malla's own kinds are installed", ask.own_kinds().await));
    findings.push(finding("the control server may do what it does", ask.roles(namespace).await));
    let workload = ask.get(&format!("/apis/apps/v1/namespaces/{namespace}/deployments/malla-control")).await;
    let secret = workload.as_ref().map_or(SECRET, root_secret).to_owned();
    findings.push(finding("the control server runs", workload.and_then(|found| runs(&found, namespace))));
    let of_service = "labelSelector=kubernetes.io/service-name%3Dmalla-control";
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{of_service}");
    let slices = ask.list(&path).await;
    findings.push(finding("its Service leads to it", slices.and_then(|slices| leads(&slices, namespace))));
    let root = ask.root(namespace, &secret).await;
    let known = root.as_ref().ok().cloned();
    findings.push(finding("the mesh's root is there, and lasts", root.and_then(|root| lasts(&root))));
    let webhook = ask.get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/malla-sidecars").await;
    let trusted = webhook.and_then(|webhook| webhook_is_complete(&webhook, namespace, known.as_ref()));
    findings.push(finding("the webhook is called, and believed", trusted));
    let namespaces = ask.list("/api/v1/namespaces").await;
    let pods = ask.list("/api/v1/pods").await;
    findings.push(finding(
        "labels of namespaces are words that mean something",
        namespaces.clone().and_then(|all| labels(&all)),
    ));
    let both = namespaces.and_then(|namespaces| Ok((namespaces, pods?)));
    let (namespaces, pods) = match both {
        Ok(both) => both,
        Err(fault) => {
            findings.push(finding("pods have their sidecars", Err(fault)));
            return findings;
        }
    };
    findings.push(finding("pods have their sidecars", sidecars(&namespaces, &pods)));
    findings.push(finding("sidecars are ready", ready(&pods)));
    findings.push(finding("sidecars know the root", known.map_or(Ok(()), |root| trusts(&pods, &root))));
    findings.push(finding("routes are followed", ask.routes().await));
    findings
}

/// All pods that have a sidecar, `namespace/name`.
///
/// # Errors
/// The API server does not tell.
pub async fn pods_with_sidecars(client: &Client) -> Result<Vec<String>, Fault> {
    let pods = Ask { client }.list("/api/v1/pods").await?;
    Ok(pods.iter().filter(|pod| has_sidecar(pod)).map(name).collect())
}

fn finding(what: &str, found: Found<()>) -> Finding {
    let outcome = match found {
        Ok(()) => Outcome::Good,
        Err(fault) if fault.advice.starts_with(DOUBTFUL) => {
            let advice = fault.advice.trim_start_matches(DOUBTFUL).to_owned();
            Outcome::Doubtful(Fault { found: fault.found, advice })
        }
        Err(fault) => Outcome::Wrong(fault),
    };
    Finding { what: what.to_owned(), outcome }
}

/// Marks advice about what works, and should not stay so.
const DOUBTFUL: &str = "soon: ";

fn wrong<T>(found: impl Into<String>, advice: impl Into<String>) -> Found<T> {
    Err(Fault { found: found.into(), advice: advice.into() })
}

/// Questions to the API server.
struct Ask<'a> {
    client: &'a Client,
}

impl Ask<'_> {
    async fn send(&self, request: http::Request<Vec<u8>>) -> Found<Value> {
        let path = request.uri().path().to_owned();
        let advice = match timeout(PATIENCE, self.client.request::<Value>(request)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status))) => {
                let found = format!("{path}: {} ({})", status.message, status.code);
                let advice = match status.code {
                    401 => "log in anew: the credentials of the kubeconfig are not taken",
                    403 => "use an account that may read it: `kubectl auth can-i --list` says what yours may",
                    404 => {
                        "install the chart: helm install malla deploy/helm/malla --namespace malla-system --create-namespace"
                    }
                    _ => "ask the API server's logs",
                };
                return wrong(found, advice);
            }
            Ok(Err(error)) => crate::source::chain(&error),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        wrong(advice, "look whether the kubeconfig names the right cluster, and whether it can be reached from here")
    }

    async fn get(&self, path: &str) -> Found<Value> {
        match http::Request::get(path).body(Vec::new()) {
            Ok(request) => self.send(request).await,
            Err(error) => wrong(error.to_string(), "report this"),
        }
    }

    /// All objects of a path, page by page.
    async fn list(&self, path: &str) -> Found<Vec<Value>> {
        let mut objects = Vec::new();
        let mut more = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut page = self.get(&format!("{path}{separator}limit={PAGE}{more}")).await?;
            if let Some(items) = page["items"].as_array_mut() {
                objects.append(items);
            }
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => more = format!("&continue={token}"),
                None => return Ok(objects),
            }
        }
    }

    async fn served(&self, kind: Kind) -> Found<()> {
        let place = kind.place();
        let version = place.versions.first().copied().unwrap_or_default();
        let listed = self.get(&format!("/apis/{}/{version}/{}?limit=1", place.group, place.plural)).await;
        listed.map(drop).or_else(|fault| match fault.found.ends_with("(404)") {
            true => wrong(
                format!("the cluster has no {}", place.name),
                "kubectl apply -f https://github.com/kubernetes-sigs/gateway-api/releases/latest/download/standard-install.yaml",
            ),
            false => Err(fault),
        })
    }

    async fn own_kinds(&self) -> Found<()> {
        let mut missing = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.place().group == "malla.dev") {
            let place = kind.place();
            match self.get(&format!("/apis/{}/v1alpha1/{}?limit=1", place.group, place.plural)).await {
                Ok(_) => {}
                Err(fault) if fault.found.ends_with("(404)") => missing.push(place.name.to_owned()),
                Err(fault) => return Err(fault),
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => wrong(
                format!("the cluster has no {}", named(&missing)),
                "malla schema --format crd | kubectl apply --server-side -f - (Helm does not bring kinds up to date)",
            ),
        }
    }

    /// Whether the control server's account has all permissions.
    async fn roles(&self, namespace: &str) -> Found<()> {
        let mut missing = Vec::new();
        for permission in permissions() {
            let (resource, subresource) = permission.resource.split_once('/').unwrap_or((&*permission.resource, ""));
            for verb in permission.verbs {
                let asked = json!({
                    "group": permission.group,
                    "resource": resource,
                    "subresource": subresource,
                    "name": permission.name.unwrap_or_default(),
                    "verb": verb,
                    "namespace": if permission.own_namespace { namespace } else { "" },
                });
                let review = json!({
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SubjectAccessReview",
                    "spec": { "user": format!("system:serviceaccount:{namespace}:malla-control"), "resourceAttributes": asked },
                });
                let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(review.to_string().into_bytes());
                let Ok(request) = request else { continue };
                if self.send(request).await?["status"]["allowed"] != true {
                    missing.push(format!("{verb} {}", permission.resource));
                }
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => wrong(
                format!("the service account malla-control may not {}", named(&missing)),
                "helm upgrade: the chart's ClusterRole and Role allow it; look for a policy that takes it away",
            ),
        }
    }

    /// The root certificate.
    async fn root(&self, namespace: &str, secret: &str) -> Found<Anchor> {
        let found = self.get(&format!("/api/v1/namespaces/{namespace}/secrets/{secret}")).await?;
        let root = found["data"]["tls.crt"].as_str().and_then(decoded).and_then(|text| ca::root_of(&text));
        root.map_or_else(
            || {
                wrong(
                    format!("the Secret {secret} has no certificate with its root in tls.crt"),
                    "give it tls.crt and tls.key (docs/identity.md), or delete it and `helm upgrade`",
                )
            },
            Ok,
        )
    }

    async fn routes(&self) -> Found<()> {
        let mut refused = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_route()) {
            let place = kind.place();
            for version in place.versions {
                let Ok(routes) = self.list(&format!("/apis/{}/{version}/{}", place.group, place.plural)).await else {
                    continue;
                };
                refused.extend(
                    routes
                        .iter()
                        .filter_map(|route| Some(format!("{} {}: {}", place.name, name(route), refusal(route)?))),
                );
                break;
            }
        }
        match refused.first() {
            None => Ok(()),
            Some(first) => wrong(
                first.clone(),
                format!("mend the route ({} in all): its conditions say what it needs", refused.len()),
            ),
        }
    }
}

/// What one of our conditions of a route complains of.
fn refusal(route: &Value) -> Option<&str> {
    let parents =
        route["status"]["parents"].as_array()?.iter().filter(|parent| parent["controllerName"] == "malla.dev/control");
    let mut conditions = parents.flat_map(|parent| parent["conditions"].as_array().into_iter().flatten());
    conditions.find(|condition| condition["status"] == "False")?["message"].as_str()
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).ok()?).ok()
}

fn name(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

/// `a, b, c and 7 more`.
fn named(names: &[String]) -> String {
    let told = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

fn server_version(version: &Value) -> Found<()> {
    let text = version["gitVersion"].as_str().unwrap_or_default();
    let mut numbers = text.trim_start_matches('v').split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return wrong(format!("it is Kubernetes {text}"), format!("bring it to {}.{} or later", OLDEST.0, OLDEST.1));
    }
    if version < NATIVE_SIDECARS {
        let advice = format!(
            "{DOUBTFUL}from 1.29 on sidecars are native; here they are containers among others, and Jobs get none"
        );
        return wrong(format!("it is Kubernetes {text}"), advice);
    }
    Ok(())
}

fn runs(deployment: &Value, namespace: &str) -> Found<()> {
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let ready = deployment["status"]["readyReplicas"].as_u64().unwrap_or(0);
    let advice = format!("kubectl logs -n {namespace} deployment/malla-control says what it waits for");
    match ready {
        0 => wrong(format!("none of {wanted} replicas is ready"), advice),
        ready if ready < wanted => {
            wrong(format!("{ready} of {wanted} replicas are ready"), format!("{DOUBTFUL}{advice}"))
        }
        _ => Ok(()),
    }
}

fn leads(slices: &[Value], namespace: &str) -> Found<()> {
    let mut endpoints = slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "malla-control")
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    match endpoints.any(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap_or(true)) {
        true => Ok(()),
        false => wrong(
            "no endpoint of the Service malla-control is ready: sidecars and API servers reach nobody",
            format!("kubectl describe -n {namespace} service malla-control: its selector must fit the pods"),
        ),
    }
}

/// The Secret that the control server has its root from.
fn root_secret(deployment: &Value) -> &str {
    let mut volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten();
    let named =
        volumes.find(|volume| volume["name"] == "ca").and_then(|volume| volume["secret"]["secretName"].as_str());
    named.unwrap_or(SECRET)
}

fn lasts(root: &Anchor) -> Found<()> {
    let rotate = "replace it before: docs/identity.md, \"A root that somebody else keeps\"";
    match root.expires.duration_since(SystemTime::now()) {
        Err(_) => wrong("the root has expired: nobody gets a certificate", rotate),
        Ok(left) if left < ROOT_WARNING => {
            wrong(format!("the root ends in {} days", left.as_secs() / 86_400), format!("{DOUBTFUL}{rotate}"))
        }
        Ok(_) => Ok(()),
    }
}

fn webhook_is_complete(webhook: &Value, namespace: &str, root: Option<&Anchor>) -> Found<()> {
    let upgrade = "helm upgrade: the chart writes it";
    let webhooks: Vec<&Value> = webhook["webhooks"].as_array().into_iter().flatten().collect();
    let paths: BTreeSet<&str> =
        webhooks.iter().filter_map(|webhook| webhook["clientConfig"]["service"]["path"].as_str()).collect();
    for path in ["/inject/namespace", "/inject/pod"] {
        if !paths.contains(path) {
            return wrong(format!("the MutatingWebhookConfiguration malla-sidecars has no {path}"), upgrade);
        }
    }
    for webhook in webhooks {
        let service = &webhook["clientConfig"]["service"];
        if service["namespace"] != namespace || service["name"] != "malla-control" {
            return wrong("the webhook leads to another Service than malla-control", upgrade);
        }
        let bundle = webhook["clientConfig"]["caBundle"].as_str().and_then(decoded).unwrap_or_default();
        if root.is_some_and(|root| !holds(&bundle, root)) {
            return wrong(
                "API servers verify the webhook with another root than the Secret has: no pod with a sidecar is created",
                format!(
                    "kubectl logs -n {namespace} deployment/malla-control says why it does not write the root there; or {upgrade}"
                ),
            );
        }
    }
    Ok(())
}

fn labels(namespaces: &[Value]) -> Found<()> {
    let strange: Vec<String> = namespaces
        .iter()
        .filter_map(|namespace| {
            let word = namespace["metadata"]["labels"][INJECT].as_str()?;
            let name = namespace["metadata"]["name"].as_str()?;
            (!matches!(word, "enabled" | "disabled")).then(|| format!("{name} ({INJECT}: {word})"))
        })
        .collect();
    match strange.is_empty() {
        true => Ok(()),
        false => wrong(
            format!("these get no sidecars: {}", named(&strange)),
            format!("kubectl label --overwrite namespace NAME {INJECT}=enabled"),
        ),
    }
}

/// Those that have ended, Jobs' for instance, have nothing any more.
fn has_sidecar(pod: &Value) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let mut containers = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    !ended && containers.any(|container| container["name"] == SIDECAR)
}

fn sidecars(namespaces: &[Value], pods: &[Value]) -> Found<()> {
    let meshed: BTreeSet<&str> = namespaces
        .iter()
        .filter(|namespace| namespace["metadata"]["labels"][INJECT] == "enabled")
        .filter_map(|namespace| namespace["metadata"]["name"].as_str())
        .collect();
    let bare: Vec<String> = pods
        .iter()
        .filter(|pod| {
            pod["metadata"]["namespace"].as_str().is_some_and(|namespace| meshed.contains(namespace))
                && pod["metadata"]["labels"][INJECT] != "disabled"
                && pod["spec"]["hostNetwork"] != true
                && pod["status"]["phase"] == "Running"
                && !has_sidecar(pod)
        })
        .map(name)
        .collect();
    match bare.is_empty() {
        true => Ok(()),
        false => wrong(
            format!("these were made before their namespace had the label: {}", named(&bare)),
            "kubectl rollout restart -n NAMESPACE deployment: pods get sidecars when they are made",
        ),
    }
}

fn ready(pods: &[Value]) -> Found<()> {
    let waiting: Vec<String> = pods
        .iter()
        .filter(|pod| has_sidecar(pod) && pod["status"]["phase"] == "Running")
        .filter(|pod| {
            let statuses = ["containerStatuses", "initContainerStatuses"].into_iter();
            let mut statuses = statuses.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
            statuses.any(|status| status["name"] == SIDECAR && status["ready"] == false)
        })
        .map(name)
        .collect();
    match waiting.is_empty() {
        true => Ok(()),
        false => wrong(
            format!("the sidecars of {} wait", named(&waiting)),
            format!("kubectl logs -n NAMESPACE POD -c {SIDECAR} says for what"),
        ),
    }
}

/// Whether a certificate is in a PEM text.
fn holds(text: &str, root: &Anchor) -> bool {
    ca::anchors(text).is_some_and(|anchors| anchors.iter().any(|anchor| anchor.fingerprint == root.fingerprint))
}

fn trusts(pods: &[Value], root: &Anchor) -> Found<()> {
    let strangers: Vec<String> = pods
        .iter()
        .filter(|pod| has_sidecar(pod))
        .filter(|pod| pod["metadata"]["annotations"][TRUST].as_str().is_some_and(|trust| !holds(trust, root)))
        .map(name)
        .collect();
    match strangers.is_empty() {
        true => Ok(()),
        false => wrong(
            format!("these were made with another root: {}", named(&strangers)),
            "kubectl rollout restart -n NAMESPACE deployment: they can get no certificate",
        ),
    }
}

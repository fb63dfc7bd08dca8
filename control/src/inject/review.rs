//! `AdmissionReview` of `admission.k8s.io/v1`: the question of an API server, and the answer.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Decision, INJECT, InjectionSettings, SkipReason, decide, diff};

/// Longest warning that kubectl shows whole.
const LONGEST_WARNING: usize = 256;

/// What the webhook's configuration has selected by: an API server does not send the labels of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// The namespace has `malla.dev/inject: enabled`; else only a label of the pod itself asks for a sidecar.
    pub enabled: bool,
    /// The Pod Security level that the namespace enforces, if it is not `privileged`.
    pub pod_security: Option<&'static str>,
}

/// What became of a pod, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It got a sidecar.
    Injected,
    /// It stayed as it was.
    Skipped(SkipReason),
    /// It was refused.
    Denied,
    /// It was not the creation of a pod.
    NotAPod,
}

impl Outcome {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Injected => "injected",
            Outcome::Skipped(reason) => reason.word(),
            Outcome::Denied => "denied",
            Outcome::NotAPod => "not_a_pod",
        }
    }
}

/// An answer for the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The `AdmissionReview` to send.
    pub body: Value,
    /// What became of the pod.
    pub outcome: Outcome,
}

/// What is no question. The sentence goes back to who asked.
#[derive(Debug, thiserror::Error)]
pub enum BadReview {
    /// No JSON, or other JSON.
    #[error("this is no AdmissionReview: {0}")]
    NotAReview(#[from] serde_json::Error),
    /// Of a version, or a kind, that is not known.
    #[error("{0} is not understood, only AdmissionReview of admission.k8s.io/v1")]
    Version(String),
    /// Without a question.
    #[error("this AdmissionReview has no request")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// Answers an API server.
///
/// # Errors
/// [`BadReview`]: what was sent is no question.
pub fn review(body: &[u8], namespace: Namespace, settings: &InjectionSettings) -> Result<Answer, BadReview> {
    let Review { api_version, kind, request } = serde_json::from_slice(body)?;
    if (&*api_version, &*kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(BadReview::Version(format!("{kind} of {api_version}")));
    }
    let request = request.ok_or(BadReview::NoRequest)?;
    let pods =
        request.resource.group.is_empty() && request.resource.resource == "pods" && request.sub_resource.is_empty();
    if !pods || request.operation != "CREATE" {
        return Ok(answer(&request.uid, json!({ "allowed": true }), Vec::new(), Outcome::NotAPod));
    }
    let mut labels = BTreeMap::new();
    if namespace.enabled {
        labels.insert(INJECT.to_owned(), "enabled".to_owned());
    }
    if let Some(level) = namespace.pod_security {
        labels.insert("pod-security.kubernetes.io/enforce".to_owned(), level.to_owned());
    }
    Ok(match decide(&request.object, &request.namespace, &labels, settings) {
        Decision::Inject { pod, warnings } => {
            // A list of steps is always JSON.
            let patch = serde_json::to_vec(&diff(&request.object, &pod)).unwrap_or_default();
            let allowed = json!({ "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch) });
            answer(&request.uid, allowed, warnings, Outcome::Injected)
        }
        Decision::Skip { reason, warnings } => {
            let allowed = json!({ "allowed": true, "auditAnnotations": { "not-injected": reason.sentence() } });
            answer(&request.uid, allowed, warnings, Outcome::Skipped(reason))
        }
        Decision::Deny(sentence) => {
            let status = json!({ "code": 422, "reason": "Invalid", "message": format!("Malla cannot add a sidecar: {sentence}") });
            answer(&request.uid, json!({ "allowed": false, "status": status }), Vec::new(), Outcome::Denied)
        }
    })
}

fn answer(uid: &str, mut response: Value, warnings: Vec<String>, outcome: Outcome) -> Answer {
    response["uid"] = json!(uid);
    if !warnings.is_empty() {
        let warnings: Vec<String> =
            warnings.iter().map(|warning| warning.chars().take(LONGEST_WARNING).collect()).collect();
        response["warnings"] = json!(warnings);
    }
    let body = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
    Answer { body, outcome }
}

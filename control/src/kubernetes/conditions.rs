//! What came of routes, written into their status: `Accepted` and `ResolvedRefs` for each parent that is a service (Gateway API,
//! `RouteParentStatus`). What other controllers wrote stays. Only the replica that holds the lease writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use malla_config::Code;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::store::{Kept, Key, Store};
use super::translate::{Fault, mesh_parents};
use crate::source::cluster::{Verdict, Verdicts};

/// Who wrote a status.
const CONTROLLER: &str = "malla.dev/control";
/// Longest sentence, as the API has it.
const MESSAGE_LIMIT: usize = 32_768;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// Writes until stopped.
pub(crate) async fn write(
    client: Client,
    store: Arc<Store>,
    mut verdicts: watch::Receiver<Option<Arc<Verdicts>>>,
    mut leads: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let mut touches = store.touches();
    loop {
        touches.mark_unchanged();
        let judged = verdicts.borrow_and_update().clone();
        let leading = *leads.borrow_and_update();
        // Nothing is said about routes before they have been read.
        let complete = match judged.filter(|_| leading) {
            Some(judged) => stop.run_until_cancelled(write_all(&client, &store, &judged, &leads)).await,
            None => Some(true),
        };
        let Some(complete) = complete else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = touches.changed() => {}
            Ok(()) = verdicts.changed() => {}
            Ok(()) = leads.changed() => {}
            () = sleep(PAUSE), if !complete => {}
        }
    }
}

/// Whether all that had to be written was.
async fn write_all(client: &Client, store: &Store, verdicts: &Verdicts, leads: &watch::Receiver<bool>) -> bool {
    let Some(objects) = store.whole() else { return true };
    let mut complete = true;
    for (key, kept) in objects.iter().filter(|(key, _)| key.kind.is_route()) {
        let now = Timestamp::now();
        let now = format!("{}", now.strftime("%Y-%m-%dT%H:%M:%SZ"));
        let Some(parents) = parents(key, kept, verdicts.get(key), &now) else { continue };
        let Some(version) = store.version(key.kind) else { continue };
        // The API server may have been long about the one before.
        if !*leads.borrow() {
            return true;
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &key.namespace, &key.kind.place().resource(version));
        // With the version that was read: another controller's entries are never overwritten unseen.
        let patch = json!({
            "metadata": { "resourceVersion": kept.resource_version },
            "status": { "parents": parents },
        });
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            // It has changed, and its change is on the way here; or it is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                tracing::warn!(route = %key, error = &error as &dyn std::error::Error, "its conditions cannot be written");
                complete = false;
            }
        }
    }
    complete
}

/// `status.parents` as it should be; nothing if it is so.
fn parents(key: &Key, kept: &Kept, verdict: Option<&Verdict>, now: &str) -> Option<Value> {
    let before: Vec<&Value> = kept.status["parents"].as_array().into_iter().flatten().collect();
    let (own, others): (Vec<&Value>, Vec<&Value>) =
        before.iter().partition(|entry| entry["controllerName"] == CONTROLLER);
    let wanted: Vec<Value> = mesh_parents(&kept.content["spec"])
        .into_iter()
        .map(|parent| {
            let known = own.iter().find(|entry| entry["parentRef"] == parent).map(|entry| &entry["conditions"]);
            let conditions: Vec<Value> = conditions(key, &parent, verdict)
                .into_iter()
                .map(|condition| written(condition, kept.generation, known, now))
                .collect();
            json!({ "parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions })
        })
        .collect();
    if own.iter().copied().eq(wanted.iter()) {
        return None;
    }
    Some(others.into_iter().cloned().chain(wanted).collect())
}

/// A condition, before it is written.
#[derive(Debug, PartialEq, Eq)]
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn conditions(key: &Key, parent: &Value, verdict: Option<&Verdict>) -> [Condition; 2] {
    let holds = |kind| Condition { kind, holds: true, reason: kind, message: String::new() };
    let (mut accepted, mut resolved) = (holds("Accepted"), holds("ResolvedRefs"));
    let Some(Verdict { errors, faults, earlier }) = verdict else { return [accepted, resolved] };
    let sentences = |of: &dyn Fn(Code) -> bool| -> Vec<&str> {
        errors.iter().filter(|(code, _)| of(*code)).map(|(_, sentence)| &**sentence).collect()
    };
    let about_references = |code| matches!(code, Code::DanglingReference | Code::NotGranted);
    let mut absent: Vec<&str> = faults
        .iter()
        .filter_map(|fault| match fault {
            Fault::NoBackend(sentence) => Some(&**sentence),
            Fault::NoParent(_) => None,
        })
        .collect();
    absent.extend(sentences(&about_references));
    if !absent.is_empty() {
        let refused = errors.iter().any(|(code, _)| *code == Code::NotGranted);
        let reason = if refused { "RefNotPermitted" } else { "BackendNotFound" };
        resolved = Condition { kind: "ResolvedRefs", holds: false, reason, message: absent.join("; ") };
    }
    if !errors.is_empty() {
        let instead = if *earlier { "its last good state is followed" } else { "it is not followed" };
        let what = sentences(&|_| true).join("; ");
        let only_references = errors.iter().all(|(code, _)| about_references(*code));
        let reason = if only_references { resolved.reason } else { "UnsupportedValue" };
        accepted = Condition { kind: "Accepted", holds: false, reason, message: format!("{instead}: {what}") };
    }
    let name = parent["name"].as_str().unwrap_or_default();
    let namespace = parent["namespace"].as_str().unwrap_or(&key.namespace);
    let sentence = format!("there is no service {name} in the namespace {namespace}");
    if faults.contains(&Fault::NoParent(sentence.clone())) {
        accepted = Condition { kind: "Accepted", holds: false, reason: "NoMatchingParent", message: sentence };
    }
    [accepted, resolved]
}

/// A condition as the API has it; since when it is so is kept.
fn written(condition: Condition, generation: i64, known: Option<&Value>, now: &str) -> Value {
    let Condition { kind, holds, reason, message } = condition;
    let status = if holds { "True" } else { "False" };
    let known = known.and_then(Value::as_array).into_iter().flatten().find(|known| known["type"] == kind);
    let since = known.filter(|known| known["status"] == status).and_then(|known| known["lastTransitionTime"].as_str());
    let message: String = message.chars().take(MESSAGE_LIMIT).collect();
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or(now),
    })
}

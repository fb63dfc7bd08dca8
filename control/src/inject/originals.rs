//! What stood in a pod where injection wrote something else, kept in an annotation of the pod, and the way back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pod::{self, Pod};
use super::{INIT, INJECTED, ORIGINALS, SIDECAR, TRUST, VOLUME};

/// What was replaced.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Originals {
    /// Annotations: what they were, or none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, Option<String>>,
    /// Container → path of a probe in it → what it asked: `httpGet`, `tcpSocket` or `grpc`, with its content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    probes: BTreeMap<String, BTreeMap<String, Value>>,
    /// Containers that were told of the HTTP proxy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) environment: Vec<String>,
}

/// Names of what a probe may ask over the network.
pub(super) const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

impl Originals {
    /// Remembers what a probe asked.
    pub(super) fn probe(&mut self, container: &str, path: &str, handler: Value) {
        self.probes.entry(container.to_owned()).or_default().insert(path.to_owned(), handler);
    }

    /// Writes an annotation and remembers what stood there.
    pub(super) fn annotate(&mut self, pod: &mut Value, key: &str, value: &str) {
        let before = pod::annotate(pod, key, value);
        self.annotations.insert(key.to_owned(), before.and_then(|before| before.as_str().map(str::to_owned)));
    }

    /// Writes itself into the pod, if there is something to remember.
    ///
    /// # Errors
    /// It is too large for an annotation.
    pub(super) fn write(&self, pod: &mut Value) -> Result<(), String> {
        if *self == Originals::default() {
            return Ok(());
        }
        let text = serde_json::to_string(self).map_err(|cause| format!("cannot keep the pod's probes: {cause}"))?;
        // Kubernetes takes 256 KiB of annotations in all.
        if text.len() > 64 << 10 {
            return Err(
                "the pod's probes are too long to be kept in an annotation: shorten their paths and headers".to_owned()
            );
        }
        pod::annotate(pod, ORIGINALS, text);
        Ok(())
    }
}

/// The pod as it was before injection; `None` if it has no sidecar of ours, or what is needed to restore it is damaged.
pub fn undo(pod: &Value) -> Option<Value> {
    let parsed = Pod::parse(pod).ok()?;
    parsed.annotation(INJECTED)?;
    let originals: Originals = match parsed.annotation(ORIGINALS) {
        Some(text) => serde_json::from_str(text).ok()?,
        None => Originals::default(),
    };
    let mut pod = pod.clone();
    for (list, names) in [("initContainers", &[INIT, SIDECAR][..]), ("containers", &[SIDECAR]), ("volumes", &[VOLUME])]
    {
        if let Some(items) = pod["spec"][list].as_array_mut() {
            items.retain(|item| !names.iter().any(|name| item["name"] == *name));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in pod::items(&mut pod, list) {
            restore(container, &originals);
        }
    }
    let annotations = pod["metadata"]["annotations"].as_object_mut()?;
    for key in [INJECTED, ORIGINALS, TRUST] {
        annotations.remove(key);
    }
    for (key, value) in originals.annotations {
        match value {
            Some(value) => annotations.insert(key, value.into()),
            None => annotations.remove(&key),
        };
    }
    // What is empty now was made by injection.
    if annotations.is_empty() {
        pod["metadata"].as_object_mut()?.remove("annotations");
        if pod["metadata"] == json!({}) {
            pod.as_object_mut()?.remove("metadata");
        }
    }
    let spec = pod["spec"].as_object_mut()?;
    for list in ["initContainers", "volumes"] {
        if spec.get(list).is_none_or(|items| *items == json!([]) || items.is_null()) {
            spec.remove(list);
        }
    }
    Some(pod)
}

fn restore(container: &mut serde_json::Map<String, Value>, originals: &Originals) {
    let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { return };
    for (path, handler) in originals.probes.get(&name).into_iter().flatten() {
        let mut fields = Some(&mut *container);
        for key in path.split('.') {
            fields = fields.and_then(|fields| fields.get_mut(key)).and_then(Value::as_object_mut);
        }
        if let (Some(probe), Some(handler)) = (fields, handler.as_object()) {
            HANDLERS.iter().for_each(|handler| drop(probe.remove(*handler)));
            probe.extend(handler.clone());
        }
    }
    if originals.environment.contains(&name)
        && let Some(variables) = container.get_mut("env").and_then(Value::as_array_mut)
    {
        variables.retain(|variable| !["http_proxy", "no_proxy"].iter().any(|name| variable["name"] == *name));
        if variables.is_empty() {
            container.remove("env");
        }
    }
}

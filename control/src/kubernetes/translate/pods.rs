//! Pods: the workloads of a cluster.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Document, Places, Translation, derived, labels, of};
use crate::kubernetes::kinds::Kind;
use crate::kubernetes::store::{Kept, Key, Objects};

/// Longest label of DNS: what names of workloads are made of.
const LONGEST_NAME: usize = 63;
/// Labels by which newer clusters tell where a pod runs.
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether a pod can be a workload: it has an address of its own, which is not its node's, and a name that is a label of DNS.
pub(super) fn is_workload(key: &Key, pod: &Kept) -> bool {
    let content = &pod.content;
    let has_address = content["addresses"].as_array().is_some_and(|addresses| !addresses.is_empty());
    has_address
        && content["hostNetwork"] == false
        && content["ended"] == false
        && key.name.len() <= LONGEST_NAME
        && !key.name.contains('.')
}

/// What was written of pods before.
#[derive(Debug, Default)]
pub(super) struct Pods(HashMap<Key, Written>);

#[derive(Debug)]
struct Written {
    pod: Arc<Kept>,
    /// Where slices say that it is.
    zone: Option<Value>,
    document: Document,
}

impl Pods {
    /// Writes those with a sidecar, and those that are endpoints.
    pub(super) fn translate(&mut self, objects: &Objects, places: &Places, translation: &mut Translation) {
        let mut before = std::mem::take(&mut self.0);
        for (key, pod) in of(objects, Kind::Pod) {
            let zone = places.get(key);
            if !is_workload(key, pod) || !(pod.content["sidecar"] == true || zone.is_some()) {
                continue;
            }
            let same = |before: &Written| Arc::ptr_eq(&before.pod, pod) && before.zone.as_ref() == zone;
            let written = before.remove(key).filter(same).unwrap_or_else(|| Written {
                pod: pod.clone(),
                zone: zone.cloned(),
                document: document(key, pod, zone),
            });
            translation.documents.push(written.document.clone());
            self.0.insert(key.clone(), written);
        }
    }
}

fn document(key: &Key, pod: &Kept, zone: Option<&Value>) -> Document {
    let content = &pod.content;
    let mode = match (content["sidecar"] == true, content["mode"].as_str()) {
        (false, _) => "none",
        (true, Some("explicit")) => "explicit",
        (true, _) => "transparent",
    };
    let mut spec = json!({
        "address": content["addresses"][0],
        "serviceAccount": content["serviceAccount"],
        "sidecar": { "mode": mode },
    });
    if content["ports"].as_object().is_some_and(|ports| !ports.is_empty()) {
        spec["ports"] = content["ports"].clone();
    }
    let zone = zone.and_then(Value::as_str).or(content["labels"][ZONE].as_str());
    let region = content["labels"][REGION].as_str();
    for (field, value) in [("zone", zone), ("region", region)] {
        if let Some(value) = value {
            spec["locality"][field] = json!(value);
        }
    }
    derived(key, Kind::Workload, &labels(&content["labels"]), json!({ "spec": spec }))
}

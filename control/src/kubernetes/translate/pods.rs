//! Pods: the workloads of a cluster.

use serde_json::{Value, json};

use super::{Places, Translation, derived, labels, of};
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

/// Writes those with a sidecar, and those that are endpoints.
pub(super) fn translate(objects: &Objects, places: &Places, translation: &mut Translation) {
    for (key, pod) in of(objects, Kind::Pod) {
        let content = &pod.content;
        let has_sidecar = content["sidecar"] == true;
        if !is_workload(key, pod) || !(has_sidecar || places.contains_key(key)) {
            continue;
        }
        let mode = match (has_sidecar, content["mode"].as_str()) {
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
        let zone = places.get(key).and_then(Value::as_str).or(content["labels"][ZONE].as_str());
        let region = content["labels"][REGION].as_str();
        for (field, value) in [("zone", zone), ("region", region)] {
            if let Some(value) = value {
                spec["locality"][field] = json!(value);
            }
        }
        translation.documents.push(derived(key, Kind::Workload, &labels(&content["labels"]), json!({ "spec": spec })));
    }
}

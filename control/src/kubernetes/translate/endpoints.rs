//! EndpointSlices: who serves each port of a service, as Kubernetes has found out. Readiness, named ports, headless services and
//! `publishNotReadyAddresses` are decided there already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::services::Services;
use super::{Document, Places, Translation, derived, of};
use crate::kubernetes::kinds::Kind;
use crate::kubernetes::store::{Kept, Key, Objects};

/// What was written of slices before.
#[derive(Debug, Default)]
pub(super) struct Slices(HashMap<Key, Written>);

#[derive(Debug)]
struct Written {
    of: Of,
    /// Nothing if it says nothing to the mesh.
    document: Option<Document>,
}

/// What a document follows from.
#[derive(Debug, PartialEq)]
struct Of {
    slice: SameAs,
    service: Arc<str>,
    /// Names of the service's ports.
    ports: BTreeMap<u64, String>,
    /// For each endpoint, whether the mesh can name the pod behind it.
    pods: Vec<bool>,
    last_resort: bool,
}

/// Two are equal if they are the same.
#[derive(Debug)]
struct SameAs(Arc<Kept>);

impl PartialEq for SameAs {
    fn eq(&self, other: &SameAs) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Slices {
    /// Writes the slices; says which pods they name, and in which zone those are.
    pub(super) fn translate(
        &mut self,
        objects: &Objects,
        services: &Services,
        translation: &mut Translation,
    ) -> Places {
        let mut places = Places::new();
        let mut slices: Vec<(&Key, &Arc<Kept>, super::services::Name)> = Vec::new();
        let mut served = BTreeSet::new();
        for (key, kept) in of(objects, Kind::EndpointSlice) {
            let Some(service) = kept.content["service"].as_str() else { continue };
            let name = (key.namespace.clone(), service.into());
            if !services.inside.contains_key(&name)
                || !matches!(kept.content["addressType"].as_str(), Some("IPv4" | "IPv6"))
            {
                continue;
            }
            if endpoints(kept).any(is_ready) {
                served.insert(name.clone());
            }
            slices.push((key, kept, name));
        }
        let mut before = std::mem::take(&mut self.0);
        for (key, kept, name) in slices {
            let mut pods = Vec::new();
            for written in endpoints(kept) {
                let pod = pod(objects, key, written);
                pods.push(pod.is_some());
                if let Some(pod) = pod {
                    places.entry(pod).or_insert(written["zone"].clone());
                }
            }
            let of = Of {
                slice: SameAs(kept.clone()),
                ports: services.ports.get(&name).cloned().unwrap_or_default(),
                pods,
                // As kube-proxy does: where nobody is ready, those that are ending and still answer are better than nobody.
                last_resort: !served.contains(&name),
                service: name.1,
            };
            let written = before.remove(key).filter(|before| before.of == of);
            let written = written.unwrap_or_else(|| Written { document: of.document(key), of });
            translation.documents.extend(written.document.clone());
            self.0.insert(key.clone(), written);
        }
        of_workloads(objects, services, translation);
        places
    }
}

impl Of {
    fn document(&self, key: &Key) -> Option<Document> {
        let content = &self.slice.0.content;
        let ports: Vec<Value> = content["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|port| {
                port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP").then_some(())?;
                let of_service = port["name"].as_str().unwrap_or_default();
                self.ports.values().any(|name| name == of_service).then_some(())?;
                Some(json!({ "name": of_service, "port": port["port"].as_u64()? }))
            })
            .collect();
        let endpoints: Vec<Value> = endpoints(&self.slice.0)
            .zip(&self.pods)
            .map(|(written, is_pod)| endpoint(written, *is_pod, self.last_resort))
            .collect();
        let labels = json!({ "kubernetes.io/service-name": &*self.service });
        let content = json!({ "addressType": content["addressType"], "ports": ports, "endpoints": endpoints });
        let says_something = !ports.is_empty() && !endpoints.is_empty();
        says_something.then(|| derived(key, Kind::EndpointSlice, &labels, content))
    }
}

fn endpoints(kept: &Kept) -> impl Iterator<Item = &Value> {
    let endpoints = kept.content["endpoints"].as_array().into_iter().flatten();
    endpoints.filter(|endpoint| endpoint["addresses"].as_array().is_some_and(|addresses| !addresses.is_empty()))
}

fn is_ready(endpoint: &Value) -> bool {
    endpoint["conditions"]["ready"].as_bool().unwrap_or(true)
}

/// The pod behind an endpoint, if it is one that the mesh can name.
fn pod(objects: &Objects, slice: &Key, endpoint: &Value) -> Option<Key> {
    let target = &endpoint["targetRef"];
    (target["kind"] == "Pod").then_some(())?;
    let key = Key { kind: Kind::Pod, namespace: slice.namespace.clone(), name: target["name"].as_str()?.into() };
    objects.get(&key).is_some_and(|pod| super::pods::is_workload(&key, pod)).then_some(key)
}

fn endpoint(written: &Value, is_pod: bool, last_resort: bool) -> Value {
    let conditions = &written["conditions"];
    let ready = is_ready(written);
    let terminating = conditions["terminating"].as_bool().unwrap_or(false);
    let serves = last_resort && terminating && conditions["serving"].as_bool().unwrap_or(false);
    let mut endpoint = json!({
        "addresses": written["addresses"],
        // One that is ready and ending is so by `publishNotReadyAddresses`.
        "conditions": { "ready": ready || serves, "terminating": terminating && !ready && !serves },
    });
    for field in ["zone", "hostname"] {
        if let Some(value) = written[field].as_str() {
            endpoint[field] = json!(value);
        }
    }
    if is_pod {
        endpoint["targetRef"] = json!({ "kind": "Pod", "name": written["targetRef"]["name"] });
    }
    endpoint
}

/// Processes outside of the cluster that a service selects: what the endpoint controller does for pods.
fn of_workloads(objects: &Objects, services: &Services, translation: &mut Translation) {
    for (name, selector) in &services.inside {
        let Some(selector) = selector.as_object().filter(|selector| !selector.is_empty()) else { continue };
        let Some(service) = objects.get(&Key { kind: Kind::Service, namespace: name.0.clone(), name: name.1.clone() })
        else {
            continue;
        };
        for (key, workload) in of(objects, Kind::Workload).filter(|(key, _)| key.namespace == name.0) {
            let labels = &workload.content["labels"];
            let spec = &workload.content["spec"];
            let Some(address) = spec["address"].as_str() else { continue };
            if selector.iter().any(|(label, value)| labels[label] != *value) {
                continue;
            }
            let ports: Vec<Value> = service.content["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|port| {
                    port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP").then_some(())?;
                    let target = match &port["targetPort"] {
                        Value::String(named) => &spec["ports"][named],
                        Value::Null => &port["port"],
                        number => number,
                    };
                    Some(json!({ "name": port["name"].as_str().unwrap_or_default(), "port": target.as_u64()? }))
                })
                .collect();
            if ports.is_empty() {
                continue;
            }
            let slice = Key {
                kind: Kind::EndpointSlice,
                namespace: name.0.clone(),
                name: format!("{}-workload-{}", name.1, key.name).into(),
            };
            let labels = json!({ "kubernetes.io/service-name": &*name.1 });
            let family = if address.contains(':') { "IPv6" } else { "IPv4" };
            let target = json!({ "kind": "Workload", "name": &*key.name });
            let endpoints = json!([{ "addresses": [address], "targetRef": target }]);
            let content = json!({ "addressType": family, "ports": ports, "endpoints": endpoints });
            translation.documents.push(derived(&slice, Kind::EndpointSlice, &labels, content));
        }
    }
}

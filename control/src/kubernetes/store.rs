//! What is known of a cluster: of each object the part that matters, and which kinds have been listed.
//!
//! Memory is bounded by what the cluster holds: managed fields, annotations, containers and states are dropped as they arrive. An
//! event that changes nothing of what is kept wakes nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::DynamicObject;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::kinds::Kind;

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    /// Empty for what is in none.
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind.name(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.name(), self.name),
        }
    }
}

/// What is kept of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// RFC 3339, in seconds: what is older has precedence.
    pub(crate) created: String,
    /// The part that the mesh is made of.
    pub(crate) content: Value,
    /// `status` of routes, and the version that it was read at: for whoever writes it.
    pub(crate) status: Value,
    pub(crate) resource_version: String,
}

impl Kept {
    /// Whether another state of the object says the same about the mesh.
    fn means_the_same(&self, other: &Kept) -> bool {
        (&self.uid, self.generation, &self.created, &self.content)
            == (&other.uid, other.generation, &other.created, &other.content)
    }
}

/// All objects.
pub(crate) type Objects = BTreeMap<Key, Arc<Kept>>;

/// Shared by the watches, which write, and by whoever reads.
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
    /// Counts changes that matter to the mesh.
    changed: watch::Sender<u64>,
    /// Counts all, those of status too.
    touched: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    listed: BTreeSet<Kind>,
    /// The version of a kind that the cluster serves.
    served: BTreeMap<Kind, &'static str>,
    failing: BTreeMap<Kind, String>,
}

impl Default for Store {
    fn default() -> Self {
        Store { state: Mutex::default(), changed: watch::Sender::new(0), touched: watch::Sender::new(0) }
    }
}

impl Store {
    /// Learns of changes of what the mesh is made of.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Learns of all changes.
    pub(crate) fn touches(&self) -> watch::Receiver<u64> {
        self.touched.subscribe()
    }

    /// All objects, once every kind has been listed.
    pub(crate) fn whole(&self) -> Option<Objects> {
        let state = self.state.lock();
        (state.listed.len() == Kind::ALL.len()).then(|| state.objects.clone())
    }

    /// Whether every kind has been listed.
    pub(crate) fn is_whole(&self) -> bool {
        self.state.lock().listed.len() == Kind::ALL.len()
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Kept>> {
        self.state.lock().objects.get(key).cloned()
    }

    /// Kinds that cannot be followed at the moment, and why.
    pub(crate) fn failing(&self) -> BTreeMap<Kind, String> {
        self.state.lock().failing.clone()
    }

    /// Kinds that have never been listed.
    pub(crate) fn missing(&self) -> Vec<Kind> {
        let state = self.state.lock();
        Kind::ALL.into_iter().filter(|kind| !state.listed.contains(kind)).collect()
    }

    /// The version of a kind at which it was found.
    pub(crate) fn version(&self, kind: Kind) -> Option<&'static str> {
        self.state.lock().served.get(&kind).copied()
    }

    /// A version of a kind is served.
    pub(crate) fn serves(&self, kind: Kind, version: &'static str) {
        self.state.lock().served.insert(kind, version);
    }

    /// All objects of a kind are these.
    pub(crate) fn replace(&self, kind: Kind, found: Objects) {
        let mut state = self.state.lock();
        state.failing.remove(&kind);
        let mut changes = state.listed.insert(kind);
        let gone: Vec<Key> =
            state.objects.keys().filter(|key| key.kind == kind && !found.contains_key(key)).cloned().collect();
        changes |= !gone.is_empty();
        gone.iter().for_each(|key| drop(state.objects.remove(key)));
        for (key, kept) in found {
            changes |= put(&mut state, key, kept);
        }
        self.tell(state, changes);
    }

    /// An object is now this.
    pub(crate) fn apply(&self, kind: Kind, object: DynamicObject) {
        let mut state = self.state.lock();
        state.failing.remove(&kind);
        let Some((key, kept)) = keep(kind, object) else { return };
        let changes = put(&mut state, key, kept);
        self.tell(state, changes);
    }

    /// An object is gone.
    pub(crate) fn remove(&self, kind: Kind, object: DynamicObject) {
        let mut state = self.state.lock();
        state.failing.remove(&kind);
        let Some((key, _)) = keep(kind, object) else { return };
        let changes = state.objects.remove(&key).is_some();
        self.tell(state, changes);
    }

    /// A kind cannot be followed. True if this was not known.
    pub(crate) fn fails(&self, kind: Kind, why: String) -> bool {
        self.state.lock().failing.insert(kind, why).is_none()
    }

    /// A kind can be followed. True if it could not.
    pub(crate) fn works(&self, kind: Kind) -> bool {
        self.state.lock().failing.remove(&kind).is_some()
    }

    fn tell(&self, state: MutexGuard<'_, State>, changes: bool) {
        drop(state);
        if changes {
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
        self.touched.send_modify(|count| *count = count.wrapping_add(1));
    }
}

fn put(state: &mut State, key: Key, kept: Arc<Kept>) -> bool {
    match state.objects.get(&key) {
        // Whoever remembers something about it goes by which one it is.
        Some(before) if **before == *kept => false,
        before => {
            let changes = before.is_none_or(|before| !before.means_the_same(&kept));
            state.objects.insert(key, kept);
            changes
        }
    }
}

/// The name of an object and what is kept of it; nothing of one without a name.
pub(crate) fn keep(kind: Kind, object: DynamicObject) -> Option<(Key, Arc<Kept>)> {
    let DynamicObject { types: _, metadata, mut data } = object;
    let key = Key {
        kind,
        namespace: metadata.namespace.unwrap_or_default().into(),
        name: metadata.name.filter(|name| !name.is_empty())?.into(),
    };
    let labels = metadata.labels.unwrap_or_default();
    let annotations = metadata.annotations.unwrap_or_default();
    let spec = || data.get("spec").cloned().unwrap_or_else(|| json!({}));
    let content = match kind {
        Kind::Namespace => json!({ "inject": labels.get("malla.dev/inject") }),
        Kind::Pod => {
            let mut pod = pod(&data);
            pod.insert("labels".into(), json!(labels));
            pod.insert("mode".into(), json!(annotations.get("malla.dev/mode")));
            pod.insert("inject".into(), json!(labels.get("malla.dev/inject")));
            Value::Object(pod)
        }
        Kind::EndpointSlice => {
            let service = labels.get("kubernetes.io/service-name");
            json!({ "service": service, "addressType": data["addressType"], "ports": data["ports"], "endpoints": data["endpoints"] })
        }
        Kind::Workload => json!({ "labels": labels, "spec": spec() }),
        _ => json!({ "spec": spec() }),
    };
    let status = if kind.is_route() { data["status"].take() } else { Value::Null };
    let kept = Kept {
        uid: metadata.uid.unwrap_or_default(),
        // Pods and slices count their generations, or not; they mean nothing here.
        generation: if kind.is_route() { metadata.generation.unwrap_or_default() } else { 0 },
        created: metadata.creation_timestamp.map(|time| time.0.to_string()).unwrap_or_default(),
        content,
        status,
        resource_version: if kind.is_route() { metadata.resource_version.unwrap_or_default() } else { String::new() },
    };
    Some((key, Arc::new(kept)))
}

/// What matters of a pod: who it is, where it is, whether it has a sidecar, what its ports are called.
fn pod(data: &Value) -> Map<String, Value> {
    let (spec, status) = (&data["spec"], &data["status"]);
    let containers = || {
        let list = |name: &str| spec[name].as_array().into_iter().flatten();
        list("containers").chain(list("initContainers"))
    };
    let has_sidecar = containers().any(|container| container["name"] == crate::inject::SIDECAR);
    let mut ports = Map::new();
    for container in containers().filter(|container| container["name"] != crate::inject::SIDECAR) {
        for port in container["ports"].as_array().into_iter().flatten() {
            let is_tcp = port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
            let (true, Some(number)) = (is_tcp, port["containerPort"].as_u64()) else { continue };
            let name = port["name"].as_str().filter(|name| !name.is_empty());
            let name = name.map_or_else(|| format!("p-{number}"), str::to_owned);
            ports.entry(name).or_insert(json!(number));
        }
    }
    let addresses: Vec<&Value> = match status["podIPs"].as_array() {
        Some(addresses) => addresses.iter().map(|address| &address["ip"]).collect(),
        None => vec![&status["podIP"]],
    };
    let addresses: Vec<&str> = addresses.into_iter().filter_map(Value::as_str).collect();
    let ended = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    let mut pod = Map::new();
    pod.insert("addresses".into(), json!(addresses));
    pod.insert("serviceAccount".into(), json!(spec["serviceAccountName"].as_str().unwrap_or("default")));
    pod.insert("sidecar".into(), json!(has_sidecar));
    pod.insert("ports".into(), Value::Object(ports));
    pod.insert("hostNetwork".into(), json!(spec["hostNetwork"].as_bool().unwrap_or(false)));
    pod.insert("ended".into(), json!(ended));
    pod
}

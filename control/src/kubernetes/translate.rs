//! What a cluster holds → the documents that files would hold. Pure: the same objects give the same documents.
//!
//! Who serves what is taken from EndpointSlices, as Kubernetes decides it, never from selectors. A pod with a sidecar becomes a
//! `Workload`; one without only where it is an endpoint. Fields that mean nothing inside the mesh are left out; those that mean
//! something which the mesh does not do are told ([`Translation::notices`]). Refuses nothing: what is wrong with what people wrote,
//! loading says.

mod endpoints;
mod pods;
mod routes;
mod services;

pub(crate) use routes::mesh_parents;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_config::{SourceFile, Surroundings};
use serde_json::{Value, json};

use endpoints::Slices;
use pods::Pods;

use super::kinds::Kind;
use super::store::{Kept, Key, Objects};

/// The documents of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    /// In the order in which they are to be read.
    pub(crate) documents: Vec<Document>,
    /// What the mesh does not do with what it was told.
    pub(crate) notices: Vec<String>,
    /// What is already known to be wrong with routes.
    pub(crate) faults: BTreeMap<Key, Vec<Fault>>,
    /// What the documents do not say.
    pub(crate) surroundings: Surroundings,
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) file: Arc<SourceFile>,
    /// The object that it was made of, if people wrote that and its last good state is worth keeping.
    pub(crate) written: Option<Key>,
}

/// What is wrong with a route, where the rest of it serves all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A parent is not there.
    NoParent(String),
    /// A backend is not there.
    NoBackend(String),
}

impl Fault {
    /// For people.
    pub(crate) fn sentence(&self) -> &str {
        match self {
            Fault::NoParent(sentence) | Fault::NoBackend(sentence) => sentence,
        }
    }
}

/// Where endpoints are, and with which workload.
pub(super) type Places = BTreeMap<Key, Value>;

/// Translates all objects, again and again: what has not changed is not written a second time.
#[derive(Debug, Default)]
pub(crate) struct Translator {
    slices: Slices,
    pods: Pods,
}

impl Translator {
    /// Translates all objects. What was translated before makes no difference to what comes of it.
    pub(crate) fn translate(&mut self, objects: &Objects) -> Translation {
        let mut translation = Translation::default();
        let outside: BTreeSet<Arc<str>> = of(objects, Kind::Namespace)
            .filter(|(_, kept)| kept.content["inject"] != "enabled")
            .map(|(key, _)| key.name.clone())
            .collect();
        for kind in [Kind::Mesh, Kind::ReferenceGrant] {
            of(objects, kind).for_each(|(key, kept)| translation.as_written(key, kept));
        }
        let mut ports = services::translate(objects, &mut translation);
        // Routes may name services that are not there: they get stand-ins that nobody is behind.
        let routes = routes::translate(objects, &mut ports, &mut translation);
        let places = self.slices.translate(objects, &ports, &mut translation);
        self.pods.translate(objects, &places, &mut translation);
        let extensions = [Kind::FaultInjection, Kind::RateLimit, Kind::RetryPolicy, Kind::TraceSampling];
        for kind in [Kind::Workload].into_iter().chain(extensions).chain([Kind::TrafficPolicy]) {
            of(objects, kind).for_each(|(key, kept)| translation.as_written(key, kept));
        }
        translation.documents.extend(routes);
        for kind in [Kind::AuthorizationPolicy, Kind::RouteTest] {
            of(objects, kind).for_each(|(key, kept)| translation.as_written(key, kept));
        }
        translation.surroundings = Surroundings::Cluster { outside };
        translation
    }
}

/// The objects of a kind.
fn of(objects: &Objects, kind: Kind) -> impl Iterator<Item = (&Key, &Arc<Kept>)> {
    let first = Key { kind, namespace: "".into(), name: "".into() };
    objects.range(first..).take_while(move |(key, _)| key.kind == kind)
}

impl Translation {
    /// An object as it stands, without what only the API server reads.
    fn as_written(&mut self, key: &Key, kept: &Kept) {
        let spec = match key.kind {
            Kind::ReferenceGrant => match routes::grants(&kept.content["spec"]) {
                Some(spec) => spec,
                None => return,
            },
            _ => kept.content["spec"].clone(),
        };
        let document = document(key, &labels(&kept.content["labels"]), json!({ "spec": spec }));
        self.documents.push(document);
    }
}

/// A document of an object that people wrote.
fn document(key: &Key, labels: &Value, content: Value) -> Document {
    Document { file: file(key, key.kind, labels, content, Layout::ForPeople).into(), written: Some(key.clone()) }
}

/// A document that follows from objects that controllers wrote.
fn derived(key: &Key, kind: Kind, labels: &Value, content: Value) -> Document {
    Document { file: file(key, kind, labels, content, Layout::Compact).into(), written: None }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Its lines are shown in errors.
    ForPeople,
    Compact,
}

fn file(key: &Key, kind: Kind, labels: &Value, mut content: Value, layout: Layout) -> SourceFile {
    let place = kind.place();
    // One way to write each, whichever the cluster serves.
    let version = match (place.group, place.versions.first().copied().unwrap_or_default()) {
        ("", version) => version.to_owned(),
        (group, version) => format!("{group}/{version}"),
    };
    let mut metadata = json!({ "name": &*key.name });
    if !kind.is_global() {
        metadata["namespace"] = json!(&*key.namespace);
    }
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        metadata["labels"] = labels.clone();
    }
    content["apiVersion"] = json!(version);
    content["kind"] = json!(place.name);
    content["metadata"] = metadata;
    let text = match layout {
        Layout::ForPeople => serde_json::to_string_pretty(&content),
        Layout::Compact => serde_json::to_string(&content),
    };
    // A tree of JSON values is always JSON, which is YAML.
    SourceFile::new(key.to_string(), text.unwrap_or_default())
}

/// Labels without those that tell Malla something.
fn labels(written: &Value) -> Value {
    let written = written.as_object().into_iter().flatten();
    Value::Object(
        written
            .filter(|(key, _)| !key.starts_with("malla.dev/"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

#[cfg(test)]
pub(crate) mod tests;

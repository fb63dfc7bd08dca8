//! `metadata`: name, namespace and labels. Annotations are for other programs; those that would change how traffic
//! flows are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::Code;
use crate::kinds::Kind;
use crate::names;
use crate::schema_walk::{self, Walk};
use crate::suggest;
use crate::yaml::{Node, Value};

/// What Malla takes from `metadata`.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether `name` is one; if not, it is what was written, or nothing.
    pub(crate) named: bool,
    /// Whether `namespace` is one; if not, what the resource refers to may be anywhere.
    pub(crate) placed: bool,
}

/// Fields that people write.
const FIELDS: [&str; 4] = ["name", "namespace", "labels", "annotations"];

/// Fields that the API server and controllers write; they say nothing about the mesh.
const WRITTEN_BY_CLUSTERS: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Annotations of Kubernetes that ask for a routing which Malla does not implement.
const ROUTING_ANNOTATIONS: [&str; 2] =
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// Reads `metadata` of a document. What is wrong with it does not keep the rest of the document from being checked.
pub(crate) fn read(walk: &mut Walk<'_>, root: &Node, kind: Kind) -> Metadata {
    let nameless = Metadata {
        namespace: "default".into(),
        name: "".into(),
        labels: BTreeMap::new(),
        named: false,
        placed: !kind.namespaced(),
    };
    let Some(metadata) = root.get("metadata") else {
        walk.missing(root, "metadata");
        return nameless;
    };
    if metadata.entries().is_empty() {
        if !matches!(metadata.value, Value::Broken) {
            let help = "write `metadata:` with a `name:` below it";
            walk.report(Code::WrongType, metadata.span, "`metadata` must be a mapping", help);
        }
        return nameless;
    }
    for entry in metadata.entries() {
        if FIELDS.contains(&&*entry.key) || WRITTEN_BY_CLUSTERS.contains(&&*entry.key) {
            continue;
        }
        let help = match suggest::nearest(&entry.key, FIELDS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", FIELDS.join(", ")),
        };
        walk.report(Code::UnknownField, entry.key_span, format!("unknown field `{}` in `metadata`", entry.key), help);
    }
    if metadata.get("name").is_none() {
        walk.missing(metadata, "name");
    }
    let name = name(walk, metadata, "name", kind.named_by_label());
    let namespace = match metadata.entry("namespace") {
        None => Some("default".into()),
        Some(_) if kind.namespaced() => self::name(walk, metadata, "namespace", true),
        Some(entry) => {
            let help = "it is about the whole mesh: remove the line";
            walk.report(Code::NoEffect, entry.key_span, format!("{} has no namespace", kind.with_article()), help);
            Some("default".into())
        }
    };
    let labels = labels(walk, metadata);
    annotations(walk, metadata);
    let (named, placed) = (name.is_some(), namespace.is_some());
    let written = |field: &str| metadata.get(field).and_then(Node::as_str).unwrap_or_default().into();
    Metadata {
        namespace: namespace.unwrap_or_else(|| written("namespace")),
        name: name.unwrap_or_else(|| written("name")),
        labels,
        named,
        placed,
    }
}

fn name(walk: &mut Walk<'_>, metadata: &Node, field: &str, label: bool) -> Option<Arc<str>> {
    let node = metadata.get(field)?;
    let value = walk.string(&format!("metadata.{field}"), node)?;
    let checked = if label { names::dns_label(&value) } else { names::dns_subdomain(&value) };
    if let Err(fault) = checked {
        let help = if label { names::DNS_LABEL_HELP } else { names::DNS_SUBDOMAIN_HELP };
        walk.report(Code::InvalidValue, node.span, format!("`{value}` is not a valid {field}: {fault}"), help);
        return None;
    }
    Some(value.into())
}

fn labels(walk: &mut Walk<'_>, metadata: &Node) -> BTreeMap<String, String> {
    let Some(node) = metadata.get("labels") else { return BTreeMap::new() };
    let labels = walk.value("metadata.labels", node, schema_walk::string_map());
    for entry in node.entries() {
        let value = entry.value.as_str().unwrap_or_default();
        let faults = [
            (entry.key_span, &*entry.key, names::label_key(&entry.key)),
            (entry.value.span, value, names::label_value(value)),
        ];
        for (span, text, fault) in faults {
            if let Err(fault) = fault {
                let message = format!("`{text}` is not valid in a label: {fault}");
                walk.report(Code::InvalidValue, span, message, names::LABEL_HELP);
            }
        }
        refuse_own_prefix(walk, entry, "label");
    }
    labels.and_then(|labels| serde_json::from_value(labels).ok()).unwrap_or_default()
}

fn annotations(walk: &mut Walk<'_>, metadata: &Node) {
    let Some(node) = metadata.get("annotations") else { return };
    walk.value("metadata.annotations", node, schema_walk::string_map());
    for entry in node.entries() {
        refuse_own_prefix(walk, entry, "annotation");
        if ROUTING_ANNOTATIONS.contains(&&*entry.key) {
            let message = format!("the annotation `{}` is not supported yet", entry.key);
            let help = "remove it; sidecars prefer endpoints of their own zone by themselves";
            walk.report(Code::NotSupported, entry.key_span, message, help);
        }
    }
}

fn refuse_own_prefix(walk: &mut Walk<'_>, entry: &crate::yaml::Entry, what: &str) {
    if entry.key.starts_with("malla.dev/") {
        walk.report(Code::UnknownField, entry.key_span, format!("Malla has no {what} `{}`", entry.key), "remove it");
    }
}

//! What injection reads of a pod. Everything else is carried along unseen.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{INIT, INJECT, SIDECAR};

type Strings = BTreeMap<String, String>;

/// A pod, or the template of one.
#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    #[serde(default)]
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) generate_name: Option<String>,
    labels: Option<Strings>,
    annotations: Option<Strings>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) containers: Vec<Container>,
    pub(super) init_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Named>>,
    pub(super) host_network: Option<bool>,
    os: Option<Named>,
    node_selector: Option<Strings>,
    pub(super) security_context: Option<Ids>,
    pub(super) restart_policy: Option<String>,
    pub(super) termination_grace_period_seconds: Option<u64>,
    pub(super) dns_policy: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// User and group of a pod or of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ids {
    pub(super) run_as_user: Option<i64>,
    pub(super) run_as_group: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) ports: Option<Vec<Port>>,
    pub(super) security_context: Option<Ids>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) container_port: u16,
    pub(super) protocol: Option<String>,
}

impl Pod {
    /// Reads a pod.
    ///
    /// # Errors
    /// A sentence about what is no pod in it.
    pub(super) fn parse(pod: &Value) -> Result<Pod, String> {
        Pod::deserialize(pod).map_err(|cause| format!("this is not a pod that Malla can read: {cause}"))
    }

    pub(super) fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata.annotations.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&String> {
        self.metadata.annotations.as_ref()?.get(key)
    }

    pub(super) fn label(&self, key: &str) -> Option<&String> {
        self.metadata.labels.as_ref()?.get(key)
    }

    /// What label and annotation say about injection, in this order.
    pub(super) fn wants(&self) -> [Option<&String>; 2] {
        [self.label(INJECT), self.annotation(INJECT)]
    }

    pub(super) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().flatten().chain(&self.spec.containers)
    }

    /// Whether it has containers of ours.
    pub(super) fn has_sidecar(&self) -> bool {
        self.all_containers().any(|container| [SIDECAR, INIT].contains(&&*container.name))
    }

    pub(super) fn has_volume(&self, name: &str) -> bool {
        self.spec.volumes.iter().flatten().any(|volume| volume.name == name)
    }

    pub(super) fn is_windows(&self) -> bool {
        let windows = |system: &str| system.eq_ignore_ascii_case("windows");
        let selected = self.spec.node_selector.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
        self.spec.os.as_ref().is_some_and(|os| windows(&os.name)) || selected.is_some_and(|os| windows(os))
    }

    /// Whether it shall end by itself.
    pub(super) fn completes(&self) -> bool {
        self.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Job")
            || self.spec.restart_policy.as_deref().is_some_and(|policy| policy != "Always")
    }
}

/// Writes an annotation; gives what stood there.
pub(super) fn annotate(pod: &mut Value, key: &str, value: impl Into<Value>) -> Option<Value> {
    let metadata = child(pod, "metadata", || json!({}))?;
    child(metadata, "annotations", || json!({}))?.as_object_mut()?.insert(key.to_owned(), value.into())
}

/// A field of an object, which is made if there is none (or only `null`).
pub(super) fn child<'a>(parent: &'a mut Value, key: &str, make: fn() -> Value) -> Option<&'a mut Value> {
    let field = parent.as_object_mut()?.entry(key).or_insert_with(make);
    if field.is_null() {
        *field = make();
    }
    Some(field)
}

/// The objects of a list of the pod's specification, such as `containers`.
pub(super) fn items<'a>(pod: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

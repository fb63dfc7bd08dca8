//! Services: names, addresses and ports. Which of their fields are about something else is said in `malla_config`'s own reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Translation, document, of};
use crate::kubernetes::kinds::Kind;
use crate::kubernetes::store::{Key, Objects};

/// Namespace and name.
pub(super) type Name = (Arc<str>, Arc<str>);

/// What other documents need of the services: the ports of each, by number, with their names.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) ports: BTreeMap<Name, BTreeMap<u64, String>>,
    /// Those whose endpoints are slices.
    pub(super) inside: BTreeMap<Name, Value>,
}

pub(super) fn translate(objects: &Objects, translation: &mut Translation) -> Services {
    let mut services = Services::default();
    for (key, kept) in of(objects, Kind::Service) {
        let written = &kept.content["spec"];
        let external = written["type"] == "ExternalName";
        let ports: Vec<Value> = written["ports"].as_array().into_iter().flatten().filter_map(port).collect();
        // Of a service without TCP there is nothing to say; an external name without ports is a name of DNS, unless it is another
        // name of a service here, of which it has the ports.
        let stands_in = external && written["externalName"].as_str().is_some_and(is_of_cluster);
        if ports.is_empty() && !stands_in {
            continue;
        }
        let name = (key.namespace.clone(), key.name.clone());
        let numbers = ports
            .iter()
            .filter_map(|port| Some((port["port"].as_u64()?, port["name"].as_str().unwrap_or_default().to_owned())));
        services.ports.insert(name.clone(), numbers.collect());
        let mut spec = Map::new();
        if !ports.is_empty() {
            spec.insert("ports".into(), Value::Array(ports));
        }
        if external {
            spec.insert("type".into(), json!("ExternalName"));
            spec.insert("externalName".into(), written["externalName"].clone());
        } else {
            for field in ["clusterIPs", "externalIPs"] {
                if written[field].as_array().is_some_and(|list| !list.is_empty()) {
                    spec.insert(field.into(), written[field].clone());
                }
            }
            if !spec.contains_key("clusterIPs") && written["clusterIP"].is_string() {
                spec.insert("clusterIP".into(), written["clusterIP"].clone());
            }
            services.inside.insert(name, written["selector"].clone());
            translation.notices.extend(not_done(key, written));
        }
        translation.documents.push(document(key, &Value::Null, json!({ "spec": spec })));
    }
    services
}

/// Whether a name of DNS is that of a service of the cluster (`cart.shop.svc.cluster.local`).
fn is_of_cluster(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.strip_suffix(".cluster.local").unwrap_or(name).ends_with(".svc")
}

/// A port; nothing if it is not TCP. Its target is what the slices say.
fn port(written: &Value) -> Option<Value> {
    written["protocol"].as_str().is_none_or(|protocol| protocol == "TCP").then_some(())?;
    let mut port = json!({ "port": written["port"] });
    if let Some(name) = written["name"].as_str().filter(|name| !name.is_empty()) {
        port["name"] = json!(name);
    }
    // Other words are for other readers: what is spoken is detected.
    if let Some(word) = written["appProtocol"].as_str().filter(|word| malla_config::is_declarable(word)) {
        port["appProtocol"] = json!(word);
    }
    Some(port)
}

/// What kube-proxy would do, and the mesh does not.
fn not_done(key: &Key, spec: &Value) -> Option<String> {
    let asked: Vec<String> = [
        ("internalTrafficPolicy", "Local"),
        ("sessionAffinity", "ClientIP"),
        ("trafficDistribution", "PreferSameNode"),
    ]
    .into_iter()
    .filter(|(field, value)| spec[*field] == *value)
    .map(|(field, value)| format!("`{field}: {value}`"))
    .collect();
    (!asked.is_empty()).then(|| format!("{key}: sidecars do not follow {}", asked.join(" and ")))
}

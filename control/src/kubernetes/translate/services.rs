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
    /// Those that are other names of services here: nothing is attached to them.
    pub(super) other_names: BTreeMap<Name, Name>,
    /// Those whose endpoints are slices.
    pub(super) inside: BTreeMap<Name, Value>,
}

impl Services {
    /// Whether a service is here that routes can be attached to.
    pub(super) fn takes_routes(&self, name: &Name) -> bool {
        self.ports.contains_key(name) && !self.other_names.contains_key(name)
    }
}

pub(super) fn translate(objects: &Objects, translation: &mut Translation) -> Services {
    let mut services = Services::default();
    let mut of_other_names = BTreeMap::new();
    for (key, kept) in of(objects, Kind::Service) {
        let written = &kept.content["spec"];
        let external = written["type"] == "ExternalName";
        let ports: Vec<Value> = written["ports"].as_array().into_iter().flatten().filter_map(port).collect();
        // Of a service without TCP there is nothing to say; an external name without ports is a name of DNS, unless it is another
        // name of a service here, of which it has the ports.
        let behind = written["externalName"].as_str().filter(|_| external).and_then(of_cluster);
        if ports.is_empty() && behind.is_none() {
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
        let document = document(key, &Value::Null, json!({ "spec": spec }));
        match behind {
            None => translation.documents.push(document),
            Some(behind) => {
                let name = (key.namespace.clone(), key.name.clone());
                services.other_names.insert(name.clone(), behind);
                of_other_names.insert(name, document);
            }
        }
    }
    // A name of nothing is as good as no service: what names it must not fall with it.
    for (name, document) in of_other_names {
        match leads_to(&services, &name) {
            Some(behind) => {
                if services.ports.get(&name).is_none_or(BTreeMap::is_empty) {
                    let ports = services.ports.get(&behind).cloned().unwrap_or_default();
                    services.ports.insert(name, ports);
                }
                translation.documents.push(document);
            }
            None => {
                services.ports.remove(&name);
                let (namespace, name) = name;
                translation
                    .notices
                    .push(format!("Service {namespace}/{name} names no service that is here (`externalName`)"));
            }
        }
    }
    services
}

/// The service that another name stands for in the end, if it is here.
fn leads_to(services: &Services, name: &Name) -> Option<Name> {
    let mut at = services.other_names.get(name)?;
    for _ in 0..services.other_names.len() {
        match services.other_names.get(at) {
            Some(next) => at = next,
            None => return services.ports.contains_key(at).then(|| at.clone()),
        }
    }
    None
}

/// The service of the cluster of which this is the name in DNS (`cart.shop.svc.cluster.local`).
fn of_cluster(name: &str) -> Option<Name> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let inside = name.strip_suffix(".cluster.local").unwrap_or(name).strip_suffix(".svc")?;
    let (name, namespace) = inside.split_once('.')?;
    (!namespace.contains('.')).then(|| (namespace.into(), name.into()))
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

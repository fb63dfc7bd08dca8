//! `TrafficPolicy.spec.subsets` → [`mesh::Subset`]s: names, labels, and whether anybody carries them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::traffic_policy as api;
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::Index;
use crate::mesh::{EndpointSource, Service, Subset, SubsetFallback};
use crate::names;
use crate::suggest::{self, shown};

/// Subsets of one policy, at most: each is a cluster of its own to every sidecar that uses it.
const MOST: usize = 16;

/// The subsets of a policy.
pub(crate) fn ready(
    list: Cursor<'_>,
    written: &[api::Subset],
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Arc<str>, Subset> {
    if written.len() > MOST {
        let message = format!("`subsets` has {} items, and {MOST} are allowed", written.len());
        list.key().error(diagnostics, Code::InvalidValue, message, "write a service with a selector of its own");
    }
    let mut subsets = BTreeMap::new();
    for (at, api::Subset { name, labels, fallback }) in written.iter().enumerate() {
        let cursor = list.item(at);
        if let Err(fault) = names::dns_label(name) {
            let message = format!("`{}` is not a valid name of a subset: {fault}", shown(name));
            let help = "write lower-case letters, digits and `-`, as in `v2`";
            cursor.field("name").error(diagnostics, Code::InvalidValue, message, help);
        }
        if labels.is_empty() {
            let help = "write the labels that its workloads have, as in `labels: {version: v2}`";
            cursor.field("labels").error(diagnostics, Code::MissingField, "a subset needs a label", help);
        }
        let fallback = match fallback {
            None | Some(api::SubsetFallback::None) => SubsetFallback::None,
            Some(api::SubsetFallback::All) => SubsetFallback::All,
        };
        if subsets.insert(name.as_str().into(), Subset { labels: labels.clone(), fallback }).is_some() {
            let message = format!("the subset `{}` is written twice", shown(name));
            cursor.field("name").error(diagnostics, Code::Duplicate, message, "give each subset a name of its own");
        }
    }
    subsets
}

/// Warns of subsets that no endpoint of these services can belong to. (Of services whose endpoints are slices, that is not
/// known here.)
pub(crate) fn doubt(
    list: Cursor<'_>,
    written: &[api::Subset],
    services: &[&Service],
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) {
    let selectors: Option<Vec<_>> = services
        .iter()
        .map(|service| match &service.endpoints {
            EndpointSource::Selector(labels) => Some((&service.name.namespace, labels)),
            EndpointSource::Slices | EndpointSource::ExternalName(_) | EndpointSource::Service(_) => None,
        })
        .collect();
    let Some(selectors) = selectors.filter(|selectors| !selectors.is_empty()) else { return };
    let unread = index.workloads.values().any(|workload| workload.ready.is_none());
    if !index.complete || !index.unreadable.is_empty() || unread {
        return;
    }
    let workloads: Vec<_> = index.workloads.values().filter_map(|workload| workload.ready.as_ref()).collect();
    for (at, api::Subset { name, labels, .. }) in written.iter().enumerate() {
        let carries = |has: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| has.get(key) == Some(value))
        };
        let selected = workloads.iter().filter(|workload| {
            selectors.iter().any(|(namespace, selector)| {
                workload.name.namespace == **namespace && carries(&workload.labels, selector)
            })
        });
        if labels.is_empty() || selected.clone().any(|workload| carries(&workload.labels, labels)) {
            continue;
        }
        let values: Vec<String> = labels
            .keys()
            .flat_map(|key| {
                let values: std::collections::BTreeSet<_> =
                    selected.clone().filter_map(|workload| workload.labels.get(key)).collect();
                values.into_iter().map(move |value| format!("{key}={value}"))
            })
            .collect();
        let help = match values.is_empty() {
            true => "write labels that workloads of the service have".to_owned(),
            false => format!("they have {}", suggest::listing(values)),
        };
        let message = format!("no workload of the service has the labels of the subset `{}`", shown(name));
        list.item(at).field("labels").warning(diagnostics, Code::DanglingReference, message, help);
    }
}

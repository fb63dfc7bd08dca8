//! What can only be said about the whole: selectors that select nothing, services without endpoints, endpoints that
//! nobody may reach, addresses that are used twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::{Declared, Index};
use crate::mesh::{
    EndpointSlice, EndpointSource, MeshSettings, MtlsMode, Service, ServiceName, Sidecar, TargetPort, Workload,
};
use crate::object::Object;
use crate::suggest::{self, shown};

/// Services with a selector: it must select something that has the ports.
pub(crate) fn selectors(index: &Index<'_>, diagnostics: &mut Diagnostics) {
    let mut by_namespace: BTreeMap<&str, Vec<&Declared<'_, Workload>>> = BTreeMap::new();
    for workload in index.workloads.values() {
        by_namespace.entry(&workload.object.namespace).or_default().push(workload);
    }
    for Declared { object, ready } in index.services.values() {
        let Some(service) = ready else { continue };
        let EndpointSource::Selector(labels) = &service.endpoints else { continue };
        let neighbours = || by_namespace.get(&*object.namespace).into_iter().flatten().copied();
        // A workload that could not be read may be the one.
        if !index.complete || !index.unreadable.is_empty() || neighbours().any(|workload| workload.ready.is_none()) {
            continue;
        }
        let selected: Vec<&Workload> = neighbours()
            .filter_map(|workload| workload.ready.as_ref())
            .filter(|workload| labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
            .collect();
        if selected.is_empty() {
            selects_nothing(object, labels, neighbours(), diagnostics);
            continue;
        }
        let weights: u64 = selected.iter().map(|workload| u64::from(workload.weight)).sum();
        if weights > u64::from(u32::MAX) {
            let message = format!("the weights of the workloads of {} add up to more than {}", service.name, u32::MAX);
            let help = "write smaller weights: only their ratio counts";
            object.cursor().field("selector").error(diagnostics, Code::InvalidValue, message, help);
        }
        for (at, port) in service.ports.iter().enumerate() {
            let TargetPort::Name(name) = &port.target else { continue };
            if selected.iter().any(|workload| workload.ports.contains_key(name)) {
                continue;
            }
            let names: BTreeSet<&str> =
                selected.iter().flat_map(|workload| workload.ports.keys()).map(|name| &**name).collect();
            let help = match suggest::nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if names.is_empty() => {
                    format!("write the number here, or `ports: {{{name}: …}}` in the workloads")
                }
                None => format!("they have {}", suggest::listing(names)),
            };
            let message = format!("no workload that the service selects has a port named `{name}`");
            let cursor = object.cursor().field("ports").item(at).field("targetPort");
            cursor.error(diagnostics, Code::DanglingReference, message, help);
        }
    }
}

fn selects_nothing<'a>(
    object: &Object,
    labels: &BTreeMap<String, String>,
    neighbours: impl Iterator<Item = &'a Declared<'a, Workload>> + Clone,
    diagnostics: &mut Diagnostics,
) {
    let known = |key: &str| -> BTreeSet<&str> {
        neighbours.clone().filter_map(|workload| Some(workload.object.labels.get(key)?.as_str())).collect()
    };
    // The first pair that nobody carries is what is wrong; if each has its carriers, none has them all.
    let wrong = labels.iter().find(|(key, value)| !known(key).contains(value.as_str()));
    let help = match wrong {
        _ if neighbours.clone().next().is_none() => {
            format!("the namespace `{}` has no Workload: write one with these labels", object.namespace)
        }
        None => "each label is carried by a Workload, but none carries all of them".to_owned(),
        Some((key, value)) => match (suggest::nearest(value, known(key)), known(key)) {
            (Some(near), _) => format!("did you mean `{key}: {near}`?"),
            (None, values) if values.is_empty() => format!("no Workload there has a label `{}`", shown(key)),
            (None, values) => format!("values of `{}` there: {}", shown(key), suggest::listing(values)),
        },
    };
    let pairs = suggest::listing(labels.iter().map(|(key, value)| format!("{key}={value}")));
    let message = format!("no Workload in the namespace `{}` has the labels {pairs}", object.namespace);
    let selector = object.cursor().field("selector");
    let place = wrong.map_or(selector, |(key, _)| selector.field(key));
    place.error(diagnostics, Code::DanglingReference, message, help);
}

/// Services whose endpoints are slices: there must be some for each port, unless a route takes all their traffic
/// elsewhere.
pub(crate) fn slices(
    index: &Index<'_>,
    slices: &[(&Object, Option<EndpointSlice>)],
    parents: &BTreeSet<ServiceName>,
    diagnostics: &mut Diagnostics,
) {
    let mut of_service: BTreeMap<&ServiceName, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter_map(|(_, slice)| slice.as_ref()) {
        of_service.entry(&slice.service).or_default().push(slice);
    }
    // A slice that could not be read may be the one.
    if !index.complete || !index.unreadable.is_empty() || slices.iter().any(|(_, slice)| slice.is_none()) {
        return;
    }
    for (name, Declared { object, ready }) in &index.services {
        let Some(service) = ready.as_ref().filter(|service| service.endpoints == EndpointSource::Slices) else {
            continue;
        };
        match of_service.get(name) {
            None if parents.contains(name) => {}
            None => {
                let help = "write a `selector:` that selects workloads, an EndpointSlice, or a route for its traffic";
                let message = format!("the service {name} has no endpoints and no route");
                let name = object.root_cursor().field("metadata").field("name");
                name.error(diagnostics, Code::DanglingReference, message, help);
            }
            Some(found) => {
                for (at, port) in service.ports.iter().enumerate() {
                    if found.iter().any(|slice| slice.ports.contains_key(&port.name)) {
                        continue;
                    }
                    let message = match &*port.name {
                        "" => format!("no EndpointSlice of {name} has its port, which has no name"),
                        port => format!("no EndpointSlice of {name} has a port named `{port}`"),
                    };
                    let cursor = object.cursor().field("ports").item(at);
                    let help = "write the port in the slice, with the same `name`";
                    cursor.error(diagnostics, Code::DanglingReference, message, help);
                }
            }
        }
    }
}

/// Endpoints without a sidecar are reached in plaintext, which strict mTLS forbids: they would receive nothing.
pub(crate) fn plaintext(
    index: &Index<'_>,
    settings: &MeshSettings,
    slices: &[(&Object, Option<EndpointSlice>)],
    diagnostics: &mut Diagnostics,
) {
    let of_namespace = |namespace: &str| settings.mtls_in(namespace);
    for Declared { object, ready } in index.workloads.values() {
        let Some(workload) = ready.as_ref().filter(|workload| workload.sidecar == Sidecar::None) else { continue };
        if workload.mtls.unwrap_or_else(|| of_namespace(&object.namespace)) == MtlsMode::Strict {
            let message = "a workload without sidecar receives nothing while mTLS is strict";
            let help = format!(
                "write `mtls: {{mode: permissive}}` in it, or `mtls: {{namespaces: {{{}: permissive}}}}` in the Mesh",
                object.namespace
            );
            object.cursor().field("sidecar").error(diagnostics, Code::NoEffect, message, help);
        }
    }
    for (object, slice) in slices {
        let Some(slice) = slice else { continue };
        if of_namespace(&object.namespace) == MtlsMode::Permissive {
            continue;
        }
        if let Some(at) = slice.endpoints.iter().position(|endpoint| endpoint.workload.is_none()) {
            let message = "an endpoint without sidecar receives nothing while mTLS is strict";
            let help = format!(
                "write a `targetRef` to its Workload, or `mtls: {{namespaces: {{{}: permissive}}}}` in the Mesh",
                object.namespace
            );
            object.cursor().field("endpoints").item(at).error(diagnostics, Code::NoEffect, message, help);
        }
    }
}

/// Namespaces that the `Mesh` names must have something in them: a misspelt one would stay as it is.
pub(crate) fn namespaces(
    mesh: &Object,
    settings: &MeshSettings,
    objects: &[&Object],
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) {
    let known: BTreeSet<&str> = objects.iter().map(|object| &*object.namespace).collect();
    let namespaces = mesh.cursor().field("mtls").field("namespaces");
    for namespace in settings.namespace_mtls.keys() {
        if known.contains(&**namespace) || !index.complete || !index.unreadable.is_empty() {
            continue;
        }
        let help = match suggest::nearest(namespace, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("namespaces: {}", suggest::listing(&known)),
        };
        let message = format!("nothing is in the namespace `{}`", shown(namespace));
        namespaces.field(namespace).key().error(diagnostics, Code::DanglingReference, message, help);
    }
}

/// Addresses must lead to one workload or service.
pub(crate) fn addresses(index: &Index<'_>, diagnostics: &mut Diagnostics) {
    let mut by_host: HashMap<IpAddr, Vec<&Declared<'_, Workload>>> = HashMap::new();
    for declared in index.workloads.values() {
        let Some(workload) = &declared.ready else { continue };
        let others = by_host.entry(workload.address).or_default();
        if let Some((other, why)) =
            others.iter().find_map(|other| Some((*other, clash(workload, other.ready.as_ref()?)?)))
        {
            let message = format!("{why} is where {} is already", other.object.resource);
            let help = "write another address, or another `sidecar.inboundPort` for one of them";
            used_twice(declared.object.cursor().field("address"), other, "address", message, help, diagnostics);
        }
        others.push(declared);
    }
    let mut virtual_addresses: HashMap<IpAddr, Vec<&Declared<'_, Service>>> = HashMap::new();
    for declared in index.services.values() {
        let Some(service) = &declared.ready else { continue };
        for address in &service.addresses {
            let cursor = address_cursor(declared.object, *address);
            let others = virtual_addresses.entry(*address).or_default();
            if let Some(other) = others.iter().find(|other| share_a_port(service, other.ready.as_ref())) {
                let message = format!("the address {address} is that of {} already", other.object.resource);
                let place = address_cursor(other.object, *address).place();
                let problem = cursor.problem(Code::Duplicate, message).help("write another address for one of them");
                cursor.report(diagnostics, problem.related(place, format!("{} is here", other.object.resource)));
            }
            others.push(declared);
            if let Some(workload) = by_host.get(address).and_then(|workloads| workloads.first())
                && is_cluster_address(declared.object, *address)
            {
                let message = format!("the address {address} is that of {}", workload.object.resource);
                let help = "write an address that no host has: sidecars know the service by it";
                let place = workload.object.cursor().field("address").place();
                let problem = cursor.problem(Code::Duplicate, message).help(help);
                cursor.report(diagnostics, problem.related(place, "the workload's address is here"));
            }
        }
    }
}

/// Why two workloads at the same address cannot be told apart, if so.
fn clash(a: &Workload, b: &Workload) -> Option<String> {
    match (&a.sidecar, &b.sidecar) {
        // Redirection takes all ports of a host.
        (Sidecar::Transparent, _) | (_, Sidecar::Transparent) => {
            Some(format!("{}, with redirection of all ports,", a.address))
        }
        (Sidecar::Explicit { inbound_port: mine, .. }, Sidecar::Explicit { inbound_port: other, .. }) => {
            (mine == other).then(|| format!("{}, port {mine},", a.address))
        }
        _ => None,
    }
}

fn used_twice(
    cursor: Cursor<'_>,
    other: &Declared<'_, Workload>,
    field: &str,
    message: String,
    help: &str,
    diagnostics: &mut Diagnostics,
) {
    let place = other.object.cursor().field(field).place();
    let problem = cursor.problem(Code::Duplicate, message).help(help);
    cursor.report(diagnostics, problem.related(place, format!("{} is here", other.object.resource)));
}

fn share_a_port(service: &Service, other: Option<&Service>) -> bool {
    other.is_some_and(|other| {
        service.ports.iter().any(|port| other.ports.iter().any(|another| another.port == port.port))
    })
}

/// Where a service writes an address.
fn address_cursor(object: &Object, address: IpAddr) -> Cursor<'_> {
    let spec = object.cursor();
    let is_address = |cursor: &Cursor<'_>| cursor.text().and_then(|text| text.parse().ok()) == Some(address);
    let single = spec.field("clusterIP");
    if is_address(&single) {
        return single;
    }
    ["clusterIPs", "externalIPs"]
        .into_iter()
        .flat_map(|field| spec.field(field).items())
        .find(is_address)
        .unwrap_or(spec)
}

fn is_cluster_address(object: &Object, address: IpAddr) -> bool {
    let spec = object.cursor();
    let external = spec.field("externalIPs").items();
    !external.into_iter().any(|item| item.text().and_then(|text| text.parse().ok()) == Some(address))
}

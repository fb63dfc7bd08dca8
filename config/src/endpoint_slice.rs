//! `EndpointSlice` → [`mesh::EndpointSlice`](EndpointSlice).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::Index;
use crate::mesh::{
    EndpointSlice, EndpointSource, Locality, Service, ServiceName, SliceEndpoint, TargetPort, WorkloadName,
};
use crate::names;
use crate::object::{Object, made};
use crate::protocol;
use crate::suggest::{self, shown};

/// The label that names the service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The slice of an object; nothing if something is wrong with it.
pub(crate) fn ready(object: &Object, index: &Index<'_>, diagnostics: &mut Diagnostics) -> Option<EndpointSlice> {
    let errors = diagnostics.count();
    let discovery::EndpointSlice { address_type, endpoints, metadata: _, ports } =
        made(&object.made.slice, diagnostics, |diagnostics| object.typed(diagnostics))?;
    let root = object.cursor();

    if !matches!(address_type.as_str(), "IPv4" | "IPv6") {
        let cursor = root.field("addressType");
        if address_type == "FQDN" {
            let help = "write a service of `type: ExternalName` for a DNS name";
            cursor.unsupported_because(diagnostics, "`addressType: FQDN`", help);
        } else {
            let message = format!("`addressType` cannot be `{}`", shown(&address_type));
            cursor.error(diagnostics, Code::InvalidValue, message, "write `IPv4` or `IPv6`");
        }
        return None;
    }
    let name = service_name(object, diagnostics)?;
    let label = root.field("metadata").field("labels").field(SERVICE_NAME);
    let service = index.service(label, &name, diagnostics);
    if let Some(service) = service
        && service.endpoints != EndpointSource::Slices
    {
        let help = "remove the slice, or the selector (or `externalName`) of the service";
        let message = format!("the endpoints of the service {name} do not come from slices");
        label.error(diagnostics, Code::NoEffect, message, help);
    }
    let ports = slice_ports(root.field("ports"), ports.unwrap_or_default(), service, index, diagnostics);
    let list = root.field("endpoints");
    let endpoints = endpoints
        .into_iter()
        .enumerate()
        .map(|(at, endpoint)| {
            slice_endpoint(list.item(at), endpoint, &address_type, &object.namespace, index, diagnostics)
        })
        .collect();
    let whole = diagnostics.count() == errors && !object.is_damaged();
    whole.then_some(EndpointSlice { service: name, ports, endpoints })
}

fn service_name(object: &Object, diagnostics: &mut Diagnostics) -> Option<ServiceName> {
    match object.labels.get(SERVICE_NAME) {
        Some(name) => Some(ServiceName::new(object.namespace.clone(), name.as_str())),
        None => {
            let cursor = object.root_cursor().field("metadata");
            let help = format!("write `labels: {{{SERVICE_NAME}: cart}}` with the name of the service");
            let message = format!("an EndpointSlice needs the label `{SERVICE_NAME}`");
            cursor.error(diagnostics, Code::MissingField, message, help);
            None
        }
    }
}

fn slice_ports(
    list: Cursor<'_>,
    ports: Vec<discovery::EndpointPort>,
    service: Option<&Service>,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Arc<str>, u16> {
    if ports.is_empty() {
        let help = "write `ports:` with a `- port:` for each port of the service";
        list.error(diagnostics, Code::MissingField, "an EndpointSlice needs ports", help);
    }
    let mut ready = BTreeMap::new();
    for (at, port) in ports.into_iter().enumerate() {
        let cursor = list.item(at);
        let discovery::EndpointPort { app_protocol, name, port, protocol } = port;
        let name: Arc<str> = name.unwrap_or_default().into();
        if let Some(protocol) = protocol.filter(|protocol| protocol != "TCP") {
            let what = format!("`protocol: {}`", shown(&protocol));
            cursor.field("protocol").unsupported_because(
                diagnostics,
                &what,
                "the mesh carries TCP only; remove the port",
            );
        }
        let Some(port) = port else {
            cursor.unsupported_because(diagnostics, "a port without number", "write its number in `port:`");
            continue;
        };
        let number = match names::port(port) {
            Ok(number) => number,
            Err(fault) => {
                let help = "write the port of the endpoints";
                cursor.field("port").error(diagnostics, Code::InvalidValue, fault, help);
                continue;
            }
        };
        if let Some(service) = service {
            agrees_with_service(cursor, service, &name, number, app_protocol.as_deref(), index, diagnostics);
        }
        if ready.insert(name.clone(), number).is_some() {
            let message = format!("the port name `{}` is written twice", shown(&name));
            let help = "give each port the name of a port of the service";
            cursor.error(diagnostics, Code::Duplicate, message, help);
        }
    }
    ready
}

/// A port of a slice means the port of the service with its name; what both say about it must be the same.
fn agrees_with_service(
    cursor: Cursor<'_>,
    service: &Service,
    name: &str,
    number: u16,
    app_protocol: Option<&str>,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) {
    let Some((position, port)) = service.ports.iter().enumerate().find(|(_, port)| *port.name == *name) else {
        let known = suggest::listing(service.ports.iter().map(|port| match &*port.name {
            "" => "one without a name",
            name => name,
        }));
        let message = format!("the service {} has no port named `{}`", service.name, shown(name));
        cursor.field("name").error(diagnostics, Code::DanglingReference, message, format!("its ports: {known}"));
        return;
    };
    if let Some(word) = app_protocol
        && protocol::declared(word) != Some(port.protocol)
    {
        let message = format!("`appProtocol` differs from what the service {} says", service.name);
        let help = "write it on the port of the service, and remove it here";
        cursor.field("appProtocol").error(diagnostics, Code::NoEffect, message, help);
    }
    let declared = index.services.get(&service.name).map(|declared| declared.object.cursor());
    let written = declared.map(|spec| spec.field("ports").item(position)).filter(|port| port.has("targetPort"));
    if let (Some(written), TargetPort::Number(target)) = (written, &port.target)
        && *target != number
    {
        let message = format!("the port is {number}, but `targetPort` of the service {} is {target}", service.name);
        let problem = cursor.field("port").problem(Code::InvalidValue, message);
        let problem = problem.help("write the same number at both, or remove `targetPort`");
        let place = written.field("targetPort").place();
        cursor.report(diagnostics, problem.related(place, "`targetPort` is here"));
    }
}

fn slice_endpoint(
    cursor: Cursor<'_>,
    endpoint: discovery::Endpoint,
    address_type: &str,
    namespace: &Arc<str>,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) -> SliceEndpoint {
    let discovery::Endpoint {
        addresses,
        conditions,
        deprecated_topology,
        hints,
        hostname,
        node_name: _,
        target_ref,
        zone,
    } = endpoint;
    for (field, present) in [("deprecatedTopology", deprecated_topology.is_some()), ("hints", hints.is_some())] {
        if present {
            cursor.field(field).unsupported(diagnostics, &format!("`{field}` of an endpoint"));
        }
    }
    if let Some(Err(fault)) = hostname.as_deref().map(names::dns_label) {
        let message = format!("`hostname` is not the name of a host: {fault}");
        cursor.field("hostname").error(diagnostics, Code::InvalidValue, message, names::DNS_LABEL_HELP);
    }
    let list = cursor.field("addresses");
    if addresses.is_empty() {
        list.error(diagnostics, Code::MissingField, "an endpoint needs an address", "write its IP address");
    }
    let mut ready_addresses: Vec<IpAddr> = Vec::new();
    for (at, text) in addresses.iter().enumerate() {
        let wanted = |address: &IpAddr| address.is_ipv4() == (address_type == "IPv4");
        match names::host_address(text) {
            Ok(address) if !wanted(&address) => {
                let message = format!("{address} is not an {address_type} address");
                let help = "write endpoints of the other address family in a slice of their own";
                list.item(at).error(diagnostics, Code::InvalidValue, message, help);
            }
            Ok(address) => ready_addresses.push(address),
            Err(fault) => {
                let message = format!("`{}` is not the address of a host: {fault}", shown(text));
                list.item(at).error(diagnostics, Code::InvalidValue, message, "write an IP address, as in `10.1.2.3`");
            }
        }
    }
    let conditions = conditions.unwrap_or_default();
    let discovery::EndpointConditions { ready, serving, terminating } = conditions;
    let (ready, terminating) = (ready.unwrap_or(true), terminating.unwrap_or(false));
    if ready && serving == Some(false) {
        let message = "an endpoint that is ready cannot have `serving: false`";
        let help = "write `ready: false`, or remove `serving`";
        cursor.field("conditions").field("serving").error(diagnostics, Code::InvalidValue, message, help);
    }
    let workload = target_ref.and_then(|target| target_workload(cursor, target, namespace, index, diagnostics));
    let locality = Locality { region: "".into(), zone: zone.unwrap_or_default().into() };
    let hostname = hostname.map(Arc::from);
    SliceEndpoint { addresses: ready_addresses, ready, terminating, workload, hostname, locality }
}

fn target_workload(
    endpoint: Cursor<'_>,
    target: ObjectReference,
    namespace: &Arc<str>,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<WorkloadName> {
    let cursor = endpoint.field("targetRef");
    let ObjectReference { api_version: _, field_path: _, kind, name, namespace: other, resource_version: _, uid: _ } =
        target;
    let kind = kind.unwrap_or_default();
    if !matches!(kind.as_str(), "Workload" | "Pod") {
        let message = format!("`targetRef` to the kind `{}` is not supported yet", shown(&kind));
        let help = "write `kind: Workload`, or remove `targetRef` if the endpoint has no sidecar";
        cursor.field("kind").error(diagnostics, Code::NotSupported, message, help);
        return None;
    }
    if let Some(other) = other.filter(|other| **other != **namespace) {
        let message = format!("`targetRef` is in another namespace, {}", shown(&other));
        let help = "write the slice in the namespace of its workloads";
        cursor.field("namespace").error(diagnostics, Code::InvalidValue, message, help);
        return None;
    }
    let Some(name) = name else {
        cursor.error(diagnostics, Code::MissingField, "`targetRef` needs a name", "write the name of the Workload");
        return None;
    };
    let name = WorkloadName::new(namespace.clone(), name);
    index.workload_exists(cursor.field("name"), &name, diagnostics);
    Some(name)
}

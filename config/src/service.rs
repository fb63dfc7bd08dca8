//! `Service` → [`mesh::Service`](Service).
//!
//! Fields about traffic from outside of the cluster (`nodePort`, `externalTrafficPolicy`, load balancers) and about how
//! a cluster allocates addresses (`ipFamilies`) say nothing about traffic inside the mesh; they are taken as they are.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::mesh::{EndpointSource, Service, ServiceName, ServicePort, TargetPort};
use crate::names;
use crate::object::{Object, made};
use crate::protocol;
use crate::suggest::{self, shown};

/// The service of an object; nothing if something is wrong with it.
pub(crate) fn ready(object: &Object, diagnostics: &mut Diagnostics) -> Option<Service> {
    made(&object.made.service, diagnostics, |diagnostics| made_of(object, diagnostics))
}

fn made_of(object: &Object, diagnostics: &mut Diagnostics) -> Option<Service> {
    let errors = diagnostics.count();
    let core::ServiceSpec {
        allocate_load_balancer_node_ports: _,
        cluster_ip,
        cluster_ips,
        external_ips,
        external_name,
        external_traffic_policy: _,
        health_check_node_port: _,
        internal_traffic_policy,
        ip_families: _,
        ip_family_policy: _,
        load_balancer_class: _,
        load_balancer_ip: _,
        load_balancer_source_ranges: _,
        ports,
        publish_not_ready_addresses,
        selector,
        session_affinity,
        session_affinity_config,
        traffic_distribution,
        type_,
    } = object.typed(diagnostics)?;
    let spec = object.cursor();

    for (field, value, plain) in [
        ("internalTrafficPolicy", internal_traffic_policy, "Cluster"),
        ("sessionAffinity", session_affinity, "None"),
        ("trafficDistribution", traffic_distribution, ""),
    ] {
        if let Some(value) = value.filter(|value| value != plain) {
            spec.field(field).unsupported(diagnostics, &format!("`{field}: {}`", shown(&value)));
        }
    }
    if session_affinity_config.is_some() {
        spec.field("sessionAffinityConfig").unsupported(diagnostics, "`sessionAffinityConfig`");
    }
    if publish_not_ready_addresses == Some(true) {
        spec.field("publishNotReadyAddresses").unsupported(diagnostics, "`publishNotReadyAddresses: true`");
    }

    let external = match type_.as_deref() {
        Some("ExternalName") => true,
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => false,
        Some(other) => {
            let help = match suggest::nearest(other, ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`".to_owned(),
            };
            let message = format!("`spec.type` cannot be `{}`", shown(other));
            spec.field("type").error(diagnostics, Code::InvalidValue, message, help);
            false
        }
    };
    let addresses = addresses(spec, cluster_ip, cluster_ips, external_ips, diagnostics);
    let ports = service_ports(spec.field("ports"), ports.unwrap_or_default(), external, diagnostics);
    let endpoints = match (external, external_name) {
        (true, Some(name)) => {
            external_name_conflicts(spec, &ports, diagnostics);
            EndpointSource::ExternalName(check_external_name(spec.field("externalName"), &name, diagnostics))
        }
        (true, None) => {
            let help = "write the DNS name that the service stands for, as in `externalName: api.example.com`";
            spec.error(diagnostics, Code::MissingField, "an ExternalName service needs `externalName`", help);
            return None;
        }
        (false, Some(_)) => {
            let help = "write `type: ExternalName`, or remove the line";
            let message = "`externalName` has no effect on a service of another type";
            spec.field("externalName").key().error(diagnostics, Code::NoEffect, message, help);
            EndpointSource::Slices
        }
        (false, None) => match selector {
            Some(labels) if !labels.is_empty() => EndpointSource::Selector(labels),
            _ => EndpointSource::Slices,
        },
    };
    let name = ServiceName::new(object.namespace.clone(), object.name.clone());
    let whole = diagnostics.count() == errors && !object.is_damaged();
    whole.then_some(Service { name, addresses, ports, endpoints })
}

fn addresses(
    spec: Cursor<'_>,
    cluster_ip: Option<String>,
    cluster_ips: Option<Vec<String>>,
    external_ips: Option<Vec<String>>,
    diagnostics: &mut Diagnostics,
) -> Vec<IpAddr> {
    let cluster_ips = cluster_ips.unwrap_or_default();
    if let (Some(single), Some(first)) = (&cluster_ip, cluster_ips.first())
        && single != first
    {
        let message = format!("`clusterIPs` must begin with `clusterIP`, {}", shown(single));
        spec.field("clusterIPs").error(diagnostics, Code::InvalidValue, message, "write it first, or only one of both");
    }
    let single = cluster_ip.filter(|_| cluster_ips.is_empty()).into_iter();
    let written = single
        .map(|text| (spec.field("clusterIP"), text))
        .chain(cluster_ips.into_iter().enumerate().map(|(at, text)| (spec.field("clusterIPs").item(at), text)))
        .filter(|(_, text)| !text.is_empty() && text != "None")
        .chain(
            external_ips.into_iter().flatten().enumerate().map(|(at, text)| (spec.field("externalIPs").item(at), text)),
        );
    let mut addresses = Vec::new();
    for (cursor, text) in written {
        match names::host_address(&text) {
            Ok(address) if addresses.contains(&address) => {
                let message = format!("{address} is written twice");
                cursor.error(diagnostics, Code::Duplicate, message, "remove one of them");
            }
            Ok(address) => addresses.push(address),
            Err(fault) => {
                let message = format!("`{}` is not an address of a service: {fault}", shown(&text));
                cursor.error(diagnostics, Code::InvalidValue, message, "write an IP address, as in `10.96.0.7`");
            }
        }
    }
    addresses
}

fn service_ports(
    list: Cursor<'_>,
    ports: Vec<core::ServicePort>,
    external: bool,
    diagnostics: &mut Diagnostics,
) -> Vec<ServicePort> {
    // A name may be that of a service, of which it has the ports.
    if ports.is_empty() && !external {
        let help = "write `ports:` with at least one `- port: 80`";
        list.error(diagnostics, Code::MissingField, "a service needs a port", help);
    }
    let several = ports.len() > 1;
    let mut numbers = HashSet::new();
    let mut port_names = HashSet::new();
    let mut ready = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let cursor = list.item(index);
        let core::ServicePort { app_protocol, name, node_port: _, port, protocol, target_port } = port;
        let name = name.unwrap_or_default();
        if let Some(protocol) = protocol.filter(|protocol| protocol != "TCP") {
            let what = format!("`protocol: {}`", shown(&protocol));
            cursor.field("protocol").unsupported_because(
                diagnostics,
                &what,
                "the mesh carries TCP only; remove the port",
            );
        }
        let number = match names::port(port) {
            Ok(number) => number,
            Err(fault) => {
                cursor.field("port").error(diagnostics, Code::InvalidValue, fault, "write the port that clients use");
                continue;
            }
        };
        if !numbers.insert(number) {
            let help = "remove one of them, or change its number";
            cursor.field("port").error(diagnostics, Code::Duplicate, format!("port {number} is written twice"), help);
        }
        if name.is_empty() {
            if several {
                let help = "write a `name:`, unique in the service";
                cursor.error(
                    diagnostics,
                    Code::MissingField,
                    "a service with several ports needs names for them",
                    help,
                );
            }
        } else if let Err(fault) = names::dns_label(&name) {
            let message = format!("`{}` is not a valid name of a port: {fault}", shown(&name));
            cursor.field("name").error(diagnostics, Code::InvalidValue, message, names::DNS_LABEL_HELP);
        } else if !port_names.insert(name.clone()) {
            let message = format!("the port name `{name}` is written twice");
            cursor.field("name").error(diagnostics, Code::Duplicate, message, "give each port a name of its own");
        }
        let protocol = match &app_protocol {
            None => Some(protocol::implied(&name, number)),
            Some(word) => protocol::declared(word),
        };
        let Some(protocol) = protocol else {
            let word = app_protocol.unwrap_or_default();
            let help = match suggest::nearest(&word, protocol::words()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write one of {}", protocol::words().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("Malla does not know the protocol `{}`", shown(&word));
            cursor.field("appProtocol").error(diagnostics, Code::InvalidValue, message, help);
            continue;
        };
        let Some(target) = target(cursor.field("targetPort"), target_port, number, diagnostics) else { continue };
        ready.push(ServicePort { name: name.into(), port: number, target, protocol });
    }
    ready
}

fn target(
    cursor: Cursor<'_>,
    written: Option<IntOrString>,
    port: u16,
    diagnostics: &mut Diagnostics,
) -> Option<TargetPort> {
    match written {
        None => Some(TargetPort::Number(port)),
        Some(IntOrString::Int(number)) => match names::port(number) {
            Ok(number) => Some(TargetPort::Number(number)),
            Err(fault) => {
                cursor.error(diagnostics, Code::InvalidValue, fault, "write the port of the process");
                None
            }
        },
        Some(IntOrString::String(name)) => match names::port_name(&name) {
            Ok(()) => Some(TargetPort::Name(name.into())),
            Err(fault) => {
                let message = format!("`{}` is not a valid name of a port: {fault}", shown(&name));
                let help = "write a number, or the name of a port of the selected workloads";
                cursor.error(diagnostics, Code::InvalidValue, message, help);
                None
            }
        },
    }
}

fn check_external_name(cursor: Cursor<'_>, written: &str, diagnostics: &mut Diagnostics) -> Arc<str> {
    let name = written.strip_suffix('.').unwrap_or(written).to_ascii_lowercase();
    if name.parse::<IpAddr>().is_ok() {
        let message = format!("`externalName` is a DNS name, and {name} is an address");
        let help = "write a service without selector, and an EndpointSlice with the address";
        cursor.error(diagnostics, Code::InvalidValue, message, help);
    } else if let Err(fault) = names::dns_subdomain(&name) {
        let message = format!("`{}` is not a DNS name: {fault}", shown(written));
        cursor.error(diagnostics, Code::InvalidValue, message, names::DNS_SUBDOMAIN_HELP);
    }
    name.into()
}

fn external_name_conflicts(spec: Cursor<'_>, ports: &[ServicePort], diagnostics: &mut Diagnostics) {
    for field in ["selector", "clusterIP", "clusterIPs", "externalIPs"] {
        if spec.has(field) {
            let message = format!("`{field}` has no effect on an ExternalName service");
            spec.field(field).key().error(diagnostics, Code::NoEffect, message, "remove it");
        }
    }
    for (index, port) in ports.iter().enumerate() {
        if let TargetPort::Name(name) = &port.target {
            let message = format!("an ExternalName service has no workloads with a port named `{name}`");
            let target = spec.field("ports").item(index).field("targetPort");
            target.error(diagnostics, Code::DanglingReference, message, "write the number of the port");
        }
    }
}

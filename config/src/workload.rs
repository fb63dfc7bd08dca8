//! `Workload` → [`mesh::Workload`](Workload).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::api::{self, SidecarMode, WorkloadSpec};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::mesh::{Locality, MtlsMode, Sidecar, Workload, WorkloadName};
use crate::names;
use crate::object::{Object, made};
use crate::suggest::shown;

/// The inbound port of a sidecar that nobody configured.
const INBOUND_PORT: u16 = 15006;

/// Weights above this could overflow the sum over a service's endpoints.
pub(crate) const MAX_WEIGHT: u32 = 1_000_000;

/// The workload of an object; nothing if something is wrong with it.
pub(crate) fn ready(object: &Object, diagnostics: &mut Diagnostics) -> Option<Workload> {
    made(&object.made.workload, diagnostics, |diagnostics| made_of(object, diagnostics))
}

fn made_of(object: &Object, diagnostics: &mut Diagnostics) -> Option<Workload> {
    let errors = diagnostics.count();
    let WorkloadSpec { address, service_account, trust_domain, ports, sidecar, mtls, weight, locality } =
        object.typed(diagnostics)?;
    let spec = object.cursor();

    let address = host_address(spec.field("address"), &address, diagnostics);
    let service_account = service_account.unwrap_or_else(|| "default".to_owned());
    if let Err(fault) = names::dns_subdomain(&service_account) {
        let message = format!("`{}` is not a valid service account: {fault}", shown(&service_account));
        spec.field("serviceAccount").error(diagnostics, Code::InvalidValue, message, names::DNS_SUBDOMAIN_HELP);
    }
    let ports = named_ports(spec.field("ports"), ports, diagnostics);
    let sidecar = ready_sidecar(spec.field("sidecar"), sidecar, diagnostics);
    let weight = weight.unwrap_or(1);
    if weight > MAX_WEIGHT {
        let help = format!("write a number from 0 to {MAX_WEIGHT}");
        spec.field("weight").error(diagnostics, Code::InvalidValue, format!("the weight {weight} is too large"), help);
    }
    let locality = ready_locality(locality);

    let whole = diagnostics.count() == errors && !object.is_damaged();
    whole.then_some(Workload {
        name: WorkloadName::new(object.namespace.clone(), object.name.clone()),
        labels: object.labels.clone(),
        service_account: service_account.into(),
        trust_domain: trust_domain.map(Arc::from),
        address: address?,
        ports,
        sidecar: sidecar?,
        mtls: mtls.map(|mtls| mtls_mode(mtls.mode)),
        weight,
        locality,
    })
}

/// The ready form of a written mode.
pub(crate) fn mtls_mode(mode: api::MtlsMode) -> MtlsMode {
    match mode {
        api::MtlsMode::Strict => MtlsMode::Strict,
        api::MtlsMode::Permissive => MtlsMode::Permissive,
    }
}

fn host_address(cursor: Cursor<'_>, text: &str, diagnostics: &mut Diagnostics) -> Option<IpAddr> {
    match names::host_address(text) {
        Ok(address) => Some(address),
        Err(fault) => {
            let message = format!("`{}` is not the address of a host: {fault}", shown(text));
            cursor.error(
                diagnostics,
                Code::InvalidValue,
                message,
                "write an IP address, as in `10.1.2.3` or `fd00::7`",
            );
            None
        }
    }
}

fn named_ports(
    cursor: Cursor<'_>,
    written: BTreeMap<String, u16>,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Arc<str>, u16> {
    for (name, number) in &written {
        if let Err(fault) = names::port_name(name) {
            let message = format!("`{}` is not a valid name of a port: {fault}", shown(name));
            let help = "write lower-case letters, digits and `-`, at most 15";
            cursor.field(name).key().error(diagnostics, Code::InvalidValue, message, help);
        }
        if *number == 0 {
            let help = "write a number from 1 to 65535";
            cursor.field(name).error(diagnostics, Code::InvalidValue, "0 is not a port", help);
        }
    }
    written.into_iter().map(|(name, number)| (name.into(), number)).collect()
}

fn ready_sidecar(cursor: Cursor<'_>, written: Option<api::Sidecar>, diagnostics: &mut Diagnostics) -> Option<Sidecar> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(api::Sidecar { mode, inbound_port, application }) = written else {
        return Some(Sidecar::Explicit { inbound_port: INBOUND_PORT, application: loopback });
    };
    if mode != SidecarMode::Explicit {
        for (field, present) in [("inboundPort", inbound_port.is_some()), ("application", application.is_some())] {
            if present {
                let message = format!("`{field}` has an effect with `mode: explicit` only");
                cursor.field(field).key().error(diagnostics, Code::NoEffect, message, "remove it, or change the mode");
            }
        }
    }
    match mode {
        SidecarMode::Transparent => Some(Sidecar::Transparent),
        SidecarMode::None => Some(Sidecar::None),
        SidecarMode::Explicit => {
            let inbound_port = inbound_port.unwrap_or(INBOUND_PORT);
            if inbound_port == 0 {
                let help = "write the port at which the sidecar listens";
                cursor.field("inboundPort").error(diagnostics, Code::InvalidValue, "0 is not a port", help);
            }
            let application = match application {
                Some(text) => host_address(cursor.field("application"), &text, diagnostics)?,
                None => loopback,
            };
            Some(Sidecar::Explicit { inbound_port, application })
        }
    }
}

fn ready_locality(written: Option<api::Locality>) -> Locality {
    let Some(api::Locality { region, zone }) = written else { return Locality::default() };
    Locality { region: region.unwrap_or_default().into(), zone: zone.unwrap_or_default().into() }
}

//! `TrafficPolicy`: checked like everything else, and then refused, because it has no effect yet.

use crate::api::{
    Algorithm, Balancing, ConsistentHash, HealthCheck, OutlierDetection, PolicyTarget, TrafficPolicySpec,
};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::{Index, port_listing};
use crate::mesh::ServiceName;
use crate::names;
use crate::object::Object;
use crate::suggest::{self, shown};

/// Checks a `TrafficPolicy` and refuses it.
pub(crate) fn traffic(object: &Object, index: &Index<'_>, diagnostics: &mut Diagnostics) {
    let spec = object.cursor();
    if let Some(written) = object.typed::<TrafficPolicySpec>(diagnostics) {
        let TrafficPolicySpec { target_refs, balancing, limits: _, outlier_detection, health_check, retry_budget: _ } =
            written;
        targets(object, target_refs, index, diagnostics);
        if let Some(balancing) = balancing {
            check_balancing(spec.field("balancing"), balancing, diagnostics);
        }
        if let Some(OutlierDetection { ejection_time, max_ejection_time, .. }) = outlier_detection {
            let cursor = spec.field("outlierDetection");
            duration(cursor, "ejectionTime", ejection_time, diagnostics);
            duration(cursor, "maxEjectionTime", max_ejection_time, diagnostics);
        }
        if let Some(HealthCheck { path, interval, timeout, .. }) = health_check {
            let cursor = spec.field("healthCheck");
            if !path.starts_with('/') {
                let message = format!("`{}` is not a path: it does not begin with `/`", shown(&path));
                cursor.field("path").error(diagnostics, Code::InvalidValue, message, "write `/` before it");
            }
            duration(cursor, "interval", interval, diagnostics);
            duration(cursor, "timeout", timeout, diagnostics);
        }
    }
    refuse(object, diagnostics);
}

fn refuse(object: &Object, diagnostics: &mut Diagnostics) {
    let message = format!("{} is not supported yet", object.kind);
    let help = "keep it out of the directory until it is: it would have no effect";
    object.root_cursor().field("kind").error(diagnostics, Code::NotSupported, message, help);
}

fn targets(object: &Object, targets: Vec<PolicyTarget>, index: &Index<'_>, diagnostics: &mut Diagnostics) {
    let list = object.cursor().field("targetRefs");
    if targets.is_empty() {
        let help = "write the services that the policy is about";
        list.error(diagnostics, Code::MissingField, "a policy needs a target", help);
    }
    for (at, PolicyTarget { group, kind, name, section_name }) in targets.into_iter().enumerate() {
        let cursor = list.item(at);
        if !group.is_empty() || kind != "Service" {
            let message = format!("a target of the kind `{}` is not supported yet", shown(&kind));
            cursor.error(diagnostics, Code::NotSupported, message, "write `group: \"\"` and `kind: Service`");
            continue;
        }
        let name = ServiceName::new(object.namespace.clone(), name);
        let Some(service) = index.service(cursor.field("name"), &name, diagnostics) else { continue };
        if let Some(section) = section_name
            && !service.ports.iter().any(|port| *port.name == *section)
        {
            let help = match suggest::nearest(&section, service.ports.iter().map(|port| &*port.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("its ports: {}", port_listing(service)),
            };
            let message = format!("the service {name} has no port named `{}`", shown(&section));
            cursor.field("sectionName").error(diagnostics, Code::DanglingReference, message, help);
        }
    }
}

fn check_balancing(cursor: Cursor<'_>, balancing: Balancing, diagnostics: &mut Diagnostics) {
    let Balancing { algorithm, consistent_hash } = balancing;
    match (algorithm, consistent_hash) {
        (Algorithm::ConsistentHash, Some(ConsistentHash { header, cookie, source_ip })) => {
            let cursor = cursor.field("consistentHash");
            let chosen = [header.is_some(), cookie.is_some(), source_ip == Some(true)];
            if chosen.into_iter().filter(|chosen| *chosen).count() != 1 {
                let help = "write one of `header`, `cookie` and `sourceIp: true`";
                cursor.error(diagnostics, Code::InvalidValue, "exactly one thing is hashed", help);
            }
            for (field, name) in [("header", header), ("cookie", cookie)] {
                if let Some(name) = name
                    && let Err(fault) = names::http_token(&name)
                {
                    let message = format!("`{}` is not the name of a {field}: {fault}", shown(&name));
                    cursor.field(field).error(diagnostics, Code::InvalidValue, message, "write its name");
                }
            }
        }
        (Algorithm::ConsistentHash, None) => {
            let help = "write `consistentHash:` with `header`, `cookie` or `sourceIp: true`";
            cursor.error(diagnostics, Code::MissingField, "`algorithm: consistentHash` needs something to hash", help);
        }
        (_, Some(_)) => {
            let message = "`consistentHash` has an effect with `algorithm: consistentHash` only";
            let help = "remove it, or change the algorithm";
            cursor.field("consistentHash").key().error(diagnostics, Code::NoEffect, message, help);
        }
        (_, None) => {}
    }
}

fn duration(cursor: Cursor<'_>, field: &str, written: Option<String>, diagnostics: &mut Diagnostics) {
    let Some(text) = written else { return };
    if names::duration(&text).is_none_or(|duration| duration.is_zero()) {
        let message = format!("`{}` is not a duration greater than zero", shown(&text));
        cursor.field(field).error(diagnostics, Code::InvalidValue, message, names::DURATION_HELP);
    }
}

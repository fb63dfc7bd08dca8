//! Checks of the kubelet. It has no certificate of the mesh, so a strict sidecar would refuse it: each check over the network is led to
//! the sidecar's health port, and the sidecar is told what to ask the application instead. Nothing but the written checks can be asked.

use malla_xds::probes::{Ask, Probe, Probes};
use serde_json::{Map, Value, json};

use super::originals::{HANDLERS, Originals};
use super::pod;

/// Where a container has checks, and the last part of the path that replaces each.
const PLACES: [(&str, &str); 5] = [
    ("livenessProbe", "livez"),
    ("readinessProbe", "readyz"),
    ("startupProbe", "startupz"),
    ("lifecycle.postStart", "poststart"),
    ("lifecycle.preStop", "prestop"),
];

/// What a hook may take: the kubelet itself waits for one that begins until it ends, for one that stops until the grace period is over. The
/// sidecar's health port gives up a connection a little later.
const HOOK_SECONDS: u64 = 50;

/// Leads all checks to the sidecar; gives what it has to know. What cannot be led there is left alone, with a warning.
pub(super) fn rewrite(pod: &mut Value, originals: &mut Originals, warnings: &mut Vec<String>) -> Probes {
    let mut probes = Probes::new();
    for list in ["initContainers", "containers"] {
        for container in pod::items(pod, list) {
            let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
            let ports = container.get("ports").cloned().unwrap_or_default();
            for (place, word) in PLACES {
                let Some(check) = at(container, place) else { continue };
                let Some((kind, handler)) = HANDLERS.iter().find_map(|kind| Some((*kind, check.get(*kind)?.clone())))
                else {
                    continue;
                };
                match ask(kind, &handler, &ports) {
                    Ok((port, ask)) => {
                        let timeout = match place.starts_with("lifecycle.") {
                            true => HOOK_SECONDS,
                            false => check.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(1),
                        };
                        let path = format!("/probe/{name}/{word}");
                        check.remove(kind);
                        let instead = json!({ "path": path, "port": 15021, "scheme": "HTTP" });
                        check.insert("httpGet".to_owned(), instead);
                        let timeout_seconds = u16::try_from(timeout).unwrap_or(u16::MAX).max(1);
                        probes.insert(path, Probe { port, ask, timeout_seconds });
                        originals.probe(&name, place, json!({ kind: handler }));
                    }
                    Err(problem) => warnings.push(format!(
                        "{place} of container {name} {problem}: it stays as it is and fails where the sidecar takes no plaintext"
                    )),
                }
            }
        }
    }
    probes
}

fn at<'a>(container: &'a mut Map<String, Value>, place: &str) -> Option<&'a mut Map<String, Value>> {
    place.split('.').try_fold(container, |fields, key| fields.get_mut(key)?.as_object_mut())
}

/// What a check asks of which port.
fn ask(kind: &str, handler: &Value, ports: &Value) -> Result<(u16, Ask), String> {
    let text = |key: &str| handler.get(key).and_then(Value::as_str).unwrap_or_default();
    if !text("host").is_empty() {
        return Err(format!("asks another host ({})", text("host")));
    }
    let port = match &handler["port"] {
        Value::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => named(ports, name),
        },
        number => number.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    let Some(port) = port.filter(|port| *port > 0) else {
        return Err(format!("names the port {}, which the container does not declare", handler["port"]));
    };
    let ask = match kind {
        "tcpSocket" => Ask::Tcp,
        "grpc" => Ask::Grpc { service: text("service").to_owned() },
        _ => Ask::Http {
            path: match text("path") {
                "" => "/".to_owned(),
                path if path.starts_with('/') => path.to_owned(),
                path => format!("/{path}"),
            },
            tls: text("scheme").eq_ignore_ascii_case("https"),
            headers: handler["httpHeaders"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|header| Some((header["name"].as_str()?.to_owned(), header["value"].as_str()?.to_owned())))
                .collect(),
        },
    };
    Ok((port, ask))
}

fn named(ports: &Value, name: &str) -> Option<u16> {
    let port = ports.as_array()?.iter().find(|port| port["name"] == name)?;
    port["containerPort"].as_u64().and_then(|number| u16::try_from(number).ok())
}

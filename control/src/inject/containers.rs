//! The containers and the volume that a sidecar is made of. Every field that the API server would fill in is written, so that a pod
//! that comes back from it is recognized.

use serde_json::{Value, json};

use super::annotations::{Mode, Wishes};
use super::eligible::SIDECAR_ID;
use super::originals::Originals;
use super::pod::{self, Pod};
use super::settings::{InjectionSettings, SidecarKind};
use super::{INIT, SIDECAR, TRUST, VOLUME};
use malla_xds::probes::Probes;

/// Where the token and the root certificate are in the sidecar.
const MOUNTED_AT: &str = "/var/run/malla";
/// Tells `kubectl logs` and `kubectl exec` which container is meant.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Where the sidecar is an HTTP proxy in explicit mode.
const HTTP_PROXY: &str = "http://127.0.0.1:15001";

/// The container that installs the redirection: root with the two capabilities that takes, and nothing else.
pub(super) fn init(wishes: &Wishes, settings: &InjectionSettings) -> Value {
    let flags = wishes.redirection.iter().map(|(flag, value)| format!("{flag}={value}"));
    let command: Vec<String> = ["malla-proxy", "init"].into_iter().map(str::to_owned).chain(flags).collect();
    json!({
        "name": INIT,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": command,
        "resources": {
            "requests": { "cpu": "10m", "memory": "16Mi" },
            "limits": { "memory": "64Mi" },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// The sidecar: within the Pod Security level `restricted`.
pub(super) fn sidecar(wishes: &Wishes, settings: &InjectionSettings, probes: &Probes, scrape: Option<&str>) -> Value {
    let given = |wish: &Option<String>, default: &str| wish.clone().unwrap_or_else(|| default.to_owned());
    let defaults = &settings.resources;
    let mut limits = json!({ "memory": given(&wishes.memory_limit, &defaults.memory_limit) });
    if let Some(cpu) = wishes.cpu_limit.as_ref().or(defaults.cpu_limit.as_ref()) {
        limits["cpu"] = json!(cpu);
    }
    let check = |path: &str, period: u16, timeout: u16, failures: u16| {
        json!({
            "httpGet": { "path": path, "port": 15021, "scheme": "HTTP" },
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "successThreshold": 1,
            "failureThreshold": failures,
        })
    };
    let mut container = json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["malla-proxy"],
        "env": environment(wishes, settings, probes, scrape),
        "ports": [
            { "name": "malla-metrics", "containerPort": 15020, "protocol": "TCP" },
            { "name": "malla-health", "containerPort": 15021, "protocol": "TCP" },
        ],
        "resources": {
            "requests": {
                "cpu": given(&wishes.cpu_request, &defaults.cpu_request),
                "memory": given(&wishes.memory_request, &defaults.memory_request),
            },
            "limits": limits,
        },
        // The application starts when this has succeeded: ten minutes for a control server that is slow to come.
        "startupProbe": check("/ready", 1, 3, 600),
        "readinessProbe": check("/ready", 5, 3, 3),
        "livenessProbe": check("/live", 10, 3, 6),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": SIDECAR_ID,
            "runAsNonRoot": true,
            "runAsUser": SIDECAR_ID,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{ "name": VOLUME, "mountPath": MOUNTED_AT, "readOnly": true }],
    });
    match settings.sidecar {
        SidecarKind::Native => container["restartPolicy"] = json!("Always"),
        // The next container starts when this hook has returned; at the end, the application has some seconds in which it stops calling.
        SidecarKind::Classic => {
            container["lifecycle"] = json!({
                "postStart": { "exec": { "command": ["malla-proxy", "wait"] } },
                "preStop": { "exec": { "command": ["malla-proxy", "wait", "--pause", "5s"] } },
            });
        }
    }
    container
}

fn environment(wishes: &Wishes, settings: &InjectionSettings, probes: &Probes, scrape: Option<&str>) -> Vec<Value> {
    let (workers, drain) = (settings.workers.to_string(), settings.drain.clone());
    let mode = if wishes.mode == Mode::Transparent { "transparent" } else { "explicit" };
    let mut variables = vec![
        json!({ "name": "MALLA_CONTROL", "value": settings.control }),
        json!({ "name": "MALLA_TRUST", "value": format!("{MOUNTED_AT}/root.pem") }),
        json!({ "name": "MALLA_TOKEN", "value": format!("{MOUNTED_AT}/token") }),
        from_pod("MALLA_WORKLOAD", "metadata.name"),
        from_pod("MALLA_NAMESPACE", "metadata.namespace"),
        json!({ "name": "MALLA_MODE", "value": mode }),
        json!({ "name": "MALLA_WORKERS", "value": wishes.workers.clone().unwrap_or(workers) }),
        json!({ "name": "MALLA_DRAIN", "value": wishes.drain.clone().unwrap_or(drain) }),
        json!({ "name": "MALLA_LOG", "value": wishes.log.clone().unwrap_or_else(|| settings.log.clone()) }),
    ];
    if wishes.mode == Mode::Explicit {
        variables.push(from_pod("MALLA_ADDRESS", "status.podIP"));
    }
    if let Some(ports) = &wishes.opaque_ports {
        variables.push(json!({ "name": "MALLA_OPAQUE_PORTS", "value": ports }));
    }
    if let Some(ports) = &wishes.http_ports {
        variables.push(json!({ "name": "MALLA_HTTP_PORTS", "value": ports }));
    }
    if let Some(listen) = &wishes.listen {
        variables.push(json!({ "name": "MALLA_LOCAL", "value": listen }));
    }
    // The kubelet would take `$(NAME)` for a variable.
    let literal = |text: &str| text.replace("$(", "$$(");
    for (name, value) in wishes.telling.variables() {
        variables.push(json!({ "name": name, "value": literal(value) }));
    }
    if let Some(scrape) = scrape {
        variables.push(json!({ "name": "MALLA_SCRAPE", "value": scrape }));
    }
    if !probes.is_empty() {
        // A map of strings and numbers is always JSON.
        let probes = serde_json::to_string(probes).unwrap_or_default();
        variables.push(json!({ "name": "MALLA_PROBES", "value": literal(&probes) }));
    }
    variables
}

fn from_pod(name: &str, field: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": field } } })
}

/// Puts them where they belong: before all that has to reach something, or, for the redirection beside an ordinary container, after the
/// init containers that still have to reach everything.
pub(super) fn add(pod: &mut Value, sidecar: Value, init: Option<Value>, kind: SidecarKind) {
    let Some(spec) = pod.get_mut("spec") else { return };
    let mut list = |name: &str, first: bool, added: Vec<Value>| {
        if let Some(list) = pod::child(spec, name, || json!([])).and_then(Value::as_array_mut) {
            let at = if first { 0 } else { list.len() };
            list.splice(at..at, added);
        }
    };
    match kind {
        SidecarKind::Native => list("initContainers", true, init.into_iter().chain([sidecar]).collect()),
        SidecarKind::Classic => {
            if let Some(init) = init {
                list("initContainers", false, vec![init]);
            }
            list("containers", true, vec![sidecar]);
        }
    }
    list("volumes", false, vec![volume()]);
}

/// The token that proves the service account, for Malla alone, and the root certificate that the pod carries.
fn volume() -> Value {
    let trust = json!({ "apiVersion": "v1", "fieldPath": format!("metadata.annotations['{TRUST}']") });
    json!({
        "name": VOLUME,
        "projected": {
            "defaultMode": 420,
            "sources": [
                { "serviceAccountToken": { "audience": "malla", "expirationSeconds": 3600, "path": "token" } },
                { "downwardAPI": { "items": [{ "path": "root.pem", "fieldRef": trust }] } },
            ],
        },
    })
}

/// With an ordinary container in front, the application's first one stays the one that `kubectl` means.
pub(super) fn keep_the_default_container(pod: &mut Value, parsed: &Pod, originals: &mut Originals) {
    if let (None, Some(first)) = (parsed.annotation(DEFAULT_CONTAINER), parsed.spec.containers.first()) {
        originals.annotate(pod, DEFAULT_CONTAINER, &first.name);
    }
}

/// In explicit mode: tells programs that know the usual variables where the sidecar is. What says something about it already is left alone.
pub(super) fn name_the_http_proxy(pod: &mut Value, originals: &mut Originals) {
    for list in ["initContainers", "containers"] {
        for container in pod::items(pod, list) {
            let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
            let variables = container.entry("env").or_insert_with(|| json!([]));
            if variables.is_null() {
                *variables = json!([]);
            }
            let Some(variables) = variables.as_array_mut() else { continue };
            let known = |name: &str| variables.iter().any(|variable| variable["name"] == name);
            if !["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"].into_iter().any(known) {
                variables.push(json!({ "name": "http_proxy", "value": HTTP_PROXY }));
                variables.push(json!({ "name": "no_proxy", "value": "localhost,127.0.0.1,::1" }));
                originals.environment.push(name);
            }
        }
    }
}

//! Whether a pod gets a sidecar at all, whether it could work with one, and what its owner should know.

use std::collections::BTreeMap;

use super::annotations::{self, Mode, Wishes};
use super::pod::Pod;
use super::settings::{InjectionSettings, SidecarKind};
use super::{INJECT, INJECTED, VOLUME};

/// User and group of the sidecar, whose traffic is not redirected.
pub(super) const SIDECAR_ID: i64 = 1337;
/// Outbound, inbound, admin, health.
const OWN_PORTS: [u16; 4] = [15001, 15006, 15020, 15021];
/// Namespaces that the cluster itself needs to start.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// What the API server enforces on the pods of a namespace (Pod Security admission).
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Why a pod stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// Neither its namespace nor it asks for a sidecar.
    NotEnabled,
    /// It or its namespace says `malla.dev/inject: disabled`.
    Disabled,
    /// It uses the network of its node, which is not its own to redirect.
    HostNetwork,
    /// The sidecar runs on Linux.
    Windows,
    /// It has a sidecar.
    AlreadyInjected,
    /// The cluster needs its pods before it has a mesh.
    SystemNamespace,
    /// Malla's own.
    OwnNamespace,
    /// With a sidecar that is an ordinary container it would never complete.
    WouldNotComplete,
}

impl SkipReason {
    /// All of them.
    pub const ALL: [SkipReason; 8] = [
        SkipReason::NotEnabled,
        SkipReason::Disabled,
        SkipReason::HostNetwork,
        SkipReason::Windows,
        SkipReason::AlreadyInjected,
        SkipReason::SystemNamespace,
        SkipReason::OwnNamespace,
        SkipReason::WouldNotComplete,
    ];

    /// One word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            SkipReason::NotEnabled => "not_enabled",
            SkipReason::Disabled => "disabled",
            SkipReason::HostNetwork => "host_network",
            SkipReason::Windows => "windows",
            SkipReason::AlreadyInjected => "already_injected",
            SkipReason::SystemNamespace => "system_namespace",
            SkipReason::OwnNamespace => "own_namespace",
            SkipReason::WouldNotComplete => "would_not_complete",
        }
    }

    /// One sentence, for people.
    pub fn sentence(self) -> &'static str {
        match self {
            SkipReason::NotEnabled => {
                "neither its namespace nor the pod itself has the label malla.dev/inject: enabled"
            }
            SkipReason::Disabled => "malla.dev/inject is disabled for it",
            SkipReason::HostNetwork => {
                "it uses the network of its node (hostNetwork), which a sidecar must not redirect"
            }
            SkipReason::Windows => "it runs on Windows, and the sidecar on Linux",
            SkipReason::AlreadyInjected => "it has a sidecar already",
            SkipReason::SystemNamespace => "its namespace belongs to the cluster itself",
            SkipReason::OwnNamespace => "its namespace is Malla's own",
            SkipReason::WouldNotComplete => {
                "it shall complete, which it would not beside a sidecar that is an ordinary container; Kubernetes 1.29 and later \
                 have native sidecars"
            }
        }
    }
}

/// Why a pod gets no sidecar.
pub(super) enum Refusal {
    Skip(SkipReason, Vec<String>),
    Deny(String),
}

/// Whether a pod is to get a sidecar.
pub(super) fn judge(
    pod: &Pod,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    settings: &InjectionSettings,
) -> Result<(), Refusal> {
    let quietly = |reason| Err(Refusal::Skip(reason, Vec::new()));
    if SYSTEM.contains(&namespace) {
        return quietly(SkipReason::SystemNamespace);
    }
    if namespace == settings.system_namespace {
        return quietly(SkipReason::OwnNamespace);
    }
    let mut asked = None;
    for said in pod.wants().into_iter().flatten() {
        let said = match &**said {
            "enabled" => true,
            "disabled" => false,
            other => return Err(Refusal::Deny(format!("{INJECT}: {other:?} is neither `enabled` nor `disabled`"))),
        };
        if asked.is_some_and(|before| before != said) {
            let sentence = format!("the label and the annotation {INJECT} contradict each other: keep one of them");
            return Err(Refusal::Deny(sentence));
        }
        asked = Some(said);
    }
    let of_namespace = namespace_labels.get(INJECT).map(String::as_str);
    match (asked, of_namespace) {
        (Some(false), _) | (None, Some("disabled")) => return quietly(SkipReason::Disabled),
        (None, said) if said != Some("enabled") => return quietly(SkipReason::NotEnabled),
        _ => {}
    }
    let reason = if pod.spec.host_network == Some(true) {
        SkipReason::HostNetwork
    } else if pod.is_windows() {
        SkipReason::Windows
    } else if pod.has_sidecar() || pod.annotation(INJECTED).is_some() {
        SkipReason::AlreadyInjected
    } else if settings.sidecar == SidecarKind::Classic && pod.completes() {
        SkipReason::WouldNotComplete
    } else {
        return Ok(());
    };
    // Who asked for this very pod shall hear of it.
    let warn = reason != SkipReason::AlreadyInjected && (asked == Some(true) || reason == SkipReason::WouldNotComplete);
    let warnings =
        if warn { vec![format!("Malla adds no sidecar to this pod: {}", reason.sentence())] } else { Vec::new() };
    Err(Refusal::Skip(reason, warnings))
}

/// What makes a pod unable to work with a sidecar.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn clashes(
    pod: &Pod,
    namespace_labels: &BTreeMap<String, String>,
    wishes: &Wishes,
    settings: &InjectionSettings,
) -> Result<(), String> {
    if wishes.mode == Mode::Transparent {
        same_owner(pod)?;
        let level = namespace_labels.get(POD_SECURITY).map(String::as_str);
        if let Some(level @ ("baseline" | "restricted")) = level {
            return Err(format!(
                "the namespace enforces the Pod Security level `{level}`, which forbids the container {} (NET_ADMIN) that leads traffic \
                 through the sidecar: annotate the pod with {}: explicit, or label the namespace with {POD_SECURITY}: privileged",
                super::INIT,
                annotations::MODE
            ));
        }
    }
    let local: Vec<u16> = wishes.listen.iter().flat_map(|listen| annotations::local_ports(listen)).collect();
    if let Some(own) = local.iter().find(|port| OWN_PORTS.contains(port)) {
        let listen = annotations::LISTEN;
        return Err(format!(
            "{listen} names the port {own}, which the sidecar needs (it uses {OWN_PORTS:?}): choose another"
        ));
    }
    for container in pod.all_containers() {
        for port in container.ports.iter().flatten() {
            let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            if tcp && OWN_PORTS.contains(&port.container_port) {
                return Err(format!(
                    "container {} declares port {}, which the sidecar needs (it uses {OWN_PORTS:?}): choose another port, or \
                     {INJECT}: disabled",
                    container.name, port.container_port
                ));
            }
            if tcp && local.contains(&port.container_port) {
                return Err(format!(
                    "container {} declares port {}, on which {} has the sidecar listen: choose another port for one of them",
                    container.name,
                    port.container_port,
                    annotations::LISTEN
                ));
            }
        }
    }
    if pod.has_volume(VOLUME) {
        return Err(format!("the pod has a volume named {VOLUME}, which is what the sidecar's is called: rename it"));
    }
    // What a name is generated from is shortened to fit.
    let (name, generated) = (pod.metadata.name.as_ref(), pod.metadata.generate_name.as_ref());
    let too_long = name.is_some_and(|name| name.len() > 63);
    if let Some(name) = name.or(generated).filter(|name| too_long || name.contains('.')) {
        return Err(format!(
            "the pod's name {name:?} cannot be that of a workload: it may have no dots and 63 characters at most; rename what makes it"
        ));
    }
    let by_name = settings
        .control
        .rsplit_once(':')
        .is_some_and(|(host, _)| host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err());
    if pod.spec.dns_policy.as_deref() == Some("Default") && by_name {
        return Err(format!(
            "dnsPolicy: Default cannot resolve the control server's name {}: use ClusterFirst, or {INJECT}: disabled",
            settings.control
        ));
    }
    Ok(())
}

/// The sidecar's traffic is told by its user and group.
fn same_owner(pod: &Pod) -> Result<(), String> {
    let of_pod = pod.spec.security_context.iter().map(|ids| ("the pod".to_owned(), ids));
    let of_containers = pod
        .all_containers()
        .filter_map(|container| Some((format!("container {}", container.name), container.security_context.as_ref()?)));
    for (who, ids) in of_pod.chain(of_containers) {
        for (field, id) in [("runAsUser", ids.run_as_user), ("runAsGroup", ids.run_as_group)] {
            if id == Some(SIDECAR_ID) {
                return Err(format!(
                    "{who} has {field}: {SIDECAR_ID}, which is the sidecar's own: its traffic could not be told from the sidecar's and \
                     would bypass the mesh; choose another number, or {INJECT}: disabled"
                ));
            }
        }
    }
    Ok(())
}

/// What its owner should know about a pod that gets a sidecar.
pub(super) fn doubts(pod: &Pod, wishes: &Wishes, settings: &InjectionSettings) -> Vec<String> {
    let mut doubts = Vec::new();
    let drain = wishes.drain.as_deref().and_then(annotations::seconds);
    if let (Some(drain), Some(grace)) = (drain, pod.spec.termination_grace_period_seconds)
        && drain > grace
    {
        doubts.push(format!(
            "{} ({drain} s) is longer than terminationGracePeriodSeconds ({grace} s): connections are cut when that is over",
            annotations::DRAIN_TIME
        ));
    }
    if pod.spec.dns_policy.as_deref() == Some("None") {
        doubts.push(format!("dnsPolicy: None: make sure that dnsConfig resolves {}", settings.control));
    }
    doubts
}

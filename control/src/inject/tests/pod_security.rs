//! The level `restricted` of the Pod Security Standards, as far as pods of this kind can break it.

use serde_json::Value;

/// What breaks it, one line for each control that a container fails.
pub(super) fn restricted(pod: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let spec = &pod["spec"];
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[host] == true {
            violations.push(host.to_owned());
        }
    }
    let kinds =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        if !kinds.iter().any(|kind| volume.get(kind).is_some()) {
            violations.push(format!("volume {}", volume["name"]));
        }
    }
    let lists = ["initContainers", "containers"].iter().flat_map(|list| spec[*list].as_array().into_iter().flatten());
    for container in lists {
        let name = container["name"].as_str().unwrap_or_default();
        let own = &container["securityContext"];
        let effective = |field: &str| own.get(field).unwrap_or(&spec["securityContext"][field]).clone();
        let mut violates = |what: String| violations.push(format!("{name}: {what}"));
        if own["privileged"] == true {
            violates("privileged".to_owned());
        }
        if own["allowPrivilegeEscalation"] != false {
            violates("allowPrivilegeEscalation is not false".to_owned());
        }
        if !own["capabilities"]["drop"].as_array().is_some_and(|dropped| dropped.iter().any(|one| one == "ALL")) {
            violates("does not drop ALL capabilities".to_owned());
        }
        for added in
            own["capabilities"]["add"].as_array().into_iter().flatten().filter(|one| *one != "NET_BIND_SERVICE")
        {
            violates(format!("capability {}", added.as_str().unwrap_or_default()));
        }
        if effective("runAsNonRoot") != true {
            violates("runAsNonRoot is not true".to_owned());
        }
        if effective("runAsUser") == 0 {
            violates("runAsUser 0".to_owned());
        }
        if !["RuntimeDefault", "Localhost"].iter().any(|kind| effective("seccompProfile")["type"] == *kind) {
            violates("seccompProfile".to_owned());
        }
        if container["ports"].as_array().into_iter().flatten().any(|port| port["hostPort"].as_u64().unwrap_or(0) != 0) {
            violates("hostPort".to_owned());
        }
    }
    violations
}

//! The chart: what it renders is valid, is what the control server understands, and leads pods to the webhook as injection expects them.

use std::fs;
use std::process::Command;

use malla_control::ca::RootSource;
use malla_control::run::{Control, ControlSettings};
use malla_tests::chart::{Rendered, chart, documents, python, renderer};
use malla_tests::tools;
use serde_json::Value;

/// What the control server is started with.
fn arguments(rendered: &Rendered) -> Vec<&str> {
    let arguments = &rendered.get("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    arguments.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

fn decoded(value: &Value) -> String {
    use base64::Engine;
    let text = value.as_str().expect("base64");
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).expect("base64")).expect("UTF-8")
}

#[tokio::test]
async fn what_it_renders_is_valid_and_understood_by_the_control_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let renderer = renderer(directory.path());
    let rendered = Rendered::with(&renderer, "v1.34.0", "malla-system", &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        rendered.kinds(),
        [
            "Secret",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "ConfigMap",
            "Service",
            "Deployment",
            "MutatingWebhookConfiguration"
        ]
    );

    // Every flag is one that `malla control` has.
    let help = Command::new(tools::binary("malla")).args(["control", "--help"]).output().expect("runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    for flag in arguments(&rendered).iter().skip(1).filter_map(|argument| argument.split('=').next()) {
        assert!(help.contains(&format!("{flag} <")) || flag == "--kubernetes", "malla control has no {flag}");
    }
    assert!(help.contains("--kubernetes") && arguments(&rendered).contains(&"--kubernetes"));
    assert!(arguments(&rendered).contains(&"--sidecar-kind=native"));

    // The root that Helm makes is one that signs, and the one that API servers are told of.
    let secret = &rendered.get("Secret")["data"];
    let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    fs::write(&certificate, decoded(&secret["tls.crt"])).expect("written");
    fs::write(&key, decoded(&secret["tls.key"])).expect("written");
    let mesh = directory.path().join("mesh");
    fs::create_dir(&mesh).expect("made");
    let text = rendered.get("ConfigMap")["data"]["mesh.yaml"].as_str().expect("a text").to_owned();
    fs::write(mesh.join("mesh.yaml"), text).expect("written");
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let control = Control::start(ControlSettings {
        listen: any_port,
        admin: any_port,
        root: RootSource::Files { certificate, key },
        ..ControlSettings::new(mesh, directory.path().join("state"))
    });
    let control = control.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    for webhook in rendered.get("MutatingWebhookConfiguration")["webhooks"].as_array().expect("a list") {
        assert_eq!(decoded(&webhook["clientConfig"]["caBundle"]).trim(), control.trust_bundle().trim());
    }
    control.stop().await;
}

#[test]
fn its_roles_allow_what_the_control_server_does_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let renderer = renderer(directory.path());
    let rendered = Rendered::with(&renderer, "v1.34.0", "malla-system", &[]).unwrap_or_else(|error| panic!("{error}"));
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let mut allowed = Vec::new();
    for (kind, own_namespace) in [("ClusterRole", false), ("Role", true)] {
        for rule in rendered.get(kind)["rules"].as_array().expect("a list") {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let names = rule.get("resourceNames").map(texts).unwrap_or_default();
                    allowed.push((group.clone(), resource, names, texts(&rule["verbs"]), own_namespace));
                }
            }
        }
    }
    allowed.sort();
    let done: Vec<_> = malla_control::kubernetes::permissions()
        .into_iter()
        .map(|permission| {
            let verbs: Vec<String> = permission.verbs.iter().map(|verb| (*verb).to_owned()).collect();
            let names: Vec<String> = permission.name.into_iter().map(str::to_owned).collect();
            (permission.group.to_owned(), permission.resource, names, verbs, permission.own_namespace)
        })
        .collect();
    assert_eq!(allowed, done);
}

#[test]
fn more_replicas_older_clusters_and_own_values_render_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let renderer = renderer(directory.path());
    let values = directory.path().join("values.yaml");
    fs::write(
        &values,
        "mesh:\n- apiVersion: malla.dev/v1alpha1\n  kind: Mesh\n  metadata: {name: mesh}\n  spec: {}\nmonitoring: {podMonitors: true}\n\
         control: {advertise: [mesh.example.org], tolerations: [{operator: Exists}], priorityClassName: high}\n\
         imagePullSecrets: [{name: registry}]\n\
         sidecar:\n  resources: {limits: {cpu: \"1\"}}\n\
         \x20 tracing: {otlp: \"http://jaeger.tracing:4317\", sampling: \"5%\", failures: true, slow: 500ms}\n\
         \x20 accessLog: {requests: all, format: \"{status} \\\"{path}\\\"\"}\n",
    )
    .expect("written");
    let ha = chart().join("values.ha.yaml");
    let rendered =
        Rendered::with(&renderer, "v1.28.9", "mesh", &[&ha, &values]).unwrap_or_else(|error| panic!("{error}"));
    for kind in ["PodDisruptionBudget", "NetworkPolicy", "PodMonitor"] {
        rendered.get(kind);
    }
    let arguments = arguments(&rendered);
    for argument in [
        "--sidecar-kind=classic",
        "--system-namespace=mesh",
        "--sidecar-control=malla-control.mesh.svc:15012",
        "--advertise=malla-control.mesh.svc",
        "--advertise=mesh.example.org",
        "--sidecar-cpu-limit=1",
        "--sidecar-otlp=http://jaeger.tracing:4317",
        "--sidecar-trace-sampling=5%",
        "--sidecar-trace-failures",
        "--sidecar-trace-slow=500ms",
        "--sidecar-access-log=all",
        "--sidecar-access-log-format={status} \"{path}\"",
    ] {
        assert!(arguments.contains(&argument), "{argument} is in {arguments:?}");
    }
    // The same words lead on into the environment of a sidecar.
    let sidecars = arguments.iter().filter(|argument| argument.starts_with("--sidecar-"));
    let pod = directory.path().join("pod.yaml");
    fs::write(&pod, "kind: Pod\napiVersion: v1\nmetadata: {name: cart}\nspec: {containers: [{name: c, image: c}]}\n")
        .expect("written");
    let root = directory.path().join("root.pem");
    fs::write(&root, "-----BEGIN CERTIFICATE-----\n").expect("written");
    let injected = Command::new(tools::binary("malla"))
        .args(["inject", "-f", &pod.to_string_lossy(), "--trust", &root.to_string_lossy()])
        .args(sidecars)
        .output()
        .expect("runs");
    let text = String::from_utf8(injected.stdout).expect("UTF-8");
    assert!(injected.status.success(), "{}", String::from_utf8_lossy(&injected.stderr));
    for variable in ["OTLP", "TRACE_SAMPLING", "TRACE_FAILURES", "TRACE_SLOW", "ACCESS_LOG", "ACCESS_LOG_FORMAT"] {
        assert!(text.contains(&format!("MALLA_{variable}\"")), "{variable} is in {text}");
    }

    let refused = |text: &str| {
        fs::write(&values, text).expect("written");
        Rendered::with(&renderer, "v1.34.0", "mesh", &[&values]).err().unwrap_or_else(|| panic!("{text} is refused"))
    };
    assert!(refused("control: {replica: 3}").contains("'replica' was unexpected"));
    assert!(refused("webhook: {failurePolicy: Maybe}").contains("webhook.failurePolicy"));
    assert!(refused("sidecar: {tracing: {otlp: jaeger}}").contains("sidecar.tracing.otlp"));
    assert!(refused("sidecar: {accessLog: {requests: some}}").contains("sidecar.accessLog.requests"));
    assert!(refused("ca: {existingSecret: mine}").contains("ca.certificate: give the root certificate"));
}

#[test]
fn monitors_rules_and_dashboards_are_those_of_the_repository() {
    let directory = tempfile::tempdir().expect("a directory");
    let renderer = renderer(directory.path());
    let values = directory.path().join("values.yaml");
    let render = |monitoring: &str| {
        fs::write(&values, format!("monitoring: {{{monitoring}}}\n")).expect("written");
        Rendered::with(&renderer, "v1.34.0", "malla-system", &[&values])
    };
    let more = "rules: true, dashboards: true, labels: {release: prometheus}";
    for (form, kind) in [("podMonitors", "PodMonitor"), ("serviceMonitor", "ServiceMonitor")] {
        let rendered = render(&format!("{form}: true, {more}")).unwrap_or_else(|error| panic!("{error}"));
        let of_kind = |kind: &str| rendered.kinds().iter().filter(|other| **other == kind).count();
        assert_eq!(of_kind("PodMonitor") + of_kind("ServiceMonitor"), 2, "{form}: {:?}", rendered.kinds());
        let control = rendered.get(kind);
        assert_eq!(control["metadata"]["labels"]["release"], "prometheus");
        // What the alerts ask for as the job.
        let label = control["spec"]["jobLabel"].as_str().expect("a label");
        assert_eq!(rendered.get("Service")["metadata"]["labels"][label], "malla-control");
        assert_eq!(rendered.get("Deployment")["spec"]["template"]["metadata"]["labels"][label], "malla-control");

        let rules = documents(&tools::repository().join("deploy/prometheus/rules.yaml"));
        assert_eq!([rendered.get("PrometheusRule")["spec"].clone()], *rules);
        let dashboards = rendered.0.iter().find(|document| document["metadata"]["name"] == "malla-dashboards");
        let dashboards = dashboards.expect("a ConfigMap")["data"].as_object().expect("files");
        let directory = fs::read_dir(tools::repository().join("deploy/grafana/dashboards")).expect("a directory");
        let files: Vec<_> = directory.map(|file| file.expect("a file").path()).collect();
        assert_eq!(dashboards.len(), files.len(), "{:?}", dashboards.keys());
        for file in files {
            let name = file.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            assert_eq!(dashboards[name], fs::read_to_string(&file).expect("read"), "{name}");
        }
    }
    let twice = render("podMonitors: true, serviceMonitor: true").err().expect("refused");
    assert!(twice.contains("would be scraped twice"), "{twice}");
}

#[test]
fn each_pod_is_led_to_one_path_of_the_webhook_at_most() {
    let directory = tempfile::tempdir().expect("a directory");
    let renderer = renderer(directory.path());
    let rendered = Rendered::with(&renderer, "v1.34.0", "malla-system", &[]).unwrap_or_else(|error| panic!("{error}"));
    let webhooks = rendered.get("MutatingWebhookConfiguration")["webhooks"].as_array().expect("a list");
    let led = |namespace: &str, of_namespace: &[(&str, &str)], of_pod: &[(&str, &str)]| -> Vec<&str> {
        let of_namespace = [of_namespace, &[("kubernetes.io/metadata.name", namespace)]].concat();
        let matching = webhooks.iter().filter(|webhook| {
            selects(&webhook["namespaceSelector"], &of_namespace) && selects(&webhook["objectSelector"], of_pod)
        });
        matching.filter_map(|webhook| webhook["clientConfig"]["service"]["path"].as_str()).collect()
    };
    let (yes, no) = ([("malla.dev/inject", "enabled")], [("malla.dev/inject", "disabled")]);
    assert_eq!(led("shop", &yes, &[]), ["/inject/namespace"]);
    assert_eq!(led("shop", &yes, &yes), ["/inject/namespace"]);
    assert_eq!(led("shop", &yes, &no), [""; 0]);
    assert_eq!(led("shop", &[], &[]), [""; 0]);
    assert_eq!(led("shop", &[], &yes), ["/inject/pod"]);
    assert_eq!(led("shop", &no, &yes), ["/inject/pod"]);
    let restricted = [yes[0], ("pod-security.kubernetes.io/enforce", "restricted")];
    assert_eq!(led("shop", &restricted, &[]), ["/inject/namespace/restricted"]);
    assert_eq!(led("shop", &[("pod-security.kubernetes.io/enforce", "baseline")], &yes), ["/inject/pod/baseline"]);
    assert_eq!(
        led("shop", &[yes[0], ("pod-security.kubernetes.io/enforce", "privileged")], &[]),
        ["/inject/namespace"]
    );
    for system in ["kube-system", "malla-system"] {
        assert_eq!(led(system, &yes, &yes), [""; 0], "{system}");
    }
}

/// `matchExpressions` of a label selector.
fn selects(selector: &Value, labels: &[(&str, &str)]) -> bool {
    selector["matchExpressions"].as_array().expect("a list").iter().all(|expression| {
        let value = labels.iter().find(|(key, _)| expression["key"] == *key).map(|(_, value)| *value);
        let named =
            expression["values"].as_array().expect("a list").iter().any(|one| one.as_str() == value && value.is_some());
        match expression["operator"].as_str() {
            Some("In") => named,
            Some("NotIn") => !named,
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn its_kinds_are_those_that_malla_schema_prints() {
    let path = chart().join("crds/malla.dev.yaml");
    let documents: Vec<String> =
        malla_config::schema().iter().map(|schema| schema.crd_yaml().trim_end().to_owned()).collect();
    let printed = format!("{}\n", documents.join("\n---\n"));
    if std::env::var_os("MALLA_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &printed).expect("writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == printed, "run: malla schema --format crd > {}", path.display());
}

#[test]
fn injected_pods_are_valid_for_kubernetes() {
    let golden = tools::repository().join("control/src/inject/golden");
    let files: Vec<String> = fs::read_dir(golden)
        .expect("is there")
        .map(|entry| entry.expect("readable").path().to_str().expect("UTF-8").to_owned())
        .collect();
    assert!(files.len() >= 8, "{files:?}");
    let mut arguments = vec!["--validate"];
    arguments.extend(files.iter().map(String::as_str));
    let said = python(&arguments).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said, format!("{} valid\n", files.len()));
}

#[test]
fn what_injection_writes_for_the_sidecar_the_sidecar_understands() {
    use clap::Parser;

    #[derive(Parser)]
    struct Sidecar {
        #[command(flatten)]
        args: malla_proxy::settings::Args,
    }
    #[derive(Parser)]
    struct Init {
        #[command(flatten)]
        _args: malla_proxy::init::InitArgs,
    }

    let golden = tools::repository().join("control/src/inject/golden");
    for entry in fs::read_dir(golden).expect("is there") {
        let path = entry.expect("readable").path();
        let pod: Value = serde_json::from_str(&fs::read_to_string(&path).expect("read")).expect("JSON");
        for container in pod["spec"]["initContainers"].as_array().expect("a list") {
            let command = container["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if container["name"] == "malla-init" {
                let parsed = Init::try_parse_from(command.skip(1));
                assert!(parsed.is_ok(), "{}: {:?}", path.display(), parsed.err());
            }
            if container["name"] == "malla-proxy" {
                let flags = container["env"].as_array().expect("a list").iter().filter_map(|variable| {
                    let flag = variable["name"].as_str()?.strip_prefix("MALLA_")?.to_lowercase().replace('_', "-");
                    let flag = if flag == "local" { "listen".to_owned() } else { flag };
                    let value = variable["value"].as_str().unwrap_or("127.0.0.1").replace("$$", "$");
                    match &*flag {
                        // The log is the program's, not the sidecar's.
                        "log" => None,
                        "trace-failures" => Some(format!("--{flag}")),
                        _ => Some(format!("--{flag}={value}")),
                    }
                });
                let parsed = Sidecar::try_parse_from(["malla-proxy".to_owned()].into_iter().chain(flags));
                assert!(parsed.is_ok(), "{}: {}", path.display(), parsed.err().expect("an error"));
                drop(parsed.map(|sidecar| sidecar.args));
            }
        }
    }
}

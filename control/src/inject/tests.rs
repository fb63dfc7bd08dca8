//! What recorded pods become: golden files of the pods, the levels of Pod Security, and what other pods get.
//!
//! `MALLA_UPDATE_GOLDEN=1 cargo test -p malla-control inject` writes the golden files anew.

mod pod_security;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;

const TRUST_BUNDLE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn settings() -> InjectionSettings {
    InjectionSettings::new("malla-proxy:test", TRUST_BUNDLE)
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn enabled() -> BTreeMap<String, String> {
    labels(&[(INJECT, "enabled")])
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inject").join(name)
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(directory("fixtures").join(format!("{name}.json"))).expect("is there")
}

fn recorded(name: &str) -> Value {
    let review: Value = serde_json::from_slice(&fixture(name)).expect("is JSON");
    review["request"]["object"].clone()
}

const BY_NAMESPACE: Namespace = Namespace { enabled: true, pod_security: None };

/// RFC 6902, for what `diff` makes.
fn apply(document: &mut Value, steps: &Value) {
    for step in steps.as_array().expect("a list") {
        let path = step["path"].as_str().expect("a path");
        let (parent, key) = path.rsplit_once('/').expect("below the root");
        let key = key.replace("~1", "/").replace("~0", "~");
        let parent = document.pointer_mut(parent).unwrap_or_else(|| panic!("{path} leads somewhere"));
        match (step["op"].as_str(), parent) {
            (Some("add"), Value::Array(items)) => items.insert(key.parse().expect("a number"), step["value"].clone()),
            (Some("remove"), Value::Array(items)) => drop(items.remove(key.parse().expect("a number"))),
            (Some("replace"), Value::Array(items)) => {
                items[key.parse::<usize>().expect("a number")] = step["value"].clone()
            }
            (Some("add"), Value::Object(fields)) => drop(fields.insert(key, step["value"].clone())),
            (Some("remove"), Value::Object(fields)) => drop(fields.remove(&key).expect("was there")),
            (Some("replace"), Value::Object(fields)) => {
                drop(fields.insert(key, step["value"].clone()).expect("was there"))
            }
            _ => panic!("{step} does not apply"),
        }
    }
}

/// The pod that an API server would make of a review and the answer to it.
fn patched(body: &[u8], answer: &Answer) -> Value {
    let review: Value = serde_json::from_slice(body).expect("is JSON");
    let mut pod = review["request"]["object"].clone();
    if let Some(patch) = answer.body["response"]["patch"].as_str() {
        let patch = serde_json::from_slice(&STANDARD.decode(patch).expect("base64")).expect("JSON");
        apply(&mut pod, &patch);
    }
    pod
}

fn golden(name: &str, text: &str) {
    let path = directory("golden").join(name);
    if std::env::var_os("MALLA_UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("writable");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} is another; MALLA_UPDATE_GOLDEN=1 writes it anew", path.display());
}

#[test]
fn recorded_pods_become_the_golden_ones_and_are_left_alone_after_that() {
    for name in [
        "cart-deployment",
        "statefulset",
        "bare-pod",
        "echo-job",
        "native-sidecars",
        "server-dry-run",
        "workload-identity",
    ] {
        let body = fixture(name);
        let answer = review(&body, BY_NAMESPACE, &settings()).expect("is answered");
        assert_eq!(answer.outcome, Outcome::Injected, "{name}: {}", answer.body);
        let asked: Value = serde_json::from_slice(&body).expect("is JSON");
        assert_eq!(answer.body["response"]["uid"], asked["request"]["uid"]);
        let pod = patched(&body, &answer);
        golden(&format!("{name}.json"), &format!("{}\n", serde_json::to_string_pretty(&pod).expect("JSON")));

        let again = decide(&pod, "shop", &enabled(), &settings());
        let unchanged = Decision::Skip { reason: SkipReason::AlreadyInjected, warnings: Vec::new() };
        assert_eq!(again, unchanged, "{name} is not changed again");
        assert_eq!(undo(&pod).as_ref(), Some(&recorded(name)), "{name} can be had back");
    }
}

#[test]
fn recorded_pods_that_get_no_sidecar_are_answered_with_the_reason() {
    for (name, reason) in [
        ("host-network", SkipReason::HostNetwork),
        ("windows", SkipReason::Windows),
        ("already-injected", SkipReason::AlreadyInjected),
        ("opted-out", SkipReason::Disabled),
    ] {
        let answer = review(&fixture(name), BY_NAMESPACE, &settings()).expect("is answered");
        assert_eq!(answer.outcome, Outcome::Skipped(reason), "{name}");
        assert_eq!(answer.body["response"]["allowed"], true);
        assert_eq!(answer.body["response"]["patch"], Value::Null, "{name}");
        assert_eq!(answer.body["response"]["auditAnnotations"]["not-injected"], reason.sentence());
    }
}

fn denial(answer: &Answer) -> &str {
    assert_eq!(answer.outcome, Outcome::Denied, "{}", answer.body);
    assert_eq!(answer.body["response"]["allowed"], false);
    answer.body["response"]["status"]["message"].as_str().expect("a sentence")
}

#[test]
fn a_pod_of_the_sidecars_user_is_denied() {
    let answer = review(&fixture("uid-clash"), BY_NAMESPACE, &settings()).expect("is answered");
    assert!(denial(&answer).contains("the pod has runAsUser: 1337, which is the sidecar's own"), "{}", answer.body);
}

#[test]
fn a_restricted_namespace_takes_the_explicit_mode_alone() {
    let restricted = Namespace { enabled: true, pod_security: Some("restricted") };
    let body = fixture("restricted-app");
    let answer = review(&body, restricted, &settings()).expect("is answered");
    assert!(denial(&answer).contains("malla.dev/mode: explicit"), "{}", answer.body);

    let mut pod = recorded("restricted-app");
    pod["metadata"]["annotations"]["malla.dev/mode"] = json!("explicit");
    pod["metadata"]["annotations"]["malla.dev/listen"] = json!("127.0.0.1:3306=mysql.db:3306, [::1]:6379=cache:6379");
    pod["metadata"]["annotations"]["malla.dev/http-ports"] = json!("9000");
    for (name, value) in [
        ("otlp", "http://jaeger.tracing:4317"),
        ("trace-sampling", "5%"),
        ("trace-failures", "true"),
        ("trace-slow", "500ms"),
        ("access-log", "10%"),
        ("access-log-format", "{status} {path} $(HOME)"),
    ] {
        pod["metadata"]["annotations"][format!("malla.dev/{name}")] = json!(value);
    }
    let namespace = labels(&[(INJECT, "enabled"), ("pod-security.kubernetes.io/enforce", "restricted")]);
    let Decision::Inject { pod: made, .. } = decide(&pod, "restricted", &namespace, &settings()) else {
        panic!("is injected")
    };
    assert_eq!(pod_security::restricted(&made), Vec::<String>::new());
    golden("restricted-app.json", &format!("{}\n", serde_json::to_string_pretty(&made).expect("JSON")));
    assert_eq!(undo(&made), Some(pod));
}

#[test]
fn the_redirection_is_all_that_a_sidecar_adds_to_what_pod_security_forbids() {
    let body = fixture("restricted-app");
    let answer = review(&body, BY_NAMESPACE, &settings()).expect("is answered");
    let violations = pod_security::restricted(&patched(&body, &answer));
    assert_eq!(
        violations,
        [
            "malla-init: capability NET_ADMIN",
            "malla-init: capability NET_RAW",
            "malla-init: runAsNonRoot is not true",
            "malla-init: runAsUser 0",
        ]
    );
}

fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "metadata": { "name": "cart-1" },
        "spec": { "containers": [{ "name": "c", "image": "x:1", "ports": [{ "name": "web", "containerPort": 8080 }] }] },
    });
    change(&mut pod);
    pod
}

fn annotated(pairs: &[(&str, &str)]) -> Value {
    pod(|pod| pod["metadata"]["annotations"] = json!(labels(pairs)))
}

fn made(pod: &Value) -> Value {
    match decide(pod, "shop", &enabled(), &settings()) {
        Decision::Inject { pod, warnings } if warnings.is_empty() => pod,
        other => panic!("{other:?}"),
    }
}

fn denied(pod: &Value) -> String {
    match decide(pod, "shop", &enabled(), &settings()) {
        Decision::Deny(sentence) => sentence,
        other => panic!("{other:?}"),
    }
}

fn variable(pod: &Value, name: &str) -> Value {
    let sidecar = &pod["spec"]["initContainers"][1];
    assert_eq!(sidecar["name"], SIDECAR);
    let variables = sidecar["env"].as_array().expect("a list");
    variables.iter().find(|variable| variable["name"] == name).map_or(Value::Null, |variable| variable["value"].clone())
}

#[test]
fn annotations_become_flags_of_the_redirection_and_settings_of_the_sidecar() {
    let made = made(&annotated(&[
        ("malla.dev/inbound-ports", "8080, 9090"),
        ("malla.dev/skip-inbound-ports", "9100"),
        ("malla.dev/outbound-ports", "80,443"),
        ("malla.dev/skip-outbound-ports", "25"),
        ("malla.dev/outbound-cidrs", "10.0.0.0/8,fd00::/8"),
        ("malla.dev/skip-outbound-cidrs", "169.254.169.254"),
        ("malla.dev/opaque-ports", "3306"),
        ("malla.dev/http-ports", "9000, 9001"),
        ("malla.dev/cpu-request", "100m"),
        ("malla.dev/cpu-limit", "2"),
        ("malla.dev/memory-request", "64Mi"),
        ("malla.dev/memory-limit", "1Gi"),
        ("malla.dev/log", "debug"),
        ("malla.dev/workers", "2"),
        ("malla.dev/drain-time", "10s"),
        ("malla.dev/otlp", "http://jaeger.tracing:4317"),
        ("malla.dev/trace-sampling", "5%"),
        ("malla.dev/trace-failures", "true"),
        ("malla.dev/trace-slow", "500ms"),
        ("malla.dev/access-log", "all"),
        ("malla.dev/access-log-format", "{status} $(HOME)"),
    ]));
    assert_eq!(
        made["spec"]["initContainers"][0]["command"],
        json!([
            "malla-proxy",
            "init",
            "--include-inbound-ports=8080,9090",
            "--exclude-inbound-ports=9100",
            "--include-outbound-ports=80,443",
            "--exclude-outbound-ports=25",
            "--include-outbound-cidrs=10.0.0.0/8,fd00::/8",
            "--exclude-outbound-cidrs=169.254.169.254/32",
        ])
    );
    for (name, value) in [
        ("MALLA_OPAQUE_PORTS", "3306"),
        ("MALLA_HTTP_PORTS", "9000,9001"),
        ("MALLA_LOG", "debug"),
        ("MALLA_WORKERS", "2"),
        ("MALLA_DRAIN", "10s"),
        ("MALLA_OTLP", "http://jaeger.tracing:4317"),
        ("MALLA_TRACE_SAMPLING", "5%"),
        ("MALLA_TRACE_FAILURES", "true"),
        ("MALLA_TRACE_SLOW", "500ms"),
        ("MALLA_ACCESS_LOG", "all"),
        ("MALLA_ACCESS_LOG_FORMAT", "{status} $$(HOME)"),
    ] {
        assert_eq!(variable(&made, name), value);
    }
    let resources =
        json!({ "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "cpu": "2", "memory": "1Gi" } });
    assert_eq!(made["spec"]["initContainers"][1]["resources"], resources);
}

#[test]
fn annotations_that_cannot_be_honoured_are_refused_in_words() {
    for (pairs, words) in [
        (&[("malla.dev/skip-outbund-ports", "25")][..], "malla.dev/skip-outbund-ports is not supported; these are:"),
        (&[("malla.dev/skip-outbound-ports", "1-99")], "\"1-99\" is no list of ports"),
        (&[("malla.dev/skip-outbound-ports", "")], "is no list of ports"),
        (&[("malla.dev/outbound-cidrs", "10.0.0.0/33")], "is no list of networks"),
        (&[("malla.dev/memory-limit", "64MB")], "is no amount of memory: write 64Mi"),
        (&[("malla.dev/cpu-limit", "$(X)")], "is no amount of CPU"),
        (&[("malla.dev/log", "loud")], "is no log level"),
        (&[("malla.dev/workers", "0")], "is no number of threads"),
        (&[("malla.dev/drain-time", "30")], "is no time: write a whole number with its unit"),
        (&[("malla.dev/mode", "magic")], "is neither `transparent` nor `explicit`"),
        (&[("malla.dev/mode", "explicit"), ("malla.dev/skip-inbound-ports", "1")], "skip-inbound-ports has no meaning"),
        (&[("malla.dev/opaque-ports", "1,2"), ("malla.dev/http-ports", "2")], "both name the port 2"),
        (&[("malla.dev/listen", "127.0.0.1:3306=db:3306")], "has no meaning without malla.dev/mode: explicit"),
        (
            &[("malla.dev/mode", "explicit"), ("malla.dev/listen", "0.0.0.0:3306=db:3306")],
            "write 127.0.0.1:3306=mysql.db:3306",
        ),
        (&[("malla.dev/mode", "explicit"), ("malla.dev/listen", "127.0.0.1:0=db:3306")], "is no list of local ports"),
        (&[("malla.dev/mode", "explicit"), ("malla.dev/listen", "127.0.0.1:1=db")], "is no list of local ports"),
        (&[("malla.dev/mode", "explicit"), ("malla.dev/listen", "127.0.0.1:15001=db:1")], "which the sidecar needs"),
        (
            &[("malla.dev/mode", "explicit"), ("malla.dev/listen", "127.0.0.1:1=a:1,[::1]:8080=db:1")],
            "container c declares port 8080, on which malla.dev/listen has the sidecar listen",
        ),
        (&[("malla.dev/inject", "yes")], "is neither `enabled` nor `disabled`"),
        (&[("malla.dev/otlp", "jaeger")], "malla.dev/otlp: \"jaeger\": \"jaeger\" does not begin with http://"),
        (&[("malla.dev/trace-slow", "1s")], "malla.dev/trace-slow has no meaning without malla.dev/otlp"),
    ] {
        let sentence = denied(&annotated(pairs));
        assert!(sentence.contains(words), "{pairs:?}: {sentence}");
    }
}

#[test]
fn what_could_not_work_with_a_sidecar_is_denied() {
    for (change, words) in [
        (json!({ "securityContext": { "runAsGroup": 1337 } }), "the pod has runAsGroup: 1337"),
        (
            json!({ "containers": [{ "name": "c", "securityContext": { "runAsUser": 1337 } }] }),
            "container c has runAsUser",
        ),
        (json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 15021 }] }] }), "declares port 15021"),
        (json!({ "volumes": [{ "name": "malla", "emptyDir": {} }] }), "a volume named malla"),
        (json!({ "dnsPolicy": "Default" }), "cannot resolve the control server's name"),
        (json!({ "containers": "none" }), "this is not a pod that Malla can read"),
    ] {
        let pod = pod(|pod| {
            pod["spec"].as_object_mut().expect("an object").extend(change.as_object().cloned().expect("an object"))
        });
        let sentence = denied(&pod);
        assert!(sentence.contains(words), "{sentence}");
    }
    assert!(denied(&json!("no pod")).contains("not a pod"));
    assert!(denied(&pod(|pod| pod["metadata"]["name"] = json!("my.pod"))).contains("no dots"));
    // UDP is not redirected.
    made(&pod(|pod| pod["spec"]["containers"][0]["ports"][0] = json!({ "containerPort": 15021, "protocol": "UDP" })));
}

#[test]
fn who_asks_is_the_namespace_or_the_pod_and_the_pod_prevails() {
    let reason = |pod: &Value, namespace: &str, of_namespace: &BTreeMap<String, String>| match decide(
        pod,
        namespace,
        of_namespace,
        &settings(),
    ) {
        Decision::Inject { .. } => None,
        Decision::Skip { reason, .. } => Some(reason),
        Decision::Deny(sentence) => panic!("{sentence}"),
    };
    let plain = pod(|_| {});
    let labelled = |value: &str| pod(|pod| pod["metadata"]["labels"] = json!({ INJECT: value }));
    let none = labels(&[]);
    assert_eq!(reason(&plain, "shop", &enabled()), None);
    assert_eq!(reason(&plain, "shop", &none), Some(SkipReason::NotEnabled));
    assert_eq!(reason(&plain, "shop", &labels(&[(INJECT, "disabled")])), Some(SkipReason::Disabled));
    assert_eq!(reason(&labelled("enabled"), "shop", &none), None);
    assert_eq!(reason(&labelled("disabled"), "shop", &enabled()), Some(SkipReason::Disabled));
    assert_eq!(reason(&annotated(&[(INJECT, "enabled")]), "shop", &none), None);
    assert_eq!(reason(&labelled("enabled"), "kube-system", &enabled()), Some(SkipReason::SystemNamespace));
    assert_eq!(reason(&labelled("enabled"), "malla-system", &enabled()), Some(SkipReason::OwnNamespace));
    let both =
        pod(|pod| pod["metadata"] = json!({ "labels": { INJECT: "enabled" }, "annotations": { INJECT: "disabled" } }));
    assert!(denied(&both).contains("contradict"));
}

#[test]
fn who_asked_for_a_sidecar_and_gets_none_is_told() {
    let pod = pod(|pod| {
        pod["metadata"]["labels"] = json!({ INJECT: "enabled" });
        pod["spec"]["hostNetwork"] = json!(true);
    });
    let Decision::Skip { reason: SkipReason::HostNetwork, warnings } = decide(&pod, "shop", &enabled(), &settings())
    else {
        panic!("is skipped")
    };
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("hostNetwork"), "{warnings:?}");
}

#[test]
fn what_another_webhook_adds_after_injection_is_taken_in() {
    let mut pod = made(&pod(|_| {}));
    let containers = pod["spec"]["containers"].as_array_mut().expect("a list");
    containers.push(json!({ "name": "late", "image": "x:1", "readinessProbe": { "tcpSocket": { "port": 99 } } }));
    let agent = json!({ "name": "agent", "image": "x:1", "restartPolicy": "Always" });
    pod["spec"]["initContainers"].as_array_mut().expect("a list").insert(0, agent);
    let again = made(&pod);
    assert!(variable(&again, "MALLA_PROBES").as_str().is_some_and(|probes| probes.contains("/probe/late/readyz")));
    assert_eq!(again["spec"]["initContainers"][2]["name"], "agent");
    let mut patched = pod.clone();
    apply(&mut patched, &serde_json::to_value(diff(&pod, &again)).expect("JSON"));
    assert_eq!(patched, again);
    assert!(matches!(decide(&again, "shop", &enabled(), &settings()), Decision::Skip { .. }));
}

#[test]
fn a_sidecar_that_others_made_is_left_alone_and_marks_without_one_are_not_believed() {
    let other = InjectionSettings { image: "malla-proxy:old".to_owned(), ..settings() };
    let Decision::Inject { pod: of_others, .. } = decide(&pod(|_| {}), "shop", &enabled(), &other) else {
        panic!("is injected")
    };
    let alone = Decision::Skip { reason: SkipReason::AlreadyInjected, warnings: Vec::new() };
    assert_eq!(decide(&of_others, "shop", &enabled(), &settings()), alone);

    let copied = annotated(&[(INJECTED, "0123456789abcdef"), (TRUST, "other")]);
    assert_eq!(made(&copied)["metadata"]["annotations"][TRUST], TRUST_BUNDLE);
    let mut damaged = made(&pod(|_| {}));
    damaged["metadata"]["annotations"][ORIGINALS] = json!("{");
    assert_eq!(decide(&damaged, "shop", &enabled(), &settings()), alone);
}

#[test]
fn probes_that_cannot_be_led_to_the_sidecar_stay_with_a_warning() {
    let pod = pod(|pod| {
        pod["spec"]["containers"][0]["livenessProbe"] = json!({ "httpGet": { "port": "absent" } });
        pod["spec"]["containers"][0]["readinessProbe"] = json!({ "tcpSocket": { "port": 80, "host": "example.org" } });
        pod["spec"]["containers"][0]["lifecycle"] =
            json!({ "preStop": { "httpGet": { "port": "web", "path": "stop" } } });
    });
    let Decision::Inject { pod: made, warnings } = decide(&pod, "shop", &enabled(), &settings()) else {
        panic!("is injected")
    };
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(made["spec"]["containers"][0]["livenessProbe"], pod["spec"]["containers"][0]["livenessProbe"]);
    let probes = r#"{"/probe/c/prestop":{"port":8080,"ask":{"http":{"path":"/stop"}},"timeoutSeconds":50}}"#;
    assert_eq!(variable(&made, "MALLA_PROBES"), probes);
    assert_eq!(undo(&made), Some(pod));
}

#[test]
fn before_native_sidecars_the_order_of_containers_is_kept_by_hooks() {
    let classic = InjectionSettings { sidecar: SidecarKind::Classic, ..settings() };
    let Decision::Inject { pod: made, .. } = decide(&recorded("cart-deployment"), "shop", &enabled(), &classic) else {
        panic!("is injected")
    };
    let names = |list: &str| -> Vec<String> {
        let items = made["spec"][list].as_array().expect("a list");
        items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["migrate", INIT]);
    assert_eq!(names("containers"), [SIDECAR, "cart", "log-shipper"]);
    assert_eq!(
        made["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"],
        json!(["malla-proxy", "wait"])
    );
    assert_eq!(made["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "cart");
    assert_eq!(undo(&made), Some(recorded("cart-deployment")));

    let job = decide(&recorded("echo-job"), "shop", &enabled(), &classic);
    assert!(matches!(job, Decision::Skip { reason: SkipReason::WouldNotComplete, warnings } if warnings.len() == 1));
}

#[test]
fn what_is_no_review_is_refused_in_words() {
    let refused = |body: &str| review(body.as_bytes(), BY_NAMESPACE, &settings()).expect_err("is refused").to_string();
    assert!(refused("garbage").starts_with("this is no AdmissionReview: "));
    assert!(refused("{}").contains("missing field"));
    assert!(
        refused(r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#)
            .contains("only AdmissionReview of")
    );
    assert!(refused(r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#).contains("no request"));
    let deep = format!(r#"{{"request":{{"object":{}"#, "[".repeat(100_000));
    assert!(refused(&deep).contains("recursion limit"), "{}", refused(&deep));
    let mut other: Value = serde_json::from_slice(&fixture("bare-pod")).expect("JSON");
    other["request"]["resource"]["resource"] = json!("services");
    let answer = review(other.to_string().as_bytes(), BY_NAMESPACE, &settings()).expect("is answered");
    assert_eq!((answer.outcome, &answer.body["response"]["allowed"]), (Outcome::NotAPod, &json!(true)));
    other["request"]["resource"]["resource"] = json!("pods");
    other["request"]["object"] = json!({ "spec": 7 });
    let answer = review(other.to_string().as_bytes(), BY_NAMESPACE, &settings()).expect("is answered");
    assert!(denial(&answer).contains("not a pod that Malla can read"));
}

#[test]
fn settings_that_would_make_broken_pods_are_refused() {
    settings().check().expect("are good");
    let changes: [fn(&mut InjectionSettings); 10] = [
        |settings| settings.image = String::new(),
        |settings| settings.pull_policy = "Sometimes".to_owned(),
        |settings| settings.control = "malla-control".to_owned(),
        |settings| settings.trust = String::new(),
        |settings| settings.resources.memory_limit = "1 GB".to_owned(),
        |settings| settings.resources.cpu_limit = Some("much".to_owned()),
        |settings| settings.log = "loud".to_owned(),
        |settings| settings.drain = "soon".to_owned(),
        |settings| settings.telling = Telling::new([("access-log", Some("some".to_owned()))]),
        |settings| settings.telling = Telling::new([("trace-sampling", Some("1%".to_owned()))]),
    ];
    for change in changes {
        let mut settings = settings();
        change(&mut settings);
        settings.check().expect_err("is refused");
    }
}

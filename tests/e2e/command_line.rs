//! What people see when something is wrong at the start.

use std::fs;
use std::time::Duration;

use malla_tests::pod::inside;
use malla_tests::{Output, Pod, Sandbox};

use crate::servers;

/// Runs a program that must fail at once, with a sentence that has all of these words.
#[track_caller]
fn fails_with(pod: &Pod, command: &[&str], words: &[&str]) -> Output {
    let output = pod.spawn(command).end(Duration::from_secs(20)).failure();
    let said = output.both();
    for word in words {
        assert!(said.contains(word), "`{}` does not say {word:?}:\n{said}", output.command);
    }
    assert!(!said.contains("panicked"), "{said}");
    output
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("control");
    let configuration = sandbox.writable_directory("config");
    let configuration = configuration.to_string_lossy();
    let start = [&inside("malla"), "control", "--config", &configuration, "--state"];
    // Not even root writes there.
    fails_with(&pod, &[&start[..], &["/proc/malla-state"]].concat(), &["/proc/malla-state", "--state"]);
    fails_with(&pod, &[&start[..], &["/etc/hosts/state"]].concat(), &["/etc/hosts/state", "--state"]);
}

#[test]
fn a_missing_configuration_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("control");
    let state = sandbox.directory().join("state");
    let start = [&*inside("malla"), "control", "--config", "/no/such/mesh", "--state", &state.to_string_lossy()];
    fails_with(&pod, &start, &["/no/such/mesh", "*.yaml"]);
    assert!(!state.exists(), "a state directory was made");
}

#[test]
fn lifetimes_have_bounds() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("control");
    let malla = inside("malla");
    fails_with(&pod, &[&malla, "control", "--config", "/", "--certificate-lifetime", "9s"], &["from 10s to 30d"]);
    let create = [&*malla, "token", "create", "--namespace", "a", "--service-account", "b", "--ttl", "31d"];
    fails_with(&pod, &create, &["from 1s to 30d"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("control");
    let _nginx = servers::nginx(&pod, "other", &["15001", "15012"]);
    let configuration = sandbox.writable_directory("config");
    let state = sandbox.writable_directory("state");
    let (configuration, state) = (configuration.to_string_lossy(), state.to_string_lossy());
    let control = [&inside("malla"), "control", "--config", &configuration, "--state", &state];
    fails_with(&pod, &control, &["15012", "--listen"]);

    let free = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut running = pod.spawn(&[&control[..], &free].concat());
    let trust = sandbox.directory().join("state/root.pem");
    malla_tests::wait::until("the root certificate", Duration::from_secs(20), || {
        assert!(!running.has_ended(), "{}", running.tail());
        trust.exists().then_some(())
    });
    let token = sandbox.directory().join("token");
    let create = ["token", "create", "--namespace", "shop", "--service-account", "web", "--state", &state];
    let output = pod.exec(&[&[&*inside("malla")], &create[..]].concat()).success();
    fs::write(&token, output.stdout).expect("the sandbox's directory is writable");
    let (trust, token) = (trust.to_string_lossy(), token.to_string_lossy());
    let sidecar = [&*inside("malla-proxy"), "--trust", &trust, "--token", &token, "--workload", "web-1"];
    fails_with(&pod, &sidecar, &["15001", "--outbound-port"]);
    fails_with(&pod, &[&sidecar[..3], &["--token", "/no/such/file"]].concat(), &["/no/such/file", "--token"]);
    fails_with(&pod, &[&inside("malla-proxy"), "--trust", "/no/trust", "--token", &token], &["/no/trust"]);
    let no_certificate = [&*inside("malla-proxy"), "--trust", "/etc/hosts", "--token", &token];
    fails_with(&pod, &no_certificate, &["/etc/hosts", "--trust", "root.pem"]);
    let certificates =
        [&*inside("malla-proxy"), "certificates", "--out", "/tmp/out", "--trust", "/etc/hosts", "--token"];
    fails_with(&pod, &[&certificates[..], &[&*token]].concat(), &["/etc/hosts", "--trust", "root.pem"]);
}

#[test]
fn check_reports_every_error_with_its_place() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("editor");
    let directory = sandbox.writable_directory("config");
    let web = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  clusterIP: 10.96.0.1\n  \
               selector: {app: web}\n  ports: [{name: http, port: 80}]\n---\napiVersion: malla.dev/v1alpha1\n\
               kind: Workload\nmetadata: {name: web-1, namespace: shop, labels: {app: web}}\nspec: {address: 10.77.0.9}\n";
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: '', kind: Service, name: web, port: 80}]\n  rules:\n  - backendRefs: [{name: web, port: 80}]\n";
    fs::write(directory.join("web.yaml"), web).expect("the directory is writable");
    fs::write(directory.join("route.yaml"), route).expect("the directory is writable");
    let check = [&*inside("malla"), "check", &directory.to_string_lossy()];
    pod.exec(&check).success();

    fs::write(directory.join("route.yaml"), route.replace("backendRefs", "backendRef")).expect("writable");
    fs::write(
        directory.join("two.yaml"),
        route
            .replace("name: web, port: 80}]\n", "name: nobody, port: 80}]\n")
            .replace("{name: web, n", "{name: two, n"),
    )
    .expect("writable");
    let output = fails_with(&pod, &check, &["route.yaml:7", "did you mean `backendRefs`?", "two.yaml:7", "nobody"]);
    assert!(output.both().contains("shop/web") || output.both().contains("web.shop"), "{}", output.both());

    // Indented with a tab, cut off in the middle, not text at all: an error, never a panic.
    for broken in [&b"spec:\n\t- a\n"[..], b"spec: {a: [", b"\xff\xfe\x00\x01", b"a: &a [*a]\n", b"- 1\n- 2\n"] {
        fs::write(directory.join("two.yaml"), broken).expect("writable");
        fails_with(&pod, &check, &["two.yaml"]);
    }
}

#[test]
fn schemas_are_printed_for_our_own_kinds() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("editor");
    let printed = pod.exec(&[&inside("malla"), "schema", "--format", "crd"]).success().text();
    for kind in ["Workload", "Mesh", "TrafficPolicy", "AuthorizationPolicy"] {
        assert!(
            printed.contains(&format!("kind: {kind}")) || printed.contains(&format!("\"kind\": \"{kind}\"")),
            "{kind}"
        );
    }
    pod.exec(&[&inside("malla"), "schema", "Workload"]).success();
}

#[test]
fn the_demonstration_runs_for_anybody_anywhere() {
    let sandbox = Sandbox::new();
    // A pod reaches nothing but other pods, and there are none; the user may nothing.
    let pod = sandbox.pod("laptop");
    let demo = pod.spawn_as(1000, &[&inside("malla"), "demo", "--for", "5s"], &[]);
    let said = demo.end(Duration::from_secs(90)).success().text();
    for edge in ["travels", "flights", "discounts", "viaggi"] {
        assert!(said.contains(edge), "{edge} is missing:\n{said}");
    }
}

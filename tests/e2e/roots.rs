//! Roots are replaced, certificates expire, the authority's files change: under load, and nobody is cut off who need not be.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use malla_tests::{Load, Member, Mesh, Process, wait};

use crate::servers;

/// Certificates that live so long are renewed every few seconds.
const SHORT: [&str; 2] = ["--certificate-lifetime", "10s"];

/// A mesh with `web-1` (nginx) and a client, whose certificates live ten seconds.
fn mesh(more: &[&str]) -> (Mesh, Member, Member, Process) {
    mesh_in(Mesh::new(), more)
}

fn mesh_in(mut mesh: Mesh, more: &[&str]) -> (Mesh, Member, Member, Process) {
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start_with(&[&SHORT[..], more].concat());
    let nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    (mesh, client, web, nginx)
}

/// Steady load of both versions of HTTP, each request or third of them on a new connection.
fn loads(client: &Member) -> [Load; 2] {
    let rate = ["http://web.shop/", "--rate", "40", "--connections", "4"];
    let http1 = Load::start(client, &[&rate[..], &["--requests-per-connection", "3"]].concat());
    let http2 = Load::start(client, &[&rate[..], &["--http2"]].concat());
    [http1, http2]
}

/// Fingerprints of the trust anchors, the one that signs first.
fn anchors(mesh: &Mesh) -> Vec<String> {
    let status = mesh.status();
    let anchors = status["trust"]["anchors"].as_array().expect("a list");
    anchors.iter().map(|anchor| anchor["fingerprint"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn the_root_is_rotated_under_load_and_through_a_crash() {
    let (mut mesh, client, web, _nginx) = mesh(&[]);
    let state = mesh.state().to_string_lossy().into_owned();
    let rotate = |mesh: &Mesh, more: &[&str]| mesh.malla(&[&["ca", "rotate", "--state", &state], more].concat());
    let before = anchors(&mesh);
    // Who has not had the time to take the new root would be cut off.
    let refused = rotate(&mesh, &["--patience", "1ms"]).failure();
    assert!(refused.both().contains("cut off"), "{}", refused.both());
    assert_eq!(anchors(&mesh)[0], before[0], "the old root signs on");

    let loads = loads(&client);
    // The control server is killed in the middle, and the rotation goes on where it was.
    mesh.kill_control();
    rotate(&mesh, &["--patience", "2s"]).failure();
    mesh.start_with(&SHORT);
    // Not everybody is connected, or has a certificate of the new root.
    let hasty = rotate(&mesh, &["--patience", "1ms", "-o", "json"]).failure();
    let steps: Vec<serde_json::Value> =
        hasty.text().lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    // How far it comes, and whether the control server is there already, depends on the moment.
    assert!(steps.iter().all(|step| step["step"].is_string() && step["said"].is_string()), "{steps:?}");
    assert!(!hasty.both().contains("retire"), "{}", hasty.both());
    let rotated = rotate(&mesh, &["--patience", "90s"]).success().text();
    for step in ["trust the new root", "sign        ", "have a certificate of the new root", "retire      "] {
        assert!(rotated.contains(step), "{step:?} is not in\n{rotated}");
    }
    let after = wait::until("the old root to be trusted no more", Duration::from_secs(10), || {
        Some(anchors(&mesh)).filter(|anchors| anchors.len() == 1)
    });
    assert!(after[0] != before[0], "{before:?} → {after:?}");
    // What the sidecars know of themselves.
    wait::until("the sidecars to trust the new root alone", Duration::from_secs(20), || {
        let trusts_one = |member: &Member| {
            let shown = member.exec(&[&malla_tests::pod::inside("malla"), "identity", "-o", "json"]).success().text();
            let identity: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
            let anchors = identity["anchors"].as_array().expect("a list");
            anchors.len() == 1 && identity["chain"][0]["issuer"] == anchors[0]["subject"]
        };
        (trusts_one(&client) && trusts_one(&web)).then_some(())
    });
    for load in loads {
        load.wait_successes(100);
        load.stop_without_failure();
    }
    // Who issued what to whom, and for how long.
    let audit = fs::read_to_string(mesh.state().join("audit.jsonl")).expect("it is kept");
    let of_web = |line: &&str| line.contains("/sa/web\"") && line.contains("\"lasts\":") && line.contains(&after[0]);
    assert!(audit.lines().any(|line| of_web(&line)), "{audit}");
}

#[test]
fn an_expired_certificate_fails_closed_and_heals_by_itself() {
    let (mut mesh, client, web, _nginx) = mesh(&[]);
    let ask = || client.exec(&["curl", "-sSi", "--max-time", "5", "http://web.shop/"]).text();
    assert!(ask().starts_with("HTTP/1.1 200"));
    mesh.kill_control();
    // From half of its life on it is told, long before anything fails.
    client.wait_metric("malla_identity_renewal_failing", &[], 1.0);
    assert!(client.metric("malla_identity_valid", &[]) > 0.0, "{}", client.admin("/metrics"));
    assert!(client.sidecar().stderr().contains("was not renewed"), "{}", client.sidecar().tail());
    wait::until("requests to fail with identity_expired", Duration::from_secs(30), || {
        ask().contains("malla-reason: identity_expired").then_some(())
    });
    assert_eq!(client.metric("malla_identity_valid", &[]), 0.0);
    let shown = client.exec(&[&malla_tests::pod::inside("malla"), "identity"]).failure().text();
    assert!(shown.contains("EXPIRED") && shown.contains("FAILING"), "{shown}");
    mesh.start_with(&SHORT);
    wait::until("requests to be served again", Duration::from_secs(60), || {
        ask().starts_with("HTTP/1.1 200").then_some(())
    });
    assert_eq!(web.metric("malla_identity_valid", &[]), 1.0);
}

/// A root made by `openssl` in a directory; its certificate and key.
pub(crate) fn root(mesh: &Mesh, name: &str) -> (PathBuf, PathBuf) {
    let directory = mesh.sandbox().writable_directory(name);
    let make = format!(
        "cd {} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj '/CN={name}' \
         -keyout root.key -out root.pem && chmod 644 root.key",
        directory.display()
    );
    mesh.control_pod().shell(&make).success();
    (directory.join("root.pem"), directory.join("root.key"))
}

#[test]
fn a_root_that_others_replace_is_taken_up_without_a_failure() {
    let mesh = Mesh::new();
    let ((first, first_key), (second, second_key)) = (root(&mesh, "first"), root(&mesh, "second"));
    let mounted = mesh.sandbox().writable_directory("mounted");
    let (certificate, key) = (mounted.join("tls.crt"), mounted.join("tls.key"));
    fs::copy(first, &certificate).expect("copied");
    fs::copy(first_key, &key).expect("copied");
    let trust = mesh.trust();
    // Where the mesh's tests look for what sidecars are given.
    fs::create_dir_all(mesh.state()).expect("made");
    fs::copy(&certificate, mesh.state().join("root.pem")).expect("copied");
    let arguments = ["--root-cert", &certificate.to_string_lossy(), "--root-key", &key.to_string_lossy()];
    let (mesh, client, _web, _nginx) = mesh_in(mesh, &arguments);
    assert!(trust.exists());
    let before = anchors(&mesh);
    let loads = loads(&client);
    // One file after the other, as it happens: between them they do not fit.
    fs::copy(second, &certificate).expect("copied");
    mesh.wait_status("the misfit to be told", |status| status["trust"]["problem"].is_string());
    assert_eq!(anchors(&mesh), before);
    fs::copy(second_key, &key).expect("copied");
    mesh.wait_status("the new root to sign", |status| {
        let anchors = status["trust"]["anchors"].as_array().expect("a list");
        anchors.len() == 2 && anchors[1]["fingerprint"] == *before[0]
    });
    mesh.wait_status("the old root to be trusted no more", |status| {
        let anchors = status["trust"]["anchors"].as_array().expect("a list");
        anchors.len() == 1 && anchors[0]["fingerprint"] != *before[0]
    });
    for load in loads {
        load.wait_successes(100);
        load.stop_without_failure();
    }
}

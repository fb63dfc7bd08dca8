//! Two meshes, each with a control server and a root of its own, that know each other by their roots: who may call whom, and what ends
//! when one of them trusts the other no longer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use malla_tests::pod::{SIDECAR_USER, inside};
use malla_tests::{Mesh, Pod, Process, wait};

use crate::servers;

/// The mesh of a partner, beside the one of the test.
struct Partner {
    control: Pod,
    directory: PathBuf,
    _server: Process,
}

impl Partner {
    /// Its control server, which knows nothing of us yet.
    #[track_caller]
    fn start(mesh: &Mesh) -> Partner {
        let (control, directory) = (mesh.stranger("partner"), mesh.sandbox().writable_directory("partner"));
        fs::create_dir_all(directory.join("config")).expect("writable");
        let (configuration, state) = (directory.join("config"), directory.join("state"));
        let address = control.ipv4().to_string();
        let mut server = control.spawn(&[
            &inside("malla"),
            "control",
            "--config",
            &configuration.to_string_lossy(),
            "--state",
            &state.to_string_lossy(),
            "--listen",
            "0.0.0.0:15012",
            "--advertise",
            &address,
        ]);
        control.wait_listening(&mut server, 15012);
        let partner = Partner { control, directory, _server: server };
        fs::write(partner.trust(), partner.root()).expect("writable");
        fs::set_permissions(partner.trust(), fs::Permissions::from_mode(0o644)).expect("ours");
        partner
    }

    fn root(&self) -> String {
        fs::read_to_string(self.directory.join("state/root.pem")).expect("its control server has made it")
    }

    fn trust(&self) -> PathBuf {
        self.directory.join("trust.pem")
    }

    #[track_caller]
    fn write(&self, name: &str, text: &str) {
        let (path, new) = (self.directory.join("config").join(name), self.directory.join("config").join("new"));
        fs::write(&new, text).and_then(|()| fs::rename(&new, path)).expect("writable");
    }

    /// A sidecar of its mesh, in a pod with redirection.
    #[track_caller]
    fn sidecar(&self, pod: &Pod, account: &str) -> Process {
        let state = self.directory.join("state").to_string_lossy().into_owned();
        let create = ["token", "create", "--namespace", "shop", "--service-account", account, "--state", &state];
        let malla = inside("malla");
        let command = [&[&*malla][..], &create, &["--trust-domain", "partner.example"]].concat();
        let token = self.directory.join(format!("{account}.token"));
        fs::write(&token, self.control.exec(&command).success().stdout).expect("writable");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).expect("ours");
        pod.redirect();
        let (program, control) = (inside("malla-proxy"), format!("{}:15012", self.control.ipv4()));
        let (trust, token) = (self.trust().to_string_lossy().into_owned(), token.to_string_lossy().into_owned());
        let known = ["--control", &control, "--trust", &trust, "--token", &token];
        let workload = ["--workload", pod.name(), "--mode", "transparent"];
        let mut sidecar = pod.spawn_as(SIDECAR_USER, &[&[&*program][..], &known, &workload].concat(), &[]);
        pod.wait_listening(&mut sidecar, 15021);
        wait::until("the partner's sidecar to be ready", Duration::from_secs(60), || {
            let ready = ["curl", "-sf", "--max-time", "5", "http://127.0.0.1:15021/ready"];
            pod.exec(&ready).status.success().then_some(())
        });
        sidecar
    }
}

/// A `Mesh` that knows another trust domain by these roots; none is no federation.
fn knows(own: &str, other: &str, roots: &[&str]) -> String {
    let mut text =
        format!("apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: {own}\n");
    if !roots.is_empty() {
        text.push_str(&format!("  federation:\n  - trustDomain: {other}\n    roots: |\n"));
        for line in roots.iter().flat_map(|root| root.lines()) {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text
}

/// The status and, if a sidecar answered, its word.
fn ask(pod: &Pod) -> String {
    let line = "curl -sS --max-time 10 -o /dev/null -w '%{http_code} %header{malla-reason}' http://rates.shop/";
    pod.shell(line).text().trim().to_owned()
}

#[track_caller]
fn comes_to(pod: &Pod, answers: &[&str]) {
    let what = format!("{} to be answered {answers:?}, not {}", pod.name(), ask(pod));
    wait::until(&what, Duration::from_secs(30), || answers.contains(&&*ask(pod)).then_some(()));
}

#[test]
fn two_meshes_call_each_other_by_identity_until_one_trusts_the_other_no_longer() {
    const OURS: &str = "cluster.local";
    const THEIRS: &str = "partner.example";
    let mut mesh = Mesh::new();
    mesh.service("rates", &["{name: http, port: 80, targetPort: 8080}", "{name: tcp, port: 7000}"]);
    let (mut client, mut other) = (mesh.member("client"), mesh.member("other"));
    let rates = mesh.stranger("rates-1");
    mesh.start();
    let partner = Partner::start(&mesh);
    let ours = fs::read_to_string(mesh.trust()).expect("our root");
    let stranger = rates.shell(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=x -keyout /dev/null 2>/dev/null",
    );
    let stranger = stranger.success().text();

    // What the partner runs, and that one identity of ours may call it.
    partner.write(
        "rates.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: rates, namespace: shop}}\nspec:\n  selector: {{app: rates}}\n  \
             ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: tcp, port: 7000}}]\n---\n\
             apiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {{name: rates-1, namespace: shop, labels: {{app: rates}}}}\n\
             spec: {{address: {}, serviceAccount: rates, sidecar: {{mode: transparent}}}}\n---\n\
             apiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: client, namespace: shop}}\n\
             spec: {{action: Allow, rules: [{{from: [{{identities: ['spiffe://{OURS}/ns/shop/sa/client']}}]}}]}}\n",
            rates.ipv4()
        ),
    );
    partner.write("mesh.yaml", &knows(THEIRS, OURS, &[&ours]));
    // What we know of it.
    mesh.write("mesh.yaml", &knows(OURS, THEIRS, &[&partner.root()]));
    mesh.write(
        "workloads/rates-1.yaml",
        &format!(
            "apiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {{name: rates-1, namespace: shop, labels: {{app: rates}}}}\n\
             spec: {{address: {}, serviceAccount: rates, trustDomain: {THEIRS}, sidecar: {{mode: transparent}}}}\n",
            rates.ipv4()
        ),
    );
    let _nginx = servers::nginx(&rates, "rates-1", &["8080"]);
    let mut tcp = servers::python(&rates, "tcp_server.py", &["7000", "rates-1"]);
    rates.wait_listening(&mut tcp, 7000);
    let mut sidecar = partner.sidecar(&rates, "rates");
    mesh.join([&mut client, &mut other]);

    comes_to(&client, &["200"]);
    comes_to(&other, &["403 denied"]);
    let stream = || {
        let stream = servers::python(&client, "tcp_trickle.py", &["rates.shop", "7000"]);
        wait::until("the stream to be open", Duration::from_secs(30), || {
            stream.stdout().contains("connected").then_some(())
        });
        stream
    };

    // A second root beside the first changes nothing; without ours, what is open ends, and nothing new begins.
    let open = stream();
    partner.write("mesh.yaml", &knows(THEIRS, OURS, &[&ours, &stranger]));
    assert_eq!(ask(&client), "200");
    partner.write("mesh.yaml", &knows(THEIRS, OURS, &[]));
    open.end(Duration::from_secs(30)).failure();
    comes_to(&client, &["503 tls_failed", "503 upstream_reset", "502 upstream_reset", "503 connect_failed"]);
    // It heals when the root is back.
    partner.write("mesh.yaml", &knows(THEIRS, OURS, &[&ours]));
    comes_to(&client, &["200"]);

    // Our side may be the one that trusts no longer: the partner's root gives way to another.
    let open = stream();
    mesh.write("mesh.yaml", &knows(OURS, THEIRS, &[&stranger]));
    comes_to(&client, &["503 tls_untrusted"]);
    drop(open);
    mesh.write("mesh.yaml", &knows(OURS, THEIRS, &[&partner.root()]));
    comes_to(&client, &["200"]);
    comes_to(&other, &["403 denied"]);
    assert!(!sidecar.has_ended() && !sidecar.stderr().contains("panicked"), "{}", sidecar.tail());
}

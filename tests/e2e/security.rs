//! What is between the pods, and who is let in.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use malla_tests::{Capture, Load, Member, Mesh, Output, Pod, Process, capture, wait};

use crate::servers::{self, Grpc};

/// A mesh with `web-1` (nginx on 8080, TLS of its own on 8443) and a client.
fn web_mesh(web_more: &str) -> (Mesh, Member, Member, Process) {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}", "{name: https, port: 443, targetPort: 8443}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.write("workloads/web-1.yaml", &web.workload(web_more));
    mesh.start();
    let nginx = servers::nginx(&web, "web.shop", &["8080", "8443 ssl"]);
    mesh.join([&mut client, &mut web]);
    (mesh, client, web, nginx)
}

/// PEM files of an identity, kept by `malla-proxy certificates`: certificate, key, trust.
struct Certificates {
    directory: PathBuf,
    _keeper: Process,
}

impl Certificates {
    #[track_caller]
    fn obtain(mesh: &Mesh, pod: &Pod, service_account: &str) -> Certificates {
        let directory = mesh.sandbox().writable_directory(&format!("certificates-{service_account}"));
        let keeper = servers::certificates(mesh, pod, service_account, &directory);
        Certificates { directory, _keeper: keeper }
    }

    fn curl(&self) -> String {
        let directory = self.directory.display();
        format!("--cert {directory}/certificates.pem --key {directory}/private_key.pem")
    }
}

/// curl, as a client of mesh TLS: to the sidecar of `web-1`, with the SNI of its service.
fn mesh_curl(pod: &Pod, web: &Member, options: &str) -> Output {
    let resolve = format!("--resolve 80.web.shop.mesh:8080:{}", web.ipv4());
    pod.shell(&format!("curl -sS -k --max-time 10 --http2 {resolve} {options} https://80.web.shop.mesh:8080/"))
}

#[test]
fn only_tls_1_3_is_between_the_pods() {
    let mut mesh = Mesh::new();
    mesh.service(
        "web",
        &[
            "{name: http, port: 80, targetPort: 8080}",
            "{name: tcp, port: 7000, targetPort: 7000}",
            "{name: grpc, port: 9001, targetPort: 9001}",
            "{name: other, port: 82, targetPort: 8080}",
        ],
    );
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    let mut tcp = servers::python(&web, "tcp_server.py", &["7000", "web-1"]);
    web.wait_listening(&mut tcp, 7000);
    let _grpc = servers::grpc(&web, Grpc::Tonic, "web-1", 9001);
    // From before the sidecars start: what they say to the control server is between pods too.
    let capture = Capture::start(mesh.sandbox(), "tcp");
    mesh.join([&mut client, &mut web]);
    let direct = format!("http://{}:8080/", web.ipv4());
    for url in ["http://web.shop/", "http://web6.shop/", "http://web.shop:82/", &direct] {
        client.exec(&["curl", "-sS", url]).success();
        client.exec(&["curl", "-sS", "--http2-prior-knowledge", url]).success();
    }
    servers::python(&client, "tcp_client.py", &["web.shop", "7000"]).end(Duration::from_secs(30)).success();
    servers::check_grpc(&client, Grpc::Tonic, "web.shop:9001");
    let streams = capture.stop();
    capture::assert_only_tls13(&streams);
    let to_web = streams.iter().filter(|stream| stream.to.ip() == web.ipv4()).count();
    assert!(to_web > 0, "nothing of it went to the pod of web-1: {streams:?}");
}

#[test]
fn who_has_no_mesh_certificate_is_refused() {
    let (mesh, _client, web, _nginx) = web_mesh("");
    let stranger = mesh.stranger("stranger");

    let plain = stranger.exec(&["curl", "-sSf", "--max-time", "10", &format!("http://{}:8080/", web.ipv4())]);
    assert!(!plain.failure().text().contains("web"), "plaintext is refused");
    let plain = stranger.exec(&["curl", "-sSf", "--max-time", "10", &format!("http://{}:15006/", web.ipv4())]);
    assert!(!plain.failure().text().contains("web"), "plaintext to the sidecar's own port is refused");
    mesh_curl(&stranger, &web, "").failure();

    // Another root that claims the very same identity.
    let identity = "spiffe://cluster.local/ns/shop/sa/client";
    let directory = stranger.directory().display().to_string();
    let forge = format!(
        "cd {directory} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
         -subj '/CN=Malla' -keyout root.key -out root.pem && \
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj / -keyout forged.key -out forged.csr && \
         printf 'subjectAltName=critical,URI:{identity}\\nkeyUsage=digitalSignature\\nextendedKeyUsage=clientAuth\\n' >forged.ext && \
         openssl x509 -req -in forged.csr -CA root.pem -CAkey root.key -days 1 -extfile forged.ext -out forged.pem"
    );
    stranger.shell(&forge).success();
    mesh_curl(&stranger, &web, &format!("--cert {directory}/forged.pem --key {directory}/forged.key")).failure();
    // TLS 1.2 is refused even to those who have a certificate.
    let certificates = Certificates::obtain(&mesh, &stranger, "stranger");
    mesh_curl(&stranger, &web, &format!("{} --tls-max 1.2", certificates.curl())).failure();

    // The same with a certificate of the mesh succeeds: the refusals are for the reasons that we think.
    let welcome = mesh_curl(&stranger, &web, &certificates.curl()).success();
    assert_eq!(welcome.text(), "web.shop\n");
    let refused = servers::refused(&web);
    assert!(refused >= 4.0, "{refused} refusals are counted:\n{}", web.admin("/metrics"));
}

#[test]
fn certificates_that_the_authority_never_makes_open_nothing_though_it_signed_them() {
    let (mesh, client, web, _nginx) = web_mesh("");
    let stranger = mesh.stranger("stranger");
    let directory = mesh.sandbox().writable_directory("odd");
    let state = |name: &str| mesh.state().join(name).to_string_lossy().into_owned();
    let identity = client.identity();
    let arguments = [&*state("root.pem"), &state("root.key"), &identity, &directory.to_string_lossy()];
    let made = servers::python(mesh.control_pod(), "certificates.py", &arguments);
    let kinds = made.end(Duration::from_secs(60)).success().text();
    let before = servers::refused(&web);
    let mut let_in = Vec::new();
    for kind in kinds.lines() {
        let file = |end: &str| directory.join(format!("{kind}.{end}")).display().to_string();
        // curl itself looks at no more of it than that the key fits.
        let options = format!("--ciphers DEFAULT@SECLEVEL=0 --cert {} --key {}", file("pem"), file("key"));
        if mesh_curl(&stranger, &web, &options).status.success() {
            let_in.push(kind);
        }
    }
    assert_eq!(let_in, ["honest"], "of {kinds}");
    let refused = servers::refused(&web) - before;
    assert_eq!(refused as usize, kinds.lines().count() - 1, "{}", web.admin("/metrics"));
}

/// The versions of TLS that a scanner is let speak with a port: lines of `sslscan`.
#[track_caller]
fn scanned(pod: &Pod, to: &str, name: &str) -> String {
    let scan = pod.exec(&["sslscan", "--no-colour", &format!("--sni-name={name}"), to]).success().text();
    for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2"] {
        let line = scan.lines().find(|line| line.starts_with(version) && line.contains("abled"));
        assert!(line.is_some_and(|line| line.ends_with("disabled")), "{version}:\n{scan}");
        let accepted = |line: &str| (line.contains("Accepted") || line.contains("Preferred")) && line.contains(version);
        assert!(!scan.lines().any(accepted), "{version}:\n{scan}");
    }
    assert!(scan.lines().any(|line| line.starts_with("TLSv1.3") && line.ends_with("enabled")), "{scan}");
    scan
}

#[test]
fn a_scanner_finds_tls_1_3_and_nothing_else() {
    let (mesh, _client, web, _nginx) = web_mesh("");
    let stranger = mesh.stranger("stranger");
    for (to, name) in [(format!("{}:8080", web.ipv4()), "80.web.shop.mesh"), (mesh.control_address(), "localhost")] {
        let scan = scanned(&stranger, &to, name);
        for weak in ["RC4", "DES-", "NULL", "EXPORT", "MD5", "CBC"] {
            assert!(!scan.lines().any(|line| line.contains("TLSv1.3") && line.contains(weak)), "{weak}:\n{scan}");
        }
    }
}

/// What testssl.sh, which looks at web sites, takes for weak here, and why it is not.
const MEANT: &[(&str, &str)] = &[
    ("cert_trust", "a workload has a SPIFFE ID, and no host name"),
    ("cert_chain_of_trust", "the root is the mesh's own, which no browser knows"),
    ("cert_expirationStatus", "certificates live a day, and are renewed"),
    ("cert_notAfter", "the same"),
    ("cert_revocation", "they end instead of being revoked"),
];

#[test]
fn testssl_finds_no_weakness() {
    let (mesh, _client, web, _nginx) = web_mesh("");
    let stranger = mesh.stranger("stranger");
    let control = mesh.control_address();
    let (address, port) = control.rsplit_once(':').expect("address and port");
    let (web, report) = (web.ipv4().to_string(), stranger.directory().join("testssl.json"));
    for (ip, target) in [(web.as_str(), "80.web.shop.mesh:8080".to_owned()), (address, format!("localhost:{port}"))] {
        let _ = fs::remove_file(&report);
        let line = format!(
            "testssl --quiet --color 0 --warnings off --nodns none --openssl-timeout 10 --ip {ip} --protocols --server-defaults \
             --vulnerable --jsonfile {} {target}",
            report.display()
        );
        let said = stranger.shell_spawn(&line).end(Duration::from_secs(240)).both();
        let text = fs::read_to_string(&report).unwrap_or_else(|cause| panic!("{cause}: {said}"));
        let findings: Vec<serde_json::Value> =
            serde_json::from_str(&text).unwrap_or_else(|cause| panic!("{cause}: {text}"));
        let field = |finding: &serde_json::Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let found = |id: &str| {
            let finding = findings.iter().find(|finding| finding["id"] == id);
            finding.map(|finding| field(finding, "finding")).unwrap_or_default()
        };
        for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"] {
            assert_eq!(found(old), "not offered", "{old} of {target}: {said}");
        }
        assert!(found("TLS1_3").starts_with("offered"), "{target}: {said}");
        for finding in &findings {
            let (id, severity) = (field(finding, "id"), field(finding, "severity"));
            let is_weak = matches!(severity.as_str(), "MEDIUM" | "HIGH" | "CRITICAL");
            assert!(!is_weak || MEANT.iter().any(|(meant, _)| *meant == id), "{target}: {finding}");
        }
        let good = findings.iter().filter(|finding| finding["severity"] == "OK" && finding["cve"].is_string()).count();
        assert!(good >= 10, "each vulnerability was looked for: {said}");
    }
}

#[test]
fn a_server_with_another_identity_is_not_believed() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    mesh.join([&mut client]);
    let certificates = Certificates::obtain(&mesh, &web, "impostor");
    let directory = certificates.directory.display();
    let line = format!(
        "exec openssl s_server -accept 8080 -cert {directory}/certificates.pem -cert_chain {directory}/certificates.pem \
         -key {directory}/private_key.pem -alpn h2 -www"
    );
    let mut server = web.spawn(&["sh", "-c", &line]);
    web.wait_listening(&mut server, 8080);
    let answer = client.exec(&["curl", "-sSi", "--max-time", "20", "http://web.shop/"]).success().text();
    assert!(answer.contains("malla-reason: tls_wrong_identity"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[test]
fn permissive_workloads_take_plaintext_and_count_it() {
    let (mesh, client, web, _nginx) = web_mesh("  mtls: {mode: permissive}\n");
    let stranger = mesh.stranger("stranger");
    let url = format!("http://{}:8080/", web.ipv4());
    let before = servers::plaintext(&web);
    assert_eq!(stranger.exec(&["curl", "-sS", &url]).success().text(), "web.shop\n");
    wait::until("plaintext to be counted", Duration::from_secs(10), || {
        (servers::plaintext(&web) > before).then_some(())
    });
    // Nobody forgets it.
    let notice = "plaintext is taken by web-1.shop (1 of 2 workloads)";
    let log = format!("{}{}", mesh.control().stdout(), mesh.control().stderr());
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(notice)), "{log}");
    let status = mesh.malla(&["status"]).success().text();
    assert!(status.lines().any(|line| line.starts_with("WARNING") && line.contains(notice)), "{status}");
    let check = mesh.malla(&["check", &mesh.configuration().to_string_lossy()]).success().text();
    assert!(check.contains("Warning: ") && check.contains(notice), "{check}");
    // Sidecars speak mTLS with each other all the same.
    let capture = Capture::start(mesh.sandbox(), &format!("tcp and host {} and not port 15012", client.ipv4()));
    assert_eq!(client.exec(&["curl", "-sS", "http://web.shop/"]).success().text(), "web.shop\n");
    capture::assert_only_tls13(&capture.stop());

    // Back to strict, while it runs.
    mesh.write("workloads/web-1.yaml", &web.workload(""));
    wait::until("plaintext to be refused", Duration::from_secs(20), || {
        (!stranger.exec(&["curl", "-sSf", "--max-time", "5", &url]).status.success()).then_some(())
    });
    assert_eq!(client.exec(&["curl", "-sS", "http://web.shop/"]).success().text(), "web.shop\n");
    assert_eq!(mesh.status()["notices"], serde_json::json!([]));
}

#[test]
fn permissive_workloads_take_plain_tcp_too() {
    let mut mesh = Mesh::new();
    mesh.service("greeter", &["{name: tcp, port: 7000}"]);
    let (mut client, mut greeter) = (mesh.member("client"), mesh.member("greeter-1"));
    mesh.write("workloads/greeter-1.yaml", &greeter.workload("  mtls: {mode: permissive}\n"));
    mesh.start();
    let mut server = servers::python(&greeter, "tcp_server.py", &["7000", "greeter-1"]);
    greeter.wait_listening(&mut server, 7000);
    mesh.join([&mut client, &mut greeter]);
    let stranger = mesh.stranger("stranger");
    // A server that speaks first: the client of plaintext says nothing by which it could be told.
    let address = greeter.ipv4().to_string();
    let talk = |pod: &Pod, host: &str| {
        let output = servers::python(pod, "tcp_client.py", &[host, "7000", "70000"]).end(Duration::from_secs(30));
        assert_eq!(output.success().text(), "greeter-1\nall is well\n");
    };
    talk(&stranger, &address);
    wait::until("plaintext to be counted", Duration::from_secs(10), || {
        (servers::plaintext(&greeter) >= 1.0).then_some(())
    });
    let capture = Capture::start(mesh.sandbox(), &format!("tcp and host {} and not port 15012", client.ipv4()));
    talk(&client, "greeter.shop");
    capture::assert_only_tls13(&capture.stop());
}

#[test]
fn certificates_are_renewed_under_load_and_as_files() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start_with(&["--certificate-lifetime", "10s"]);
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    let arguments = ["http://web.shop/", "--rate", "50", "--requests-per-connection", "25"];
    let load = Load::start(&client, &arguments);
    const EXPIRY: &str = "malla_identity_expiry_timestamp_seconds";
    let expiry = web.metric(EXPIRY, &[]);
    let keeping = mesh.stranger("keeping");
    let certificates = Certificates::obtain(&mesh, &keeping, "keeping");
    let leaf = || fs::read(certificates.directory.join("certificates.pem")).expect("there are always files");
    let mut seen = vec![leaf()];
    wait::until("three further certificates", Duration::from_secs(60), || {
        let now = leaf();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        (seen.len() > 3).then_some(())
    });
    // The newest is good now, when the first has expired; its key belongs to it.
    assert_eq!(mesh_curl(&keeping, &web, &certificates.curl()).success().text(), "web-1\n");
    load.wait_successes(100);
    load.stop_without_failure();
    assert!(web.metric(EXPIRY, &[]) >= expiry + 10.0, "{}", web.admin("/metrics"));
}

#[test]
fn tls_of_the_application_passes_untouched() {
    let (mesh, client, web, _nginx) = web_mesh("");
    let authority = web.directory().join("tls.pem");
    let authority = authority.to_string_lossy();
    let curl = ["curl", "-sS", "--max-time", "10", "--cacert", &*authority, "https://web.shop/"];
    assert_eq!(client.exec(&curl).success().text(), "web.shop\n");
    // From outside the mesh, too: it is not plaintext.
    let stranger = mesh.stranger("stranger");
    let connect = format!("web.shop:443:{}:8443", web.ipv4());
    let curl = [&curl[..4], &["--connect-to", &connect], &curl[4..]].concat();
    assert_eq!(stranger.exec(&curl).success().text(), "web.shop\n");
}

#[test]
fn destinations_outside_the_mesh_pass_unless_denied() {
    let (mesh, client, _web, _nginx) = web_mesh("");
    let stranger = mesh.stranger("stranger");
    let _outside = servers::nginx(&stranger, "outside", &["8080", "8443 ssl"]);
    let (plain, tls) = (format!("http://{}:8080/", stranger.ipv4()), format!("https://{}:8443/", stranger.ipv4()));
    let six = format!("http://[{}]:8080/", stranger.ipv6());
    for url in [&plain, &tls, &six] {
        assert_eq!(client.exec(&["curl", "-sSk", "--max-time", "10", url]).success().text(), "outside\n");
    }
    let deny =
        "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh}\nspec:\n  unknownDestinations: deny\n";
    mesh.write("mesh.yaml", deny);
    for url in [&plain, &tls, &six] {
        wait::until("unknown destinations to be denied", Duration::from_secs(20), || {
            let output = client.exec(&["curl", "-sSk", "--max-time", "5", url]);
            (!output.text().contains("outside")).then_some(())
        });
    }
    assert_eq!(client.exec(&["curl", "-sS", "http://web.shop/"]).success().text(), "web.shop\n");
}

#[test]
fn keys_never_leave_their_owners() {
    let (mesh, _client, _web, _nginx) = web_mesh("");
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(mesh.state()).expect("the control server made its state directory") {
        let entry = entry.expect("a readable directory");
        let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
        let name = entry.file_name();
        // The root certificate is what everybody is given; everything else is nobody's business.
        assert_eq!(mode, if name == "root.pem" { 0o644 } else { 0o600 }, "{name:?} has mode {mode:o}");
    }
    let mode = fs::metadata(mesh.state()).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    // The command line that every newcomer types, once more: the root is kept.
    let before = fs::read(mesh.state().join("root.pem")).expect("there is a root");
    let mut mesh = mesh;
    mesh.kill_control();
    mesh.start();
    assert_eq!(fs::read(mesh.state().join("root.pem")).expect("there is a root"), before);
}

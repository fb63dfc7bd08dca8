//! Foreign servers, each started and ready.

use std::fs;
use std::path::Path;
use std::time::Duration;

use malla_tests::pod::inside;
use malla_tests::{Member, Mesh, Pod, Process, Sandbox, tools, wait};

/// nginx, which listens as nginx's `listen` says (`8080`, `8081 http2`, `8443 ssl`: both families; `127.0.0.1:8080`). `/` and most other paths answer
/// with `name`; `/echo/…` with the path; `/version` with the version and headers received; `/contexts` with the trace contexts; `/files/` are the files of
/// the pod's directory `files` (`PUT` stores there).
#[track_caller]
pub(crate) fn nginx(pod: &Pod, name: &str, listen: &[&str]) -> Process {
    let template = fs::read_to_string(tools::program("nginx.conf")).expect("tests/programs/nginx.conf");
    let port = |listen: &str| listen.split(' ').next()?.rsplit(':').next()?.parse().ok();
    let ports: Vec<u16> = listen.iter().map(|listen| port(listen).expect("a port")).collect();
    let both = |listen: &&str| match listen.contains(':') {
        true => format!("listen {listen};\n"),
        false => format!("listen {listen}; listen [::]:{listen};\n"),
    };
    let listen: String = listen.iter().map(both).collect();
    let directory = pod.directory().to_str().expect("temporary directories have plain names");
    fs::create_dir_all(pod.directory().join("files")).expect("the pod's directory is writable");
    let text = template.replace("@listen@", &listen).replace("@directory@", directory).replace("@name@", name);
    let file = pod.directory().join(format!("nginx-{}.conf", ports[0]));
    fs::write(&file, text).expect("the pod's directory is writable");
    self_signed(pod, name);
    let mut process = pod.spawn(&["nginx", "-c", &file.to_string_lossy(), "-e", "stderr"]);
    ports.iter().for_each(|port| pod.wait_listening(&mut process, *port));
    process
}

/// A certificate of nobody's but the application's own, `tls.pem` and `tls.key` in the pod's directory.
#[track_caller]
pub(crate) fn self_signed(pod: &Pod, name: &str) {
    let directory = pod.directory().display();
    if !pod.directory().join("tls.pem").exists() {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let line = format!(
            "openssl req -x509 {key} -days 2 -subj /CN={name} -addext subjectAltName=DNS:{name} \
             -keyout {directory}/tls.key -out {directory}/tls.pem"
        );
        pod.shell(&line).success();
    }
}

/// Which of the two gRPC peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grpc {
    /// tonic.
    Tonic,
    /// Python's grpcio.
    Python,
}

/// `malla.test.Echo`.
#[track_caller]
pub(crate) fn grpc(pod: &Pod, with: Grpc, name: &str, port: u16) -> Process {
    let mut process = match with {
        Grpc::Tonic => pod.spawn(&[&inside("malla-peer"), "grpc-server", &format!("[::]:{port}"), name]),
        Grpc::Python => python(pod, "grpc_server.py", &[&port.to_string(), name]),
    };
    pod.wait_listening(&mut process, port);
    process
}

/// A program of `tests/programs`, run by the tests' Python.
#[track_caller]
pub(crate) fn python(pod: &Pod, program: &str, arguments: &[&str]) -> Process {
    let (python, program) = (tools::python(), tools::program(program));
    let (python, program) = (python.to_string_lossy(), program.to_string_lossy());
    let command: Vec<&str> = [&*python, "-u", &*program].into_iter().chain(arguments.iter().copied()).collect();
    pod.spawn(&command)
}

/// Everything that `malla.test.Echo` can do, tried by a client.
#[track_caller]
pub(crate) fn check_grpc(pod: &Pod, with: Grpc, authority: &str) {
    let limit = Duration::from_secs(60);
    let output = match with {
        Grpc::Tonic => pod.spawn(&[&inside("malla-peer"), "grpc-client", authority]).end(limit),
        Grpc::Python => python(pod, "grpc_client.py", &[authority]).end(limit),
    };
    assert_eq!(output.success().text(), "all is well\n");
}

/// MariaDB with an empty database; listens a few seconds later.
#[track_caller]
pub(crate) fn mariadb(pod: &Pod, port: u16) -> Process {
    let directory = pod.directory().join("mariadb");
    fs::create_dir_all(&directory).expect("the pod's directory is writable");
    let directory = directory.display();
    pod.spawn(&[
        "mariadbd",
        "--no-defaults",
        "--user=root",
        "--skip-grant-tables",
        "--skip-networking=0",
        &format!("--datadir={directory}"),
        &format!("--socket={directory}/socket"),
        &format!("--pid-file={directory}/pid"),
        &format!("--port={port}"),
    ])
}

/// Prometheus on `127.0.0.1:9090`, by `prometheus.yaml` in a directory, in which it keeps its data; with one of its features switched on.
#[track_caller]
pub(crate) fn prometheus(pod: &Pod, directory: &Path, feature: &str) -> Process {
    let directory = directory.display();
    let mut prometheus = pod.spawn(&[
        "prometheus",
        &format!("--config.file={directory}/prometheus.yaml"),
        &format!("--storage.tsdb.path={directory}/data"),
        "--web.listen-address=127.0.0.1:9090",
        &format!("--enable-feature={feature}"),
    ]);
    pod.wait_listening(&mut prometheus, 9090);
    // It listens before it answers queries.
    wait::until("Prometheus to be ready", Duration::from_secs(60), || {
        pod.exec(&["curl", "-sf", "http://127.0.0.1:9090/-/ready"]).status.success().then_some(())
    });
    prometheus
}

/// `malla-proxy certificates`, keeping PEM files of an identity in `directory`; returns when they are there.
#[track_caller]
pub(crate) fn certificates(mesh: &Mesh, pod: &Pod, service_account: &str, directory: &Path) -> Process {
    let (token, trust) = (mesh.token(service_account, "1h"), mesh.trust());
    let mut keeper = pod.spawn(&[
        &inside("malla-proxy"),
        "certificates",
        "--control",
        &mesh.control_address(),
        "--trust",
        &trust.to_string_lossy(),
        "--token",
        &token.to_string_lossy(),
        "--workload",
        service_account,
        "--out",
        &directory.to_string_lossy(),
    ]);
    wait::until("certificates", Duration::from_secs(30), || {
        assert!(!keeper.has_ended(), "ended instead of keeping certificates:\n{}", keeper.tail());
        ["certificates.pem", "private_key.pem", "ca_certificates.pem"]
            .iter()
            .all(|file| directory.join(file).exists())
            .then_some(())
    });
    keeper
}

/// How many connections the inbound side of a sidecar has refused, before or in the handshake.
pub(crate) fn refused(member: &Member) -> f64 {
    let inbound = [("direction", "inbound")];
    let metrics = member.admin("/metrics");
    let count = |name| malla_tests::metrics::sum(&metrics, name, &inbound);
    count("malla_connections_refused_total") + count("malla_tls_handshakes_failed_total")
}

/// How many plaintext connections the inbound side of a sidecar has accepted.
pub(crate) fn plaintext(member: &Member) -> f64 {
    member.metric("malla_plaintext_accepted_total", &[])
}

/// The xDS streams in `malla status -o json`.
#[track_caller]
pub(crate) fn streams(status: &serde_json::Value) -> &Vec<serde_json::Value> {
    status["streams"].as_array().expect("the status lists streams")
}

/// Every rejection in `malla status -o json`, of any stream and type.
#[track_caller]
pub(crate) fn rejections(status: &serde_json::Value) -> Vec<String> {
    let types = streams(status).iter().flat_map(|stream| stream["types"].as_object().expect("by type").values());
    let rejected = types.flat_map(|of_type| of_type["rejections"].as_array().expect("a list"));
    rejected.map(ToString::to_string).collect()
}

/// A DNS server for all pods, which knows these names (`outside.example,10.77.0.9,fd77::9`) and no other.
#[track_caller]
pub(crate) fn dns(sandbox: &Sandbox, records: &[&str]) -> Process {
    let mut command = vec!["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--user=root", "--log-queries"];
    command.extend(["--conf-file=/dev/null", "--pid-file=", "--local-ttl=2", "--neg-ttl=2", "--local=/#/"]);
    let records: Vec<String> = records.iter().map(|record| format!("--host-record={record}")).collect();
    command.extend(records.iter().map(String::as_str));
    let mut server = sandbox.spawn(&command);
    wait::until("dnsmasq to start", Duration::from_secs(20), || {
        assert!(!server.has_ended(), "dnsmasq ended:\n{}", server.tail());
        server.stderr().contains("started").then_some(())
    });
    server
}

//! HTTP/2 with prior knowledge and gRPC through the mesh.

use malla_tests::Mesh;

use crate::servers::{self, Grpc};

#[test]
fn http2_reaches_servers_of_either_version() {
    let mut mesh = Mesh::new();
    mesh.service(
        "web",
        &[
            "{name: http, port: 80, targetPort: 8080}",
            "{name: h2c, port: 81, targetPort: 8081, appProtocol: kubernetes.io/h2c}",
            "{name: other, port: 82, targetPort: 8081}",
        ],
    );
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080", "8081 http2"]);
    mesh.join([&mut client, &mut web]);
    for port in [81, 82] {
        let url = format!("http://web.shop:{port}/version");
        let seen = client.exec(&["curl", "-sS", "--http2-prior-knowledge", &url]).success().text();
        assert!(seen.starts_with("HTTP/2.0 "), "the server on port {port} sees {seen}");
    }
    // A port declared as HTTP/1 gets HTTP/1, whatever the client speaks.
    let seen = client.exec(&["curl", "-sS", "--http2-prior-knowledge", "http://web.shop/version"]).success().text();
    assert!(seen.starts_with("HTTP/1.1 "), "{seen}");
}

#[test]
fn h2load_counts_no_failure() {
    let mut mesh = Mesh::new();
    mesh.service(
        "web",
        &[
            "{name: http, port: 80, targetPort: 8080}",
            "{name: h2c, port: 81, targetPort: 8081, appProtocol: kubernetes.io/h2c}",
        ],
    );
    let (mut client, mut one, mut two) = (mesh.member("client"), mesh.member("web-1"), mesh.member("web-2"));
    mesh.start();
    let _nginx = [
        servers::nginx(&one, "web-1", &["8080", "8081 http2"]),
        servers::nginx(&two, "web-2", &["8080", "8081 http2"]),
    ];
    mesh.join([&mut client, &mut one, &mut two]);
    for options in ["--h1 http://web.shop/", "http://web.shop:81/"] {
        let line = format!("h2load -n 5000 -c 16 -m 8 {options}");
        let said = client.shell(&line).success().text();
        assert!(said.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{line}:\n{said}");
        assert!(said.contains("status codes: 5000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{line}:\n{said}");
    }
}

#[test]
fn grpc_pairs_keep_everything_that_grpc_promises() {
    let mut mesh = Mesh::new();
    mesh.service(
        "echo",
        &[
            "{name: grpc-tonic, port: 9001, targetPort: 9001}",
            "{name: grpc-python, port: 9002, targetPort: 9002}",
            "{name: other, port: 9003, targetPort: 9002}",
        ],
    );
    let (mut client, mut echo) = (mesh.member("client"), mesh.member("echo-1"));
    mesh.start();
    let _tonic = servers::grpc(&echo, Grpc::Tonic, "tonic", 9001);
    let _python = servers::grpc(&echo, Grpc::Python, "python", 9002);
    mesh.join([&mut client, &mut echo]);
    for (with, port) in [(Grpc::Tonic, 9001), (Grpc::Python, 9002), (Grpc::Tonic, 9003), (Grpc::Python, 9001)] {
        servers::check_grpc(&client, with, &format!("echo.shop:{port}"));
    }
}

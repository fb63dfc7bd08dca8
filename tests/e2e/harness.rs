//! The harness itself, proved by foreign programs that talk to each other without a mesh.

use malla_tests::{Capture, Load, Sandbox};

use crate::servers::{self, Grpc};

#[test]
fn pods_reach_each_other_over_ipv4_and_ipv6() {
    let sandbox = Sandbox::new();
    let (client, server) = (sandbox.pod("client"), sandbox.pod("server"));
    let _nginx = servers::nginx(&server, "server", &["8080"]);
    for url in [format!("http://{}:8080/", server.ipv4()), format!("http://[{}]:8080/", server.ipv6())] {
        assert_eq!(client.exec(&["curl", "-sS", &url]).success().text(), "server\n");
    }
}

#[test]
fn a_capture_sees_what_pods_say_to_each_other() {
    let sandbox = Sandbox::new();
    let (client, server) = (sandbox.pod("client"), sandbox.pod("server"));
    let _nginx = servers::nginx(&server, "server", &["8080"]);
    let capture = Capture::start(&sandbox, "tcp");
    client.exec(&["curl", "-sS", &format!("http://{}:8080/hidden", server.ipv4())]).success();
    let streams = capture.stop();
    assert_eq!(streams.len(), 2);
    assert!(streams.iter().any(|stream| stream.bytes.starts_with(b"GET /hidden HTTP/1.1\r\n")));
    assert!(streams.iter().all(|stream| stream.check_tls13().is_err()));
}

#[test]
fn the_load_counts_what_fails() {
    let sandbox = Sandbox::new();
    let (client, server) = (sandbox.pod("client"), sandbox.pod("server"));
    let nginx = servers::nginx(&server, "server", &["8080"]);
    let load = Load::start(&client, &[&format!("http://{}:8080/", server.ipv4()), "--rate", "200"]);
    load.wait_successes(100);
    assert_eq!(load.account().failed, 0);
    nginx.kill();
    malla_tests::wait::until("failures", std::time::Duration::from_secs(10), || {
        (load.account().failed > 10).then_some(())
    });
    assert!(load.stop().of("server") >= 100);
}

#[test]
fn grpc_peers_understand_each_other_without_a_mesh() {
    let sandbox = Sandbox::new();
    let (client, server) = (sandbox.pod("client"), sandbox.pod("server"));
    let _tonic = servers::grpc(&server, Grpc::Tonic, "tonic", 9001);
    let _python = servers::grpc(&server, Grpc::Python, "python", 9002);
    for (with, port) in [(Grpc::Tonic, 9001), (Grpc::Python, 9002), (Grpc::Tonic, 9002), (Grpc::Python, 9001)] {
        servers::check_grpc(&client, with, &format!("{}:{port}", server.ipv4()));
    }
}

#[test]
fn pods_ask_the_tests_dns_server() {
    let sandbox = Sandbox::new();
    let (client, server) = (sandbox.pod("client"), sandbox.pod("server"));
    let _nginx = servers::nginx(&server, "server", &["8080"]);
    let _dns = servers::dns(&sandbox, &[&format!("outside.example,{},{}", server.ipv4(), server.ipv6())]);
    for family in ["-4", "-6"] {
        let url = "http://outside.example:8080/";
        assert_eq!(client.exec(&["curl", "-sS", family, url]).success().text(), "server\n");
    }
    client.exec(&["curl", "-sS", "http://nobody.example/"]).failure();
}

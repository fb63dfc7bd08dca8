//! A ClientHello that comes in pieces: whose TLS it is, and for which port, is found out all the same, and in time.

use std::time::Duration;

use malla_tests::{Mesh, Pod};

use crate::servers;

const MANNERS: [&str; 5] = ["whole", "bytes", "records", "both", "large"];

/// What the program says.
#[track_caller]
fn said(pod: &Pod, arguments: &[&str]) -> String {
    let program = servers::python(pod, "client_hello.py", arguments);
    program.end(Duration::from_secs(60)).success().text().trim().to_owned()
}

#[test]
fn a_hello_in_pieces_is_understood_on_the_way_in_and_out() {
    let mut mesh = Mesh::new();
    // The TLS on port 443 is the application's, on a port that declares nothing.
    mesh.service(
        "web",
        &[
            "{name: http, port: 80, targetPort: 8080}",
            "{name: https, port: 443, targetPort: 8443}",
            "{name: other, port: 444, targetPort: 8443}",
        ],
    );
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web.shop", &["8080", "8443 ssl"]);
    mesh.join([&mut client, &mut web]);
    let stranger = mesh.stranger("stranger");
    let directory = mesh.sandbox().writable_directory("certificates");
    let _keeper = servers::certificates(&mesh, &stranger, "stranger", &directory);
    let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let (certificates, key, to) = (file("certificates.pem"), file("private_key.pem"), web.ipv4().to_string());
    let mesh_name = "80.web.shop.mesh";
    for manner in MANNERS {
        let answer = said(&stranger, &[&to, "8080", mesh_name, "h2", manner, &certificates, &key]);
        assert_eq!(answer, "200", "{manner}: mTLS of the mesh");
        for port in ["443", "444"] {
            let answer = said(&client, &["web.shop", port, "web.shop", "http/1.1", manner]);
            assert_eq!(answer, "200", "{manner}: TLS of the application on port {port}");
        }
    }
    // The decision is awaited for ten seconds, and the wait is counted.
    let waited = said(&stranger, &[&to, "8080", mesh_name, "h2", "half", &certificates, &key]);
    let seconds: f64 = waited.trim_end_matches(" s").parse().expect("seconds");
    assert!((5.0..25.0).contains(&seconds), "{waited}");
    let late = [("direction", "inbound"), ("reason", "header_timeout")];
    assert_eq!(web.metric("malla_connections_refused_total", &late), 1.0);
}

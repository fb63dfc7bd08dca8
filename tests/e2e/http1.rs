//! HTTP/1 through the mesh, by clients and servers that know nothing of it.

use std::fs;
use std::time::Duration;

use malla_tests::Mesh;

use crate::servers;

#[test]
fn curl_reaches_nginx_by_every_address_a_service_has() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    let urls = [
        "http://web.shop/".to_owned(),
        "http://web/".to_owned(),
        "http://web.shop.svc.cluster.local/".to_owned(),
        "http://web6.shop/".to_owned(),
        "http://10.96.0.1/".to_owned(),
        "http://[fd96::1]/".to_owned(),
        format!("http://{}:8080/", web.ipv4()),
    ];
    for url in urls {
        assert_eq!(client.exec(&["curl", "-sS", &url]).success().text(), "web-1\n", "{url}");
    }
}

#[test]
fn http1_survives_the_mesh_byte_by_byte() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    fs::create_dir_all(web.directory().join("trailers")).expect("the pod's directory is writable");
    fs::write(web.directory().join("trailers/small.txt"), "small\n").expect("the pod's directory is writable");
    mesh.join([&mut client, &mut web]);
    let output = servers::python(&client, "http1.py", &["web.shop", "80"]).end(Duration::from_secs(60));
    assert_eq!(output.success().text(), "all is well\n");

    let seen = client.exec(&["curl", "-sS", "http://web.shop/version"]).success().text();
    assert_eq!(seen, "HTTP/1.1 web.shop malla-http=\n", "the server sees what the client sent");
    let seen = client.exec(&["curl", "-sS", "--http1.0", "http://web.shop/version"]).success().text();
    assert_eq!(seen, "HTTP/1.1 web.shop malla-http=\n", "each hop speaks its own minor version (RFC 9110, 6.2)");
    let forged = client.exec(&["curl", "-sS", "-H", "malla-http: 2", "http://web.shop/version"]).success().text();
    assert_eq!(forged, "HTTP/1.1 web.shop malla-http=\n", "clients cannot speak for sidecars");
    let twice = client.exec(&["curl", "-sSv", "http://web.shop/", "http://web.shop/"]).success().both();
    assert!(twice.contains("Re-using existing connection"), "{twice}");
    let broken = client.exec(&["curl", "-sSi", "http://web.shop/broken"]).success().text();
    assert!(broken.contains(" 500 ") && broken.ends_with("broken\n") && !broken.contains("malla-reason"), "{broken}");
}

#[test]
fn pythons_http_server_ends_responses_with_the_connection() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8000}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let mut server = servers::python(&web, "http_server.py", &["8000", "web-1"]);
    web.wait_listening(&mut server, 8000);
    mesh.join([&mut client, &mut web]);
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(client.exec(&["curl", "-sS", version, "http://web.shop/"]).success().text(), "web-1\n", "{version}");
    }
}

#[test]
fn websockets_pass() {
    let mut mesh = Mesh::new();
    // One port declared, one detected.
    mesh.service("chat", &["{name: http, port: 80, targetPort: 8000}", "{name: other, port: 8001, targetPort: 8001}"]);
    let (mut client, mut chat) = (mesh.member("client"), mesh.member("chat-1"));
    mesh.start();
    let mut servers = ["8000", "8001"].map(|port| servers::python(&chat, "websocket_server.py", &[port]));
    chat.wait_listening(&mut servers[0], 8000);
    chat.wait_listening(&mut servers[1], 8001);
    mesh.join([&mut client, &mut chat]);
    for url in ["ws://chat.shop/", "ws://chat.shop:8001/"] {
        let output = servers::python(&client, "websocket_client.py", &[url]).end(Duration::from_secs(60));
        assert_eq!(output.success().text(), "all is well\n", "{url}");
    }
}

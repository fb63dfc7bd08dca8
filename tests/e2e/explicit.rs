//! Sidecars without redirection: an HTTP proxy on loopback, local ports for TCP, names that the sidecar resolves.

use std::time::Duration;

use malla_tests::pod::SIDECAR_USER;
use malla_tests::{Capture, Mesh, Sidecar, capture};

use crate::servers;

const PROXY: &str = "http://127.0.0.1:15001";

#[test]
fn programs_on_two_machines_need_no_root() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    mesh.service("greeter", &["{name: tcp, port: 7000}"]);
    let (mut client, mut web) =
        (mesh.member_with("client", Sidecar::Explicit), mesh.member_with("web-1", Sidecar::Explicit));
    let mut greeter = mesh.member_with("greeter-1", Sidecar::Explicit);
    mesh.start();
    // The applications are reachable on loopback only: nothing gets at them but their sidecars.
    let _nginx = servers::nginx(&web, "web-1", &["127.0.0.1:8080"]);
    let mut tcp = servers::python(&greeter, "tcp_server.py", &["7000", "greeter-1"]);
    greeter.wait_listening(&mut tcp, 7000);
    client.start_sidecar(&mesh, &["--listen", "127.0.0.1:7001=greeter.shop:7000"]);
    mesh.join([&mut web, &mut greeter]);
    client.wait_ready();
    let capture = Capture::start(mesh.sandbox(), "tcp and not port 15012");
    for command in [
        &["curl", "-sS", "-x", PROXY, "http://web.shop/"][..],
        &["curl", "-sS", "-x", PROXY, "http://web/"],
        &["curl", "-sS", "-x", PROXY, "http://WEB.shop.:80/"],
        &["curl", "-sS", "-H", "host: web.shop", "http://127.0.0.1:15001/"],
        &["curl", "-sS", "--http2-prior-knowledge", "-H", "host: web.shop", "http://127.0.0.1:15001/"],
        // A tunnel, as clients make for everything that is not plain HTTP.
        &["curl", "-sS", "--proxytunnel", "-x", PROXY, "http://web.shop:80/"],
    ] {
        assert_eq!(client.exec(command).success().text(), "web-1\n", "{command:?}");
    }
    let output = servers::python(&client, "tcp_client.py", &["127.0.0.1", "7001"]).end(Duration::from_secs(30));
    assert_eq!(output.success().text(), "greeter-1\nall is well\n");
    capture::assert_only_tls13(&capture.stop());
    // As any user: the proxy is not for the sidecar's own.
    for user in [1000, SIDECAR_USER] {
        let curl = client.spawn_as(user, &["curl", "-sS", "-x", PROXY, "http://web.shop/"], &[]);
        assert_eq!(curl.end(Duration::from_secs(20)).success().text(), "web-1\n");
    }
    let nobody =
        client.exec(&["curl", "-sSi", "--max-time", "10", "-x", PROXY, "http://nobody.shop/"]).success().text();
    assert!(nobody.contains("malla-reason: "), "{nobody}");
}

#[test]
fn transparent_and_explicit_members_reach_each_other() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    mesh.service("hidden", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut web, mut hidden) = (mesh.member("web-1"), mesh.member_with("hidden-1", Sidecar::Explicit));
    mesh.start();
    let _nginx = [servers::nginx(&web, "web-1", &["8080"]), servers::nginx(&hidden, "hidden-1", &["127.0.0.1:8080"])];
    mesh.join([&mut web, &mut hidden]);
    assert_eq!(web.exec(&["curl", "-sS", "http://hidden.shop/"]).success().text(), "hidden-1\n");
    assert_eq!(hidden.exec(&["curl", "-sS", "-x", PROXY, "http://web.shop/"]).success().text(), "web-1\n");
}

#[test]
fn names_outside_the_mesh_are_resolved_by_the_sidecar() {
    let mut mesh = Mesh::new();
    let mut client = mesh.member_with("client", Sidecar::Explicit);
    let outside = mesh.stranger("outside");
    mesh.write(
        "services/partner.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: partner, namespace: shop}\nspec:\n  type: ExternalName\n  \
         externalName: outside.example\n  ports: [{name: http, port: 8080}]\n",
    );
    mesh.start();
    let _nginx = servers::nginx(&outside, "outside", &["8080", "8443 ssl"]);
    // Nobody is at `dead`'s first address: the sidecar does not wait for it.
    let records = [
        &*format!("outside.example,{},{}", outside.ipv4(), outside.ipv6()),
        &format!("six.example,{}", outside.ipv6()),
        &format!("dead.example,{},fd77::dead", outside.ipv4()),
    ];
    let _dns = servers::dns(mesh.sandbox(), &records);
    mesh.join([&mut client]);
    for url in [
        "http://outside.example:8080/",
        "http://six.example:8080/",
        "http://dead.example:8080/",
        "http://partner.shop:8080/",
        "https://outside.example:8443/",
        &format!("http://{}:8080/", outside.ipv4()),
        &format!("http://[{}]:8080/", outside.ipv6()),
    ] {
        let output = client.exec(&["curl", "-sSk", "--max-time", "5", "-x", PROXY, url]);
        assert_eq!(output.success().text(), "outside\n", "{url}");
    }
    let nobody = ["curl", "-sSi", "--max-time", "10", "-x", PROXY, "http://nobody.example/"];
    let answer = client.exec(&nobody).success().text();
    assert!(answer.contains("malla-reason: resolve_failed"), "{answer}");
}

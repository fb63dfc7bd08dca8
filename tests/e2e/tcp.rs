//! Raw TCP through the mesh: servers that speak first, half-close, a real database, weights.

use std::time::Duration;

use malla_tests::{Capture, Member, Mesh, capture};

use crate::servers;

#[test]
fn a_server_that_speaks_first_is_heard_and_a_closed_half_is_kept() {
    let mut mesh = Mesh::new();
    mesh.service(
        "greeter",
        &["{name: tcp, port: 7000, targetPort: 7000}", "{name: other, port: 7001, targetPort: 7000}"],
    );
    let (mut client, mut greeter) = (mesh.member("client"), mesh.member("greeter-1"));
    mesh.start();
    let mut server = servers::python(&greeter, "tcp_server.py", &["7000", "greeter-1"]);
    greeter.wait_listening(&mut server, 7000);
    mesh.join([&mut client, &mut greeter]);
    // Port 7001 says nothing about its protocol: the sidecar peeks, for a second, in vain.
    for (port, size) in [("7000", "0"), ("7000", "1"), ("7000", "5000000"), ("7001", "100000")] {
        let output = servers::python(&client, "tcp_client.py", &["greeter.shop", port, size]);
        assert_eq!(output.end(Duration::from_secs(30)).success().text(), "greeter-1\nall is well\n");
    }
}

#[test]
fn mariadb_answers_at_once_and_in_secret() {
    let mut mesh = Mesh::new();
    mesh.service("db", &["{name: mysql, port: 3306}"]);
    let (mut client, mut db) = (mesh.member("client"), mesh.member("db-1"));
    mesh.start();
    let mut server = servers::mariadb(&db, 3306);
    mesh.join([&mut client, &mut db]);
    db.wait_listening(&mut server, 3306);
    let capture = Capture::start(mesh.sandbox(), "tcp and not port 15012");
    let sql = "create database travel; create table travel.city (name text); \
               insert into travel.city values ('Cádiz'), ('Málaga'); select count(*) from travel.city;";
    let query = format!("exec mariadb --protocol=tcp --skip-ssl -h db.shop -N -e \"{sql}\"");
    assert_eq!(client.shell(&query).success().text(), "2\n");
    capture::assert_only_tls13(&capture.stop());
}

#[test]
fn weights_of_a_tcp_route_are_kept() {
    let mut mesh = Mesh::new();
    mesh.routed_service("greeter", &["{name: tcp, port: 7000}"]);
    for app in ["blue", "green"] {
        mesh.service(app, &["{name: tcp, port: 7000}"]);
    }
    let mut client = mesh.member("client");
    let mut members = ["blue-1", "green-1"].map(|name| mesh.member(name));
    let route = |blue: u32, green: u32| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\n\
             metadata: {{name: greeter, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: greeter, port: 7000}}]\n  rules:\n  - backendRefs:\n    \
             - {{name: blue, port: 7000, weight: {blue}}}\n    - {{name: green, port: 7000, weight: {green}}}\n"
        )
    };
    mesh.write("route.yaml", &route(1, 1));
    mesh.start();
    let mut programs = Vec::new();
    for member in &mut members {
        let mut server = servers::python(member, "tcp_server.py", &["7000", member.name()]);
        member.wait_listening(&mut server, 7000);
        programs.push(server);
    }
    mesh.join(members.iter_mut().chain([&mut client]));
    let greetings = |client: &Member| -> Vec<String> {
        let output = servers::python(client, "tcp_client.py", &["greeter.shop", "7000", "10", "40"]);
        let output = output.end(Duration::from_secs(60)).success().text();
        output.trim_end_matches("all is well\n").lines().map(str::to_owned).collect()
    };
    let seen = greetings(&client);
    for name in ["blue-1", "green-1"] {
        let count = seen.iter().filter(|seen| *seen == name).count();
        assert!((5..=35).contains(&count), "{name} greeted {count} times of 40: {seen:?}");
    }
    mesh.write("route.yaml", &route(0, 1));
    malla_tests::wait::until("all weight to move to green", Duration::from_secs(20), || {
        greetings(&client).iter().all(|name| name == "green-1").then_some(())
    });
}

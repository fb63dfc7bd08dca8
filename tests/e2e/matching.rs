//! Each kind of match of the routes, asked by foreign clients.

use std::time::Duration;

use malla_tests::{Member, Mesh, Process, wait};

use crate::servers::{self, Grpc};

/// Waits until the sidecar of `client` has the route: until then the service itself answers.
#[track_caller]
fn wait_for(client: &Member, command: &[&str], answer: &str) {
    wait::until("the route to be applied", Duration::from_secs(20), || {
        (client.exec(command).text() == answer).then_some(())
    });
}

#[test]
fn each_kind_of_match_of_an_http_route_chooses_its_backend() {
    const NAMES: [&str; 8] = ["default", "exact", "prefix", "regex", "header", "query", "method", "host"];
    let mut mesh = Mesh::new();
    let port = |number: usize| format!("{{name: http-{number}, port: {}, targetPort: {}}}", 80 + number, 8080 + number);
    let ports: Vec<String> = (0..NAMES.len()).map(port).collect();
    mesh.service("web", &ports.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    let route = |name: &str, rest: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n{rest}"
        )
    };
    let rule = |name: &str, matches: &str| {
        let number = NAMES.iter().position(|known| *known == name).expect("a known name");
        format!("  - {{matches: [{matches}], backendRefs: [{{name: web, port: {}}}]}}\n", 80 + number)
    };
    let rules = [
        rule("default", ""),
        rule("exact", "{path: {type: Exact, value: /exact}}"),
        rule("prefix", "{path: {type: PathPrefix, value: /prefix}}"),
        rule("regex", "{path: {type: RegularExpression, value: '/re[0-9]+'}}"),
        rule("header", "{headers: [{name: X-Test, value: 'yes'}]}"),
        rule("query", "{queryParams: [{name: q, value: '1'}]}"),
        rule("method", "{method: DELETE}"),
    ];
    mesh.write("route.yaml", &route("paths", &format!("  rules:\n{}", rules.concat())));
    let host = format!("  hostnames: ['*.special.example']\n  rules:\n{}", rule("host", ""));
    mesh.write("host.yaml", &route("host", &host));
    mesh.start();
    let _nginx: Vec<Process> =
        NAMES.iter().zip(8080..).map(|(name, port)| servers::nginx(&web, name, &[&format!("{port}")])).collect();
    mesh.join([&mut client, &mut web]);

    wait_for(&client, &["curl", "-sS", "http://web.shop/exact"], "exact\n");
    for (expected, path, options) in [
        ("exact", "/exact", &[][..]),
        ("exact", "/exact?q=2", &[]),
        ("default", "/exact/", &[]),
        ("default", "/exactly", &[]),
        ("prefix", "/prefix", &[]),
        ("prefix", "/prefix/", &[]),
        ("prefix", "/prefix/below", &[]),
        ("default", "/prefixed", &[]),
        ("regex", "/re7", &[]),
        ("default", "/re7/x", &[]),
        ("default", "/x/re7", &[]),
        ("header", "/", &["-H", "x-test: yes"]),
        ("default", "/", &["-H", "x-test: no"]),
        ("default", "/", &["-H", "x-other: yes"]),
        ("query", "/?q=1", &[]),
        ("query", "/?p=1&q=1", &[]),
        ("default", "/?q=2", &[]),
        ("method", "/", &["-X", "DELETE"]),
        ("default", "/", &["-X", "POST"]),
        ("host", "/", &["-H", "host: a.special.example"]),
        ("host", "/exact", &["-H", "host: a.b.special.example"]),
        ("default", "/", &["-H", "host: special.example"]),
        // More than one holds: the path says more than the header, and the header more than the parameter.
        ("exact", "/exact", &["-H", "x-test: yes", "-X", "DELETE"]),
        ("method", "/?q=1", &["-H", "x-test: yes", "-X", "DELETE"]),
        ("header", "/?q=1", &["-H", "x-test: yes"]),
    ] {
        let url = format!("http://web.shop{path}");
        let answer = client.exec(&[&["curl", "-sS", "--max-time", "10"], options, &[&url]].concat()).success().text();
        assert_eq!(answer.trim_end(), expected, "{path} {options:?}");
        let http2 = [&["curl", "-sS", "--max-time", "10", "--http2-prior-knowledge"], options, &[&url]].concat();
        assert_eq!(client.exec(&http2).success().text().trim_end(), expected, "{path} {options:?} over HTTP/2");
    }
}

#[test]
fn a_grpc_route_chooses_by_service_and_method() {
    let mut mesh = Mesh::new();
    mesh.service("echo", &["{name: grpc, port: 9001}", "{name: grpc-other, port: 9002}"]);
    let (mut client, mut echo) = (mesh.member("client"), mesh.member("echo-1"));
    let other = "backendRefs: [{name: echo, port: 9002}]";
    mesh.write(
        "route.yaml",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: echo, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: echo, port: 9001}}]\n  rules:\n  \
             - {{matches: [{{method: {{service: malla.test.Echo, method: Name}}}}], {other}}}\n  \
             - {{matches: [{{method: {{service: malla.test.Other}}}}], {other}}}\n  \
             - {{backendRefs: [{{name: echo, port: 9001}}]}}\n"
        ),
    );
    mesh.start();
    let _servers = [servers::grpc(&echo, Grpc::Tonic, "main", 9001), servers::grpc(&echo, Grpc::Python, "other", 9002)];
    mesh.join([&mut client, &mut echo]);
    // Each client finds all methods where the last rule leads; the one that the first rule takes is answered by the other server.
    let named = |with: &str| {
        let output = servers::python(&client, "grpc_call.py", &["echo.shop:9001", with]).end(Duration::from_secs(30));
        output.success().text()
    };
    wait::until("the route to be applied", Duration::from_secs(20), || {
        (named("malla.test.Echo/Name") == "reply other\n").then_some(())
    });
    assert_eq!(named("malla.test.Echo/Unary"), "served by main\nreply \n");
    for with in [Grpc::Tonic, Grpc::Python] {
        servers::check_grpc(&client, with, "echo.shop:9001");
    }
    let unimplemented = servers::python(&client, "grpc_call.py", &["echo.shop:9001", "malla.test.Other/Name"]);
    let said = unimplemented.end(Duration::from_secs(30)).success().text();
    assert!(said.starts_with("failed UNIMPLEMENTED"), "{said}");
    // Which server it was that does not know the service, only the sidecar can tell.
    let second_rule = [("direction", "outbound"), ("route", "GRPCRoute/shop/echo/1")];
    assert_eq!(client.metric("malla_requests_total", &second_rule), 1.0, "{}", client.admin("/metrics"));
}

#[test]
fn a_tls_route_chooses_by_server_name() {
    let mut mesh = Mesh::new();
    let port = ["{name: tls, port: 443, targetPort: 8443}"];
    for app in ["front", "exact", "wild"] {
        mesh.service(app, &port);
    }
    let mut client = mesh.member("client");
    let mut members = ["front-1", "exact-1", "wild-1"].map(|name| mesh.member(name));
    for (name, hostname, backend) in
        [("one", "one.example", "exact"), ("all", "'*.example'", "wild"), ("deep", "a.deep.example", "exact")]
    {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: front, port: 443}}]\n  hostnames: [{hostname}]\n  \
             rules: [{{backendRefs: [{{name: {backend}, port: 443}}]}}]\n"
        );
        mesh.write(&format!("routes/{name}.yaml"), &text);
    }
    mesh.start();
    let _nginx: Vec<Process> =
        members.iter().map(|member| servers::nginx(member, member.name(), &["8443 ssl"])).collect();
    mesh.join(members.iter_mut().chain([&mut client]));
    let ask = |name: &str| {
        let to = format!("{name}:443:front.shop:443");
        let url = format!("https://{name}/");
        client.exec(&["curl", "-sSk", "--max-time", "10", "--connect-to", &to, &url]).text()
    };
    wait::until("the routes to be applied", Duration::from_secs(20), || {
        (ask("one.example") == "exact-1\n").then_some(())
    });
    for (name, expected) in [
        ("one.example", "exact-1"),
        ("ONE.example", "exact-1"),
        ("two.example", "wild-1"),
        ("b.deep.example", "wild-1"),
        ("a.deep.example", "exact-1"),
        // No route is for these: the service itself.
        ("example", "front-1"),
        ("one.example.org", "front-1"),
        ("front.shop", "front-1"),
    ] {
        assert_eq!(ask(name).trim_end(), expected, "{name}");
    }
    // Without a server name, too.
    let address = client.exec(&["curl", "-sSk", "--max-time", "10", "https://10.96.0.1/"]).success().text();
    assert_eq!(address, "front-1\n");
}

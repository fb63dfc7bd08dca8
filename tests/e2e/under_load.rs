//! Everything that operators do to a running mesh, under steady load: not one request may fail, and the client counts.

use std::fmt::Write;
use std::time::Duration;

use malla_tests::load::Account;
use malla_tests::{Load, Member, Mesh, Process, wait};

use crate::servers;

const HTTP: &str = "{name: http, port: 80, targetPort: 8080}";

/// How long the control server stays away.
const AWAY: Duration = Duration::from_secs(60);

/// A mesh with nginx in each of these members, which answer with their names.
fn mesh_of(apps: &[&str], members: &[&str]) -> (Mesh, Member, Vec<(Member, Process)>) {
    let mut mesh = Mesh::new();
    for app in apps {
        mesh.service(app, &[HTTP]);
    }
    let mut client = mesh.member("client");
    let members: Vec<Member> = members.iter().map(|name| mesh.member(name)).collect();
    mesh.start();
    let mut members: Vec<(Member, Process)> = members
        .into_iter()
        .map(|member| {
            let nginx = servers::nginx(&member, member.name(), &["8080"]);
            (member, nginx)
        })
        .collect();
    mesh.join(members.iter_mut().map(|(member, _)| member).chain([&mut client]));
    (mesh, client, members)
}

/// Load of both versions of HTTP.
struct Loads([Load; 2]);

impl Loads {
    #[track_caller]
    fn start(client: &Member, url: &str) -> Loads {
        let rate = ["--rate", "100", "--connections", "4"];
        let http1 = Load::start(client, &[&[url, "--requests-per-connection", "40"], &rate[..]].concat());
        let http2 = Load::start(client, &[&[url, "--http2"], &rate[..]].concat());
        Loads([http1, http2])
    }

    #[track_caller]
    fn each(&self, what: impl Fn(&Load)) {
        self.0.iter().for_each(what);
    }

    #[track_caller]
    fn stop_without_failure(self) -> Vec<Account> {
        self.0.into_iter().map(Load::stop_without_failure).collect()
    }
}

/// An HTTPRoute of the service `web` that shares its requests between backends.
fn split(backends: &[(&str, u32)]) -> String {
    let mut text = String::from(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: web, port: 80}]\n  rules:\n  - backendRefs:\n",
    );
    for (name, weight) in backends {
        let _ = writeln!(text, "    - {{name: {name}, port: 80, weight: {weight}}}");
    }
    text
}

#[test]
fn routes_change_and_weights_shift_a_hundred_times() {
    let (mesh, client, _servers) = mesh_of(&["web", "blue", "green"], &["web-1", "blue-1", "green-1"]);
    let loads = Loads::start(&client, "http://web.shop/");
    loads.each(|load| load.wait_only(&["web-1"]));
    mesh.write("routes/web.yaml", &split(&[("blue", 1)]));
    loads.each(|load| load.wait_only(&["blue-1"]));
    for step in 1..=100 {
        mesh.write("routes/web.yaml", &split(&[("blue", 100 - step), ("green", step)]));
        // Some go through as they are written, some one upon the other.
        if step % 3 == 0 {
            loads.each(|load| load.wait_successes(5));
        }
    }
    loads.each(|load| load.wait_only(&["green-1"]));
    mesh.write("routes/web.yaml", &split(&[("blue", 80), ("green", 20)]));
    loads.each(|load| load.wait_backend("blue-1", 10));
    // Ten standard deviations either way.
    let before = loads.0[0].account();
    loads.0[0].wait_successes(400);
    let after = loads.0[0].account();
    let (blue, green) = (after.of("blue-1") - before.of("blue-1"), after.of("green-1") - before.of("green-1"));
    let share = blue as f64 / (blue + green) as f64;
    assert!((0.6..0.97).contains(&share), "blue got {blue}, green got {green}, at weights 80 and 20");
    mesh.remove("routes/web.yaml");
    loads.each(|load| load.wait_only(&["web-1"]));
    loads.stop_without_failure();
}

#[test]
fn endpoints_come_and_go() {
    let (mesh, client, mut servers) = mesh_of(&["web"], &["web-1", "web-2"]);
    let loads = Loads::start(&client, "http://web.shop/");
    loads.each(|load| load.wait_backend("web-2", 5));
    // Taken out of the configuration.
    mesh.remove("workloads/web-2.yaml");
    loads.each(|load| load.wait_only(&["web-1"]));
    // And back.
    mesh.write("workloads/web-2.yaml", &servers[1].0.workload(""));
    loads.each(|load| load.wait_backend("web-2", 20));
    // A weight of zero, too, takes an endpoint out.
    mesh.write("workloads/web-1.yaml", &servers[0].0.workload("  weight: 0\n"));
    loads.each(|load| load.wait_only(&["web-2"]));
    mesh.write("workloads/web-1.yaml", &servers[0].0.workload(""));
    loads.each(|load| load.wait_backend("web-1", 20));
    // A third that nobody knew.
    let mut third = mesh.member("web-3");
    let _nginx = servers::nginx(&third, "web-3", &["8080"]);
    mesh.remove("workloads/web-3.yaml");
    mesh.join([&mut third]);
    mesh.write("workloads/web-3.yaml", &third.workload(""));
    loads.each(|load| load.wait_backend("web-3", 20));
    loads.stop_without_failure();
    servers.clear();
}

#[test]
fn one_of_two_replicas_is_drained_and_restarted() {
    let (mesh, client, mut servers) = mesh_of(&["web"], &["web-1", "web-2"]);
    // A replica that refuses connections is ejected; here it may come back soon.
    let policy = "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  \
                  targetRefs: [{group: '', kind: Service, name: web}]\n  \
                  outlierDetection: {baseEjectionTime: 1s, maxEjectionTime: 1s}\n";
    mesh.write("policies/web.yaml", policy);
    let loads = Loads::start(&client, "http://web.shop/");
    for _ in 0..2 {
        loads.each(|load| load.wait_backend("web-2", 20));
        let drained = servers[1].0.drain_sidecar();
        assert!(drained.status.success(), "{}", drained.both());
        loads.each(|load| load.wait_only(&["web-1"]));
        servers[1].0.start_sidecar(&mesh, &[]);
        servers[1].0.wait_ready();
    }
    loads.each(|load| load.wait_backend("web-2", 20));
    loads.stop_without_failure();
}

#[test]
fn the_clients_own_sidecar_drains_without_cutting() {
    let (_mesh, mut client, _servers) = mesh_of(&["web"], &["web-1"]);
    // A download that takes two seconds, begun before the drain.
    let web = &_servers[0].0;
    web.shell(&format!("head -c 20000000 /dev/urandom >{}/files/large", web.directory().display())).success();
    let slow = client.spawn(&["curl", "-sSf", "--limit-rate", "8M", "-o", "/dev/null", "http://web.shop/files/large"]);
    client.wait_metric("malla_connections_accepted_total", &[("direction", "outbound")], 1.0);
    let drained = client.drain_sidecar();
    assert!(drained.status.success(), "{}", drained.both());
    slow.end(Duration::from_secs(20)).success();
}

#[test]
fn the_control_server_dies_for_a_minute_and_comes_back() {
    let (mut mesh, client, servers) = mesh_of(&["web"], &["web-1", "web-2"]);
    let loads = Loads::start(&client, "http://web.shop/");
    loads.each(|load| load.wait_backend("web-2", 5));
    mesh.kill_control();
    // What was written meanwhile is applied when it is back.
    mesh.remove("workloads/web-2.yaml");
    wait::holds("no request fails without the control server", AWAY, || {
        loads.0.iter().all(|load| load.account().failed == 0)
    });
    loads.each(|load| load.wait_backend("web-2", 5));
    mesh.start();
    loads.each(|load| load.wait_only(&["web-1"]));
    mesh.wait_status("all three sidecars to be back", |status| connected(status) >= 3);
    loads.stop_without_failure();
    drop(servers);
}

/// How many xDS streams the control server has.
fn connected(status: &serde_json::Value) -> usize {
    servers::streams(status).len()
}

#[test]
fn broken_yaml_changes_nothing_until_it_is_mended() {
    let (mesh, client, _servers) = mesh_of(&["web", "green"], &["web-1", "green-1"]);
    let loads = Loads::start(&client, "http://web.shop/");
    for broken in [
        "spec: [\n",
        "apiVersion: v1\nkind: Unknown\nmetadata: {name: a}\n",
        &split(&[("nobody", 1)]),
        &split(&[("green", 1)]).replace("backendRefs", "backendRef"),
    ] {
        mesh.write("routes/web.yaml", broken);
        mesh.wait_status("the error to be shown", |status| status.to_string().contains("routes/web.yaml"));
        loads.each(|load| load.wait_only(&["web-1"]));
    }
    // A good change beside a broken one is refused with it: a configuration is applied as a whole.
    mesh.write("routes/web.yaml", &split(&[("green", 1)]));
    loads.each(|load| load.wait_only(&["green-1"]));
    mesh.wait_status("the error to be gone", |status| !status.to_string().contains("routes/web.yaml"));
    loads.stop_without_failure();
}

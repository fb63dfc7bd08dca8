//! Input that no honest peer sends: memory stays bounded, others do not notice, and a counter says why.

use std::fs;
use std::time::{Duration, Instant};

use malla_tests::pod::{SIDECAR_USER, inside};
use malla_tests::{Load, Member, Mesh, Pod, Process, Sandbox, Sidecar, wait};

use crate::attacks::SLOWEST;
use crate::servers;

/// The most memory that a sidecar may hold under any of these, in KiB.
const MEMORY: u64 = 192 * 1024;

/// A mesh with a client and `web-1`, with steady load between them.
struct Watched {
    load: Load,
    client: Member,
    web: Member,
    /// Descriptors of both sidecars, before anything happened.
    idle: [usize; 2],
    _nginx: Process,
    mesh: Mesh,
}

impl Watched {
    #[track_caller]
    fn start() -> Watched {
        let mut mesh = Mesh::new();
        mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
        let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
        mesh.start();
        let nginx = servers::nginx(&web, "web-1", &["8080"]);
        mesh.join([&mut client, &mut web]);
        let idle = [&client, &web].map(|member| member.sidecar().descriptors());
        let load = Load::start(&client, &["http://web.shop/", "--rate", "50", "--requests-per-connection", "25"]);
        Watched { load, client, web, idle, _nginx: nginx, mesh }
    }

    /// Asserts that nobody has suffered, and that all was given back.
    #[track_caller]
    fn end(mut self) {
        self.load.wait_successes(50);
        let account = self.load.stop_without_failure();
        assert!(account.slowest_milliseconds <= SLOWEST, "{account:?}");
        for (member, idle) in [&self.client, &self.web].into_iter().zip(self.idle) {
            wait::until("the descriptors to be given back", Duration::from_secs(60), || {
                (member.sidecar().descriptors() < idle + 60).then_some(())
            });
        }
        for member in [&mut self.client, &mut self.web] {
            let most = member.sidecar().memory("VmHWM");
            assert!(most < MEMORY, "the sidecar of {} held {most} KiB", member.name());
            let mut sidecar = member.take_sidecar();
            assert!(!sidecar.has_ended(), "a sidecar ended:\n{}", sidecar.tail());
            assert!(!sidecar.stderr().contains("panicked"), "{}", sidecar.tail());
        }
        assert!(!self.mesh.control().stderr().contains("panicked"), "{}", self.mesh.control().tail());
    }
}

/// Starts `malla-peer` with more descriptors than usual, and waits until it says a word.
#[track_caller]
fn peer(pod: &Pod, arguments: &str, word: &str) -> Process {
    let mut process = pod.shell_spawn(&format!("ulimit -n 20000; exec {} {arguments}", inside("malla-peer")));
    let what = format!("`malla-peer {arguments}` to say {word:?}");
    wait::until(&what, Duration::from_secs(90), || {
        assert!(process.stdout().contains(word) || !process.has_ended(), "it ended:\n{}", process.tail());
        process.stdout().contains(word).then_some(())
    });
    process
}

/// Random bytes for one port, and what must count them.
struct Target<'a> {
    from: &'a Pod,
    address: String,
    /// Whose metrics; `None`: the control server's.
    counted_by: Option<&'a Member>,
    metric: &'static str,
    labels: &'static [(&'static str, &'static str)],
    /// Of the connections, how many at least: some kinds of garbage begin like something else.
    least: f64,
}

impl Target<'_> {
    fn count(&self, mesh: &Mesh) -> f64 {
        match self.counted_by {
            Some(member) => member.metric(self.metric, self.labels),
            None => mesh.control_metric(self.metric, self.labels),
        }
    }
}

#[test]
fn garbage_on_every_port_is_refused_and_counted() {
    const REFUSED: &str = "malla_connections_refused_total";
    const CONNECTIONS: &str = "42";
    let watched = Watched::start();
    let stranger = watched.mesh.stranger("stranger");
    let mut explicit = watched.mesh.member_with("explicit", Sidecar::Explicit);
    explicit.start_sidecar(&watched.mesh, &["--listen", "127.0.0.1:7001=web.shop:80"]);
    explicit.wait_ready();
    let (web, client) = (&watched.web, &watched.client);
    let target = |from, address: String, counted_by, metric, labels, least| Target {
        from,
        address,
        counted_by,
        metric,
        labels,
        least,
    };
    let plaintext = &[("direction", "inbound"), ("reason", "plaintext_refused")][..];
    let no_port = &[("direction", "inbound"), ("reason", "no_inbound_port")][..];
    let protocol = &[("direction", "outbound"), ("reason", "protocol_error")][..];
    let handshake = &[("reason", "tls_handshake")][..];
    // One after the other: several of them have the same words.
    for target in [
        target(&stranger, format!("{}:8080", web.ipv4()), Some(web), REFUSED, plaintext, 30.0),
        target(&stranger, format!("{}:9999", web.ipv4()), Some(web), REFUSED, no_port, 30.0),
        target(&stranger, format!("{}:15006", web.ipv4()), Some(web), REFUSED, plaintext, 30.0),
        target(client, "10.96.0.1:80".to_owned(), Some(client), REFUSED, protocol, 24.0),
        target(&explicit, "127.0.0.1:15001".to_owned(), Some(&explicit), REFUSED, protocol, 24.0),
        target(&explicit, "127.0.0.1:7001".to_owned(), Some(&explicit), REFUSED, protocol, 24.0),
        target(
            &stranger,
            watched.mesh.control_address(),
            None,
            "malla_control_connections_refused_total",
            handshake,
            36.0,
        ),
    ] {
        let before = target.count(&watched.mesh);
        target.from.exec(&[&inside("malla-peer"), "garbage", &target.address, CONNECTIONS]).success();
        let counted = || target.count(&watched.mesh) - before;
        wait::until(&format!("garbage at {} to be counted", target.address), Duration::from_secs(20), || {
            (counted() >= target.least).then_some(())
        });
    }
    // Pages for people: nothing to count, and nothing that suffers.
    for (from, address) in [
        (&stranger, format!("{}:15001", web.ipv4())),
        (&stranger, format!("{}:15020", web.ipv4())),
        (&stranger, format!("{}:15021", client.ipv4())),
        (watched.mesh.control_pod(), "127.0.0.1:15014".to_owned()),
    ] {
        from.exec(&[&inside("malla-peer"), "garbage", &address, CONNECTIONS]).success();
    }
    let most = explicit.sidecar().memory("VmHWM");
    assert!(most < MEMORY, "the explicit sidecar held {most} KiB");
    watched.end();
}

#[test]
fn half_a_hello_ends_in_time() {
    let watched = Watched::start();
    let stranger = watched.mesh.stranger("stranger");
    // A record that promises 512 bytes of ClientHello, and 20 of them.
    let half = "1603010200010001fc0303000102030405060708090a0b0c";
    let address = format!("{}:8080", watched.web.ipv4());
    let holding = peer(&stranger, &format!("hold {address} 300 {half}"), "holding");
    let control = peer(&stranger, &format!("hold {} 300 {half}", watched.mesh.control_address()), "holding");
    let late = [("direction", "inbound"), ("reason", "header_timeout")];
    wait::until("half hellos to be given up and counted", Duration::from_secs(60), || {
        (watched.web.metric("malla_connections_refused_total", &late) >= 300.0).then_some(())
    });
    let late = [("reason", "handshake_timeout")];
    wait::until("half hellos to be given up and counted by the control server", Duration::from_secs(60), || {
        (watched.mesh.control_metric("malla_control_connections_refused_total", &late) >= 300.0).then_some(())
    });
    holding.kill();
    control.kill();
    watched.mesh.status();
    watched.end();
}

#[test]
fn ten_thousand_idle_connections_cost_little() {
    const CONNECTIONS: u64 = 10_000;
    const SHARES: u64 = 4;
    let watched = Watched::start();
    let stranger = watched.mesh.stranger("stranger");
    let memory = |member: &Member| member.sidecar().memory("VmRSS");
    // Several peers at a time: on the way in, who says nothing is given up after ten seconds.
    let each_holds = |pod: &Pod, address: &str| -> Vec<Process> {
        let arguments = format!("hold {address} {}", CONNECTIONS / SHARES);
        (0..SHARES)
            .map(|_| pod.shell_spawn(&format!("ulimit -n 20000; exec {} {arguments}", inside("malla-peer"))))
            .collect()
    };
    let idle = |member: &Member, peers: &[Process]| {
        let what = format!("{} to have {CONNECTIONS} connections", member.name());
        wait::until(&what, Duration::from_secs(60), || {
            assert!(peers.iter().all(|peer| peer.stderr().is_empty()), "{}", peers[0].tail());
            (member.metric("malla_connections_in_flight", &[]) >= CONNECTIONS as f64).then_some(())
        });
    };
    let check = |member: &Member, pod: &Pod, address: &str| {
        let before = memory(member);
        let peers = each_holds(pod, address);
        idle(member, &peers);
        let after = memory(member);
        // In bytes, roughly: KiB per thousand connections.
        let each = after.saturating_sub(before) / (CONNECTIONS / 1000);
        assert!(each < 16_000, "{}: {each} bytes for each idle connection, {before} → {after} KiB", member.name());
        peers
    };
    let outbound = check(&watched.client, &watched.client, "10.96.0.1:80");
    let inbound = check(&watched.web, &stranger, &format!("{}:8080", watched.web.ipv4()));
    watched.load.wait_successes(100);
    let late = [("direction", "inbound"), ("reason", "header_timeout")];
    wait::until("idle connections to be given up and counted", Duration::from_secs(60), || {
        (watched.web.metric("malla_connections_refused_total", &late) >= CONNECTIONS as f64).then_some(())
    });
    for peer in inbound.into_iter().chain(outbound) {
        peer.kill();
    }
    watched.end();
}

#[test]
fn a_sidecar_without_descriptors_waits_and_goes_on() {
    let Watched { load, client, mut web, idle: _, _nginx, mesh } = Watched::start();
    load.stop_without_failure();
    web.drain_sidecar();
    web.start_sidecar_as(SIDECAR_USER, &["sh", "-c", "ulimit -n 120; exec \"$@\"", "sh"], &mesh, &[]);
    web.wait_ready();
    let stranger = mesh.stranger("stranger");
    let holding = peer(&stranger, &format!("hold {}:8080 400", web.ipv4()), "holding");
    wait::until("the sidecar to run out of descriptors", Duration::from_secs(20), || {
        web.sidecar().stderr().contains("no connection can be accepted at this moment").then_some(())
    });
    assert!(web.sidecar().descriptors() <= 120 && web.sidecar().memory("VmHWM") < MEMORY, "it keeps within its limit");
    // The pages for people and orchestrators are served all the same.
    assert!(web.metric("malla_connections_in_flight", &[]) > 0.0);
    web.exec(&["curl", "-sSf", "--max-time", "5", "http://127.0.0.1:15021/ready"]).success();
    holding.kill();
    wait::until("requests to be served again", Duration::from_secs(20), || {
        client.exec(&["curl", "-sSf", "--max-time", "5", "http://web.shop/"]).status.success().then_some(())
    });
    web.wait_metric("malla_connections_refused_total", &[("direction", "inbound"), ("reason", "overloaded")], 1.0);
    assert!(!web.sidecar().stderr().contains("panicked"), "{}", web.sidecar().tail());
}

#[test]
fn clients_that_never_read_fill_nothing() {
    let watched = Watched::start();
    let files = watched.web.directory().join("files");
    fs::write(files.join("large"), vec![7; 64 << 20]).expect("the pod's directory is writable");
    let peer = peer(&watched.client, "never-read 10.96.0.1:80 web.shop /files/large 50", "asked");
    watched.load.wait_successes(200);
    peer.kill();
    watched.end();
}

/// Starts a sidecar with this token; the process, while it goes on.
#[track_caller]
fn sidecar_with_token(mesh: &Mesh, pod: &Pod, token: &str) -> Process {
    let trust = mesh.trust();
    let (program, control) = (inside("malla-proxy"), mesh.control_address());
    let mut command = vec![&*program, "--control", &control, "--namespace", "shop", "--workload", "client"];
    let trust = trust.to_string_lossy();
    command.extend(["--trust", &trust, "--token", token]);
    pod.spawn_as(SIDECAR_USER, &command, &[])
}

#[test]
fn expired_and_forged_tokens_are_refused_by_name() {
    let mut mesh = Mesh::new();
    let pod = mesh.stranger("client");
    mesh.start();
    let expired = mesh.token("client", "1s");
    let created = Instant::now();
    // The same claims, signed by another control server.
    let forged = mesh.sandbox().directory().join("forged.token");
    let (other, nothing) =
        (mesh.sandbox().writable_directory("other-state"), mesh.sandbox().writable_directory("nothing"));
    let (state, configuration) = (other.to_string_lossy(), nothing.to_string_lossy());
    let _other = pod.spawn(&[&inside("malla"), "control", "--config", &configuration, "--state", &state]);
    wait::until("the other control server's key", Duration::from_secs(30), || {
        other.join("token.key").exists().then_some(())
    });
    let claims = ["--namespace", "shop", "--service-account", "forged", "--ttl", "1h"];
    let output = mesh.malla(&[&["token", "create", "--state", &other.to_string_lossy()], &claims[..]].concat());
    fs::write(&forged, output.success().stdout).expect("the sandbox's directory is writable");

    // The second that it is good for, and the seconds by which replicas' clocks may differ.
    wait::until("the token to be older than any clock allows", Duration::from_secs(30), || {
        (created.elapsed() > Duration::from_secs(7)).then_some(())
    });
    for (token, identity, why) in [
        (&expired, "spiffe://cluster.local/ns/shop/sa/client", "expired"),
        (&forged, "spiffe://cluster.local/ns/shop/sa/forged", "signature"),
    ] {
        let what = format!("a token to be refused in the control server's log: {identity}, {why}");
        let sidecar = sidecar_with_token(&mesh, &pod, &token.to_string_lossy());
        wait::until(&what, Duration::from_secs(30), || {
            let log = format!("{}{}", mesh.control().stdout(), mesh.control().stderr());
            log.lines().any(|line| line.contains(identity) && line.contains(why)).then_some(())
        });
        let ready = pod.exec(&["curl", "-sf", "http://127.0.0.1:15021/ready"]);
        assert!(!ready.status.success(), "ready without a certificate: {}", ready.both());
        let said = format!("{}{}", sidecar.stdout(), sidecar.stderr());
        assert!(said.contains("token"), "the sidecar says why it waits:\n{said}");
        sidecar.kill();
    }
}

#[test]
fn a_member_is_given_only_what_is_its_own() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let web = mesh.member("web-1");
    mesh.start();
    // Another identity that calls itself web-1.
    let token = mesh.token("thief", "1h");
    let trust = mesh.trust();
    let mut thief = web.spawn_as(
        SIDECAR_USER,
        &[
            &inside("malla-proxy"),
            "--control",
            &mesh.control_address(),
            "--trust",
            &trust.to_string_lossy(),
            "--token",
            &token.to_string_lossy(),
            "--workload",
            "web-1",
        ],
        &[],
    );
    wait::until("the thief to be told", Duration::from_secs(30), || {
        let log = format!("{}{}", mesh.control().stdout(), mesh.control().stderr());
        log.lines().any(|line| line.contains("sa/thief") && line.contains("web-1")).then_some(())
    });
    wait::until("the denial to be in the status", Duration::from_secs(20), || {
        let status = mesh.status();
        let denied = |stream: &serde_json::Value| {
            let denied = stream["denied"].as_array().expect("a list");
            denied.iter().any(|text| text.as_str().is_some_and(|text| text.contains("inbound/web-1.shop")))
        };
        let thief =
            |stream: &&serde_json::Value| stream["identity"].as_str().is_some_and(|id| id.ends_with("sa/thief"));
        servers::streams(&status).iter().find(thief).is_some_and(denied).then_some(())
    });
    let config = web.exec(&["curl", "-sSf", "http://127.0.0.1:15020/config?format=json"]).success().text();
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let ports = config["inbound"].as_array().map_or(0, Vec::len);
    assert_eq!(ports, 0, "{config}");
    assert!(!thief.has_ended() && !thief.stderr().contains("panicked"), "{}", thief.tail());
}

#[test]
fn a_misspelt_workload_is_told() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let web = mesh.member("web-1");
    mesh.start();
    let (trust, token) = (mesh.trust(), mesh.token("web", "1h"));
    let program = inside("malla-proxy");
    let command = [&*program, "--control", &mesh.control_address(), "--trust", &trust.to_string_lossy(), "--token"];
    let token = token.to_string_lossy();
    let sidecar = web.spawn_as(SIDECAR_USER, &[&command[..], &[&*token, "--workload", "wbe-1"]].concat(), &[]);
    let what = "the configuration has no Workload";
    wait::until("the sidecar to say so", Duration::from_secs(30), || {
        let said = format!("{}{}", sidecar.stdout(), sidecar.stderr());
        said.lines()
            .any(|line| line.contains("WARN") && line.contains("wbe-1.shop") && line.contains(what))
            .then_some(())
    });
    let status = mesh.malla(&["status"]).success().text();
    assert!(status.contains("the configuration has no Workload wbe-1.shop"), "{status}");
    assert_eq!(servers::streams(&mesh.status())[0]["unknown_workload"], "wbe-1.shop");
    let config = web.exec(&["curl", "-sSf", "http://127.0.0.1:15020/config"]).success().text();
    assert!(config.contains(what), "{config}");
    // It appears: all is well, without a restart.
    mesh.write("workloads/wbe-1.yaml", &web.workload("").replace("name: web-1", "name: wbe-1"));
    mesh.remove("workloads/web-1.yaml");
    mesh.wait_status("the workload to be known", |status| {
        servers::streams(status).iter().all(|stream| stream["unknown_workload"].is_null())
    });
    wait::until("the sidecar to have its port", Duration::from_secs(20), || {
        let config = web.exec(&["curl", "-sSf", "http://127.0.0.1:15020/config"]).success().text();
        (config.contains("80.web.shop.mesh") && !config.contains(what)).then_some(())
    });
}

#[test]
fn what_a_foreign_control_server_may_not_say_is_rejected_by_name_and_field() {
    let sandbox = Sandbox::new();
    let (pod, other) = (sandbox.pod("client"), sandbox.pod("foreign"));
    let trust = sandbox.writable_directory("foreign").join("trust.pem");
    let (listen, trust) = (format!("{}:15012", other.ipv4()), trust.to_string_lossy().into_owned());
    let identity = "spiffe://cluster.local/ns/shop/sa/client";
    let mut foreign = other.spawn(&[&inside("malla-peer"), "foreign-control", &listen, &trust, identity]);
    other.wait_listening(&mut foreign, 15012);
    let token = sandbox.directory().join("token");
    fs::write(&token, "any.token.will-do").expect("the sandbox's directory is writable");
    let token = token.to_string_lossy();
    let program = inside("malla-proxy");
    let command = [&*program, "--control", &listen, "--trust", &trust, "--token", &token, "--workload", "client"];
    let mut sidecar = pod.spawn_as(SIDECAR_USER, &[&command[..], &["--namespace", "shop"]].concat(), &[]);
    pod.wait_listening(&mut sidecar, 15001);

    // One request that waits for its configuration, and brings the conversation about.
    let ask =
        || pod.exec(&["curl", "-sSi", "--max-time", "20", "-x", "http://127.0.0.1:15001", "http://web.shop/"]).text();
    ask();
    let rejected = wait::until("three answers of the sidecar", Duration::from_secs(30), || {
        Some(foreign.stdout()).filter(|said| said.contains("rejected 3"))
    });
    let line = |start: &str| rejected.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    for (number, words) in [(1, ["web.shop:80", "path_separated_prefix"]), (3, ["web.shop:80", "unheard.of"])] {
        let line = line(&format!("rejected {number}"));
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} are not in {line:?}");
    }
    assert!(rejected.contains("accepted 2"), "{rejected}");
    // The second telling, the last good one, goes on.
    let answer = ask();
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("malla-reason: no_endpoints"), "{answer}");
}

//! Replicas that fail, each in its way, under steady load: how many requests are lost, how much is sent besides, and how soon all is
//! well again.

use std::fs;
use std::time::{Duration, Instant};

use malla_tests::{Load, Member, Mesh, Process, wait};

use crate::servers;

/// Two tries of 300 ms each; an endpoint that fails is left out for a second.
const POLICY: &str = "apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  outlierDetection: {baseEjectionTime: 1s, maxEjectionTime: 1s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - retry: {attempts: 1, codes: [502, 503], backoff: 5ms}
    timeouts: {request: 2s, backendRequest: 300ms}
    backendRefs: [{name: web, port: 80}]
";

/// Requests per second.
const RATE: f64 = 100.0;

/// A replica whose manner is in a file.
struct Replica {
    member: Member,
    server: Option<Process>,
}

impl Replica {
    fn start(&mut self) {
        let (member, manner) = (&self.member, self.member.directory().join("manner"));
        let mut server =
            servers::python(member, "moody_server.py", &["8080", member.name(), &manner.to_string_lossy()]);
        member.wait_listening(&mut server, 8080);
        self.server = Some(server);
    }

    fn behaves(&self, manner: &str) {
        let file = self.member.directory().join("manner");
        let beside = file.with_extension("new");
        fs::write(&beside, manner).and_then(|()| fs::rename(&beside, &file)).expect("the pod's directory is writable");
    }
}

/// A client, and so many replicas of `web`.
fn mesh_of(replicas: usize, policy: &str) -> (Mesh, Member, Vec<Replica>) {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let mut client = mesh.member("client");
    let mut replicas: Vec<Replica> =
        (1..=replicas).map(|number| Replica { member: mesh.member(&format!("web-{number}")), server: None }).collect();
    mesh.write("policy.yaml", policy);
    mesh.start();
    for replica in &mut replicas {
        replica.behaves("well");
        replica.start();
    }
    mesh.join(replicas.iter_mut().map(|replica| &mut replica.member).chain([&mut client]));
    (mesh, client, replicas)
}

/// What was offered and what arrived, so far.
struct Traffic {
    offered: f64,
    arrived: f64,
    failed: u64,
    at: Instant,
}

impl Traffic {
    fn now(load: &Load, replicas: &[Replica]) -> Traffic {
        let account = load.account();
        let inbound = |replica: &Replica| replica.member.metric("malla_requests_total", &[("direction", "inbound")]);
        Traffic {
            offered: (account.succeeded + account.failed) as f64,
            arrived: replicas.iter().map(inbound).sum(),
            failed: account.failed,
            at: Instant::now(),
        }
    }

    /// Asserts that since `before` retries have added at most a fifth, the floor of three per second, what a calm time saved,
    /// and what is under way.
    fn is_not_amplified_since(&self, before: &Traffic, what: &str) {
        let (offered, arrived) = (self.offered - before.offered, self.arrived - before.arrived);
        let seconds = (self.at - before.at).as_secs_f64();
        let most = 1.2 * offered + 3.0 * seconds + 10.0 + 10.0;
        assert!(arrived <= most, "{what}: {arrived} arrived of {offered} in {seconds} s, more than {most}");
    }
}

/// For so many requests.
fn offer(load: &Load, requests: u64) {
    let so_far = |load: &Load| {
        let account = load.account();
        account.succeeded + account.failed
    };
    let wanted = so_far(load) + requests;
    wait::until("the load to go on", Duration::from_secs(30), || (so_far(load) >= wanted).then_some(()));
}

#[test]
fn a_replica_that_fails_loses_few_requests_and_comes_back() {
    let (_mesh, client, mut replicas) = mesh_of(3, POLICY);
    let load = Load::start(&client, &["http://web.shop/", "--rate", "100", "--connections", "4"]);
    load.wait_backend("web-1", 10);
    // (manner, requests that may be lost)
    for (manner, bound) in [("resets", 8), ("unavailable", 8), ("hangs", 12), ("slow", 3), ("gone", 3)] {
        let before = Traffic::now(&load, &replicas);
        match manner {
            "gone" => replicas[0].server.take().into_iter().for_each(|server| drop(server.kill())),
            manner => replicas[0].behaves(manner),
        }
        offer(&load, 200);
        let during = Traffic::now(&load, &replicas);
        let lost = during.failed - before.failed;
        assert!(lost <= bound, "{lost} lost to one of three that {manner}: {:#?}", load.account());
        during.is_not_amplified_since(&before, manner);
        match manner {
            "gone" => replicas[0].start(),
            _ => replicas[0].behaves("well"),
        }
        let mended = Instant::now();
        load.wait_backend("web-1", 10);
        // Ejected for a second at a time, or paused for what its failures in a row have grown to; one that was slow is asked again
        // when ten seconds have passed, and once more if that answer met a busy machine.
        let recovery = mended.elapsed();
        assert!(recovery < Duration::from_secs(25), "{manner}: back after {recovery:?}");
    }
    load.stop();
}

#[test]
fn when_all_replicas_fail_retries_are_no_storm_and_recovery_is_at_once() {
    let (_mesh, client, replicas) = mesh_of(2, POLICY);
    let load = Load::start(&client, &["http://web.shop/", "--rate", "100", "--connections", "8"]);
    load.wait_successes(50);
    for manner in ["unavailable", "resets"] {
        let before = Traffic::now(&load, &replicas);
        replicas.iter().for_each(|replica| replica.behaves(manner));
        offer(&load, 3 * RATE as u64);
        let during = Traffic::now(&load, &replicas);
        assert!(during.failed - before.failed > RATE as u64, "nobody was left to go to: {:#?}", load.account());
        during.is_not_amplified_since(&before, manner);
        replicas.iter().for_each(|replica| replica.behaves("well"));
        let mended = Instant::now();
        load.wait_successes(20);
        let recovery = mended.elapsed();
        assert!(recovery < Duration::from_secs(5), "{manner}: well again after {recovery:?}");
    }
    load.stop();
}

#[test]
fn a_zone_that_fails_is_left_for_the_next_and_taken_again() {
    let (mesh, client, mut replicas) = mesh_of(4, POLICY);
    // The client and two replicas in one zone, the other two in another of the region.
    let place = |member: &Member, zone: &str| {
        let text = member.workload(&format!("  locality: {{region: eu, zone: {zone}}}\n"));
        mesh.write(&format!("workloads/{}.yaml", member.name()), &text);
    };
    place(&client, "a");
    replicas.iter().zip(["a", "a", "b", "b"]).for_each(|(replica, zone)| place(&replica.member, zone));
    let load = Load::start(&client, &["http://web.shop/", "--rate", "100", "--connections", "4"]);
    load.wait_only(&["web-1", "web-2"]);
    for manner in ["unavailable", "gone"] {
        let before = Traffic::now(&load, &replicas);
        for replica in &mut replicas[..2] {
            match manner {
                "gone" => drop(replica.server.take().map(Process::kill)),
                manner => replica.behaves(manner),
            }
        }
        offer(&load, 300);
        let during = Traffic::now(&load, &replicas);
        // Until both are left out, a request and its other try may meet both; and whenever they are asked again.
        let lost = during.failed - before.failed;
        assert!(lost <= 60, "{lost} lost to a zone that is {manner}: {:#?}", load.account());
        during.is_not_amplified_since(&before, manner);
        for replica in &mut replicas[..2] {
            match manner {
                "gone" => replica.start(),
                _ => replica.behaves("well"),
            }
        }
        let mended = Instant::now();
        load.wait_only(&["web-1", "web-2"]);
        let recovery = mended.elapsed();
        assert!(recovery < Duration::from_secs(30), "{manner}: the own zone serves again after {recovery:?}");
    }
    load.stop();
}

#[test]
fn an_endpoint_that_drains_keeps_what_it_has_and_gets_nothing_new() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut one, mut two) = (mesh.member("client"), mesh.member("web-1"), mesh.member("web-2"));
    mesh.write("workloads/web-2.yaml", &two.workload("  weight: 0\n"));
    mesh.start();
    let _nginx = [servers::nginx(&one, "web-1", &["8080"]), servers::nginx(&two, "web-2", &["8080"])];
    one.shell(&format!("head -c 20000000 /dev/urandom >{}/files/large", one.directory().display())).success();
    mesh.join([&mut client, &mut one, &mut two]);
    let load = Load::start(&client, &["http://web.shop/", "--rate", "100", "--connections", "4"]);
    load.wait_only(&["web-1"]);
    let url = "http://web.shop/files/large";
    let file = client.directory().join("download");
    let slow = client.spawn(&["curl", "-sSf", "--limit-rate", "5M", "-o", &file.to_string_lossy(), url]);
    wait::until("the download to begin", Duration::from_secs(20), || {
        fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(())
    });
    mesh.write("workloads/web-2.yaml", &two.workload(""));
    mesh.write("workloads/web-1.yaml", &one.workload("  weight: 0\n"));
    load.wait_only(&["web-2"]);
    slow.end(Duration::from_secs(30)).success();
    load.stop_without_failure();
}

//! Attacks by frames, heads and silence that no client sends: meanwhile others are served as ever, memory and descriptors are bounded,
//! and what is an attack beyond doubt ends with its connection.

use std::fs;
use std::time::Duration;

use malla_tests::pod::inside;
use malla_tests::{Load, Member, Mesh, Process, wait};

use crate::servers;

/// The most memory that a sidecar may hold under any of these, in KiB.
const MEMORY: u64 = 224 * 1024;
/// Connections of each attack by frames.
const CONNECTIONS: usize = 10;
/// The most descriptors that such an attack may have a sidecar open: some for each connection, and some for upstreams.
const DESCRIPTORS: usize = 400;
/// The longest that a request of others may take meanwhile: the machine of the tests is small and busy, and the
/// attacker has most of it.
pub(crate) const SLOWEST: u64 = 8000;

/// What becomes of the attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its connections are ended.
    Ended,
    /// It is served as slowly as it reads, is refused each time, or is ended.
    Bounded,
}

const ATTACKS: &[(&str, Fate)] = &[
    ("rapid-reset", Fate::Ended),
    ("provoked-resets", Fate::Ended),
    ("malformed", Fate::Ended),
    ("continuations", Fate::Ended),
    ("empty-continuations", Fate::Ended),
    ("empty-data", Fate::Ended),
    ("hpack-bomb", Fate::Bounded),
    ("many-headers", Fate::Bounded),
    ("settings", Fate::Bounded),
    ("pings", Fate::Bounded),
    ("priorities", Fate::Bounded),
    ("window-updates", Fate::Bounded),
    ("windows-of-zero", Fate::Bounded),
    ("slow-head", Fate::Bounded),
];

/// A client and `web-1`, and what they had open before anything happened.
pub(crate) struct Attacked {
    pub(crate) client: Member,
    web: Member,
    idle: [usize; 2],
    pub(crate) faults: Vec<String>,
    _nginx: Process,
    mesh: Mesh,
}

impl Attacked {
    #[track_caller]
    pub(crate) fn start() -> Attacked {
        let mut mesh = Mesh::new();
        mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
        let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
        mesh.start();
        let nginx = servers::nginx(&web, "web-1", &["8080"]);
        fs::write(web.directory().join("files").join("large"), vec![7; 8 << 20])
            .expect("the pod's directory is writable");
        mesh.join([&mut client, &mut web]);
        let idle = [&client, &web].map(|member| member.sidecar().descriptors());
        Attacked { client, web, idle, faults: Vec::new(), _nginx: nginx, mesh }
    }

    /// A load that goes on while something happens; `most` descriptors more than before may be open meanwhile.
    #[track_caller]
    pub(crate) fn while_others_are_served(&mut self, what: &str, most: usize, happens: impl FnOnce(&mut Attacked)) {
        let load = Load::start(&self.client, &["http://web.shop/", "--rate", "50", "--requests-per-connection", "25"]);
        happens(self);
        load.wait_successes(20);
        let account = load.stop();
        if account.failed > 0 || account.slowest_milliseconds > SLOWEST {
            self.faults.push(format!("{what}: others were not served: {account:?}"));
        }
        for (member, idle) in [&self.client, &self.web].into_iter().zip(self.idle) {
            let (held, open) = (member.sidecar().memory("VmHWM"), member.sidecar().descriptors());
            if held > MEMORY || open > idle + most {
                self.faults.push(format!("{what}: {} held {held} KiB and {open} descriptors", member.name()));
            }
        }
    }

    /// Asserts that nobody has suffered, and that all was given back.
    #[track_caller]
    pub(crate) fn end(mut self) {
        assert!(self.faults.is_empty(), "{:#?}", self.faults);
        for (member, idle) in [&self.client, &self.web].into_iter().zip(self.idle) {
            wait::until("the descriptors to be given back", Duration::from_secs(60), || {
                (member.sidecar().descriptors() < idle + 60).then_some(())
            });
        }
        for member in [&mut self.client, &mut self.web] {
            let mut sidecar = member.take_sidecar();
            assert!(!sidecar.has_ended() && !sidecar.stderr().contains("panicked"), "{}", sidecar.tail());
        }
        drop(self.mesh);
    }
}

#[test]
fn frames_of_attackers_hurt_nobody_else() {
    let mut attacked = Attacked::start();
    for (attack, fate) in ATTACKS {
        let refused = |attacked: &Attacked| {
            attacked.client.metric("malla_connections_refused_total", &[("reason", "protocol_error")])
        };
        let before = refused(&attacked);
        attacked.while_others_are_served(attack, DESCRIPTORS, |attacked| {
            let connections = CONNECTIONS.to_string();
            let seconds = if *fate == Fate::Ended { "20" } else { "3" };
            let arguments = ["10.96.0.1", "80", "web.shop", attack, &connections, seconds];
            let said = servers::python(&attacked.client, "http2_attack.py", &arguments);
            let said = said.end(Duration::from_secs(60)).success().text();
            println!("{attack}: {}", said.trim());
            if *fate == Fate::Ended && !said.contains(&format!("{CONNECTIONS} ended")) {
                attacked.faults.push(format!("{attack} goes on: {said}"));
            }
            if *fate == Fate::Ended && !said.contains("goaway") {
                attacked.faults.push(format!("{attack} is not told why: {said}"));
            }
        });
        if *fate == Fate::Ended && refused(&attacked) < before + CONNECTIONS as f64 {
            attacked.faults.push(format!("{attack} is not counted"));
        }
    }
    attacked.end();
}

#[test]
fn slow_clients_hurt_nobody_else() {
    let mut attacked = Attacked::start();
    let hexadecimal = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let large_head = format!("GET / HTTP/1.1\r\nhost: web.shop\r\nx: {}", "x".repeat(8000));
    let half_body = "PUT /files/slow HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 100000\r\n\r\nhalf";
    let silent_http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (what, bytes, connections) in [
        ("heads that do not end", large_head.as_str(), 500),
        ("bodies that do not end", half_body, 200),
        ("HTTP/2 without a word", silent_http2, 500),
    ] {
        attacked.while_others_are_served(what, 4 * connections + 100, |attacked| {
            let command = format!(
                "ulimit -n 20000; exec {} hold 10.96.0.1:80 {connections} {}",
                inside("malla-peer"),
                hexadecimal(bytes)
            );
            let holding = attacked.client.shell_spawn(&command);
            wait::until(what, Duration::from_secs(60), || holding.stdout().contains("holding").then_some(()));
            let load = Load::start(&attacked.client, &["http://web.shop/", "--rate", "50"]);
            load.wait_successes(100);
            load.stop_without_failure();
            holding.kill();
        });
    }
    attacked.end();
}

#[test]
fn a_sidecar_near_its_limit_of_memory_sheds_and_recovers() {
    const LIMIT: u64 = 64 * 1024;
    let mut attacked = Attacked::start();
    attacked.client.drain_sidecar();
    attacked.client.start_sidecar(&attacked.mesh, &["--memory-limit", &format!("{LIMIT}Ki")]);
    attacked.client.wait_ready();
    let client = &attacked.client;
    assert_eq!(client.metric("malla_memory_limit_bytes", &[]), (LIMIT * 1024) as f64);
    // Heads of 50 KB that do not end: each is held until its time is over.
    let head = format!("GET / HTTP/1.1\r\nhost: web.shop\r\nx: {}", "x".repeat(50_000));
    let head: String = head.bytes().map(|byte| format!("{byte:02x}")).collect();
    let kept = Load::start(client, &["http://web.shop/", "--rate", "50"]);
    let command = format!("ulimit -n 20000; exec {} hold 10.96.0.1:80 4000 {head}", inside("malla-peer"));
    let holding = client.shell_spawn(&command);
    wait::until("requests to be shed", Duration::from_secs(60), || {
        let shed = client.metric("malla_requests_total", &[("reason", "overloaded"), ("status", "503")]);
        (shed > 0.0 && client.metric("malla_memory_shedding", &[]) == 1.0).then_some(())
    });
    holding.kill();
    wait::until("requests to be served again", Duration::from_secs(60), || {
        let served = client.exec(&["curl", "-sSf", "--max-time", "5", "http://web.shop/"]).status.success();
        (served && client.metric("malla_memory_shedding", &[]) == 0.0).then_some(())
    });
    let failures = kept.stop().failures;
    assert!(failures.keys().any(|failure| failure.contains("503") && failure.contains("overloaded")), "{failures:?}");
    let (held, sidecar) = (client.sidecar().memory("VmHWM"), client.sidecar().stderr());
    // Without the limit it would hold 200 MB. What was accepted before the limit came near is still read.
    assert!(held <= LIMIT + LIMIT / 2, "{held} KiB");
    assert!(sidecar.contains("memory runs out") && sidecar.contains("there is memory again"), "{sidecar}");
    attacked.end();
}

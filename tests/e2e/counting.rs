//! What is counted is what clients count, and who collects it can hold nobody up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use malla_tests::{Load, Member, Mesh, wait};

use crate::attacks::SLOWEST;
use crate::servers;

/// Asks for these addresses with curl (`[1-100]` are a hundred of them) and counts the statuses of the answers.
#[track_caller]
fn statuses(client: &Member, urls: &[&str]) -> BTreeMap<String, u64> {
    let mut command = vec!["curl", "-s", "--max-time", "60", "-w", "%{http_code}\n"];
    command.extend(urls.iter().flat_map(|url| ["-o", "/dev/null", url]));
    let mut counts = BTreeMap::new();
    for status in client.exec(&command).success().text().lines() {
        *counts.entry(status.to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn counters_are_those_of_the_client_exactly() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}", "{name: closed, port: 81, targetPort: 8099}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    let good = "http://web.shop/?[1-300]";
    let mut seen = statuses(&client, &[good, "http://web.shop/files/[1-70]", "http://web.shop/broken?[1-5]"]);
    let said = client.exec(&["h2load", "-n", "300", "-c", "3", "-m", "10", "http://web.shop/"]).success().text();
    assert!(said.contains("status codes: 300 2xx"), "{said}");
    *seen.entry("200".to_owned()).or_default() += 300;
    assert_eq!(seen.get("200"), Some(&600), "{seen:?}");
    assert_eq!((seen.get("404"), seen.get("500")), (Some(&70), Some(&5)), "{seen:?}");
    let counted = |member: &Member, direction: &str, service: &str, seen: &BTreeMap<String, u64>| {
        let of = |status: &String| {
            let labels = [("direction", direction), ("service", service), ("status", status)];
            (status.clone(), member.metric("malla_requests_total", &labels) as u64)
        };
        seen.keys().map(of).collect::<BTreeMap<_, _>>()
    };
    for (member, direction) in [(&client, "outbound"), (&web, "inbound")] {
        // An answer is counted when it is over, which the client may notice first.
        wait::until("the last request to be counted", Duration::from_secs(5), || {
            (counted(member, direction, "web.shop:80", &seen) == seen).then_some(())
        });
        let all = seen.values().sum::<u64>() as f64;
        let of_web = [("direction", direction), ("service", "web.shop:80")];
        for family in ["malla_requests_total", "malla_request_duration_seconds_count"] {
            assert_eq!(member.metric(family, &of_web), all, "{family} {direction}");
        }
    }
    let failed = statuses(&client, &["http://web.shop:81/[1-40]"]);
    assert!(failed.values().sum::<u64>() == 40 && failed.keys().all(|status| status.starts_with('5')), "{failed:?}");
    wait::until("the last failure to be counted", Duration::from_secs(5), || {
        (counted(&client, "outbound", "web.shop:81", &failed) == failed).then_some(())
    });
    assert_eq!(client.metric("malla_requests_total", &[("service", "web.shop:81")]), 40.0);
}

/// Accepts on a port and never says a word.
const HANGING: &str = "import socket\n\
    server, held = socket.create_server(('127.0.0.1', 4317)), []\n\
    while True: held.append(server.accept())";

/// Asks for metrics on a hundred connections and reads nothing of most, and of the others a little before it resets them, until it is ended.
const STALLING: &str = "import socket, struct, time\n\
    held, ask = [], b'GET /metrics HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'\n\
    for _ in range(100):\n    \
        one = socket.create_connection(('127.0.0.1', 15020)); one.sendall(ask * 20); held.append(one)\n\
    for _ in range(100):\n    \
        one = socket.create_connection(('127.0.0.1', 15020)); one.sendall(ask); one.recv(10)\n    \
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); one.close()\n\
    print('stalled', flush=True)\n\
    time.sleep(60)";

#[test]
fn who_hangs_while_collecting_holds_nothing_up() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut web]);
    let mut collector = client.spawn(&["python3", "-c", HANGING]);
    client.wait_listening(&mut collector, 4317);
    let traced = ["--otlp", "http://127.0.0.1:4317", "--trace-sampling", "100%", "--trace-limit", "1000000"];
    client.redirect();
    client.start_sidecar(&mesh, &traced);
    client.wait_ready();
    let load = Load::start(&client, &["http://web.shop/", "--rate", "800", "--connections", "8"]);
    let scraper = client.spawn(&["python3", "-c", STALLING]);
    wait::until("scrapers to stall", Duration::from_secs(20), || scraper.stdout().contains("stalled").then_some(()));
    assert!(client.admin("/metrics").contains("malla_requests_total"), "others are answered");
    // Of 800 spans in a second 4,096 wait and a batch is under way; the collector has ten seconds for that one.
    client.wait_metric("malla_trace_spans_dropped_total", &[], 1.0);
    client.wait_metric("malla_trace_spans_failed_total", &[], 1.0);
    assert_eq!(client.metric("malla_trace_spans_exported_total", &[]), 0.0);
    let account = load.stop_without_failure();
    assert!(account.slowest_milliseconds < SLOWEST, "{account:?}");
    let held = client.sidecar().memory("VmHWM");
    assert!(held < 96 * 1024, "{held} KiB");
    scraper.kill();
    let begin = Instant::now();
    client.drain_sidecar();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}: the last spans have two seconds", begin.elapsed());
    collector.kill();
}

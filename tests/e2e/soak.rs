//! Everything at once, for as long as `MALLA_SOAK` says (`10m`; 40 s without it): certificates that live ten seconds, roots that are
//! rotated one after the other, endpoints that come and go, a control server that is killed and started again, under load of
//! both versions of HTTP and with a stream that stays. Nothing may fail, and memory must stay where it was.

use std::time::{Duration, Instant};

use malla_tests::{Load, Mesh, Process, Sandbox, wait};

use crate::servers;

/// Certificates are renewed after five seconds, more or less.
const SHORT: [&str; 2] = ["--certificate-lifetime", "10s"];
/// What a sidecar may hold more at the end than after the first rounds, in KiB: allocators do not give back all at once.
const GROWTH: u64 = 6 * 1024;

fn duration() -> Duration {
    let text = std::env::var("MALLA_SOAK").unwrap_or_else(|_| "40s".to_owned());
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("MALLA_SOAK is {text:?}, not like 40s or 10m"));
    match unit {
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        _ => panic!("MALLA_SOAK is {text:?}, not like 40s or 10m"),
    }
}

#[test]
fn nothing_fails_while_everything_changes() {
    let length = duration();
    let mut mesh = Mesh::within(Sandbox::lasting(length + Duration::from_secs(300), &[]));
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    mesh.service("greeter", &["{name: tcp, port: 7000}"]);
    let (mut client, mut greeter) = (mesh.member("client"), mesh.member("greeter-1"));
    let mut webs = ["web-1", "web-2"].map(|name| mesh.member(name));
    mesh.start_with(&SHORT);
    let _nginx = webs.each_ref().map(|web| servers::nginx(web, web.name(), &["8080"]));
    let mut tcp = servers::python(&greeter, "tcp_server.py", &["7000", "greeter-1"]);
    greeter.wait_listening(&mut tcp, 7000);
    mesh.join(webs.iter_mut().chain([&mut client, &mut greeter]));

    let rate = ["http://web.shop/", "--rate", "50", "--connections", "4"];
    let loads = [
        Load::start(&client, &[&rate[..], &["--requests-per-connection", "10"]].concat()),
        Load::start(&client, &[&rate[..], &["--http2"]].concat()),
    ];
    let stream = servers::python(&client, "tcp_trickle.py", &["greeter.shop", "7000"]);
    wait::until("the stream to be open", Duration::from_secs(30), || {
        stream.stdout().contains("connected").then_some(())
    });

    let state = mesh.state().to_string_lossy().into_owned();
    let memory = |process: &Process| process.memory("VmRSS");
    let (begun, mut rounds, mut settled) = (Instant::now(), 0_u32, None);
    let mut roots = std::collections::BTreeSet::new();
    while begun.elapsed() < length {
        rounds += 1;
        mesh.remove("workloads/web-2.yaml");
        loads.iter().for_each(|load| load.wait_successes(40));
        mesh.write("workloads/web-2.yaml", &webs[1].workload(""));
        loads.iter().for_each(|load| load.wait_backend("web-2", 5));
        mesh.malla(&["ca", "rotate", "--state", &state, "--patience", "50s"]).success();
        let status = mesh.status();
        roots.insert(status["trust"]["anchors"][0]["fingerprint"].to_string());
        if rounds % 2 == 0 {
            mesh.kill_control();
            loads.iter().for_each(|load| load.wait_successes(40));
            mesh.start_with(&SHORT);
        }
        for load in &loads {
            assert_eq!(load.account().failed, 0, "round {rounds}: {:#?}", load.account());
        }
        settled.get_or_insert_with(|| [&client, &webs[0], &greeter].map(|member| memory(member.sidecar())));
    }
    assert_eq!(roots.len(), rounds as usize, "each round has a root of its own");
    let before = settled.expect("there was a round");
    for (member, before) in [&client, &webs[0], &greeter].into_iter().zip(before) {
        let after = memory(member.sidecar());
        assert!(after <= before + GROWTH, "{} grew from {before} to {after} KiB in {rounds} rounds", member.name());
        assert_eq!(member.metric("malla_identity_valid", &[]), 1.0);
    }
    for load in loads {
        load.stop_without_failure();
    }
    let ended = stream.terminate(Duration::from_secs(20)).success();
    assert!(ended.text().contains("all is well"), "{}", ended.both());
    assert_eq!(greeter.metric("malla_tcp_connections_failed_total", &[("reason", "peer_expired")]), 0.0);
}

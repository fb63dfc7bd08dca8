//! Sidecars that hardly get a processor: a tenth of the time, in pieces of some milliseconds. They are slow, and nothing of theirs
//! takes slow for gone.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use malla_tests::{Load, Mesh, Process, wait};

use crate::servers;

/// In turn, so long.
const STANDS_STILL: Duration = Duration::from_millis(180);
const RUNS: Duration = Duration::from_millis(20);

/// Tells the thread that starves programs that it is enough, also where an assertion fails.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Lets programs run a tenth of the time until told otherwise.
fn starve(programs: &[&Process], enough: &AtomicBool) {
    while !enough.load(Relaxed) {
        programs.iter().for_each(|program| program.signal("STOP"));
        std::thread::sleep(STANDS_STILL);
        programs.iter().for_each(|program| program.signal("CONT"));
        std::thread::sleep(RUNS);
    }
}

#[test]
fn sidecars_without_processor_time_keep_identity_stream_and_requests() {
    const EXPIRY: &str = "malla_identity_expiry_timestamp_seconds";
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    mesh.service("greeter", &["{name: tcp, port: 7000}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    let mut greeter = mesh.member("greeter-1");
    mesh.start_with(&["--certificate-lifetime", "20s"]);
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    let mut tcp = servers::python(&greeter, "tcp_server.py", &["7000", "greeter-1"]);
    greeter.wait_listening(&mut tcp, 7000);
    mesh.join([&mut client, &mut web, &mut greeter]);
    let members = [&client, &web, &greeter];
    let expiries = || members.map(|member| member.metric(EXPIRY, &[]));
    let streams = || members.map(|member| member.metric("malla_control_streams_total", &[]));
    let (before, streams_before) = (expiries(), streams());
    let loads = [&["--requests-per-connection", "5"][..], &["--http2"]]
        .map(|more| Load::start(&client, &[&["http://web.shop/", "--rate", "5", "--connections", "2"], more].concat()));
    let stream = servers::python(&client, "tcp_trickle.py", &["greeter.shop", "7000"]);
    wait::until("the stream to be open", Duration::from_secs(30), || {
        stream.stdout().contains("connected").then_some(())
    });
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let starving = scope.spawn(|| starve(&members.map(|member| member.sidecar()), &enough));
        let guard = Enough(&enough);
        let renewed = wait::within(Duration::from_secs(90), || {
            let renewed = expiries().iter().zip(before).all(|(now, before)| *now >= before + 20.0);
            renewed.then_some(())
        });
        drop(guard);
        starving.join().expect("it only sends signals");
        assert!(renewed.is_some(), "all certificates are renewed twice: {before:?}, {:?}", expiries());
    });
    for load in loads {
        load.wait_successes(10);
        load.stop_without_failure();
    }
    assert!(stream.terminate(Duration::from_secs(20)).success().text().contains("all is well"));
    for member in members {
        let said = member.sidecar().stderr();
        for word in ["no sign of life", "was not renewed"] {
            assert!(!said.contains(word), "{word:?}:\n{}", member.sidecar().tail());
        }
    }
    assert_eq!(streams(), streams_before, "each sidecar has kept its stream to the control server");
}

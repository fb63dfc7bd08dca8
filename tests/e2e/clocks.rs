//! Clocks that are wrong, and clocks that are set while programs run.

use std::time::{Duration, SystemTime};

use malla_tests::{Clock, Load, Member, Mesh, pod, wait};

use crate::servers;

/// The skew that is survived, in seconds.
const SKEW: i64 = 600;

fn start(member: &mut Member, mesh: &Mesh, clock: &Clock) {
    member.redirect();
    member.start_sidecar_as(pod::SIDECAR_USER, &clock.wrapper(), mesh, &[]);
}

/// Seconds since 1970 by the clock of a program.
fn seconds_of(member: &Member, clock: &Clock) -> u64 {
    let command = [clock.wrapper(), vec!["date", "+%s"]].concat();
    member.exec(&command).success().text().trim().parse().expect("a number")
}

fn status(client: &Member) -> String {
    let line = "curl -sS --max-time 10 -o /dev/null -w '%{http_code} %header{malla-reason}' http://web.shop/";
    client.shell(line).text().trim().to_owned()
}

#[test]
fn sidecars_whose_clocks_are_ten_minutes_wrong_serve_and_clocks_may_be_set_under_load() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    let (ahead, behind) = (Clock::new(mesh.sandbox(), "ahead"), Clock::new(mesh.sandbox(), "behind"));
    ahead.set(SKEW);
    behind.set(-SKEW);
    start(&mut client, &mesh, &ahead);
    start(&mut web, &mesh, &behind);
    for member in [&mut client, &mut web] {
        member.wait_ready();
        assert!(!member.sidecar().stderr().contains("cannot be preloaded"), "{}", member.sidecar().tail());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(seconds_of(&client, &ahead) >= now + 590 && seconds_of(&web, &behind) <= now - 590);

    let rate = ["http://web.shop/", "--rate", "50", "--requests-per-connection", "3"];
    let load = Load::start(&client, &rate);
    load.wait_successes(100);
    // The clocks are set while requests are under way: what waits, waits by the monotonic clock.
    for (of_client, of_web) in [(-SKEW, SKEW), (0, 0), (SKEW, 0), (SKEW, -SKEW)] {
        ahead.set(of_client);
        behind.set(of_web);
        load.wait_successes(150);
    }
    load.stop_without_failure();
    for member in [&client, &web] {
        assert_eq!(member.metric("malla_identity_valid", &[]), 1.0);
    }
}

#[test]
fn a_control_server_whose_clock_is_ten_minutes_wrong_certifies_and_distributes() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    let mut late = mesh.member("late-1");
    let clock = Clock::new(mesh.sandbox(), "control");
    clock.set(SKEW);
    mesh.start_wrapped(&clock.wrapper(), &[]);
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    assert_eq!(status(&client), "200");
    // From ten minutes ahead to ten minutes behind: those who are there stay, others come.
    mesh.kill_control();
    clock.set(-SKEW);
    mesh.start_wrapped(&clock.wrapper(), &[]);
    mesh.join([&mut late]);
    assert_eq!((status(&client).as_str(), status(&late).as_str()), ("200", "200"));
    wait::until("the configuration to be followed", Duration::from_secs(60), || {
        let streams = mesh.status()["streams"].as_array().map_or(0, Vec::len);
        (streams >= 3).then_some(())
    });
}

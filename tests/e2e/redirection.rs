//! What `malla-proxy init` does to a pod's connections, with nginx in the place of the sidecar.

use malla_tests::pod::{SIDECAR_USER, inside};
use malla_tests::{Mesh, Output, Pod, Sandbox};

use crate::servers;

/// What answers at an address: the name that nginx was given, or nothing.
fn answers(pod: &Pod, user: u32, url: &str) -> String {
    let command = ["curl", "-sS", "--max-time", "5", url];
    pod.spawn_as(user, &command, &[]).end(std::time::Duration::from_secs(20)).text().trim().to_owned()
}

fn init(pod: &Pod, arguments: &[&str]) -> Output {
    let program = inside("malla-proxy");
    let command: Vec<&str> = [&*program, "init"].into_iter().chain(arguments.iter().copied()).collect();
    pod.exec(&command).success()
}

fn rules(pod: &Pod) -> String {
    // Counters of packets are no rules.
    pod.shell("nft list ruleset; iptables-save | grep -v '^[#:]'; ip6tables-save | grep -v '^[#:]'").text()
}

#[track_caller]
fn redirects_and_undoes(backend: &str) {
    let sandbox = Sandbox::new();
    let (pod, other) = (sandbox.pod("pod"), sandbox.pod("other"));
    let _application = servers::nginx(&pod, "application", &["8080"]);
    let _outbound = servers::nginx(&pod, "outbound", &["15001"]);
    let _inbound = servers::nginx(&pod, "inbound", &["15006"]);
    let _admin = servers::nginx(&pod, "admin", &["15020", "15021"]);
    let _other = servers::nginx(&other, "other", &["8080"]);
    let before = rules(&pod);
    init(&pod, &["--backend", backend]);
    let once = rules(&pod);
    init(&pod, &["--backend", backend]);
    assert_eq!(rules(&pod), once, "the second time changes nothing");
    assert_ne!(once, before);

    for (own, others, unknown) in [
        (pod.ipv4().to_string(), other.ipv4().to_string(), "10.96.0.77".to_owned()),
        (format!("[{}]", pod.ipv6()), format!("[{}]", other.ipv6()), "[fd96::77]".to_owned()),
    ] {
        for user in [0, 1000] {
            assert_eq!(answers(&pod, user, &format!("http://{others}:8080/")), "outbound");
            assert_eq!(answers(&pod, user, &format!("http://{unknown}/")), "outbound");
        }
        assert_eq!(answers(&pod, SIDECAR_USER, &format!("http://{others}:8080/")), "other");
        assert_eq!(answers(&pod, 1000, "http://127.0.0.1:8080/"), "application", "loopback is the application's");
        assert_eq!(answers(&pod, 1000, "http://[::1]:8080/"), "application", "loopback is the application's");
        assert_eq!(answers(&other, 0, &format!("http://{own}:8080/")), "inbound");
        assert_eq!(answers(&other, 0, &format!("http://{own}:15020/")), "admin");
        assert_eq!(answers(&other, 0, &format!("http://{own}:15021/")), "admin");
    }

    init(&pod, &["--undo"]);
    init(&pod, &["--undo"]);
    assert_eq!(answers(&pod, 1000, &format!("http://{}:8080/", other.ipv4())), "other");
    assert_eq!(answers(&other, 0, &format!("http://{}:8080/", pod.ipv4())), "application");
    assert_eq!(answers(&other, 0, &format!("http://[{}]:8080/", pod.ipv6())), "application");
    assert!(!rules(&pod).to_lowercase().contains("malla"), "something is left:\n{}", rules(&pod));
}

#[test]
fn nftables_redirect_and_undo() {
    redirects_and_undoes("nftables");
}

#[test]
fn iptables_redirect_and_undo() {
    redirects_and_undoes("iptables");
}

#[test]
fn a_sidecar_that_is_root_is_told_by_a_mark() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut web]);
    init(&client, &["--mark", "1337"]);
    client.start_sidecar_as(0, &[], &mesh, &["--mark", "1337"]);
    client.wait_ready();
    for user in [0, SIDECAR_USER] {
        assert_eq!(answers(&client, user, "http://web.shop/"), "web-1", "user {user} is redirected");
    }
    assert!(client.metric("malla_requests_total", &[("direction", "outbound")]) >= 2.0);
}

#[test]
fn iptables_takes_the_place_of_an_nft_that_does_not_work() {
    let sandbox = Sandbox::new();
    let (pod, other) = (sandbox.pod("pod"), sandbox.pod("other"));
    let _outbound = servers::nginx(&pod, "outbound", &["15001"]);
    let _other = servers::nginx(&other, "other", &["8080"]);
    let url = format!("http://{}:8080/", other.ipv4());
    let directory = pod.directory().display().to_string();
    pod.shell(&format!("printf '#!/bin/sh\\nexit 1\\n' >{directory}/nft && chmod 755 {directory}/nft")).success();
    let init = |more: &str| {
        let program = inside("malla-proxy");
        pod.shell(&format!("PATH={directory}:$PATH exec {program} init {more}")).success();
    };
    init("");
    assert!(pod.shell("iptables-save").text().contains("15001"), "the rules are iptables'");
    assert_eq!(answers(&pod, 1000, &url), "outbound");
    init("--undo");
    assert_eq!(answers(&pod, 1000, &url), "other");
}

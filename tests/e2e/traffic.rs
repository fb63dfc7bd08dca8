//! What an engineer sees without Prometheus: edges and requests, told by sidecars to the control server.

use std::time::Duration;

use malla_tests::{Load, Mesh, wait};
use serde_json::Value;

use crate::servers;

#[test]
fn edges_and_requests_are_seen_as_they_happen() {
    let mut mesh = Mesh::new();
    // Nothing listens behind the second port.
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}", "{name: absent, port: 81, appProtocol: http}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    client.exec(&["curl", "-sS", "http://web.shop:81/"]).success();
    let load = Load::start(&client, &["http://web.shop/", "--rate", "100"]);
    load.wait_successes(100);

    // The rate is the client's own, whatever had been counted before anybody looked.
    let stat = |more: &[&str]| -> Vec<Value> {
        let output = mesh.malla(&[&["stat", "-o", "json"], more].concat()).success();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.text()))
    };
    let edges = stat(&["--for", "4s", "web-1.shop:80"]);
    let [edge] = &edges[..] else { panic!("{edges:?}") };
    assert_eq!((&edge["source"], &edge["destination"]), (&"client.shop".into(), &"web-1.shop:80".into()), "{edge}");
    assert_eq!((edge["identity"].as_str(), edge["failures"].as_u64()), (Some(&*web.identity()), Some(0)), "{edge}");
    let rate = edge["per_second"].as_f64().expect("a rate");
    assert!((60.0..140.0).contains(&rate), "100 in a second are offered: {edge}");
    assert!(edge["p99_ms"].as_f64() > Some(0.0), "{edge}");
    let failed = stat(&["--for", "1s", ":81"]);
    assert_eq!((failed.len(), failed[0]["source"].as_str()), (1, Some("client.shop")), "{failed:?}");

    // A tap shows what it is asked for, at most so often, and no more than an access log would.
    let program = malla_tests::pod::inside("malla");
    let tap = |workload: &str, more: &[&str]| {
        mesh.control_pod().spawn(&[&[&*program, "tap", workload, "-o", "json"], more].concat())
    };
    let slowly = tap("shop/web-*", &["--path", "/", "--per-second", "2"]);
    let refused = tap("shop/client", &["--status", "5xx"]);
    let lines =
        |text: &str| -> Vec<Value> { text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    wait::until("requests of web-1", Duration::from_secs(20), || (lines(&slowly.stdout()).len() >= 4).then_some(()));
    wait::until("the request that fails", Duration::from_secs(20), || {
        client.exec(&["curl", "-sS", "http://web.shop:81/a?secret=1"]).success();
        (!refused.stdout().is_empty()).then_some(())
    });
    let (told, failed) = (lines(&slowly.stdout()), lines(&refused.stdout()));
    assert!(told.iter().all(|line| line["sidecar"] == "web-1.shop" && line["direction"] == "inbound"), "{told:?}");
    assert!(told.iter().all(|line| line["client"].as_str() == Some(&*client.identity())), "{told:?}");
    assert_eq!((&failed[0]["reason"], &failed[0]["path"]), (&"connect_refused".into(), &"/a".into()), "{failed:?}");
    assert!(!refused.stdout().contains("secret"));
    let unknown = tap("shop/nobody", &[]).end(Duration::from_secs(20)).failure().both();
    assert!(unknown.contains("no sidecar of shop/nobody is connected"), "{unknown}");

    drop((slowly, refused));
    let web_identity = web.identity();
    for (filter, is_meant) in [
        (["--method", "POST"], &(|line: &Value| line["method"] == "POST") as &dyn Fn(&Value) -> bool),
        (["--identity", "shop/sa/web"], &|line| line["peer"].as_str() == Some(&*web_identity)),
        (["--reason", "connect_refused"], &|line| line["reason"] == "connect_refused"),
    ] {
        let tap = tap("shop", &filter);
        let told = wait::until(&format!("requests of {filter:?}"), Duration::from_secs(20), || {
            client.exec(&["curl", "-sS", "-X", "POST", "http://web.shop/"]).success();
            client.exec(&["curl", "-sS", "http://web.shop:81/"]).success();
            Some(lines(&tap.stdout())).filter(|told| told.len() >= 4)
        });
        assert!(told.iter().all(is_meant), "{filter:?}: {told:?}");
    }

    // Live: each second a line for programs; for people a table, on a terminal in place.
    let top = |arguments: &str| {
        let line = format!("exec {program} top --sort rate {arguments} web-1");
        mesh.control_pod().spawn(&["sh", "-c", &line])
    };
    let (for_programs, into_a_file) = (top("-o json"), top(""));
    let on_a_terminal = mesh.control_pod().spawn(&[
        "script",
        "-qefc",
        &format!("stty rows 12 cols 150; exec {program} top"),
        "/dev/null",
    ]);
    let seen = wait::until("three looks", Duration::from_secs(30), || {
        let looks: Vec<Value> =
            for_programs.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (looks.len() >= 3).then_some(looks)
    });
    let rate = seen[2][0]["per_second"].as_f64().expect("a rate");
    assert!((60.0..140.0).contains(&rate), "100 in a second are offered: {seen:?}");
    assert_eq!(seen[2][0]["destination"], "web-1.shop:80", "{seen:?}");
    let is_drawn = |text: &str| {
        text.lines().any(|line| line.contains("client.shop") && line.contains("web-1.shop:80") && line.contains('█'))
    };
    wait::until("the table in a file", Duration::from_secs(30), || is_drawn(&into_a_file.stdout()).then_some(()));
    assert!(!into_a_file.stdout().contains('\x1b'), "a file gets no colours: {}", into_a_file.stdout());
    wait::until("the table on a terminal", Duration::from_secs(30), || {
        let text = on_a_terminal.stdout();
        (is_drawn(&text) && text.starts_with("\x1b[?1049h")).then_some(())
    });
    drop((for_programs, into_a_file, on_a_terminal));

    // When nobody looks any more, nothing is told; and no request was harmed.
    assert_eq!(load.account().failed, 0);

    let elsewhere = mesh.stranger("elsewhere");
    let page = format!("http://{}:15014/tap?workload=shop", mesh.control_pod().ipv4());
    elsewhere.exec(&["curl", "-sS", "--max-time", "5", &page]).failure();

    // From elsewhere, whom the mesh names may look, and nobody else.
    let (oncall, trust, control) = (mesh.token("oncall", "1h"), mesh.trust(), mesh.control_address());
    let (program, oncall, trust) =
        (malla_tests::pod::inside("malla"), oncall.to_string_lossy(), trust.to_string_lossy());
    let of = ["--control", &*control, "--trust", &*trust, "--token", &*oncall];
    let look =
        || elsewhere.exec(&[&[&*program, "stat", "-o", "json", "--for", "1s", "web-1.shop:80"], &of[..]].concat());
    let refused = look().failure().both();
    assert!(refused.contains("ns/shop/sa/oncall may not look"), "{refused}");
    mesh.write(
        "mesh.yaml",
        "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh}\n\
         spec: {observers: [{namespace: shop, serviceAccount: oncall}]}\n",
    );
    let edges = wait::until("edges from elsewhere", Duration::from_secs(20), || {
        let output = look();
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).ok()).flatten()
    });
    assert_eq!(edges[0]["source"], "client.shop", "{edges}");
    let tap = elsewhere.spawn(&[&[&*program, "tap", "shop/web-1", "-o", "json"], &of[..]].concat());
    wait::until("requests from elsewhere", Duration::from_secs(20), || {
        client.exec(&["curl", "-sS", "http://web.shop/"]).success();
        lines(&tap.stdout()).into_iter().next()
    });
    drop(tap);

    // Who cannot tell anybody what passes, lets it pass; and tells it when there is somebody again.
    mesh.kill_control();
    load.wait_successes(100);
    mesh.start();
    wait::until("edges of a control server that began anew", Duration::from_secs(60), || {
        let output = mesh.malla(&["stat", "-o", "json", "--for", "1s", "web-1.shop:80"]);
        let edges: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
        edges.first().is_some_and(|edge| edge["requests"].as_u64() > Some(0)).then_some(())
    });
    load.stop_without_failure();
}

//! A pod as `malla inject` makes it, started as a kubelet would: the init container with its two capabilities, the sidecar as its user with
//! its environment, the application. Only the token is a join token.

use std::fs;
use std::time::{Duration, Instant};

use malla_tests::pod::inside;
use malla_tests::{Member, Mesh, Pod, Process};
use serde_json::{Value, json};

use crate::servers::{self, Grpc};

/// A pod with its sidecar, as the command makes it.
fn injected(mesh: &Mesh, pod: &Value) -> Value {
    let (file, trust) = (mesh.sandbox().directory().join("pod.json"), mesh.trust());
    fs::write(&file, pod.to_string()).expect("written");
    let (file, trust) = (file.to_string_lossy(), trust.to_string_lossy());
    let output = mesh.malla(&["inject", "-f", &file, "--sidecar-image", "malla-proxy", "--trust", &trust]).success();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.both()))
}

fn pod(name: &str, annotations: &Value, spec: Value) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop", "annotations": annotations });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// A program in the place of a container's, with the user and the capabilities that the container has, and no others.
fn run(member: &Member, container: &Value, command: &[&str], environment: &[(&str, &str)]) -> Process {
    let context = &container["securityContext"];
    let user = context["runAsUser"].as_u64().and_then(|user| u32::try_from(user).ok()).unwrap_or(0);
    let mut words = vec!["setpriv".to_owned()];
    if context["allowPrivilegeEscalation"] == false {
        words.push("--no-new-privs".to_owned());
    }
    if context["capabilities"]["drop"] == json!(["ALL"]) {
        let added = context["capabilities"]["add"].as_array().into_iter().flatten();
        let added = added.map(|one| format!(",+{}", one.as_str().expect("a name").to_lowercase()));
        words.push(format!("--bounding-set=-all{}", added.collect::<String>()));
    }
    let program = inside("malla-proxy");
    let command = command.iter().map(|word| if *word == "malla-proxy" { &*program } else { word });
    let words: Vec<&str> = words.iter().map(String::as_str).chain(command).collect();
    member.spawn_as(user, &words, environment)
}

/// Starts the two containers that injection has added, one after the other: the kubelet starts the application after them.
fn start(mesh: &Mesh, member: &Member, pod: &Value) -> Process {
    let containers = &pod["spec"]["initContainers"];
    let command = |container: &Value| -> Vec<String> {
        let words = container["command"].as_array().expect("a list").iter().map(|word| word.as_str().expect("a word"));
        words.map(str::to_owned).collect()
    };
    let [init, sidecar] = [&containers[0], &containers[1]].map(command);
    let init: Vec<&str> = init.iter().map(String::as_str).collect();
    run(member, &containers[0], &init, &[]).end(Duration::from_secs(20)).success();

    let (trust, token) = (mesh.trust(), mesh.token(member.app(), "1h"));
    let environment: Vec<(String, String)> = containers[1]["env"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|variable| {
            let name = variable["name"].as_str().expect("a name");
            let value = match name {
                "MALLA_CONTROL" => mesh.control_address(),
                "MALLA_TRUST" => trust.to_string_lossy().into_owned(),
                "MALLA_TOKEN" => token.to_string_lossy().into_owned(),
                "MALLA_WORKLOAD" => member.name().to_owned(),
                "MALLA_NAMESPACE" => "shop".to_owned(),
                _ => variable["value"].as_str().expect("a value").replace("$$", "$"),
            };
            (name.to_owned(), value)
        })
        .collect();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let sidecar: Vec<&str> = sidecar.iter().map(String::as_str).collect();
    let mut sidecar = run(member, &containers[1], &sidecar, &environment);
    member.wait_sidecar_ready(&mut sidecar);
    sidecar
}

/// Status and body that somebody outside the mesh gets.
fn asked(by: &Pod, of: &Pod, port: u64, path: &str) -> String {
    let url = format!("http://{}:{port}{path}", of.ipv4());
    by.exec(&["curl", "-sS", "--max-time", "10", "-w", " %{http_code}", &url]).text()
}

#[test]
fn probes_metrics_and_traffic_of_an_injected_pod_work_under_strict_mtls() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (web, mut client, kubelet) = (mesh.member("web-1"), mesh.member("client"), mesh.stranger("kubelet"));
    mesh.start();
    let port = |path: &str| json!({ "httpGet": { "path": path, "port": "web" }, "timeoutSeconds": 5 });
    let asks_grpc = |service: &str| {
        let probe = json!({ "grpc": { "port": 9000, "service": service }, "timeoutSeconds": 5 });
        json!({ "name": if service.is_empty() { "calls" } else { "more" }, "image": "calls", "livenessProbe": probe })
    };
    let pod = injected(
        &mesh,
        &pod(
            "web-1",
            &json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "9100", "prometheus.io/path": "/" }),
            json!({ "containers": [
                {
                    "name": "web",
                    "image": "nginx",
                    "ports": [{ "name": "web", "containerPort": 8080 }],
                    "livenessProbe": port("/"),
                    "readinessProbe": { "tcpSocket": { "port": 8080 } },
                    "startupProbe": { "httpGet": { "path": "/", "port": 9999 } },
                },
                asks_grpc(""),
                asks_grpc("shop.Broken"),
            ] }),
        ),
    );
    let sidecar = start(&mesh, &web, &pod);
    let nginx = servers::nginx(&web, "web-1", &["8080", "9100"]);
    let _calls = servers::grpc(&web, Grpc::Python, "web-1", 9000);
    mesh.join([&mut client]);

    assert_eq!(client.exec(&["curl", "-sS", "--max-time", "10", "http://web.shop/"]).success().text().trim(), "web-1");
    assert!(
        asked(&kubelet, &web, 8080, "/").contains("plaintext_refused"),
        "the application itself takes no plaintext"
    );

    let probe_of = |container: usize, name: &str| {
        let check = &pod["spec"]["containers"][container][name]["httpGet"];
        let (port, path) = (check["port"].as_u64().expect("a port"), check["path"].as_str().expect("a path"));
        assert_eq!(port, 15021);
        asked(&kubelet, &web, port, path)
    };
    let probe = |name: &str| probe_of(0, name);
    assert_eq!(probe("livenessProbe"), "200 OK\n 200");
    assert!(probe("readinessProbe").ends_with(" 200"));
    assert!(probe("startupProbe").ends_with(" 503"), "nothing listens there: {}", probe("startupProbe"));
    assert!(probe_of(1, "livenessProbe").ends_with(" 200"), "{}", probe_of(1, "livenessProbe"));
    assert!(probe_of(2, "livenessProbe").ends_with(" 503"), "that service is not SERVING");
    assert!(asked(&kubelet, &web, 15021, "/probe/web/prestop").ends_with(" 404"), "nothing else can be asked");

    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "15020");
    let page = asked(&kubelet, &web, 15020, annotations["prometheus.io/path"].as_str().expect("a path"));
    assert!(page.contains("\nweb-1\n") && page.contains("malla_requests_total{"), "both are there:\n{page}");
    assert!(page.contains("malla_application_scraped 1\n"), "{page}");

    let program = inside("malla-proxy");
    web.exec(&[&program, "wait", "--timeout", "5s"]).success();
    drop(nginx);
    malla_tests::wait::until("the probes to fail", Duration::from_secs(20), || {
        (probe("livenessProbe").ends_with(" 503") && probe("readinessProbe").ends_with(" 503")).then_some(())
    });
    sidecar.terminate(Duration::from_secs(60)).success();
    let output = web.exec(&[&program, "wait", "--timeout", "1s"]).failure();
    assert!(output.both().contains("was not ready within 1s"), "{}", output.both());
}

#[test]
fn a_job_completes_and_its_sidecar_after_it() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (job, mut web) = (mesh.member("job-1"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut web]);
    let worker = json!({ "name": "worker", "image": "curl", "securityContext": { "runAsUser": 1000 } });
    let pod = injected(&mesh, &pod("job-1", &json!({}), json!({ "restartPolicy": "Never", "containers": [worker] })));
    assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always", "or the kubelet would wait for it");
    let sidecar = start(&mesh, &job, &pod);
    let worker = &pod["spec"]["containers"][0];
    let work = run(&job, worker, &["curl", "-sS", "--max-time", "10", "http://web.shop/"], &[]);
    assert_eq!(
        work.end(Duration::from_secs(20)).success().text(),
        "web-1\n",
        "its first call leaves through the sidecar"
    );
    assert_eq!(job.metric("malla_requests_total", &[("direction", "outbound"), ("status", "200")]), 1.0);
    // The pod completes when native sidecars have ended, which the kubelet tells them to when the worker has.
    let begun = Instant::now();
    sidecar.terminate(Duration::from_secs(30)).success();
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing is left to drain: {:?}", begun.elapsed());
}

#[test]
fn a_pod_that_ends_finishes_what_it_does_with_its_sidecar_until_the_application_has_ended() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    mesh.service("ledger", &["{name: http, port: 80, targetPort: 8080}"]);
    let (web, mut ledger, mut client) = (mesh.member("web-1"), mesh.member("ledger-1"), mesh.member("client"));
    mesh.start();
    let _ledger = servers::nginx(&ledger, "ledger-1", &["8080"]);
    let container = json!({ "name": "web", "image": "python", "ports": [{ "containerPort": 8080 }] });
    let pod = injected(&mesh, &pod("web-1", &json!({}), json!({ "containers": [container] })));
    let sidecar = start(&mesh, &web, &pod);
    let mut application = servers::python(&web, "http_server.py", &["8080", "web-1"]);
    web.wait_listening(&mut application, 8080);
    mesh.join([&mut ledger, &mut client]);
    let slow = client.spawn(&["curl", "-sSfN", "--max-time", "30", "http://web.shop/slowly"]);
    malla_tests::wait::until("the answer to begin", Duration::from_secs(20), || {
        slow.stdout().contains("wait").then_some(())
    });

    // The kubelet ends the containers of a pod before its native sidecars.
    application.signal("TERM");
    let farewell = web.exec(&["curl", "-sS", "--max-time", "10", "http://ledger.shop/"]).success();
    assert_eq!(farewell.text(), "ledger-1\n", "whoever ends may still say so to others");
    assert!(!application.has_ended(), "it is still answering");
    application.end(Duration::from_secs(30)).success();
    sidecar.terminate(Duration::from_secs(60)).success();
    let answer = slow.end(Duration::from_secs(30)).success().text();
    assert!(
        answer.ends_with("wait\nweb-1\n") && answer.matches("wait").count() == 30,
        "nothing of it is lost: {answer}"
    );
}

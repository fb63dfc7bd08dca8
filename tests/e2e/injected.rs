//! A pod as `malla inject` makes it, started as a kubelet would: the init container with its two capabilities, the sidecar as its user with
//! its environment, the application. Only the token is a join token.

use std::fs;
use std::time::{Duration, Instant};

use malla_tests::pod::inside;
use malla_tests::{Member, Mesh, Pod, Process, Sidecar};
use serde_json::{Value, json};

use crate::servers::{self, Grpc};

/// A pod with its sidecar, as the command makes it.
fn injected(mesh: &Mesh, pod: &Value) -> Value {
    injected_with(mesh, pod, &[])
}

fn injected_with(mesh: &Mesh, pod: &Value, more: &[&str]) -> Value {
    let (file, trust) = (mesh.sandbox().directory().join("pod.json"), mesh.trust());
    fs::write(&file, pod.to_string()).expect("written");
    let (file, trust) = (file.to_string_lossy(), trust.to_string_lossy());
    let command = ["inject", "-f", &file, "--sidecar-image", "malla-proxy", "--trust", &trust];
    let output = mesh.malla(&[&command[..], more].concat()).success();
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

/// A container of a pod by its name.
fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    lists.flatten().find(|container| container["name"] == name)
}

fn words(command: &Value) -> Vec<&str> {
    command.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word")).collect()
}

/// Starts the containers that injection has added, one after the other, and waits for the sidecar: the kubelet starts the application after
/// them.
fn start(mesh: &Mesh, member: &Member, pod: &Value) -> Process {
    let mut sidecar = begin(mesh, member, pod);
    member.wait_sidecar_ready(&mut sidecar);
    sidecar
}

/// The same without waiting.
fn begin(mesh: &Mesh, member: &Member, pod: &Value) -> Process {
    if let Some(init) = container(pod, "malla-init") {
        run(member, init, &words(&init["command"]), &[]).end(Duration::from_secs(20)).success();
    }
    let sidecar = container(pod, "malla-proxy").expect("it is injected");
    let (trust, token) = (mesh.trust(), mesh.token(member.app(), "1h"));
    let environment: Vec<(String, String)> = sidecar["env"]
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
                "MALLA_ADDRESS" => member.ipv4().to_string(),
                _ => variable["value"].as_str().expect("a value").replace("$$", "$"),
            };
            (name.to_owned(), value)
        })
        .collect();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    run(member, sidecar, &words(&sidecar["command"]), &environment)
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

#[test]
fn an_annotated_local_port_leads_a_program_without_redirection_to_a_service() {
    let mut mesh = Mesh::new();
    mesh.service("greeter", &["{name: tcp, port: 7000}"]);
    let (client, mut greeter) =
        (mesh.member_with("client", Sidecar::Explicit), mesh.member_with("greeter-1", Sidecar::Explicit));
    mesh.start();
    let mut tcp = servers::python(&greeter, "tcp_server.py", &["7000", "greeter-1"]);
    greeter.wait_listening(&mut tcp, 7000);
    mesh.join([&mut greeter]);
    let annotations = json!({ "malla.dev/mode": "explicit", "malla.dev/listen": "127.0.0.1:7001=greeter.shop:7000, [::1]:7002=greeter:7000" });
    let pod = injected(
        &mesh,
        &pod("client", &annotations, json!({ "containers": [{ "name": "client", "image": "python" }] })),
    );
    assert!(container(&pod, "malla-init").is_none(), "nothing is redirected");
    let sidecar = start(&mesh, &client, &pod);
    for local in [["127.0.0.1", "7001"], ["::1", "7002"]] {
        let output = servers::python(&client, "tcp_client.py", &local).end(Duration::from_secs(30));
        assert_eq!(output.success().text(), "greeter-1\nall is well\n", "{local:?}");
    }
    assert_eq!(greeter.metric("malla_tcp_connections_total", &[("direction", "inbound")]), 2.0, "through its sidecar");
    sidecar.terminate(Duration::from_secs(30)).success();
}

#[test]
fn a_sidecar_beside_the_application_is_ready_before_it_and_goes_after_it() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut web]);
    let application = json!({ "name": "client", "image": "curl", "securityContext": { "runAsUser": 1000 } });
    let pod = pod("client", &json!({}), json!({ "containers": [application] }));
    let pod = injected_with(&mesh, &pod, &["--sidecar-kind", "classic"]);
    let names: Vec<&str> =
        pod["spec"]["containers"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["malla-proxy", "client"], "the kubelet starts them in this order");
    let [sidecar_of, application_of] = ["malla-proxy", "client"].map(|name| container(&pod, name).expect("is there"));
    let hook = |name: &str| run(&client, sidecar_of, &words(&sidecar_of["lifecycle"][name]["exec"]["command"]), &[]);
    let call = || {
        let call = run(&client, application_of, &["curl", "-sS", "--max-time", "10", "http://web.shop/"], &[]);
        assert_eq!(call.end(Duration::from_secs(20)).success().text(), "web-1\n");
    };

    let sidecar = begin(&mesh, &client, &pod);
    // The kubelet runs this hook at once, and starts the next container when it has returned.
    hook("postStart").end(Duration::from_secs(60)).success();
    call();
    // Containers are told to end at the same time: this hook is what leaves the application the time for a last word.
    let (ending, begun) = (hook("preStop"), Instant::now());
    call();
    ending.end(Duration::from_secs(30)).success();
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    sidecar.terminate(Duration::from_secs(30)).success();
}

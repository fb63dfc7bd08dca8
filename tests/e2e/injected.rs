//! A pod as `malla inject` makes it, started as a kubelet would: the init container with its two capabilities, the sidecar as its user with
//! its environment, the application. Only the token is a join token.

use std::fs;

use malla_tests::pod::{SIDECAR_USER, inside};
use malla_tests::{Member, Mesh, Pod, Process};
use serde_json::{Value, json};

use crate::servers;

/// The pod with its sidecar, as the command makes it.
fn injected(mesh: &Mesh) -> Value {
    let port = |path: &str| json!({ "httpGet": { "path": path, "port": "web" }, "timeoutSeconds": 5 });
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "9100", "prometheus.io/path": "/" },
        },
        "spec": { "containers": [{
            "name": "web",
            "image": "nginx",
            "ports": [{ "name": "web", "containerPort": 8080 }],
            "livenessProbe": port("/"),
            "readinessProbe": { "tcpSocket": { "port": 8080 } },
            "startupProbe": { "httpGet": { "path": "/", "port": 9999 } },
        }] },
    });
    let (file, trust) = (mesh.sandbox().directory().join("pod.json"), mesh.trust());
    fs::write(&file, pod.to_string()).expect("written");
    let (file, trust) = (file.to_string_lossy(), trust.to_string_lossy());
    let output = mesh.malla(&["inject", "-f", &file, "--sidecar-image", "malla-proxy", "--trust", &trust]).success();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.both()))
}

/// Starts the two containers that injection has added, one after the other.
fn start(mesh: &Mesh, member: &Member, pod: &Value) -> Process {
    let containers = &pod["spec"]["initContainers"];
    let command = |container: &Value| -> Vec<String> {
        let words = container["command"].as_array().expect("a list").iter().map(|word| word.as_str().expect("a word"));
        words.map(|word| if word == "malla-proxy" { inside("malla-proxy") } else { word.to_owned() }).collect()
    };
    let init =
        [&["setpriv".to_owned(), "--bounding-set=-all,+net_admin,+net_raw".to_owned()][..], &command(&containers[0])];
    let init = init.concat();
    member.exec(&init.iter().map(String::as_str).collect::<Vec<_>>()).success();

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
                _ => variable["value"].as_str().expect("a value").to_owned(),
            };
            (name.to_owned(), value)
        })
        .collect();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let command = [&["setpriv".to_owned(), "--no-new-privs".to_owned()][..], &command(&containers[1])].concat();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut sidecar = member.spawn_as(SIDECAR_USER, &command, &environment);
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
    let pod = injected(&mesh);
    let nginx = servers::nginx(&web, "web-1", &["8080", "9100"]);
    let sidecar = start(&mesh, &web, &pod);
    mesh.join([&mut client]);

    assert_eq!(client.exec(&["curl", "-sS", "--max-time", "10", "http://web.shop/"]).success().text().trim(), "web-1");
    assert!(
        asked(&kubelet, &web, 8080, "/").contains("plaintext_refused"),
        "the application itself takes no plaintext"
    );

    let probe = |name: &str| {
        let check = &pod["spec"]["containers"][0][name]["httpGet"];
        let (port, path) = (check["port"].as_u64().expect("a port"), check["path"].as_str().expect("a path"));
        assert_eq!(port, 15021);
        asked(&kubelet, &web, port, path)
    };
    assert_eq!(probe("livenessProbe"), "200 OK\n 200");
    assert!(probe("readinessProbe").ends_with(" 200"));
    assert!(probe("startupProbe").ends_with(" 503"), "nothing listens there: {}", probe("startupProbe"));
    assert!(asked(&kubelet, &web, 15021, "/probe/web/prestop").ends_with(" 404"), "nothing else can be asked");

    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "15020");
    let page = asked(&kubelet, &web, 15020, annotations["prometheus.io/path"].as_str().expect("a path"));
    assert!(page.contains("\nweb-1\n") && page.contains("malla_requests_total{"), "both are there:\n{page}");
    assert!(page.contains("malla_application_scraped 1\n"), "{page}");

    let program = inside("malla-proxy");
    web.exec(&[&program, "wait", "--timeout", "5s"]).success();
    drop(nginx);
    malla_tests::wait::until("the probes to fail", std::time::Duration::from_secs(20), || {
        (probe("livenessProbe").ends_with(" 503") && probe("readinessProbe").ends_with(" 503")).then_some(())
    });
    sidecar.terminate(std::time::Duration::from_secs(60)).success();
    let output = web.exec(&[&program, "wait", "--timeout", "1s"]).failure();
    assert!(output.both().contains("was not ready within 1s"), "{}", output.both());
}

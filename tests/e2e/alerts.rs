//! The alerts that the project ships, watched by a real Prometheus over a mesh in which one thing after the other is broken. Only time
//! is changed in them: they look back ten seconds and wait for five, for on a busy machine a page may come too late once.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use malla_tests::pod::inside;
use malla_tests::tools::repository;
use malla_tests::{Load, Member, Mesh, Pod, Process, wait};
use serde_json::Value;

use crate::observability::{self, list, text};
use crate::{dashboards, roots, servers};

/// What only a control server of another mind could cause. Series made for them are in `rules.test.yaml`.
const ELSEWHERE: [&str; 2] = ["MallaConfigurationRejected", "MallaSidecarNotInSync"];

/// Somebody is to serve `nobody`, but is not ready.
const NOT_READY: &str = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: nobody, namespace: shop, labels: {kubernetes.io/service-name: nobody}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [@address@], conditions: {ready: false}, targetRef: {kind: Workload, name: narrow-1}}]
";

/// The rules, in a hurry.
fn hurried(rules: &str) -> String {
    let mut hurried = String::new();
    for line in rules.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        match line.trim_start().split_once(": ") {
            Some(("for", _)) => hurried.push_str(&format!("{indent}for: 5s\n")),
            Some(("interval", _)) => hurried.push_str(&format!("{indent}interval: 1s\n")),
            _ => {
                let windows = ["[5m]", "[10m]", "[30m]", "[1h]", "[6h]"];
                let line = windows.iter().fold(line.to_owned(), |line, window| line.replace(window, "[10s]"));
                hurried.push_str(&format!("{line}\n"));
            }
        }
    }
    hurried
}

/// A Prometheus in a pod of its own, outside of the mesh.
struct Watcher {
    pod: Pod,
    _prometheus: Process,
}

impl Watcher {
    fn start(mesh: &Mesh, sidecars: &[&Member]) -> Watcher {
        let pod = mesh.stranger("watcher");
        let directory = mesh.sandbox().writable_directory("watch");
        let rules = fs::read_to_string(repository().join("deploy/prometheus/rules.yaml")).expect("the rules");
        let sidecars: Vec<String> = sidecars
            .iter()
            .map(|member| {
                format!("{{targets: [\"{}:15020\"], labels: {{instance: {}}}}}", member.ipv4(), member.name())
            })
            .collect();
        let configuration = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yaml]\nscrape_configs:\n\
             - {{job_name: malla-control, static_configs: [{{targets: [\"{}:15014\"]}}]}}\n\
             - {{job_name: malla-sidecar, static_configs: [{}]}}\n",
            mesh.control_pod().ipv4(),
            sidecars.join(", ")
        );
        for (name, text) in [("rules.yaml", hurried(&rules)), ("prometheus.yaml", configuration)] {
            fs::write(directory.join(name), text).expect("written");
        }
        let prometheus = servers::prometheus(&pod, &directory, "exemplar-storage");
        Watcher { pod, _prometheus: prometheus }
    }

    /// Every alert of the rules.
    fn known(&self) -> BTreeSet<String> {
        let rules = self.ask("rules?type=alert");
        list(&rules["data"]["groups"])
            .iter()
            .flat_map(|group| list(&group["rules"]))
            .map(|rule| text(&rule["name"]))
            .collect()
    }

    /// Those that fire, each with what it is about.
    fn firing(&self) -> BTreeSet<(String, String)> {
        let alerts = self.ask("alerts");
        list(&alerts["data"]["alerts"])
            .iter()
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["annotations"]["summary"])))
            .collect()
    }

    /// Waits until these fire, and no others than those before; the words are in their summaries.
    #[track_caller]
    fn expect(&self, broken: &str, fired: &mut BTreeSet<String>, expected: &[(&str, &str)]) {
        wait::until(
            &format!("{broken}: {expected:?} to fire, of {:?}", self.firing()),
            Duration::from_secs(90),
            || {
                let firing = self.firing();
                let fires = |(name, words): &(&str, &str)| {
                    firing.iter().any(|(fires, summary)| fires == name && summary.contains(words))
                };
                expected.iter().all(fires).then_some(())
            },
        );
        fired.extend(expected.iter().map(|(name, _)| (*name).to_owned()));
        let names: BTreeSet<String> = self.firing().into_iter().map(|(name, _)| name).collect();
        assert!(names.is_subset(fired), "{broken}: {names:?} fire");
    }

    /// A panel of the dashboards has something to show.
    #[track_caller]
    fn shows(&self, panel: &str) {
        assert!(observability::SPEAK_ELSEWHERE.contains(&panel));
        let queries = dashboards::queries().into_iter().filter(|query| query.panel == panel);
        let expressions: Vec<String> =
            queries.map(|query| query.expression.replace("$__rate_interval", "10s")).collect();
        wait::until(&format!("{panel} to show something"), Duration::from_secs(30), || {
            let spoken = |expression: &String| observability::has_data(&self.pod, expression);
            (!expressions.is_empty() && expressions.iter().any(spoken)).then_some(())
        });
    }

    fn ask(&self, what: &str) -> Value {
        let said = self.pod.exec(&["curl", "-sf", &format!("http://127.0.0.1:9090/api/v1/{what}")]).success().text();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

#[test]
fn alerts_fire_for_what_is_broken_and_for_nothing_else() {
    let mut mesh = Mesh::new();
    let port = ["{name: http, port: 80, targetPort: 8080}"];
    ["web", "narrow"].iter().for_each(|service| mesh.service(service, &port));
    mesh.routed_service("nobody", &port);
    let mut members = ["client", "web-1", "web-2", "narrow-1", "small"].map(|name| mesh.member(name));
    mesh.write("nobody.yaml", &NOT_READY.replace("@address@", &members[3].ipv4().to_string()));
    let (certificate, key) = roots::root(&mesh, "root");
    // Where the mesh's tests look for what sidecars are given.
    fs::create_dir_all(mesh.state())
        .and_then(|()| fs::copy(&certificate, mesh.state().join("root.pem")))
        .expect("copied");
    let (certificate, key) = (certificate.to_string_lossy(), key.to_string_lossy());
    mesh.start_with(&[
        "--certificate-lifetime",
        "10s",
        "--admin",
        "0.0.0.0:15014",
        "--root-cert",
        &certificate,
        "--root-key",
        &key,
    ]);
    let behaves = |member: &Member, manner: &str| {
        let file = member.directory().join("manner");
        fs::write(file.with_extension("new"), manner)
            .and_then(|()| fs::rename(file.with_extension("new"), &file))
            .expect("the pod's directory is writable");
    };
    let mut servers = Vec::new();
    for member in &members[1..4] {
        behaves(member, if member.app() == "narrow" { "slow" } else { "well" });
        let manner = member.directory().join("manner");
        let arguments = ["8080", member.name(), &manner.to_string_lossy()];
        let mut server = servers::python(member, "moody_server.py", &arguments);
        member.wait_listening(&mut server, 8080);
        servers.push(server);
    }
    let collector = observability::collector(&members[0]);
    for member in &mut members {
        let traces: &[&str] = match member.name() {
            "client" => &["--otlp", "http://127.0.0.1:4317", "--trace-sampling", "100%"],
            "small" => &["--memory-limit", "64Mi"],
            _ => &[],
        };
        member.redirect();
        member.start_sidecar(&mesh, traces);
    }
    members.iter_mut().for_each(Member::wait_ready);
    let watcher = Watcher::start(&mesh, &members.each_ref());
    let [client, web_1, web_2, _narrow, small] = &members;
    let _load = Load::start(client, &["http://web.shop/", "--rate", "50", "--connections", "4"]);
    let mut fired = BTreeSet::new();

    // The root is one that others made, for nine days.
    watcher.expect("a root for nine days", &mut fired, &[("MallaAuthorityNearExpiry", "within 30 days")]);
    wait::until("traffic to be seen", Duration::from_secs(60), || {
        observability::has_data(&watcher.pod, "malla:service_error_ratio:rate6h == 0").then_some(())
    });
    wait::holds("nothing else fires while all is well", Duration::from_secs(12), || watcher.firing().len() == 1);

    watcher.shows("Signing of certificates");

    // One of two costs few an answer; in ten seconds that may be more than what a month permits.
    let burns = [("MallaErrorBudgetBurnsFast", "web.shop:80"), ("MallaErrorBudgetBurnsSlowly", "web.shop:80")];
    fired.extend(burns.map(|(name, _)| name.to_owned()));
    behaves(web_1, "unavailable");
    watcher.expect("a replica that fails", &mut fired, &[("MallaEndpointsEjected", "web")]);
    behaves(web_2, "unavailable");
    watcher.expect("two replicas that fail", &mut fired, &burns);
    behaves(web_1, "well");
    behaves(web_2, "well");

    let _refused = Load::follow_failing(load_of(client, "http://nobody.shop/"));
    watcher.expect("a service without replicas", &mut fired, &[("MallaNoEndpoints", "nobody.shop:80")]);

    let policy = "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: narrow, namespace: shop}\nspec:\n  \
                  targetRefs: [{group: '', kind: Service, name: narrow}]\n  limits: {maxRequests: 1}\n";
    mesh.write("narrow.yaml", policy);
    let crowd = Load::follow_failing(load_of(client, "http://narrow.shop/"));
    watcher.expect("a limit that is reached", &mut fired, &[("MallaCircuitOpen", "narrow.shop:80")]);
    // The gauges tell of this moment, the counter of each refusal that the client saw.
    let of_narrow = [("cluster", "narrow.shop:80")];
    client.wait_metric("malla_circuit_open", &[of_narrow[0], ("limit", "requests")], 1.0);
    client.wait_metric("malla_cluster_in_use", &[of_narrow[0], ("resource", "requests")], 1.0);
    let failed = crowd.stop().failed;
    assert_eq!(client.metric("malla_circuit_refused_total", &of_narrow), failed as f64);
    wait::until("the limit to have room: nobody asks any more", Duration::from_secs(10), || {
        (client.metric("malla_circuit_open", &of_narrow) == 0.0).then_some(())
    });

    mesh.write("workloads/web-2.yaml", &web_2.workload("  mtls: {mode: permissive}\n"));
    let url = format!("http://{}:8080/", web_2.ipv4());
    wait::until("plaintext to be taken, and to be told", Duration::from_secs(60), || {
        watcher.pod.exec(&["curl", "-s", "--max-time", "5", &url]);
        watcher.firing().iter().any(|(name, _)| name == "MallaPlaintextAccepted").then_some(())
    });
    watcher.expect("plaintext", &mut fired, &[("MallaPlaintextAccepted", "takes plaintext")]);

    // Heads of 50 KB that do not end.
    let head = format!("GET / HTTP/1.1\r\nhost: web.shop\r\nx: {}", "x".repeat(50_000));
    let head: String = head.bytes().map(|byte| format!("{byte:02x}")).collect();
    let hold = format!("ulimit -n 20000; exec {} hold 10.96.0.1:80 4000 {head}", inside("malla-peer"));
    let holding = small.shell_spawn(&hold);
    watcher.expect("memory that runs out", &mut fired, &[("MallaMemoryRunsOut", "small sheds load")]);
    holding.kill();

    collector.kill();
    watcher.expect("a collector that is gone", &mut fired, &[("MallaSpansLost", "client loses spans")]);

    mesh.write("broken.yaml", "kind: Srvice\n");
    watcher.expect("files that are wrong", &mut fired, &[("MallaConfigurationRefused", "is refused")]);

    mesh.kill_control();
    let expected = [
        ("MallaControlServerGone", "does not answer"),
        ("MallaSidecarDisconnected", "client"),
        ("MallaRenewalFails", "client"),
        ("MallaCertificateNearExpiry", "client"),
    ];
    watcher.expect("a control server that is gone", &mut fired, &expected);
    watcher.shows("Sidecars that lag behind");

    fired.extend(ELSEWHERE.map(str::to_owned));
    assert_eq!(fired, watcher.known(), "alerts that nothing here makes fire");
}

/// Twenty requests a second, all of which may fail.
fn load_of(client: &Member, url: &str) -> Process {
    client.spawn(&[&inside("malla-load"), url, "--rate", "20", "--connections", "4"])
}

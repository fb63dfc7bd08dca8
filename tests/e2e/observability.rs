//! What an engineer on call sees of the demo: a real Prometheus that scrapes it and runs every rule and every query of the
//! dashboards, and a trace collector that nobody here wrote.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use malla_tests::pod::inside;
use malla_tests::tools::{program, python, repository};
use malla_tests::{Mesh, Pod, Process, Sandbox, Sidecar, wait};
use serde_json::Value;

use crate::{dashboards, servers};

const CONTROL: &str = "127.77.1.1:15014";
/// The sidecar of travels-v1.
const SIDECAR: &str = "127.77.1.14:15020";

fn demo(pod: &Pod, arguments: &[&str]) -> Process {
    let malla = inside("malla");
    let command = [&[&*malla, "demo", "-o", "json"], arguments].concat();
    let mut demo = pod.spawn(&command);
    wait::until("the control server of the demo to answer", Duration::from_secs(60), || {
        assert!(!demo.has_ended(), "{}", demo.tail());
        pod.exec(&["curl", "-sf", &format!("http://{CONTROL}/ready")]).status.success().then_some(())
    });
    demo
}

/// The answer of Prometheus to a query at this moment.
fn query(pod: &Pod, expression: &str) -> Value {
    let said = pod.exec(&[
        "curl",
        "-s",
        "http://127.0.0.1:9090/api/v1/query",
        "--data-urlencode",
        &format!("query={expression}"),
    ]);
    serde_json::from_str(&said.text()).unwrap_or_else(|error| panic!("{expression}: {error}: {}", said.both()))
}

/// Whether a query has an answer at all.
#[track_caller]
fn has_data(pod: &Pod, expression: &str) -> bool {
    holds_data(&query(pod, expression))
}

/// Whether an answer of Prometheus is one, and not empty.
#[track_caller]
fn holds_data(answer: &Value) -> bool {
    assert_eq!(answer["status"], "success", "{answer}");
    !answer["data"]["result"].as_array().expect("a list").is_empty()
}

/// Panels that have nothing to show while all is well: what fails, is retried, refused, judged at all, or lags behind.
const QUIET: [&str; 6] = [
    "Failures by reason",
    "Retries by cause",
    "Refused by policy",
    "Let through by policy",
    "Sidecars that lag behind",
    "Connections refused or broken",
];

/// A query with its variables replaced; the demo has run for seconds, not for minutes.
fn ready(expression: &str) -> String {
    let replacements = [
        ("$service", "flights.travel-agency:8000"),
        ("$source", "travels-v1.travel-agency"),
        ("$workload", "flights-v1.travel-agency"),
        ("$instance", ".*"),
        ("$__rate_interval", "10s"),
        ("[5m]", "[10s]"),
    ];
    replacements.iter().fold(expression.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[test]
fn prometheus_answers_every_query_and_checks_every_rule() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("laptop");
    let directory = sandbox.writable_directory("watch");
    let watch = directory.to_string_lossy().into_owned();
    let collector = collector(&pod);
    let demo = demo(&pod, &["--for", "300s", "--prometheus", &watch, "--otlp", "http://127.0.0.1:4317"]);

    for rules in ["check rules deploy/prometheus/rules.yaml", "test rules deploy/prometheus/rules.test.yaml"] {
        pod.shell(&format!("cd {} && promtool {rules}", repository().display())).success();
    }
    pod.exec(&["promtool", "check", "config", &format!("{watch}/prometheus.yaml")]).success();
    for page in [CONTROL, SIDECAR] {
        let linted = pod.shell(&format!("curl -sf http://{page}/metrics | promtool check metrics")).success().both();
        assert_eq!(linted, "", "promtool has something to say of {page}");
    }

    let mut prometheus = pod.spawn(&[
        "prometheus",
        &format!("--config.file={watch}/prometheus.yaml"),
        &format!("--storage.tsdb.path={watch}/data"),
        "--web.listen-address=127.0.0.1:9090",
        "--enable-feature=exemplar-storage",
    ]);
    pod.wait_listening(&mut prometheus, 9090);
    // It listens before it answers queries.
    wait::until("Prometheus to be ready", Duration::from_secs(60), || {
        pod.exec(&["curl", "-sf", "http://127.0.0.1:9090/-/ready"]).status.success().then_some(())
    });
    wait::until("every target to be scraped several times", Duration::from_secs(60), || {
        has_data(&pod, "count(count_over_time(up[1m]) > 3) == 13").then_some(())
    });
    // A scrape that came too late on a busy machine is followed by one that does not.
    wait::until("every target to answer", Duration::from_secs(30), || (!has_data(&pod, "up == 0")).then_some(()));

    let queries = dashboards::queries();
    assert!(queries.len() > 60, "the dashboards were not found: {}", queries.len());
    let answer = |query: dashboards::Query| {
        let (panel, expression) = (&query.panel, ready(&query.expression));
        let quiet = QUIET.contains(&panel.as_str());
        let answer = wait::until(&format!("data for {panel}: {expression}"), Duration::from_secs(10), || {
            let answer = self::query(&pod, &expression);
            (holds_data(&answer) || quiet).then_some(answer)
        });
        (query, answer)
    };
    dashboards::compare_with_page(&queries.into_iter().map(answer).collect::<Vec<_>>());

    graphs_lead_to_traces(&pod, &collector);

    // A group is evaluated for the first time somewhere within its interval.
    let rules = wait::until("every rule to be evaluated", Duration::from_secs(45), || {
        let rules = pod.exec(&["curl", "-sf", "http://127.0.0.1:9090/api/v1/rules"]).success().text();
        let rules: Value = serde_json::from_str(&rules).expect("JSON");
        let rules: Vec<Value> = list(&rules["data"]["groups"]).iter().flat_map(|group| list(&group["rules"])).collect();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert!(rules.len() > 15);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert!(rule["type"] == "recording" || rule["state"] == "inactive", "it fires though all is well: {rule}");
    }
    compare_with_documentation(&pod);

    // What is broken shows on the edge where it is, by its word.
    pod.exec(&["curl", "-sf", "-X", "POST", "http://127.77.1.1:15080/break/discounts-v1"]).success();
    let failing = "sum by (service) (rate(malla_requests_total{direction=\"outbound\", status=~\"5..\"}[10s])) > 0";
    wait::until("the failing edge to be seen", Duration::from_secs(20), || {
        let answer = query(&pod, failing).to_string();
        answer.contains("discounts.travel-agency:8000").then_some(())
    });
    drop(demo);
}

#[test]
fn prometheus_reads_native_histograms_if_it_asks_for_them() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("laptop");
    let directory = sandbox.writable_directory("native");
    let directory = directory.to_string_lossy().into_owned();
    let configuration = format!(
        "scrape_configs:\n- {{job_name: malla, scrape_interval: 1s, static_configs: [{{targets: ['{SIDECAR}', '{CONTROL}']}}]}}\n"
    );
    fs::write(format!("{directory}/prometheus.yaml"), configuration).expect("written");
    let _demo = demo(&pod, &["--for", "300s"]);
    let mut prometheus = pod.spawn(&[
        "prometheus",
        &format!("--config.file={directory}/prometheus.yaml"),
        &format!("--storage.tsdb.path={directory}/data"),
        "--web.listen-address=127.0.0.1:9090",
        "--enable-feature=native-histograms",
    ]);
    pod.wait_listening(&mut prometheus, 9090);
    let minute = Duration::from_secs(60);
    wait::until("Prometheus to be ready", minute, || {
        pod.exec(&["curl", "-sf", "http://127.0.0.1:9090/-/ready"]).status.success().then_some(())
    });
    let outbound = "{direction=\"outbound\"}";
    let family = "malla_request_duration_seconds";
    for expression in [
        format!("histogram_quantile(0.9, sum(rate({family}{outbound}[10s]))) > 0 < 60"),
        "histogram_quantile(0.9, sum(rate(malla_request_first_byte_seconds[10s]))) > 0 < 60".to_owned(),
        format!("histogram_sum({family}{outbound}) / histogram_count({family}{outbound}) > 0 < 60"),
        // Everything of one page is of one moment, but requests are counted before and after it is begun.
        format!("sum(histogram_count({family})) / sum(malla_requests_total) > 0.9 < 1.1"),
        "malla_control_signing_seconds_count > 0".to_owned(),
        "malla_workload_info{version=\"v2\"} == 1".to_owned(),
        "up == 1 and on () count(up == 1) == 2".to_owned(),
    ] {
        wait::until(&format!("an answer to {expression}"), minute, || has_data(&pod, &expression).then_some(()));
    }
    // This version of Prometheus takes one form of a histogram.
    assert!(!has_data(&pod, &format!("{family}_bucket")), "the classic buckets were taken");
}

/// The graphs that show exemplars have some, of traces that the collector got.
fn graphs_lead_to_traces(pod: &Pod, collector: &Process) {
    let with_exemplars = dashboards::queries().into_iter().filter(|query| query.exemplars);
    let expressions: HashSet<String> = with_exemplars.map(|query| ready(&query.expression)).collect();
    assert!(expressions.len() >= 6, "{expressions:?}");
    let exemplars: Vec<HashSet<String>> = expressions
        .iter()
        .map(|expression| {
            wait::until(&format!("exemplars of {expression}"), Duration::from_secs(30), || {
                let traces = exemplars(pod, expression);
                (!traces.is_empty()).then_some(traces)
            })
        })
        .collect();
    // Spans go in batches, at least every second.
    wait::until("the traces of the exemplars", Duration::from_secs(30), || {
        let told: HashSet<String> = spans(collector).into_iter().map(|span| span.trace).collect();
        exemplars.iter().all(|traces| !traces.is_disjoint(&told)).then_some(())
    });
}

/// The traces that Prometheus has for a query, of the last minutes, as [`Span::trace`] has them.
fn exemplars(pod: &Pod, expression: &str) -> HashSet<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (query, times) = (format!("query={expression}"), format!("start={}&end={}", now - 300, now + 60));
    let url = "http://127.0.0.1:9090/api/v1/query_exemplars";
    let said = pod.exec(&["curl", "-s", url, "--data-urlencode", &query, "-d", &times]).success().text();
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let of_series = list(&said["data"]).into_iter().flat_map(|series| list(&series["exemplars"]));
    // The collector prints ids in base64, as JSON has bytes of protobuf.
    let as_told = |exemplar: Value| {
        let trace = u128::from_str_radix(&text(&exemplar["labels"]["trace_id"]), 16).expect("a trace id");
        STANDARD.encode(trace.to_be_bytes())
    };
    of_series.map(as_told).collect()
}

/// The control server's table in the documentation says what is exposed, and nothing else.
fn compare_with_documentation(pod: &Pod) {
    let page = pod.exec(&["curl", "-sf", &format!("http://{CONTROL}/metrics")]).success().text();
    let exposed: HashSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let text = fs::read_to_string(repository().join("docs/metrics.md")).expect("the documentation");
    let (_, of_control) = text.split_once("## Control server").expect("a chapter");
    let documented: HashSet<&str> =
        of_control.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(exposed, documented);
}

/// A span as the collector got it.
#[derive(Debug)]
struct Span {
    service: String,
    name: String,
    kind: String,
    trace: String,
    id: String,
    parent: Option<String>,
    failed: bool,
}

fn spans(collector: &Process) -> Vec<Span> {
    let said = collector.stdout();
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .flat_map(|message| list(&message["resourceSpans"]))
        .flat_map(|of_sidecar| {
            let service = attribute(&of_sidecar["resource"], "service.name");
            list(&of_sidecar["scopeSpans"]).into_iter().flat_map(|scope| list(&scope["spans"])).map(move |span| Span {
                service: service.clone(),
                name: text(&span["name"]),
                kind: text(&span["kind"]),
                trace: text(&span["traceId"]),
                id: text(&span["spanId"]),
                parent: span["parentSpanId"].as_str().map(str::to_owned),
                failed: span["status"]["code"] == "STATUS_CODE_ERROR",
            })
        })
        .collect()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn attribute(of: &Value, key: &str) -> String {
    let found = list(&of["attributes"]).into_iter().find(|attribute| attribute["key"] == key);
    found.map_or_else(String::new, |attribute| text(&attribute["value"]["stringValue"]))
}

fn collector(pod: &Pod) -> Process {
    let collector = program("otlp_collector.py");
    let mut collector = pod.spawn(&[&python().to_string_lossy(), &collector.to_string_lossy(), "4317", "4318"]);
    pod.wait_listening(&mut collector, 4317);
    pod.wait_listening(&mut collector, 4318);
    collector
}

#[test]
fn every_travel_is_one_tree_of_spans() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("laptop");
    let collector = collector(&pod);
    let demo = demo(&pod, &["--for", "6s", "--rate", "10", "--otlp", "http://127.0.0.1:4317"]);
    let summary = demo.end(Duration::from_secs(60)).success();
    // What was left was sent before the sidecars ended.
    let spans = spans(&collector);
    let mut traces: HashMap<&str, Vec<&Span>> = HashMap::new();
    // Raw TCP brings no context along: in each sidecar a connection is a trace of its own.
    let (of_connections, of_requests): (Vec<&Span>, Vec<&Span>) =
        spans.iter().partition(|span| span.name.starts_with("TCP "));
    assert!(of_connections.len() >= 30 && of_connections.iter().all(|span| span.parent.is_none() && !span.failed));
    for span in of_requests {
        traces.entry(&span.trace).or_default().push(span);
    }
    assert!(traces.len() >= 30, "{} traces\n{}", traces.len(), summary.both());
    for (trace, spans) in &traces {
        // One travel: the portal's call, four parts, their discounts, each seen from both sides.
        assert_eq!(spans.len(), 18, "{trace}: {spans:#?}");
        let roots: Vec<_> = spans.iter().filter(|span| span.parent.is_none()).collect();
        assert!(matches!(roots[..], [root] if root.service.ends_with("-portal")), "{trace}: {roots:#?}");
        let by_id: HashMap<&str, &&Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
        for span in spans.iter().filter(|span| span.parent.is_some()) {
            let parent = span.parent.as_deref().and_then(|parent| by_id.get(parent)).expect("its parent is here");
            // Between two sidecars, or within a service.
            match span.kind.as_str() {
                "SPAN_KIND_SERVER" => assert_eq!(parent.kind, "SPAN_KIND_CLIENT", "{span:#?}"),
                _ => assert_eq!((parent.kind.as_str(), &parent.service), ("SPAN_KIND_SERVER", &span.service)),
            }
            assert!(span.name.starts_with("GET ") && !span.failed, "{span:#?}");
        }
    }
}

#[test]
fn a_failure_is_marked_in_its_trace_and_http_is_understood_too() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("laptop");
    let collector = collector(&pod);
    let demo = demo(&pod, &["--for", "30s", "--rate", "10", "--otlp", "http://127.0.0.1:4318/v1/traces"]);
    pod.exec(&["curl", "-sf", "-X", "POST", "http://127.77.1.1:15080/break/discounts-v1"]).success();
    wait::until("a failure in a trace", Duration::from_secs(25), || {
        let spans = spans(&collector);
        let failed: Vec<_> = spans.iter().filter(|span| span.failed).collect();
        let both = ["SPAN_KIND_CLIENT", "SPAN_KIND_SERVER"];
        assert!(failed.iter().all(|span| span.name.contains("discounts")), "{failed:#?}");
        both.iter().all(|kind| failed.iter().any(|span| span.kind == *kind)).then_some(())
    });
    drop(demo);
}

#[test]
fn a_collector_that_is_away_costs_nothing_but_its_spans() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("laptop");
    let demo = demo(&pod, &["--for", "8s", "--otlp", "http://127.0.0.1:4317"]);
    wait::until("lost spans to be counted", Duration::from_secs(20), || {
        let page = pod.exec(&["curl", "-sf", &format!("http://{SIDECAR}/metrics")]).text();
        let failed = page.lines().find_map(|line| line.strip_prefix("malla_trace_spans_failed_total "))?;
        failed.parse::<u64>().is_ok_and(|number| number > 0).then_some(())
    });
    // Every call succeeded: the summary says so by its exit code.
    demo.end(Duration::from_secs(60)).success();
}

#[test]
fn both_sidecars_write_a_line_for_each_request() {
    let mut mesh = Mesh::new();
    mesh.service(
        "web",
        &["{name: http, port: 80, targetPort: 8080}", "{name: raw, port: 81, targetPort: 8081, appProtocol: tcp}"],
    );
    let (mut client, mut web) =
        (mesh.member_with("client", Sidecar::Explicit), mesh.member_with("web-1", Sidecar::Explicit));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["127.0.0.1:8080", "127.0.0.1:8081"]);
    web.start_sidecar(&mesh, &["--access-log", "all"]);
    web.wait_ready();
    let template = "{direction} {protocol} {method} {service}{path} {status} {reason} {workload} {tries}";
    client.start_sidecar(&mesh, &["--access-log", "all", "--access-log-format", template]);
    client.wait_ready();
    for url in ["http://web.shop/?token=secret", "http://nobody.shop:9/"] {
        client.exec(&["curl", "-sS", "--max-time", "10", "-x", "http://127.0.0.1:15001", url]).success();
    }
    let tunnel = ["curl", "-sSf", "--max-time", "10", "-p", "-x", "http://127.0.0.1:15001", "http://web.shop:81/"];
    client.exec(&tunnel).success();
    let lines =
        ["outbound http/1.1 GET web.shop:80/ 200 - web-1.shop 1", "outbound tcp - web.shop:81- - - web-1.shop 1"];
    wait::until("the lines of the client", Duration::from_secs(10), || {
        let said = client.sidecar().stdout();
        assert!(!said.contains("secret"), "{said}");
        (lines.iter().all(|line| said.lines().any(|said| said == *line)) && said.lines().count() >= 3).then_some(())
    });
    let line = |protocol: &str| {
        wait::until("a line of the server", Duration::from_secs(10), || {
            let said = web.sidecar().stdout();
            let mut lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["protocol"] == protocol)
        })
    };
    let carried = line("tcp");
    assert_eq!(carried["client"].as_str(), Some(client.identity().as_str()));
    assert_eq!((&carried["service"], carried.get("status")), (&"web.shop:81".into(), None), "{carried}");
    let moved = ["sent_bytes", "received_bytes"].map(|field| carried[field].as_u64().unwrap_or_default());
    assert!(moved[0] > 50 && moved[1] > 100, "{carried}");
    let inbound = line("http/1.1");
    assert_eq!((&inbound["direction"], &inbound["status"]), (&"inbound".into(), &200.into()), "{inbound}");
    assert_eq!(inbound["client"].as_str(), Some(client.identity().as_str()));
    let time = |field: &str| inbound[field].as_f64().unwrap_or_else(|| panic!("no {field}: {inbound}"));
    let phases = time("waiting_ms") + time("connecting_ms") + time("first_byte_ms") + time("body_ms");
    assert!((phases - time("duration_ms")).abs() < 0.01, "{inbound}");

    let refused = client.spawn_sidecar(0, &[], &mesh, &["--access-log", "all", "--access-log-format", "{tme}"]);
    let said = refused.end(Duration::from_secs(10)).failure().both();
    assert!(said.contains("there is no field {tme} (character 1)"), "{said}");
}

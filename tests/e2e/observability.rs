//! What an engineer on call sees of the demo: a real Prometheus that scrapes it and runs every rule and every query of the
//! dashboards, and a trace collector that nobody here wrote.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;
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
/// Where the sidecar of flights-v1 takes what other sidecars send.
const FLIGHTS_INBOUND: &str = "http://127.77.1.16:15006/";

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
pub(crate) fn query(pod: &Pod, expression: &str) -> Value {
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
pub(crate) fn has_data(pod: &Pod, expression: &str) -> bool {
    holds_data(&query(pod, expression))
}

/// Whether an answer of Prometheus is one, and has a number: a quantile of nothing has none.
#[track_caller]
pub(crate) fn holds_data(answer: &Value) -> bool {
    assert_eq!(answer["status"], "success", "{answer}");
    let is_number = |series: &Value| text(&series["value"][1]).parse::<f64>().is_ok_and(|value| !value.is_nan());
    answer["data"]["result"].as_array().expect("a list").iter().any(is_number)
}

/// Panels that have nothing to show while all is well and nothing changes: what fails, is retried, refused, judged at all; and what a
/// change costs.
const QUIET: [&str; 6] = [
    "Failures by reason",
    "Retries by cause",
    "Refused by policy",
    "Let through by policy",
    "Connections refused or broken",
    "Propagation of changes",
];

/// Panels that `alerts.rs` sees speak, where certificates are short and the control server can be killed.
pub(crate) const SPEAK_ELSEWHERE: [&str; 2] = ["Sidecars that lag behind", "Signing of certificates"];

/// What makes the quiet panels speak: a third of the calls fails on purpose, the rest is tried again, and policies are about all of them.
const TROUBLE: &str = "apiVersion: malla.dev/v1alpha1
kind: FaultInjection
metadata: {name: flights-fail, namespace: travel-agency}
spec: {abort: {httpStatus: 503, percent: 33}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: flights, namespace: travel-agency}
spec:
  parentRefs: [{group: '', kind: Service, name: flights}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: FaultInjection, name: flights-fail}}]
    retry: {attempts: 1, codes: [500, 502, 503]}
    backendRefs: [{name: flights, port: 8000}]
---
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: flights-callers, namespace: travel-agency}
spec:
  targetRefs: [{group: '', kind: Service, name: flights}]
  action: Allow
  rules:
  - from: [{serviceAccounts: [travel-agency/travels]}]
---
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: flights-audited, namespace: travel-agency}
spec:
  targetRefs: [{group: '', kind: Service, name: flights}]
  action: Audit
  rules:
  - from: [{serviceAccounts: [travel-agency/travels]}]
";

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
    let config = directory.join("mesh");
    let files = config.to_string_lossy().into_owned();
    let otlp = "http://127.0.0.1:4317";
    let demo = demo(&pod, &["--for", "300s", "--config", &files, "--prometheus", &watch, "--otlp", otlp]);

    for rules in ["check rules deploy/prometheus/rules.yaml", "test rules deploy/prometheus/rules.test.yaml"] {
        pod.shell(&format!("cd {} && promtool {rules}", repository().display())).success();
    }
    pod.exec(&["promtool", "check", "config", &format!("{watch}/prometheus.yaml")]).success();
    for page in [CONTROL, SIDECAR] {
        let linted = pod.shell(&format!("curl -sf http://{page}/metrics | promtool check metrics")).success().both();
        assert_eq!(linted, "", "promtool has something to say of {page}");
    }

    let _prometheus = servers::prometheus(&pod, &directory, "exemplar-storage");
    wait::until("every target to be scraped several times", Duration::from_secs(60), || {
        has_data(&pod, "count(count_over_time(up[1m]) > 3) == 13").then_some(())
    });
    // A scrape that came too late on a busy machine is followed by one that does not.
    wait::until("every target to answer", Duration::from_secs(30), || (!has_data(&pod, "up == 0")).then_some(()));

    let queries = dashboards::queries();
    assert!(queries.len() > 60, "the dashboards were not found: {}", queries.len());
    let answer = |query: dashboards::Query| {
        let (panel, expression) = (&query.panel, ready(&query.expression));
        let quiet = QUIET.iter().chain(&SPEAK_ELSEWHERE).any(|quiet| quiet == panel);
        let answer = wait::until(&format!("data for {panel}: {expression}"), Duration::from_secs(10), || {
            let answer = self::query(&pod, &expression);
            (holds_data(&answer) || quiet).then_some(answer)
        });
        (query, answer)
    };
    dashboards::compare_with_page(&queries.into_iter().map(answer).collect::<Vec<_>>());

    variables_have_values(&pod);
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
    for name in recorded() {
        wait::until(&format!("{name} to be recorded"), Duration::from_secs(45), || has_data(&pod, &name).then_some(()));
    }
    compare_with_documentation(&pod);
    quiet_panels_speak(&pod, &config);

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
    let configuration = format!(
        "scrape_configs:\n- {{job_name: malla, scrape_interval: 1s, static_configs: [{{targets: ['{SIDECAR}', '{CONTROL}']}}]}}\n"
    );
    fs::write(directory.join("prometheus.yaml"), configuration).expect("written");
    let _demo = demo(&pod, &["--for", "300s"]);
    let minute = Duration::from_secs(60);
    let _prometheus = servers::prometheus(&pod, &directory, "native-histograms");
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

/// The names of what `rules.yaml` records.
fn recorded() -> Vec<String> {
    let rules = fs::read_to_string(repository().join("deploy/prometheus/rules.yaml")).expect("the rules");
    let names: Vec<String> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect();
    assert!(names.len() >= 8, "{names:?}");
    names
}

/// What dashboards let people choose from is there, and what leads from a span to a graph leads to one.
fn variables_have_values(pod: &Pod) {
    for (variable, metric, label) in dashboards::variables() {
        let (metric, url) = (ready(&metric), format!("http://127.0.0.1:9090/api/v1/label/{label}/values"));
        let said = pod.exec(&["curl", "-sG", &url, "--data-urlencode", &format!("match[]={metric}")]).success().text();
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert!(!list(&said["data"]).is_empty(), "nothing to choose from for {variable}: {metric}: {said}");
    }
    // As Grafana asks, for a span of the client's side.
    let query = dashboards::of_spans().replace("$$__tags", "destination=\"flights-v1.travel-agency\"");
    assert!(has_data(pod, &query.replace("[5m]", "[10s]")), "{query}");
}

/// What has nothing to show while all is well, shows it when it is not.
fn quiet_panels_speak(pod: &Pod, config: &Path) {
    pod.exec(&["curl", "-sf", "-X", "POST", "http://127.77.1.1:15080/break/flights-v1"]).success();
    fs::write(config.join("trouble.yaml"), TROUBLE).expect("written");
    let spoken = dashboards::queries().into_iter().filter(|query| QUIET.contains(&query.panel.as_str()));
    let mut panels: HashMap<(String, String), Vec<String>> = HashMap::new();
    for query in spoken {
        panels.entry((query.dashboard.0, query.panel)).or_default().push(ready(&query.expression));
    }
    assert!(panels.len() >= 8, "{panels:?}");
    for ((dashboard, panel), expressions) in panels {
        wait::until(&format!("{dashboard} to show {panel}: {expressions:?}"), Duration::from_secs(30), || {
            // Somebody who has no business there.
            pod.exec(&["curl", "-s", "--max-time", "2", FLIGHTS_INBOUND]);
            // A change.
            fs::write(config.join("trouble.yaml"), format!("{TROUBLE}---\n# {panel}\n")).expect("written");
            expressions.iter().any(|expression| has_data(pod, expression)).then_some(())
        });
    }
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
    let of = |start: &'static str| page.lines().filter_map(move |line| line.strip_prefix(start)?.split_once(' '));
    let kinds: HashMap<&str, &str> = of("# TYPE ").collect();
    let exposed: BTreeSet<(&str, &str, &str)> =
        of("# HELP ").map(|(name, help)| (name, kinds[name], help.trim_end_matches('.'))).collect();
    assert_eq!(exposed.len(), kinds.len());
    let text = fs::read_to_string(repository().join("docs/metrics.md")).expect("the documentation");
    let (_, of_control) = text.split_once("## Control server").expect("a chapter");
    let row = |line: &'_ str| -> Option<(String, String, String)> {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
        let [name, kind, _, help] = cells[..] else { panic!("{line}") };
        Some((name.trim_end_matches('`').to_owned(), kind.to_owned(), help.trim_end_matches(" |").to_owned()))
    };
    let documented: BTreeSet<(String, String, String)> = of_control.lines().filter_map(row).collect();
    let documented: BTreeSet<(&str, &str, &str)> =
        documented.iter().map(|(name, kind, help)| (&**name, &**kind, &**help)).collect();
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
    /// The number of the retry, empty for a first try.
    resend: String,
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
                resend: number(&span, "http.request.resend_count"),
            })
        })
        .collect()
}

pub(crate) fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// An attribute that is a text.
fn attribute(of: &Value, key: &str) -> String {
    let found = list(&of["attributes"]).into_iter().find(|attribute| attribute["key"] == key);
    found.map_or_else(String::new, |attribute| text(&attribute["value"]["stringValue"]))
}

/// An attribute that is a number.
fn number(of: &Value, key: &str) -> String {
    let found = list(&of["attributes"]).into_iter().find(|attribute| attribute["key"] == key);
    found.map_or_else(String::new, |attribute| text(&attribute["value"]["intValue"]))
}

pub(crate) fn collector(pod: &Pod) -> Process {
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
        // Who called whom, as the travel agency is made.
        let mut expected = vec![(roots[0].service.as_str(), "travels")];
        for part in ["flights", "hotels", "cars", "insurances"] {
            expected.extend([("travels", part), (part, "discounts")]);
        }
        let arrivals = spans.iter().filter(|span| span.kind == "SPAN_KIND_SERVER");
        let mut calls: Vec<(&str, &str)> =
            arrivals.map(|span| (&*by_id[span.parent.as_deref().expect("a call")].service, &*span.service)).collect();
        calls.sort();
        expected.sort();
        assert_eq!(calls, expected, "{trace}");
    }
}

#[test]
fn a_failure_is_marked_in_its_trace_and_http_is_understood_too() {
    let sandbox = Sandbox::new();
    let pod = sandbox.pod("laptop");
    let collector = collector(&pod);
    let directory = sandbox.writable_directory("mesh");
    let files = directory.to_string_lossy();
    let otlp = "http://127.0.0.1:4318/v1/traces";
    let demo = demo(&pod, &["--for", "120s", "--rate", "10", "--config", &files, "--otlp", otlp]);
    pod.exec(&["curl", "-sf", "-X", "POST", "http://127.77.1.1:15080/break/discounts-v1"]).success();
    wait::until("a failure in a trace", Duration::from_secs(25), || {
        let spans = spans(&collector);
        let failed: Vec<_> = spans.iter().filter(|span| span.failed).collect();
        let both = ["SPAN_KIND_CLIENT", "SPAN_KIND_SERVER"];
        assert!(failed.iter().all(|span| span.name.contains("discounts")), "{failed:#?}");
        both.iter().all(|kind| failed.iter().any(|span| span.kind == *kind)).then_some(())
    });
    // With retries, a failed try and the good one stand side by side in a tree that is whole.
    fs::copy(directory.join("try/retries.yaml.txt"), directory.join("retries.yaml")).expect("copied");
    wait::until("a retry in a tree", Duration::from_secs(60), || {
        let spans = spans(&collector);
        let retried =
            spans.iter().find(|span| span.resend == "1" && !span.failed && span.kind == "SPAN_KIND_CLIENT")?;
        let tree: Vec<&Span> = spans.iter().filter(|span| span.trace == retried.trace).collect();
        let beside = |span: &&&Span| span.kind == retried.kind && span.parent == retried.parent;
        let tries: Vec<&&Span> = tree.iter().filter(beside).collect();
        // Spans come in batches: not before all are there. A travel and a try more, which two sidecars saw.
        let is_known = |id: &String| tree.iter().any(|span| span.id == *id);
        let roots = tree.iter().filter(|span| !span.parent.as_ref().is_some_and(is_known)).count();
        (tree.len() >= 20 && roots == 1 && tries.len() > 1).then_some(())?;
        assert!(matches!(tries[..], [first, second] if first.failed != second.failed), "{tries:#?}");
        let (ill, well) = if tries[0].failed { (tries[0], tries[1]) } else { (tries[1], tries[0]) };
        assert_eq!((ill.resend.as_str(), well.resend.as_str()), ("", "1"), "{tries:#?}");
        // The failure is the try's and its server's: who called got a good answer.
        assert!(tree.iter().filter(|span| span.failed).all(|span| span.name.contains("discounts")), "{tree:#?}");
        Some(())
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
fn b3_leads_through_two_sidecars_and_into_the_access_log() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let watcher = mesh.stranger("watcher");
    let collector = collector(&watcher);
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    let otlp = format!("http://{}:4317", watcher.ipv4());
    let log = ["--access-log", "all", "--access-log-format", "{path} {status} {trace} {client} {peer}"];
    let flags = [&["--otlp", &*otlp, "--trace-sampling", "0%"], &log[..]].concat();
    for member in [&mut client, &mut web] {
        member.redirect();
        member.start_sidecar(&mesh, &flags);
        member.wait_ready();
    }
    // (of the trace, of the span, headers, whether it is followed)
    let single = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    let several = ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312");
    let ask = |path: &str, headers: &[String]| -> Vec<String> {
        let url = format!("http://web.shop/contexts/{path}");
        let mut command = vec!["curl", "-sSf", &url];
        command.extend(headers.iter().flat_map(|header| ["-H", header]));
        client.exec(&command).success().text().trim_end().split(' ').map(str::to_owned).collect()
    };
    let (trace, span) = single;
    let told = ask("single", &[format!("b3: {trace}-{span}-1")]);
    // Trace, span, decision, and the span above.
    let context: Vec<&str> = told[1].split('-').collect();
    assert!(matches!(context[..], [of, _, "1", _] if of == trace), "{told:?}");
    let (last_of_single, above) = (context[1].to_owned(), context[3].to_owned());
    assert_eq!(told[0], format!("00-{trace}-{last_of_single}-01"));
    assert_eq!(ask("not-followed", &[format!("b3: {trace}-{span}-0")])[1], format!("{trace}-{span}-0"));
    let (trace, span) = several;
    let three = ["traceid", "spanid", "sampled"].into_iter().zip([trace, span, "1"]);
    let told = ask("several", &three.map(|(name, value)| format!("x-b3-{name}: {value}")).collect::<Vec<_>>());
    assert_eq!((told[2].as_str(), told[4].as_str()), (trace, "1"), "{told:?}");
    let last_of_several = told[3].clone();

    // Client's side below the span that came, server's side below the client's, application below the server's.
    let hexadecimal = |id: &str| -> String {
        STANDARD.decode(id).expect("base64").iter().map(|byte| format!("{byte:02x}")).collect()
    };
    for ((trace, came), last, above) in [(single, last_of_single, Some(above)), (several, last_of_several, None)] {
        let spans = wait::until("both spans", Duration::from_secs(20), || {
            let spans = spans(&collector);
            let of_trace: Vec<Span> = spans.into_iter().filter(|span| hexadecimal(&span.trace) == trace).collect();
            (of_trace.len() >= 2).then_some(of_trace)
        });
        assert_eq!(spans.len(), 2, "{spans:#?}");
        let of_kind = |kind: &str| spans.iter().find(|span| span.kind == kind).expect("one of each kind");
        let (sent, arrived) = (of_kind("SPAN_KIND_CLIENT"), of_kind("SPAN_KIND_SERVER"));
        assert_eq!(sent.parent.as_deref().map(hexadecimal).as_deref(), Some(came));
        assert_eq!(arrived.parent.as_ref(), Some(&sent.id));
        assert_eq!(hexadecimal(&arrived.id), last);
        assert!(above.is_none_or(|above| above == hexadecimal(&sent.id)));
    }

    // A line for each request, no more and no fewer, on either side.
    let (of_client, of_web) = (client.identity(), web.identity());
    let lines = |followed: [&str; 3], who: &str| -> Vec<String> {
        let paths = ["single", "not-followed", "several"].into_iter().zip(followed);
        paths.map(|(path, trace)| format!("/contexts/{path} 200 {trace} {who}")).collect()
    };
    let traces = [single.0, "-", several.0];
    for (member, expected) in
        [(&client, lines(traces, &format!("- {of_web}"))), (&web, lines(traces, &format!("{of_client} -")))]
    {
        wait::until("the lines", Duration::from_secs(10), || {
            (member.sidecar().stdout().lines().count() >= 3).then_some(())
        });
        let said = member.sidecar().stdout();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{}", member.name());
    }
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

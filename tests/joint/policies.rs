//! Fields of `TrafficPolicy`, from YAML through the control server, xDS and the sidecar to which of two real applications answers, and
//! how. What takes minutes or chance to show is shown in simulated time (`malla-proxy`, `simulation`).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::application::Application;
use crate::local::{CLIENT, Local, PATIENCE, exchange};

/// Services behind which both applications are, each with its policy.
const POLICIES: &[(&str, &str)] = &[
    ("turns", "loadBalancer: {algorithm: roundRobin}"),
    ("chance", "loadBalancer: {algorithm: random}"),
    ("least", "loadBalancer: {algorithm: leastRequest}"),
    ("ring", "loadBalancer: {algorithm: ringHash, hash: [{header: x-user}]}"),
    ("maglev", "loadBalancer: {algorithm: maglev, tableSize: 1009, hash: [{cookie: u}, {queryParameter: u}]}"),
    ("source", "loadBalancer: {algorithm: ringHash, hash: [{sourceAddress: true}]}"),
    ("requests", "limits: {maxRequests: 1}"),
    ("connections", "{limits: {maxConnections: 1}, loadBalancer: {algorithm: leastRequest}}"),
    (
        "none-waits",
        "{limits: {maxPendingRequests: 0, perEndpoint: {maxConnections: 1}}, loadBalancer: {algorithm: roundRobin}}",
    ),
    ("pending", "limits: {maxConnections: 1, pendingTimeout: 100ms}"),
    ("each", "limits: {perEndpoint: {maxRequests: 1}}"),
    ("overload", "overload: {adaptiveConcurrency: {minimum: 1, maximum: 1}}"),
    ("hedged", "loadBalancer: {algorithm: roundRobin}"),
    ("still", "timeouts: {requestIdle: 200ms}"),
    ("ejects", "{loadBalancer: {algorithm: roundRobin}, outlierDetection: {consecutive5xx: 1}}"),
    ("forgives", "{loadBalancer: {algorithm: roundRobin}, outlierDetection: {disabled: true}}"),
    (
        "checked",
        "{loadBalancer: {algorithm: roundRobin, panicThresholdPercent: 0}, \
         healthCheck: {interval: 100ms, unhealthyThreshold: 1, http: {path: /refused-by-b}}}",
    ),
];

fn mesh(applications: [&Application; 2]) -> String {
    let services = POLICIES.iter().map(|(name, policy)| {
        let slices = applications.map(|Application { name: of, address, .. }| {
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: {name}-{of}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
                 addressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n---\n",
                address.port()
            )
        });
        let policy = policy.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(policy);
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}\n---\n\
             apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: {name}}}], {policy}}}\n---\n{}",
            slices.concat()
        )
    });
    let hedged = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: hedged, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: hedged}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: RetryPolicy, name: hedged}}]
    backendRefs: [{name: hedged, port: 80}]
---
apiVersion: malla.dev/v1alpha1
kind: RetryPolicy
metadata: {name: hedged, namespace: shop}
spec: {hedging: {quantile: 50, minimumDelay: 50ms, minimumSamples: 10}}
---
";
    CLIENT.to_owned() + hedged + &services.collect::<String>()
}

/// Both applications and a sidecar before them.
struct Behind {
    local: Local,
}

impl Behind {
    fn start(applications: [&Application; 2]) -> Behind {
        let destinations: Vec<String> = POLICIES.iter().map(|(name, _)| format!("{name}.shop:80")).collect();
        let destinations: Vec<&str> = destinations.iter().map(String::as_str).collect();
        Behind { local: Local::start(&mesh(applications), &destinations) }
    }

    fn address(&self, service: &str) -> SocketAddr {
        let place = POLICIES.iter().position(|(name, _)| *name == service).expect("a service of the table");
        self.local.listening[place]
    }

    /// Who answers: `a`, `b`, or the sidecar's reason.
    async fn ask(&self, service: &str, path: &str, headers: &str) -> String {
        let answer = exchange(self.address(service), "GET", path, headers).await;
        let body = || answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).lines().next().unwrap_or_default();
        reason(&answer).unwrap_or_else(body).to_owned()
    }

    async fn several(&self, service: &str, times: usize, path: &str, headers: &str) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..times {
            answers.push(self.ask(service, path, headers).await);
        }
        answers
    }

    /// Who answers several requests at once, of which each takes a while.
    async fn at_once(&self, service: &str, times: usize) -> Vec<String> {
        let mut running = Vec::new();
        for _ in 0..times {
            let address = self.address(service);
            running.push(tokio::spawn(async move { exchange(address, "GET", "/?wait=600", "").await }));
            // One after the other: who comes second finds the first under way.
            sleep(Duration::from_millis(50)).await;
        }
        let mut answers = Vec::new();
        for one in running {
            let answer = one.await.expect("no panic");
            answers.push(
                reason(&answer).unwrap_or(if answer.starts_with("HTTP/1.1 200") { "ok" } else { "?" }).to_owned(),
            );
        }
        answers
    }
}

/// Why the sidecar answered in the applications' place.
fn reason(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("malla-reason: "))
}

fn both(answers: &[String]) -> bool {
    let who: HashSet<&str> = answers.iter().map(String::as_str).collect();
    who == HashSet::from(["a", "b"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_choose_among_the_applications() {
    let (a, b) = (Application::start("a").await, Application::start("b").await);
    let behind = Behind::start([&a, &b]);

    let turns = behind.several("turns", 10, "/", "").await;
    assert!(both(&turns) && turns.windows(2).all(|two| two[0] != two[1]), "{turns:?}");
    for service in ["chance", "least"] {
        let answers = behind.several(service, 60, "/", "").await;
        assert!(both(&answers), "{service}: {answers:?}");
    }
    // Keys stay, and different keys go to both.
    let hashed = [("ring", "/", "x-user: "), ("maglev", "/", "cookie: x=1; u="), ("maglev", "/?u=", "")];
    for (service, path, header) in hashed {
        let mut first = Vec::new();
        for key in 0..30 {
            let (path, header) = match header {
                "" => (format!("{path}{key}"), String::new()),
                header => (path.to_owned(), format!("{header}{key}\r\n")),
            };
            let answers = behind.several(service, 3, &path, &header).await;
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{service} {path} {header}: {answers:?}");
            first.push(answers[0].clone());
        }
        assert!(both(&first), "{service}: {first:?}");
    }
    let from_here = behind.several("source", 10, "/", "").await;
    assert!(from_here.iter().all(|answer| *answer == from_here[0]), "{from_here:?}");

    // Who fails is left out, if the policy does not say otherwise.
    let failing = behind.several("ejects", 2, "/?status=500", "").await;
    assert!(both(&failing), "{failing:?}");
    let after = behind.several("ejects", 10, "/", "").await;
    assert!(!both(&after), "one is left out, and never all: {after:?}");
    let failing = behind.several("forgives", 2, "/?status=500", "").await;
    assert!(both(&failing) && both(&behind.several("forgives", 2, "/", "").await));
    let checked = async {
        while both(&behind.several("checked", 4, "/", "").await) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, checked).await.expect("a check finds it");
    let checked = behind.several("checked", 6, "/", "").await;
    assert!(checked.iter().all(|answer| answer == "a"), "{checked:?}");
    behind.local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_application_is_helped_by_another_where_a_policy_hedges() {
    let (a, b) = (Application::start("a").await, Application::start("b").await);
    let local = Local::start(&mesh([&a, &b]), &["hedged.shop:80"]);
    let asks = async |path: &str| {
        let begun = Instant::now();
        let answer = exchange(local.listening[0], "GET", path, "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        (answer.contains("\r\n\r\nb\n"), begun.elapsed())
    };
    // Nothing is known of its usual latency yet.
    let (mut waited, patient) = (Duration::ZERO, "/?wait-a=300");
    for _ in 0..2 {
        waited = waited.max(asks(patient).await.1);
    }
    assert!(waited >= Duration::from_millis(300), "the first are alone: {waited:?}");
    for _ in 0..20 {
        asks("/").await;
    }
    let slow = "/?wait-a=3000";
    for _ in 0..4 {
        let (by_other, waited) = asks(slow).await;
        assert!(by_other && waited < Duration::from_secs(2), "{waited:?}");
    }
    let began = a.heads().iter().filter(|head| head.contains(slow)).count();
    assert!(began >= 1, "some began at the slow one");
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_limit_what_is_under_way() {
    let (a, b) = (Application::start("a").await, Application::start("b").await);
    let behind = Behind::start([&a, &b]);
    // The first look at each service.
    for (service, _) in POLICIES {
        assert!(["a", "b"].contains(&&*behind.ask(service, "/", "").await), "{service}");
    }
    for (service, times, expected) in [
        ("turns", 3, &["ok", "ok", "ok"][..]),
        ("requests", 2, &["ok", "circuit_open"]),
        ("connections", 2, &["ok", "circuit_open"]),
        ("none-waits", 3, &["ok", "ok", "circuit_open"]),
        ("each", 3, &["ok", "ok", "circuit_open"]),
        ("overload", 2, &["ok", "overloaded"]),
    ] {
        assert_eq!(behind.at_once(service, times).await, expected, "{service}");
        assert!(["a", "b"].contains(&&*behind.ask(service, "/", "").await), "{service}: it closes again");
    }
    let begun = Instant::now();
    assert_eq!(behind.at_once("pending", 2).await, ["ok", "circuit_open"]);
    assert!(begun.elapsed() >= Duration::from_millis(600), "the first was not disturbed");
    let begun = Instant::now();
    assert_eq!(behind.ask("still", "/?wait=5000", "").await, "idle_timeout");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    behind.local.stop().await;
}

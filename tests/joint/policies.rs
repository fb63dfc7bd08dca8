//! Fields of `TrafficPolicy`, from YAML through the control server, xDS and the sidecar to which of two real applications answers, and
//! how. What takes minutes or chance to show is shown in simulated time (`malla-proxy`, `simulation`).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::application::Application;
use crate::documents::{extension, own, policy, route, service};
use crate::local::{CLIENT, Local, PATIENCE, exchange};

/// Services behind which both applications are, each with its policy.
const POLICIES: &[(&str, &str)] = &[
    ("turns", "loadBalancer: {algorithm: roundRobin}"),
    ("chance", "loadBalancer: {algorithm: random}"),
    ("least", "loadBalancer: {algorithm: leastRequest}"),
    ("least-of-all", "loadBalancer: {algorithm: leastRequest, choices: 10}"),
    ("ring", "loadBalancer: {algorithm: ringHash, hash: [{header: x-user}]}"),
    ("maglev", "loadBalancer: {algorithm: maglev, tableSize: 1009, hash: [{cookie: u}, {queryParameter: u}]}"),
    (
        "bounded",
        "loadBalancer: {algorithm: ringHash, minimumRingSize: 16, boundedLoadPercent: 110, hash: [{header: x-user}]}",
    ),
    ("source", "loadBalancer: {algorithm: ringHash, hash: [{sourceAddress: true}]}"),
    ("requests", "limits: {maxRequests: 1}"),
    ("connections", "limits: {maxConnections: 1}, loadBalancer: {algorithm: leastRequest}"),
    (
        "none-waits",
        "limits: {maxPendingRequests: 0, perEndpoint: {maxConnections: 1}}, loadBalancer: {algorithm: roundRobin}",
    ),
    ("pending", "limits: {maxConnections: 1, pendingTimeout: 100ms}"),
    ("each", "limits: {perEndpoint: {maxRequests: 1}}"),
    ("overload", "overload: {adaptiveConcurrency: {minimum: 1, maximum: 1}}"),
    (
        "shedding",
        "overload: {adaptiveConcurrency: {minimum: 10, maximum: 10, interval: 1s}, priorityHeader: x-priority}",
    ),
    ("hedged", "loadBalancer: {algorithm: roundRobin}"),
    ("still", "timeouts: {requestIdle: 200ms}"),
    ("ejects", "loadBalancer: {algorithm: roundRobin}, outlierDetection: {consecutive5xx: 1}"),
    (
        "briefly",
        "loadBalancer: {algorithm: roundRobin}, \
         outlierDetection: {consecutiveGatewayFailures: 1, baseEjectionTime: 1s, maxEjectionTime: 1s}",
    ),
    (
        "nobody-out",
        "loadBalancer: {algorithm: roundRobin}, outlierDetection: {consecutiveGatewayFailures: 0, consecutive5xx: 0}",
    ),
    ("no-budget", "retryBudget: {percent: 0, minRetriesPerSecond: 0}"),
    ("no-retries", "limits: {maxRetries: 0}"),
    ("forgives", "loadBalancer: {algorithm: roundRobin}, outlierDetection: {disabled: true}"),
    ("later", "loadBalancer: {algorithm: roundRobin}, outlierDetection: {disabled: true}"),
    (
        "panics",
        "loadBalancer: {algorithm: roundRobin, panicThresholdPercent: 60}, \
         healthCheck: {interval: 100ms, unhealthyThreshold: 1, http: {path: /refused-by-b}}",
    ),
    (
        "checked",
        "loadBalancer: {algorithm: roundRobin, panicThresholdPercent: 0}, \
         healthCheck: {interval: 100ms, unhealthyThreshold: 1, http: {path: /refused-by-b}}",
    ),
];

fn mesh(applications: [&Application; 2]) -> String {
    let addresses = applications.map(|application| application.address);
    let services = POLICIES.iter().map(|(name, fields)| service(name, "http", &addresses) + &policy(name, fields));
    let rule = |service: &str, rest: &str| {
        route(
            "HTTPRoute",
            service,
            service,
            "",
            &[format!("  - {{{rest}, backendRefs: [{{name: {service}, port: 80}}]}}\n")],
        )
    };
    let routes = [
        rule("hedged", &format!("filters: [{}]", extension("RetryPolicy", "hedged"))),
        own("RetryPolicy", "hedged", "{hedging: {quantile: 50, minimumDelay: 50ms, minimumSamples: 10}}"),
        rule("no-budget", "retry: {codes: [503]}"),
        rule("no-retries", "retry: {codes: [503]}"),
    ];
    CLIENT.to_owned() + &routes.concat() + &services.collect::<String>()
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

    /// What is answered to several requests at once, one with each of these headers, of which each takes so long.
    async fn held(&self, service: &str, milliseconds: u32, headers: &[&'static str]) -> Vec<String> {
        let mut running = Vec::new();
        for header in headers {
            let (address, header, path) = (self.address(service), *header, format!("/?wait={milliseconds}"));
            running.push(tokio::spawn(async move { exchange(address, "GET", &path, header).await }));
            // One after the other: who comes second finds the first under way.
            sleep(Duration::from_millis(50)).await;
        }
        let mut answers = Vec::new();
        for one in running {
            answers.push(one.await.expect("no panic"));
        }
        answers
    }

    /// Whether several requests at once, of which each takes a while, are answered well, or why not.
    async fn at_once(&self, service: &str, times: usize) -> Vec<String> {
        let answers = self.held(service, 600, &vec![""; times]).await;
        let outcome = |answer: &String| {
            let well = if answer.starts_with("HTTP/1.1 200") { "ok" } else { "?" };
            reason(answer).unwrap_or(well).to_owned()
        };
        answers.iter().map(outcome).collect()
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
    for service in ["chance", "least", "least-of-all"] {
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
    // What is too much for the endpoint of a key goes to the other.
    let held = behind.held("bounded", 600, &["x-user: u\r\n"; 4]).await;
    let by = |name: &str| held.iter().filter(|answer| answer.contains(&format!("\r\n\r\n{name}\n"))).count();
    assert!(by("a") > 0 && by("b") > 0 && by("a") + by("b") == 4, "{held:?}");
    let from_here = behind.several("source", 10, "/", "").await;
    assert!(from_here.iter().all(|answer| *answer == from_here[0]), "{from_here:?}");

    // Who fails is left out, if the policy does not say otherwise.
    let failing = behind.several("ejects", 2, "/?status=500", "").await;
    assert!(both(&failing), "{failing:?}");
    let after = behind.several("ejects", 10, "/", "").await;
    assert!(!both(&after), "one is left out, and never all: {after:?}");
    let failing = behind.several("forgives", 2, "/?status=500", "").await;
    assert!(both(&failing) && both(&behind.several("forgives", 2, "/", "").await));
    behind.several("nobody-out", 20, "/refused-by-b", "").await;
    let after = behind.several("nobody-out", 4, "/", "").await;
    assert!(both(&after), "no number of failures is too many: {after:?}");
    let failed = behind.several("briefly", 2, "/refused-by-b", "").await;
    assert!(both(&failed), "{failed:?}");
    let ejected = "malla_outlier_ejections_total{cluster=\"briefly.shop:80\",cause=\"consecutive_gateway_failures\"} 1";
    behind.local.wait_metric(ejected).await;
    let back = async { while !both(&behind.several("briefly", 40, "/", "").await) {} };
    timeout(PATIENCE, back).await.expect("it comes back after a second");
    // Who asks to be left alone is, for so long.
    let asked = behind.several("later", 2, "/?later-a=5", "").await;
    assert!(both(&asked), "{asked:?}");
    let meanwhile = behind.several("later", 6, "/", "").await;
    assert!(meanwhile.iter().all(|answer| answer == "b"), "{meanwhile:?}");
    let back = async { while !both(&behind.several("later", 4, "/", "").await) {} };
    timeout(PATIENCE, back).await.expect("it comes back");
    for service in ["no-budget", "no-retries"] {
        let answer = exchange(behind.address(service), "GET", "/?status=503", "").await;
        let told = "malla-not-retried: retry_budget_spent\r\n";
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(told), "{service}: {answer}");
    }
    let checked = async {
        while both(&behind.several("checked", 4, "/", "").await) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, checked).await.expect("a check finds it");
    let checked = behind.several("checked", 6, "/", "").await;
    assert!(checked.iter().all(|answer| answer == "a"), "{checked:?}");
    // Half of them is fewer than this policy trusts its checks with.
    behind.local.wait_metric("malla_endpoints{cluster=\"panics.shop:80\",standing=\"failing_checks\"} 1").await;
    assert!(both(&behind.several("panics", 4, "/", "").await));
    behind.local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_waited_for_as_long_as_a_policy_says() {
    // Whoever listens without accepting, and has as many waiting as it wants, is silent to the next.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let silent = socket.listen(1).expect("listens");
    let address = silent.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        waiting.push(connected.expect("it is there"));
    }
    // Longer than the default, also with all that is tried again.
    let mesh =
        CLIENT.to_owned() + &service("silent", "http", &[address]) + &policy("silent", "timeouts: {connect: 4s}");
    let local = Local::start(&mesh, &["silent.shop:80"]);
    let begun = Instant::now();
    let answer = exchange(local.listening[0], "GET", "/", "").await;
    assert_eq!(reason(&answer), Some("connect_timeout"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
    local.stop().await;
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
    // Seven of ten: the rest is for what matters more.
    let headers = [&["x-priority: none\r\n"; 7][..], &["x-priority: low\r\n", "x-priority: high\r\n"]].concat();
    let answers = behind.held("shedding", 2000, &headers).await;
    let refused: Vec<Option<&str>> = answers.iter().map(|answer| reason(answer)).collect();
    assert_eq!(refused, [&[None; 7][..], &[Some("overloaded"), None]].concat());
    let begun = Instant::now();
    assert_eq!(behind.at_once("pending", 2).await, ["ok", "circuit_open"]);
    assert!(begun.elapsed() >= Duration::from_millis(600), "the first was not disturbed");
    let begun = Instant::now();
    assert_eq!(behind.ask("still", "/?wait=5000", "").await, "idle_timeout");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    behind.local.stop().await;
}

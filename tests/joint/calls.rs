//! Each field of a `GRPCRoute` and of the policies that it names, from YAML through the control server, xDS and the sidecar to what a
//! real application of gRPC receives and what its client sees of the answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::callee::{Callee, call};
use crate::documents::{extension, own, route, service};
use crate::local::{CLIENT, Local, PATIENCE};

const TO_A: &str = "backendRefs: [{name: a, port: 80}]";
const TO_B: &str = "backendRefs: [{name: b, port: 80}]";
const TO_BOTH: &str = "backendRefs: [{name: both, port: 80}]";

/// A rule for a method.
fn of(method: &str, rest: &str) -> String {
    format!("  - {{matches: [{{method: {{{method}}}}}], {rest}}}\n")
}

fn mesh([a, b]: [&Callee; 2]) -> String {
    let filtered =
        |service: &str, filters: &str| of(&format!("service: {service}"), &format!("filters: [{filters}], {TO_A}"));
    let matches = [
        of("service: shop.Exact, method: Get", TO_A),
        of("service: shop.Any", TO_A),
        of("service: shop.Any, method: Special", TO_B),
        of("method: Anywhere", TO_B),
        of(r"type: RegularExpression, service: 'shop\.Re[0-9]+', method: 'Do[A-Z]?'", TO_A),
        format!(
            "  - {{matches: [{{method: {{service: shop.H}}, headers: [{{name: X-Exact, value: 'yes'}}, \
             {{name: x-re, type: RegularExpression, value: 'a+'}}]}}], {TO_A}}}\n"
        ),
        format!(
            "  - {{name: two, matches: [{{method: {{service: shop.First}}}}, {{method: {{service: shop.Second}}}}], {TO_A}}}\n"
        ),
        format!("  - {{matches: [{{headers: [{{name: x-only, value: header}}]}}], {TO_B}}}\n"),
    ];
    let headers =
        "{set: [{name: x-set, value: new}], add: [{name: x-add, value: more}], remove: [x-internal, x-secret]}";
    let request = format!("{{type: RequestHeaderModifier, requestHeaderModifier: {headers}}}");
    let response = format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {headers}}}");
    let mirror =
        |share: &str| format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 80}}, {share}}}}}");
    let filters = [
        filtered("f.Request", &request),
        filtered("f.Response", &response),
        of("service: f.Backend", &format!("backendRefs: [{{name: a, port: 80, filters: [{request}, {response}]}}]")),
        filtered("f.Mirror", &format!("{}, {}", mirror("percent: 100"), mirror("percent: 0"))),
        filtered("f.Abort", &extension("FaultInjection", "abort")),
        filtered("f.AbortHttp", &extension("FaultInjection", "abort-http")),
        filtered("f.Delay", &extension("FaultInjection", "delay")),
        filtered("f.Limit", &extension("RateLimit", "limit")),
    ];
    let failing = [
        of("service: r.Plain", TO_A),
        filtered("r.Status", &extension("RetryPolicy", "status")),
        of("service: r.Elsewhere", &format!("filters: [{}], {TO_BOTH}", extension("RetryPolicy", "status"))),
        filtered("r.Time", &extension("RetryPolicy", "time")),
        of(
            "service: r.TimeElsewhere",
            &format!("filters: [{}], {TO_BOTH}", extension("RetryPolicy", "time-elsewhere")),
        ),
        of("service: r.Hedged", &format!("filters: [{}], {TO_BOTH}", extension("RetryPolicy", "hedged"))),
        of("service: w.Split", "backendRefs: [{name: a, port: 80, weight: 3}, {name: b, port: 80, weight: 1}]"),
        of("service: w.Nobody", "backendRefs: [{name: a, port: 80, weight: 0}]"),
        of("service: s.Header", &format!("sessionPersistence: {{type: Header, sessionName: x-s}}, {TO_BOTH}")),
        of("service: s.Cookie", &format!("sessionPersistence: {{sessionName: c}}, {TO_BOTH}")),
    ];
    let host = [format!("  - {{{TO_B}}}\n")];
    [
        CLIENT.to_owned(),
        service("web", "grpc", &[]),
        service("a", "grpc", &[a.address]),
        service("b", "grpc", &[b.address]),
        service("both", "grpc", &[a.address, b.address]),
        own("FaultInjection", "abort", "{abort: {grpcStatus: DataLoss}}"),
        own("FaultInjection", "abort-http", "{abort: {httpStatus: 503}}"),
        own("FaultInjection", "delay", "{delay: {duration: 150ms}}"),
        own("RateLimit", "limit", "{requests: 1, interval: 1h}"),
        own("RetryPolicy", "status", "{attempts: 2, grpcStatuses: [Unavailable, Internal], backoff: {base: 1ms}}"),
        own("RetryPolicy", "time", "{attempts: 0, perTryTimeout: 100ms}"),
        own(
            "RetryPolicy",
            "time-elsewhere",
            "{attempts: 1, perTryTimeout: 1500ms, resets: true, methods: any, backoff: {base: 1ms}}",
        ),
        own("RetryPolicy", "hedged", "{methods: any, hedging: {quantile: 50, minimumDelay: 50ms, minimumSamples: 10}}"),
        route("GRPCRoute", "matches", "web", "", &matches),
        route("GRPCRoute", "filters", "web", "", &filters),
        route("GRPCRoute", "failing", "web", "", &failing),
        route("GRPCRoute", "host", "web", "  hostnames: ['*.special.example']\n", &host),
    ]
    .concat()
}

/// What is called with which headers, what must be in the answer (the application's message holds the head that it has got), and
/// what must not.
type Case = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const OK: &str = "\ngrpc-status: 0\n";
const FROM_A: &str = "served-by: a\n";
const FROM_B: &str = "served-by: b\n";
/// As every answer of gRPC: the status of HTTP says nothing.
const NO_ROUTE: &[&str] = &["HTTP 200", "grpc-status: 12\n", "malla-reason: no_route\n"];

const CASES: &[Case] = &[
    // Matches, and which of them goes first.
    ("/shop.Exact/Get", "", &[OK, FROM_A, "POST http://web.shop/shop.Exact/Get\n"], &[]),
    ("/shop.Exact/Other", "", NO_ROUTE, &[]),
    ("/shop.Any/Whatever", "", &[OK, FROM_A], &[]),
    ("/shop.Any/Special", "", &[OK, FROM_B], &[]),
    ("/shop.Any/Anywhere", "", &[OK, FROM_A], &[]),
    ("/shop.None/Anywhere", "", &[OK, FROM_B], &[]),
    ("/shop.Re12/Do", "", &[OK, FROM_A], &[]),
    ("/shop.Re12/DoX", "", &[OK, FROM_A], &[]),
    ("/shop.Re/Do", "", NO_ROUTE, &[]),
    ("/shopxRe12/Do", "", NO_ROUTE, &[]),
    ("/shop.Re12/Done", "", NO_ROUTE, &[]),
    ("/shop.H/M", "x-exact: yes\nx-re: aaa\n", &[OK, FROM_A], &[]),
    ("/shop.H/M", "x-exact: yes\nx-re: aab\n", NO_ROUTE, &[]),
    ("/shop.H/M", "x-re: a\n", NO_ROUTE, &[]),
    ("/shop.First/M", "", &[OK, FROM_A], &[]),
    ("/shop.Second/M", "", &[OK, FROM_A], &[]),
    ("/shop.Third/M", "", NO_ROUTE, &[]),
    ("/shop.Third/M", "x-only: header\n", &[OK, FROM_B], &[]),
    // Changes of headers: of a rule, and of a backend.
    (
        "/f.Request/M",
        "x-set: old\nx-add: one\nx-secret: s\n",
        &[OK, "x-set: new\n", "x-add: one\n", "x-add: more\n"],
        &["x-secret", "x-set: old"],
    ),
    ("/f.Response/M", "", &[OK, FROM_A, "x-set: new\n", "x-add: more\n"], &["x-internal"]),
    ("/f.Backend/M", "x-secret: s\n", &[OK, "x-set: new\n", "x-add: more\n"], &["x-secret", "x-internal"]),
    // Faults and limits, in gRPC's own form.
    ("/f.Abort/M", "", &["HTTP 200", "grpc-status: 15\n", "malla-reason: fault_injected\n"], &[FROM_A]),
    ("/f.AbortHttp/M", "", &["HTTP 200", "grpc-status: 14\n", "malla-reason: fault_injected\n"], &[FROM_A]),
    ("/f.Limit/M", "", &[OK, FROM_A], &[]),
    ("/f.Limit/M", "", &["HTTP 200", "grpc-status: 8\n", "malla-reason: rate_limited\n"], &[FROM_A]),
    // Retries: on a status without a message, and on no other.
    ("/r.Plain/M", "do: once=14\n", &["grpc-status: 14\n"], &["malla-reason"]),
    ("/r.Status/M", "do: once=14\n", &[OK, FROM_A], &[]),
    ("/r.Status/M", "do: once=13\n", &[OK, FROM_A], &[]),
    ("/r.Status/M", "do: once=5\n", &["grpc-status: 5\n"], &[]),
    ("/r.Status/M", "do: late=14\n", &["\ngrpc-status: 14\n", FROM_A], &[]),
    ("/r.Elsewhere/M", "do: status-a=14\n", &[OK, FROM_B], &[]),
    ("/r.Elsewhere/M", "do: status-b=14\n", &[OK, FROM_A], &[]),
    // The time of a try, and of the call.
    ("/r.Time/M", "do: wait=3000\n", &["HTTP 200", "grpc-status: 4\n", "malla-reason: try_timeout\n"], &[]),
    ("/r.TimeElsewhere/M", "do: wait-a=15000\n", &[OK, FROM_B], &[]),
    ("/r.TimeElsewhere/N", "do: wait-b=15000\n", &[OK, FROM_A], &[]),
    ("/r.Plain/M", "grpc-timeout: 99S\n", &[OK, "grpc-timeout: 9"], &["grpc-timeout: 99"]),
    (
        "/r.Plain/M",
        "do: wait=3000\ngrpc-timeout: 100m\n",
        &["HTTP 200", "grpc-status: 4\n", "malla-reason: request_timeout\n"],
        &[],
    ),
    ("/w.Nobody/M", "", &["HTTP 200", "grpc-status: 14\n", "malla-reason: no_endpoints\n"], &[]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_field_of_a_grpc_route_reaches_the_application_and_the_client() {
    let (a, b) = (Callee::start("a").await, Callee::start("b").await);
    let local = Local::start(&mesh([&a, &b]), &["web.shop:80"]);
    let web = local.listening[0];
    let asks = async |path: &str, headers: &str| call(web, "web.shop", path, headers).await;
    for (path, headers, expected, not_expected) in CASES {
        let answer = asks(path, headers).await;
        for part in *expected {
            assert!(answer.contains(part), "{path} {headers:?}: {part:?} is not in\n{answer}");
        }
        for part in *not_expected {
            assert!(!answer.contains(part), "{path} {headers:?}: {part:?} is in\n{answer}");
        }
    }
    // By the host of the call.
    for (host, from) in [("x.special.example", FROM_B), ("special.example", FROM_A)] {
        let answer = call(web, host, "/shop.Exact/Get", "").await;
        assert!(answer.contains(from), "{host}: {answer}");
    }
    let begun = Instant::now();
    assert!(asks("/f.Delay/M", "").await.contains(OK));
    assert!(begun.elapsed() >= Duration::from_millis(150), "it waits: {:?}", begun.elapsed());
    // A copy of all, and one of none.
    assert!(asks("/f.Mirror/M", "").await.contains(FROM_A));
    let copies = || b.heads().iter().filter(|head| head.contains("/f.Mirror/M\n")).count();
    let copied = async {
        while copies() < 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, copied).await.expect("the copy arrives");
    // Of each four in a row three and one.
    let mut to_b = 0;
    for _ in 0..40 {
        to_b += usize::from(asks("/w.Split/M", "").await.contains(FROM_B));
    }
    assert_eq!((to_b, copies()), (10, 1));
    // A client comes back to who answered it first.
    for (path, brings) in [("/s.Header/M", "x-s: "), ("/s.Cookie/M", "set-cookie: ")] {
        let first = asks(path, "").await;
        let line = first.lines().find_map(|line| line.strip_prefix(brings));
        let token = line.and_then(|line| line.split(';').next()).unwrap_or_else(|| panic!("no session in\n{first}"));
        let back = if brings == "x-s: " { format!("x-s: {token}\n") } else { format!("cookie: {token}\n") };
        let who = if first.contains(FROM_A) { FROM_A } else { FROM_B };
        for _ in 0..8 {
            let again = asks(path, &back).await;
            assert!(again.contains(who), "{path} with {back}: {again}\nafter {first}");
        }
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_call_is_helped_by_another_application_where_its_methods_may_be_repeated() {
    let (a, b) = (Callee::start("a").await, Callee::start("b").await);
    let local = Local::start(&mesh([&a, &b]), &["web.shop:80"]);
    let asks = async |headers: &str| call(local.listening[0], "web.shop", "/r.Hedged/M", headers).await;
    for _ in 0..20 {
        assert!(asks("").await.contains(OK));
    }
    for _ in 0..4 {
        let begun = Instant::now();
        let answer = asks("do: wait-a=5000\n").await;
        assert!(answer.contains(FROM_B) && begun.elapsed() < Duration::from_secs(4), "{:?} {answer}", begun.elapsed());
    }
    local.stop().await;
}

//! Each field of a route and of the policies that it names, from YAML through the control server, xDS and the sidecar to what a real
//! application receives and what its client sees of the answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::application::Application;
use crate::documents::{extension, own, route, service};
use crate::local::{CLIENT, Local, PATIENCE, exchange};

/// A rule for all below a path.
fn at(path: &str, rest: &str) -> String {
    format!("  - {{matches: [{{path: {{value: {path}}}}}], {rest}}}\n")
}

const TO_A: &str = "backendRefs: [{name: a, port: 80}]";

fn mesh(applications: [&Application; 2]) -> String {
    let to_a = |path: &str, filters: &str| at(path, &format!("filters: [{filters}], {TO_A}"));
    let redirect =
        |path: &str, spec: &str| at(path, &format!("filters: [{{type: RequestRedirect, requestRedirect: {spec}}}]"));
    let matching = |matches: &str| format!("  - {{matches: [{{{matches}}}], {TO_A}}}\n");
    let matches = [
        matching("path: {type: Exact, value: /exact}"),
        matching("path: {type: PathPrefix, value: /prefix}"),
        matching("path: {type: RegularExpression, value: '/re[0-9]+'}"),
        matching(
            "path: {value: /h}, headers: [{name: X-Exact, value: 'yes'}, {name: x-re, type: RegularExpression, value: 'a+'}]",
        ),
        matching(
            "path: {value: /q}, queryParams: [{name: e, value: '1'}, {name: r, type: RegularExpression, value: '[0-9]+'}]",
        ),
        matching("path: {value: /m}, method: DELETE"),
    ];
    let headers =
        "{set: [{name: x-set, value: new}], add: [{name: x-add, value: more}], remove: [x-internal, x-secret]}";
    let request = format!("{{type: RequestHeaderModifier, requestHeaderModifier: {headers}}}");
    let response = format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {headers}}}");
    let rewrite = |spec: &str| format!("{{type: URLRewrite, urlRewrite: {spec}}}");
    let mirror =
        |share: &str| format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 80}}{share}}}}}");
    let changes = [
        to_a("/request", &request),
        to_a("/response", &response),
        at("/backend", &format!("backendRefs: [{{name: a, port: 80, filters: [{request}, {response}]}}]")),
        to_a("/host", &rewrite("{hostname: other.example}")),
        to_a("/short", &rewrite("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /long/er}}")),
        to_a("/whole", &rewrite("{path: {type: ReplaceFullPath, replaceFullPath: /one}}")),
        to_a("/twice", &format!("{}, {}", mirror(""), mirror(", percent: 100"))),
        to_a("/half", &format!("{}, {}", mirror(", percent: 0"), mirror(", fraction: {numerator: 0, denominator: 7}"))),
        to_a(
            "/cors",
            "{type: CORS, cors: {allowOrigins: ['https://*.example'], allowMethods: [PUT], allowHeaders: [x-a], \
             exposeHeaders: [x-internal], maxAge: 60, allowCredentials: true}}",
        ),
    ];
    let redirects = [
        redirect("/r-scheme", "{scheme: https, statusCode: 301}"),
        redirect("/r-host", "{hostname: new.example, port: 8443, statusCode: 308}"),
        redirect("/r-prefix", "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /to}, statusCode: 303}"),
        redirect("/r-full", "{path: {type: ReplaceFullPath, replaceFullPath: /all}, statusCode: 307}"),
        redirect("/r-usual", "{hostname: new.example}"),
    ];
    let failing = [
        at("/request-time", &format!("timeouts: {{request: 100ms}}, {TO_A}")),
        at("/try-time", &format!("timeouts: {{backendRequest: 100ms}}, retry: {{attempts: 0}}, {TO_A}")),
        at("/again", &format!("retry: {{attempts: 2, codes: [503], backoff: 1ms}}, {TO_A}")),
        to_a("/policy", &extension("RetryPolicy", "any")),
        to_a("/abort", &extension("FaultInjection", "abort")),
        to_a("/tester", &extension("FaultInjection", "tester")),
        to_a("/delay", &extension("FaultInjection", "delay")),
        to_a("/limit", &extension("RateLimit", "own")),
        to_a("/followed", &extension("TraceSampling", "all")),
        to_a("/not-followed", &extension("TraceSampling", "none")),
        at(
            "/cookie",
            &format!(
                "sessionPersistence: {{sessionName: c, absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}, {TO_A}"
            ),
        ),
        at("/idle", &format!("sessionPersistence: {{type: Header, sessionName: x-idle, idleTimeout: 1s}}, {TO_A}")),
        at("/token", &format!("sessionPersistence: {{type: Header, sessionName: x-s}}, {TO_A}")),
        at("/nobody", "backendRefs: [{name: a, port: 80, weight: 0}]"),
        at("/split", "backendRefs: [{name: a, port: 80, weight: 3}, {name: b, port: 80, weight: 1}]"),
    ];
    let hosts = ["  - {backendRefs: [{name: also-b, port: 80}]}\n".to_owned()];
    // A service of another namespace: its owners' route, and the callers' own.
    let there = |document: String| document.replace("namespace: shop", "namespace: other");
    let owners = ["  - {filters: [{type: RequestRedirect, requestRedirect: {hostname: owners.example}}]}\n".to_owned()];
    let callers = route("HTTPRoute", "callers", "remote", "", &[format!("  - {{{TO_A}}}\n")]);
    let [a, b] = applications;
    [
        CLIENT.to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
         spec: {ports: [{name: http, port: 80, appProtocol: http}]}\n---\n"
            .to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: site, namespace: outer}\n\
         spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}\n---\n"
            .to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: also-b, namespace: shop}\n\
         spec: {type: ExternalName, externalName: b.shop.svc}\n---\n"
            .to_owned(),
        service(a.name, "http", &[a.address]),
        service(b.name, "http", &[b.address]),
        own("RetryPolicy", "any", "{attempts: 1, codes: [500], methods: any, backoff: {base: 1ms}}"),
        own("FaultInjection", "abort", "{abort: {httpStatus: 418}}"),
        own("FaultInjection", "tester", "{abort: {httpStatus: 418}, onlyWithHeader: {name: x-tester, value: '1'}}"),
        own("FaultInjection", "delay", "{delay: {duration: 150ms}}"),
        own("TraceSampling", "all", "{percent: 100}"),
        own("TraceSampling", "none", "{percent: 0}"),
        own(
            "RateLimit",
            "own",
            "{requests: 100, interval: 1h, clients: [{serviceAccount: shop/client, requests: 2, interval: 1h}], \
             header: {name: x-plan, values: [{value: gold, requests: 1, interval: 1h}]}}",
        ),
        route("HTTPRoute", "matches", "web", "", &matches),
        route("HTTPRoute", "changes", "web", "", &changes),
        route("HTTPRoute", "redirects", "web", "", &redirects),
        route("HTTPRoute", "failing", "web", "", &failing),
        there(service("remote", "http", &[]) + &route("HTTPRoute", "owners", "remote", "", &owners)),
        callers.replace("name: remote,", "name: remote, namespace: other,"),
        route("HTTPRoute", "hosts", "web", "  hostnames: ['*.special.example']\n", &hosts),
    ]
    .concat()
}

/// What is asked, what must be in the answer (the application's answer holds the request that it has got), and what must not.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const OK: &str = "HTTP/1.1 200";
const FROM_A: &str = "\r\n\r\na\n";
const NOT_SAMPLED: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00\r\n";
const FROM_B: &str = "\r\n\r\nb\n";
const NO_ROUTE: &[&str] = &["HTTP/1.1 404", "malla-reason: no_route"];

const CASES: &[Case] = &[
    // Matches.
    ("GET", "/exact", "", &[OK, FROM_A, "GET /exact HTTP"], &[]),
    ("GET", "/exact/", "", NO_ROUTE, &[]),
    ("GET", "/prefix/x?y=z", "", &[OK, "GET /prefix/x?y=z HTTP"], &[]),
    ("GET", "/prefixed", "", NO_ROUTE, &[]),
    ("GET", "/re12", "", &[OK], &[]),
    ("GET", "/re12x", "", NO_ROUTE, &[]),
    ("GET", "/h", "x-exact: yes\r\nx-re: aaa\r\n", &[OK], &[]),
    ("GET", "/h", "x-exact: yes\r\nx-re: aab\r\n", NO_ROUTE, &[]),
    ("GET", "/h", "x-re: a\r\n", NO_ROUTE, &[]),
    ("GET", "/q?r=77&e=1", "", &[OK], &[]),
    ("GET", "/q?r=7x&e=1", "", NO_ROUTE, &[]),
    ("GET", "/q?r=77", "", NO_ROUTE, &[]),
    ("DELETE", "/m", "", &[OK, "DELETE /m"], &[]),
    ("GET", "/m", "", NO_ROUTE, &[]),
    ("GET", "/exact", "host: x.special.example\r\n", &[OK, FROM_B], &[]),
    ("GET", "/exact", "host: special.example\r\n", &[OK, FROM_A], &[]),
    // Changes of headers: of a rule, and of a backend.
    (
        "GET",
        "/request",
        "x-set: old\r\nx-add: one\r\nx-secret: s\r\n",
        &[OK, "x-set: new", "x-add: one", "x-add: more"],
        &["x-secret", "x-set: old"],
    ),
    ("GET", "/response", "", &[OK, "x-set: new", "x-add: more", "server: a"], &["x-internal"]),
    ("GET", "/backend", "x-secret: s\r\n", &[OK, "x-set: new", "x-add: more"], &["x-secret", "x-internal"]),
    // Rewrites, and redirects.
    ("GET", "/host/x", "", &[OK, "GET /host/x HTTP", "host: other.example"], &["host: web.shop"]),
    ("GET", "/short/x?q", "", &[OK, "GET /long/er/x?q HTTP"], &[]),
    ("GET", "/short", "", &[OK, "GET /long/er HTTP"], &[]),
    ("GET", "/whole/x/y?q", "", &[OK, "GET /one?q HTTP"], &[]),
    ("GET", "/r-scheme/x?q", "", &["HTTP/1.1 301", "location: https://web.shop/r-scheme/x?q\r\n"], &[]),
    ("GET", "/r-host", "", &["HTTP/1.1 308", "location: http://new.example:8443/r-host\r\n"], &[]),
    ("GET", "/r-prefix/x", "", &["HTTP/1.1 303", "location: http://web.shop/to/x\r\n"], &[]),
    ("GET", "/r-full/x", "", &["HTTP/1.1 307", "location: http://web.shop/all\r\n"], &[]),
    ("GET", "/r-usual", "", &["HTTP/1.1 302", "location: http://new.example/r-usual\r\n"], &[]),
    // Other origins: asked in advance, asked, and one that may not.
    (
        "OPTIONS",
        "/cors",
        "origin: https://shop.example\r\naccess-control-request-method: PUT\r\n",
        &[
            "HTTP/1.1 204",
            "access-control-allow-origin: https://shop.example",
            "access-control-allow-methods: PUT",
            "access-control-allow-headers: x-a",
            "access-control-max-age: 60",
            "access-control-allow-credentials: true",
        ],
        &[FROM_A],
    ),
    (
        "GET",
        "/cors",
        "origin: https://shop.example\r\n",
        &[OK, FROM_A, "access-control-allow-origin: https://shop.example", "access-control-expose-headers: x-internal"],
        &[],
    ),
    ("GET", "/cors", "origin: https://other.test\r\n", &[OK], &["access-control-allow-origin"]),
    // Times, retries, faults, limits.
    ("GET", "/request-time?wait=2000", "", &["HTTP/1.1 504", "malla-reason: request_timeout"], &[]),
    ("GET", "/try-time?wait=2000", "", &["HTTP/1.1 504", "malla-reason: try_timeout"], &[]),
    ("GET", "/again?once=503", "", &[OK], &[]),
    ("POST", "/again?once=503&p", "content-length: 0\r\n", &["HTTP/1.1 503"], &[]),
    ("POST", "/policy?once=500", "content-length: 0\r\n", &[OK], &[]),
    ("GET", "/abort", "", &["HTTP/1.1 418", "malla-reason: fault_injected"], &[FROM_A]),
    ("GET", "/tester", "", &[OK], &[]),
    ("GET", "/tester", "x-tester: 1\r\n", &["HTTP/1.1 418"], &[]),
    ("GET", "/limit", "x-plan: gold\r\n", &[OK], &[]),
    ("GET", "/limit", "x-plan: gold\r\n", &["HTTP/1.1 429", "malla-reason: rate_limited", "retry-after: "], &[]),
    ("GET", "/limit", "", &[OK], &[]),
    ("GET", "/limit", "", &[OK], &[]),
    ("GET", "/limit", "", &["HTTP/1.1 429"], &[]),
    // Traces, of which this sidecar follows none that begin with it, and those before it have decided about others.
    ("GET", "/followed", "", &[OK, "traceparent: 00-", "-01\r\n"], &[]),
    ("GET", "/not-followed", "", &[OK, "traceparent: 00-", "-00\r\n"], &[]),
    ("GET", "/host", "", &[OK, "traceparent: 00-", "-00\r\n"], &[]),
    ("GET", "/followed", NOT_SAMPLED, &[OK, NOT_SAMPLED], &[]),
    // Sessions, and nobody.
    ("GET", "/cookie", "", &[OK, "set-cookie: c=", "Max-Age=3600", "HttpOnly"], &[]),
    ("GET", "/token", "", &[OK, "x-s: "], &["set-cookie"]),
    ("GET", "/nobody", "", &["HTTP/1.1 500", "malla-reason: no_endpoints"], &[]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_field_of_a_route_reaches_the_application_and_the_client() {
    let (a, b) = (Application::start("a").await, Application::start("b").await);
    let local = Local::start(&mesh([&a, &b]), &["web.shop:80", "site.outer:80", "remote.other:80"]);
    let web = local.listening[0];
    for (method, path, headers, expected, not_expected) in CASES {
        let answer = exchange(web, method, path, headers).await;
        let has = |part: &str| answer.to_ascii_lowercase().contains(&part.to_ascii_lowercase());
        for part in *expected {
            assert!(has(part), "{method} {path} {headers:?}: {part:?} is not in\n{answer}");
        }
        for part in *not_expected {
            assert!(!has(part), "{method} {path} {headers:?}: {part:?} is in\n{answer}");
        }
    }
    // Another name of the service takes its routes.
    let by_other_name = exchange(local.listening[1], "GET", "/request", "x-set: old\r\n").await;
    assert!(by_other_name.contains("x-set: new"), "{by_other_name}");
    // The callers of a namespace follow their own route instead of the owners'.
    let by_own_route = exchange(local.listening[2], "GET", "/", "").await;
    assert!(by_own_route.starts_with(OK) && by_own_route.contains(FROM_A), "{by_own_route}");
    // A session that nobody uses ends, and one that is used goes on.
    let token = |answer: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix("x-idle: ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no token in\n{answer}"))
    };
    let begun = |token: &str| token.split('-').nth(1).map(str::to_owned);
    let mut first = token(&exchange(web, "GET", "/idle", "").await);
    for _ in 0..3 {
        sleep(Duration::from_millis(700)).await;
        let answer = exchange(web, "GET", "/idle", &format!("x-idle: {first}\r\n")).await;
        // Told again once in a second.
        let again = answer.lines().find_map(|line| line.strip_prefix("x-idle: ")).unwrap_or(&first).to_owned();
        assert_eq!(begun(&first), begun(&again), "it goes on: {answer}");
        first = again;
    }
    sleep(Duration::from_millis(3100)).await;
    let second = token(&exchange(web, "GET", "/idle", &format!("x-idle: {first}\r\n")).await);
    assert_ne!(begun(&first), begun(&second), "it has begun anew");
    let begun = Instant::now();
    assert!(exchange(web, "GET", "/delay", "").await.starts_with(OK));
    assert!(begun.elapsed() >= Duration::from_millis(150), "it waits: {:?}", begun.elapsed());
    // Mirrors: both, and none.
    let copies =
        || b.heads().iter().filter(|head| head.starts_with("get /twice") || head.starts_with("get /half")).count();
    assert!(exchange(web, "GET", "/twice", "").await.starts_with(OK));
    let both = async {
        while copies() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, both).await.expect("both copies arrive");
    assert!(exchange(web, "GET", "/half", "").await.starts_with(OK));
    // Weights: of each four in a row three and one, whatever comes between.
    let mut to_b = 0;
    for _ in 0..40 {
        to_b += usize::from(exchange(web, "GET", "/split", "").await.contains(FROM_B));
    }
    assert_eq!(to_b, 10);
    assert_eq!(copies(), 2, "a share of nothing copies nothing");
    local.stop().await;
}

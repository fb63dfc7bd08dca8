//! What routes do to requests and answers, seen by the application and the client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::{HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;

use super::super::Version;
use super::super::testing::{
    Listening, cluster, counted, endpoint, eventually, exchange_raw, knows, outbound, read_until, route, scripted,
    with_policy, worker,
};
use crate::filter::{
    Abort, Bucket, Carrier, Cors, Fault, Filters, HeaderChange, HeaderChanges, HeaderFilters, PathRewrite, RateLimit,
    Redirect, Rewrite, Session, Share, TokenBucket, Write,
};
use crate::policy::{OutlierDetection, Policy};
use crate::snapshot::{Cluster, Mirror, Route, RouteAction, ValueMatch, WeightedClusters};

/// An application that keeps the heads it gets, and answers each with a header.
async fn application() -> (SocketAddr, Arc<Mutex<Vec<String>>>, impl Sized) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = heads.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let kept = kept.clone();
        async move {
            loop {
                let head = read_until(&mut socket, "\r\n\r\n").await;
                if head.is_empty() {
                    return;
                }
                kept.lock().push(head.to_ascii_lowercase());
                let _ = socket
                    .write_all(b"HTTP/1.1 200 OK\r\nserver: app\r\nx-internal: 1\r\ncontent-length: 2\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    (address, heads, running)
}

async fn sidecar(route: Route) -> Listening {
    outbound(worker(knows(route), "web"), Version::Http1).await
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: cart\r\n{headers}connection: close\r\n\r\n")
}

fn write(name: &'static str, value: &'static str) -> HeaderChange {
    HeaderChange::Write(HeaderName::from_static(name), HeaderValue::from_static(value), Write::Replace)
}

fn remove(name: &'static str) -> HeaderChange {
    HeaderChange::Remove(HeaderName::from_static(name))
}

#[tokio::test]
async fn headers_are_changed_on_the_way_and_on_the_way_back() {
    let (address, heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let headers = HeaderFilters {
        request: HeaderChanges(vec![remove("x-secret"), write("x-added", "1")]),
        response: HeaderChanges(vec![remove("x-internal"), write("server", "malla")]),
    };
    let filters = Filters { headers, ..Filters::default() };
    let sidecar = sidecar(Route { filters: filters.shared(), ..route(&cluster) }).await;
    let answer = exchange_raw(sidecar.address, &get("/", "x-secret: s\r\nx-added: forged\r\n")).await;
    let head = heads.lock().pop().expect("a request");
    assert!(head.contains("x-added: 1\r\n") && !head.contains("forged") && !head.contains("x-secret"), "{head}");
    assert!(answer.contains("server: malla\r\n") && !answer.contains("x-internal"), "{answer}");
}

/// An application that answers with its name; it can be told to answer 503 instead.
async fn named(name: &'static str) -> (SocketAddr, Arc<AtomicBool>, impl Sized) {
    let ill = Arc::new(AtomicBool::new(false));
    let is_ill = ill.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let ill = is_ill.clone();
        async move {
            while !read_until(&mut socket, "\r\n\r\n").await.is_empty() {
                let status = if ill.load(Relaxed) { "503 x" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (address, ill, running)
}

/// The token that an answer gives, as the client sends it back.
fn token(answer: &str, header: bool) -> Option<String> {
    let line =
        answer.lines().find_map(|line| line.strip_prefix(if header { "x-session: " } else { "set-cookie: " }))?;
    let value = line.split(';').next()?;
    Some(if header { format!("x-session: {value}\r\n") } else { format!("cookie: a=b; {value}\r\n") })
}

#[tokio::test]
async fn clients_come_back_to_the_endpoint_that_answered_them_first() {
    for header in [false, true] {
        let (one, _, _one) = named("one").await;
        let (two, _, _two) = named("two").await;
        let (three, _, _three) = named("three").await;
        let (four, _, _four) = named("four").await;
        let clusters = [("a.shop:80", [one, two]), ("b.shop:80", [three, four])]
            .map(|(name, addresses)| (Arc::new(cluster(name, addresses.map(endpoint).into())), 1));
        let carrier = match header {
            true => Carrier::Header("x-session".parse().expect("a name")),
            false => Carrier::Cookie { name: "s".into(), path: "/".into(), permanent: false },
        };
        let filters = Filters { session: Some(Session { carrier, lifetime: None, idle: None }), ..Filters::default() };
        let action = WeightedClusters::new(clusters.clone()).map_or(RouteAction::NoBackend, RouteAction::Forward);
        let sidecar = sidecar(Route { action, filters: filters.shared(), ..route(&clusters[0].0) }).await;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..12 {
            let first = exchange_raw(sidecar.address, &get("/", "")).await;
            let token = token(&first, header).expect("a token");
            let name = first.rsplit("\r\n").next().expect("a body").to_owned();
            for _ in 0..4 {
                let again = exchange_raw(sidecar.address, &get("/", &token)).await;
                assert!(again.ends_with(&format!("\r\n{name}")), "{again} after {first}");
                assert!(self::token(&again, header).is_none(), "nothing new is told: {again}");
            }
            seen.insert(name);
        }
        assert!(seen.len() > 2, "without a token all are used: {seen:?}");
    }
}

#[tokio::test]
async fn a_session_at_an_endpoint_that_fails_moves_with_a_new_token() {
    let (one, _, _one) = named("one").await;
    let (gone, ill, _gone) = named("gone").await;
    let policy =
        Policy { outliers: Some(OutlierDetection { gateway_failures: 2, ..Default::default() }), ..Policy::default() };
    let cluster = Arc::new(with_policy(&[one, gone], policy));
    let carrier = Carrier::Cookie { name: "s".into(), path: "/".into(), permanent: false };
    let filters = Filters { session: Some(Session { carrier, lifetime: None, idle: None }), ..Filters::default() };
    let sidecar = sidecar(Route { filters: filters.shared(), ..route(&cluster) }).await;
    let mut sent = String::new();
    eventually_async("a session at the one that will fail", async || {
        let answer = exchange_raw(sidecar.address, &get("/", "")).await;
        sent = token(&answer, false).expect("a token");
        answer.ends_with("gone")
    })
    .await;
    ill.store(true, Relaxed);
    for _ in 0..2 {
        let failing = exchange_raw(sidecar.address, &get("/", &sent)).await;
        assert!(failing.starts_with("HTTP/1.1 503") && token(&failing, false).is_none(), "{failing}");
    }
    let moved = exchange_raw(sidecar.address, &get("/", &sent)).await;
    assert!(moved.ends_with("one"), "{moved}");
    let fresh = token(&moved, false).expect("a new token");
    assert!(exchange_raw(sidecar.address, &get("/", &fresh)).await.ends_with("one"));
}

async fn eventually_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
    }
    panic!("{what} has not come about");
}

#[tokio::test]
async fn each_backend_has_its_own_changes() {
    let (one, one_heads, _one) = application().await;
    let (two, two_heads, _two) = application().await;
    let clusters = [one, two].map(|address| (Arc::new(cluster("cart.shop:80", vec![endpoint(address)])), 1));
    let of = |value| HeaderFilters { request: HeaderChanges(vec![write("x-version", value)]), ..Default::default() };
    let filters = Filters { clusters: vec![of("one"), of("two")], ..Filters::default() };
    let forward = RouteAction::Forward(WeightedClusters::new(clusters.clone()).expect("weights"));
    let sidecar = sidecar(Route { action: forward, filters: filters.shared(), ..route(&clusters[0].0) }).await;
    for _ in 0..4 {
        assert!(exchange_raw(sidecar.address, &get("/", "")).await.starts_with("HTTP/1.1 200"));
    }
    let (one, two) = (one_heads.lock(), two_heads.lock());
    assert_eq!((one.len(), two.len()), (2, 2), "in turn");
    assert!(
        one.iter().all(|head| head.contains("x-version: one"))
            && two.iter().all(|head| head.contains("x-version: two"))
    );
}

#[tokio::test]
async fn host_and_path_are_rewritten_from_the_canonical_path() {
    let (address, heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let rewrite = Rewrite {
        host: Some("new.example".parse().expect("a host")),
        path: Some(PathRewrite::Prefix { length: 5, with: "/new/".into() }),
    };
    let filters = Filters { rewrite, ..Filters::default() };
    let sidecar = sidecar(Route { filters: filters.shared(), ..route(&cluster) }).await;
    for path in ["/old/a?b=/old/", "/x/../old/a?b=/old/"] {
        exchange_raw(sidecar.address, &get(path, "")).await;
        let head = heads.lock().pop().expect("a request");
        assert!(
            head.starts_with("get /new/a?b=/old/ http/1.1\r\n") && head.contains("host: new.example\r\n"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_answered_without_an_upstream() {
    let cluster = Arc::new(cluster("cart.shop:80", Vec::new()));
    let redirect = Redirect {
        scheme: "https",
        host: None,
        port: None,
        path: None,
        strip_query: false,
        status: StatusCode::PERMANENT_REDIRECT,
    };
    let sidecar = sidecar(Route { action: RouteAction::Redirect(redirect.into()), ..route(&cluster) }).await;
    let answer = exchange_raw(sidecar.address, &get("/a?b=c", "")).await;
    assert!(answer.starts_with("HTTP/1.1 308 ") && answer.contains("location: https://cart/a?b=c\r\n"), "{answer}");
    assert!(!answer.contains("malla-reason"), "it is no failure: {answer}");
    assert_eq!(counted(&sidecar.worker, "malla_requests_total", &["status=\"308\"", "reason=\"\""]), 1);
}

#[tokio::test]
async fn a_fault_answers_in_the_upstreams_place() {
    let (address, heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let fault = Fault { abort: Some((Abort::Http(418), Share(1_000_000))), delay: None };
    let filters = Filters { fault: Some(fault), ..Filters::default() };
    let sidecar = sidecar(Route { filters: filters.shared(), ..route(&cluster) }).await;
    let answer = exchange_raw(sidecar.address, &get("/", "")).await;
    assert!(answer.starts_with("HTTP/1.1 418 ") && answer.contains("malla-reason: fault_injected"), "{answer}");
    let call = get("/", "content-type: application/grpc\r\n");
    let answer = exchange_raw(sidecar.address, &call).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("grpc-status: 2\r\n"), "{answer}");
    assert!(heads.lock().is_empty(), "nothing was forwarded");
    assert_eq!(counted(&sidecar.worker, "malla_requests_total", &["reason=\"fault_injected\""]), 2);
}

#[tokio::test]
async fn a_delay_goes_before_the_request_and_counts_for_the_time_out() {
    let (address, _heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let with = |time| {
        let fault = Fault { delay: Some((std::time::Duration::from_millis(time), Share(1_000_000))), abort: None };
        Filters { fault: Some(fault), ..Filters::default() }.shared()
    };
    let delayed = sidecar(Route { filters: with(50), ..route(&cluster) }).await;
    let begun = std::time::Instant::now();
    assert!(exchange_raw(delayed.address, &get("/", "")).await.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed().as_millis() >= 50);
    let timeout = Some(std::time::Duration::from_millis(50));
    let limited = sidecar(Route { filters: with(60_000), timeout, ..route(&cluster) }).await;
    let answer = exchange_raw(limited.address, &get("/", "")).await;
    assert!(answer.contains("malla-reason: request_timeout"), "{answer}");
}

#[tokio::test]
async fn a_rate_limit_answers_429_and_when_to_come_back() {
    let (address, heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let bucket = |burst| Bucket::new(TokenBucket { tokens: 1, interval: std::time::Duration::from_secs(100), burst });
    let clients = vec![("shop/web".into(), bucket(2))];
    let limit = RateLimit { name: "shop/l".into(), bucket: bucket(1), clients, header: None };
    let sidecar = sidecar(Route { limits: vec![limit.into()], ..route(&cluster) }).await;
    for _ in 0..2 {
        assert!(exchange_raw(sidecar.address, &get("/", "")).await.starts_with("HTTP/1.1 200"));
    }
    let answer = exchange_raw(sidecar.address, &get("/", "")).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("malla-reason: rate_limited"), "{answer}");
    let after = answer.split("retry-after: ").nth(1).and_then(|rest| rest.split('\r').next());
    assert!(after.is_some_and(|seconds| (90..=100).contains(&seconds.parse().unwrap_or(0))), "{answer}");
    let answer = exchange_raw(sidecar.address, &get("/", "content-type: application/grpc\r\n")).await;
    assert!(answer.contains("grpc-status: 8\r\n"), "{answer}");
    assert_eq!(heads.lock().len(), 2);
}

#[tokio::test]
async fn mirrors_get_whole_copies_and_nobody_waits_for_them() {
    let (address, _heads, _running) = application().await;
    let (copied, copies, _copying) = application().await;
    let main = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let nobody = Arc::new(cluster("gone.shop:80", Vec::new()));
    let copy = Arc::new(cluster("copy.shop:80", vec![endpoint(copied)]));
    let mirror = |cluster: &Arc<Cluster>| Mirror { cluster: cluster.clone(), share: Share(1_000_000) };
    let sidecar = sidecar(Route { mirrors: vec![mirror(&nobody), mirror(&copy)], ..route(&main) }).await;
    let answer = exchange_raw(sidecar.address, &get("/a?b", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !answer.contains("malla-"), "{answer}");
    eventually("the copy arrives", || copies.lock().iter().any(|head| head.starts_with("get /a?b "))).await;
    let body = "POST /p HTTP/1.1\r\nhost: cart\r\ncontent-length: 9\r\nconnection: close\r\n\r\nabc\r\n\r\nde";
    assert!(exchange_raw(sidecar.address, body).await.starts_with("HTTP/1.1 200 OK"));
    eventually("with its body", || copies.lock().iter().any(|head| head.contains("post /p ") || head.contains("abc")))
        .await;
    eventually("copies are counted by themselves", || {
        counted(&sidecar.worker, "malla_requests_total", &["service=\"copy.shop:80\"", "status=\"200\""]) == 2
            && counted(&sidecar.worker, "malla_requests_total", &["service=\"gone.shop:80\"", "no_endpoints"]) == 2
    })
    .await;
}

#[tokio::test]
async fn browsers_are_answered_and_told_about_other_origins() {
    let (address, heads, _running) = application().await;
    let cluster = Arc::new(cluster("cart.shop:80", vec![endpoint(address)]));
    let cors = Cors {
        origins: vec![ValueMatch::Exact("https://a.example".into())],
        methods: Some(HeaderValue::from_static("PUT")),
        headers: None,
        expose: Some(HeaderValue::from_static("x-b")),
        max_age: Some(HeaderValue::from_static("5")),
        credentials: false,
        forward_others: false,
    };
    let filters = Filters { cors: Some(cors), ..Filters::default() };
    let sidecar = sidecar(Route { filters: filters.shared(), ..route(&cluster) }).await;
    let ask = |origin: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nhost: cart\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\nconnection: close\r\n\r\n"
        )
    };
    let allowed = exchange_raw(sidecar.address, &ask("https://a.example")).await;
    assert!(
        allowed.starts_with("HTTP/1.1 204 ") && allowed.contains("access-control-allow-methods: PUT\r\n"),
        "{allowed}"
    );
    let denied = exchange_raw(sidecar.address, &ask("https://b.example")).await;
    assert!(denied.starts_with("HTTP/1.1 204 ") && !denied.contains("access-control"), "{denied}");
    assert!(heads.lock().is_empty(), "the sidecar answers");
    let answer = exchange_raw(sidecar.address, &get("/", "origin: https://a.example\r\n")).await;
    assert!(answer.contains("access-control-allow-origin: https://a.example\r\n"), "{answer}");
    assert!(answer.contains("access-control-expose-headers: x-b\r\n") && answer.contains("vary: origin"), "{answer}");
    let answer = exchange_raw(sidecar.address, &get("/", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("access-control"), "{answer}");
}

//! Second tries beside first ones that take long: when there is one, whose answer counts, what is given back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::Version;
use super::super::testing::{
    Listening, cluster, counted, endpoint, eventually, exchange_raw, knows, outbound, read_until, route, scripted,
    worker, worker_of,
};
use crate::filter::Share;
use crate::shared::Worker;
use crate::snapshot::{Cluster, Endpoint, Endpoints, Hedge, Retry, RetryOn, Route};
use crate::trace::{Collector, Tracing};

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
const MS: Duration = Duration::from_millis(1);
const FOREVER: Duration = Duration::from_secs(600);

/// What an application has seen.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicUsize,
    /// Whose client went away before the answer.
    cancelled: AtomicUsize,
}

fn post(length: usize) -> String {
    let body = "x".repeat(length);
    format!("POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// An application that gives this answer so long after the end of a request; an empty one closes the connection.
async fn answering(after: Duration, answer: &'static str, end: &'static str) -> (SocketAddr, Arc<Seen>, impl Sized) {
    let seen = Arc::new(Seen::default());
    let counts = seen.clone();
    let (address, running) = scripted(move |_, mut socket| {
        let counts = counts.clone();
        async move {
            while !read_until(&mut socket, end).await.is_empty() {
                counts.requests.fetch_add(1, Relaxed);
                let mut byte = [0];
                tokio::select! {
                    () = sleep(after) => {}
                    // What is left of a long body is no end.
                    () = async { while matches!(socket.read(&mut byte).await, Ok(1)) {} } => {
                        counts.cancelled.fetch_add(1, Relaxed);
                        return;
                    }
                }
                if answer.is_empty() || socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, seen, running)
}

/// The first try always goes to the first.
fn in_order(addresses: &[SocketAddr]) -> Arc<Cluster> {
    let endpoints = addresses.iter().zip(0..).map(|(address, priority)| Endpoint { priority, ..endpoint(*address) });
    Arc::new(cluster("cart.shop:80", endpoints.collect()))
}

fn hedging(on: RetryOn) -> Retry {
    let hedge = Hedge::Quantile { share: Share(950_000), least: 5 * MS, samples: 100 };
    Retry { on, hedge: Some(hedge), base_interval: MS, ..Retry::default() }
}

fn idempotent() -> RetryOn {
    RetryOn { idempotent_only: true, ..RetryOn::default() }
}

/// As after so many answers of a millisecond.
fn measured(cluster: &Cluster, answers: usize) {
    (0..answers).for_each(|_| cluster.latencies.observe(MS));
}

async fn sidecar(cluster: &Arc<Cluster>, retry: Retry) -> Listening {
    measured(cluster, 100);
    let route = Route { retry, timeout: Some(Duration::from_secs(2)), ..route(cluster) };
    outbound(worker(knows(route), "web"), Version::Http1).await
}

fn hedges(worker: &Worker, result: &str) -> u64 {
    counted(worker, "malla_hedges_total", &[&format!("result=\"{result}\"")])
}

/// Nothing is under way at the service, whatever was begun.
async fn all_is_given_back(cluster: &Cluster) {
    let Endpoints::Set(set) = &cluster.endpoints else { panic!("known addresses") };
    eventually("every place to be free", || {
        let live: u32 = set.iter().map(|endpoint| endpoint.load.live()).sum();
        (live, cluster.usage.requests(), cluster.retry_budget.retrying()) == (0, 0, 0)
    })
    .await;
}

#[tokio::test]
async fn the_second_try_answers_and_the_first_is_cancelled_and_gives_its_places_back() {
    let (hanging, hung, _hanging) = answering(FOREVER, OK, "\r\n\r\n").await;
    let (quick, seen, _quick) = answering(Duration::ZERO, OK, "\r\n\r\n").await;
    let cluster = in_order(&[hanging, quick]);
    let sidecar = sidecar(&cluster, hedging(idempotent())).await;
    let answer = exchange_raw(sidecar.address, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((hung.requests.load(Relaxed), seen.requests.load(Relaxed)), (1, 1));
    assert_eq!((hedges(&sidecar.worker, "won"), hedges(&sidecar.worker, "lost")), (1, 0));
    eventually("the first try to be cancelled", || hung.cancelled.load(Relaxed) == 1).await;
    all_is_given_back(&cluster).await;
    assert_eq!(counted(&sidecar.worker, "malla_retries_total", &[]), 0, "nothing had failed");
}

#[tokio::test]
async fn the_first_try_may_still_answer_and_the_second_is_cancelled() {
    let (slow, _, _slow) = answering(60 * MS, OK, "\r\n\r\n").await;
    let (hanging, hung, _hanging) = answering(FOREVER, OK, "\r\n\r\n").await;
    let cluster = in_order(&[slow, hanging]);
    let sidecar = sidecar(&cluster, hedging(idempotent())).await;
    assert!(exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
    assert_eq!((hedges(&sidecar.worker, "won"), hedges(&sidecar.worker, "lost")), (0, 1));
    eventually("the second try to be cancelled", || hung.cancelled.load(Relaxed) == 1).await;
    all_is_given_back(&cluster).await;
}

#[tokio::test]
async fn only_what_may_be_processed_twice_and_can_be_sent_again_is_hedged() {
    let forced = RetryOn::default();
    let no_room = |cluster: &Cluster| cluster.retry_budget.set(0, 0, u32::MAX);
    for (case, request, on, change, expected) in [
        ("reading", GET.to_owned(), idempotent(), None, 200),
        ("writing", post(3), idempotent(), None, 504),
        ("writing, of which the service is said to recognize repetitions", post(3), forced.clone(), None, 200),
        ("a body longer than what is kept", post(64 * 1024 + 1), forced.clone(), None, 504),
        ("a body that has not wholly come", post(3).replace("length: 3", "length: 4"), forced, None, 504),
        ("a spent budget", GET.to_owned(), idempotent(), Some(no_room), 504),
    ] {
        let end = if request.starts_with("GET") { "\r\n\r\n" } else { "xxx" };
        let (hanging, _, _hanging) = answering(FOREVER, OK, end).await;
        let (quick, seen, _quick) = answering(Duration::ZERO, OK, end).await;
        let cluster = in_order(&[hanging, quick]);
        measured(&cluster, 100);
        if let Some(change) = change {
            change(&cluster);
        }
        let route = Route { retry: hedging(on), timeout: Some(300 * MS), ..route(&cluster) };
        let sidecar = outbound(worker(knows(route), "web"), Version::Http1).await;
        let answer = exchange_raw(sidecar.address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{case}: {answer}");
        assert_eq!(seen.requests.load(Relaxed), usize::from(expected == 200), "{case}");
        assert_eq!(hedges(&sidecar.worker, "withheld"), u64::from(case == "a spent budget"), "{case}");
        all_is_given_back(&cluster).await;
    }
}

#[tokio::test]
async fn nothing_is_hedged_before_enough_answers_were_measured_nor_where_nobody_else_is_well() {
    for (answers, endpoints) in [(98, 2), (100, 1)] {
        let (slow, seen, _slow) = answering(50 * MS, OK, "\r\n\r\n").await;
        let (other, _, _other) = answering(50 * MS, OK, "\r\n\r\n").await;
        let cluster = in_order(&[slow, other][..endpoints]);
        measured(&cluster, answers);
        let route = Route { retry: hedging(idempotent()), ..route(&cluster) };
        let sidecar = outbound(worker(knows(route), "web"), Version::Http1).await;
        assert!(exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
        assert_eq!(seen.requests.load(Relaxed), 1);
        assert_eq!(counted(&sidecar.worker, "malla_hedges_total", &[]), 0);
        assert_eq!(cluster.latencies.quantile(Share(990_000), 0) > Some(49 * MS), answers < 99, "it was measured");
    }
}

#[tokio::test]
async fn a_bad_answer_does_not_win_while_the_other_try_goes_on() {
    let on = RetryOn { statuses: vec![503..=503], ..idempotent() };
    for (first, second, expected) in [
        // The second fails at once, the first is only slow.
        ((60 * MS, OK), (Duration::ZERO, UNAVAILABLE), "HTTP/1.1 200"),
        ((60 * MS, OK), (Duration::ZERO, ""), "HTTP/1.1 200"),
        // The first breaks off, which alone would not be tried again.
        ((30 * MS, ""), (60 * MS, OK), "HTTP/1.1 200"),
        // Both: an answer is more than none.
        ((30 * MS, ""), (60 * MS, UNAVAILABLE), "HTTP/1.1 503"),
        ((60 * MS, ""), (Duration::ZERO, UNAVAILABLE), "HTTP/1.1 503"),
        ((30 * MS, ""), (60 * MS, ""), "HTTP/1.1 502"),
    ] {
        let (one, _, _one) = answering(first.0, first.1, "\r\n\r\n").await;
        let (other, _, _other) = answering(second.0, second.1, "\r\n\r\n").await;
        let cluster = in_order(&[one, other]);
        let sidecar = sidecar(&cluster, hedging(on.clone())).await;
        let answer = exchange_raw(sidecar.address, GET).await;
        assert!(answer.starts_with(expected), "{first:?} {second:?}: {answer}");
        all_is_given_back(&cluster).await;
    }
}

#[tokio::test]
async fn a_service_that_is_slow_throughout_gets_a_fifth_more_and_no_more() {
    let mut addresses = Vec::new();
    let mut running = Vec::new();
    for _ in 0..3 {
        let (address, seen, alive) = answering(30 * MS, OK, "\r\n\r\n").await;
        addresses.push(address);
        running.push((seen, alive));
    }
    let cluster = Arc::new(cluster("cart.shop:80", addresses.into_iter().map(endpoint).collect()));
    cluster.retry_budget.set(20, 0, u32::MAX);
    let hedge = Hedge::After(5 * MS);
    let sidecar = Arc::new(sidecar(&cluster, Retry { hedge: Some(hedge), attempts: 5, ..hedging(idempotent()) }).await);
    const CALLERS: usize = 20;
    const EACH: usize = 15;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let sidecar = sidecar.clone();
        callers.spawn(async move {
            for _ in 0..EACH {
                assert!(exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
            }
        });
    }
    callers.join_all().await;
    let sent: usize = running.iter().map(|(seen, _)| seen.requests.load(Relaxed)).sum();
    let offered = CALLERS * EACH;
    assert!(sent <= offered * 12 / 10, "{sent} for {offered}");
    assert!(sent > offered * 11 / 10, "the budget is used: {sent} for {offered}");
    assert!(hedges(&sidecar.worker, "withheld") > 0);
    all_is_given_back(&cluster).await;
}

#[tokio::test]
async fn traces_show_both_tries_and_which_was_given_up() {
    let (hanging, _, _hanging) = answering(FOREVER, OK, "\r\n\r\n").await;
    let (quick, _, _quick) = answering(Duration::ZERO, OK, "\r\n\r\n").await;
    let cluster = in_order(&[hanging, quick]);
    measured(&cluster, 100);
    let tracing = Tracing::everything(Collector::Grpc("http://127.0.0.1:4317".parse().expect("a URL")));
    let route = Route { retry: hedging(idempotent()), ..route(&cluster) };
    let sidecar = outbound(worker_of(knows(route), "web", Some(tracing)), Version::Http1).await;
    assert!(exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
    let tracer = sidecar.worker.shared.tracer.as_ref().expect("it follows requests");
    let mut spans = Vec::new();
    eventually("both spans", || {
        spans.extend(tracer.told());
        spans.len() == 2
    })
    .await;
    let has = |at: usize, name: &str| {
        let yes = AnyValue { value: Some(Value::BoolValue(true)) };
        spans[at].attributes.iter().any(|one| one.key == name && one.value.as_ref() == Some(&yes))
    };
    assert!(has(0, "malla.cancelled") && !has(0, "malla.hedge"), "{spans:#?}");
    assert!(has(1, "malla.hedge") && !has(1, "malla.cancelled"), "{spans:#?}");
}

//! Replicas that fail, each in its way: how many requests are lost, how much is sent besides, and how soon all is well again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::super::Version;
use super::super::testing::{
    Listening, exchange_raw, knows, outbound, read_until, route, scripted, with_policy, worker,
};
use crate::balance::Cause;
use crate::policy::{Algorithm, OutlierDetection, Overload, Policy};
use crate::snapshot::{Cluster, Limits, Retry, RetryOn, Route};

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";

/// How a replica answers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Well,
    Unavailable,
    Resets,
    Hangs,
}

/// A replica whose manner can be changed, and the requests that it has had.
async fn replica(manner: Manner) -> (SocketAddr, Arc<AtomicBool>, Arc<AtomicUsize>, impl Sized) {
    let (ill, requests) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_ill, counter) = (ill.clone(), requests.clone());
    let (address, running) = scripted(move |_, mut socket| {
        let (ill, counter) = (is_ill.clone(), counter.clone());
        async move {
            while !read_until(&mut socket, "\r\n\r\n").await.is_empty() {
                counter.fetch_add(1, Relaxed);
                let answer: &[u8] = match if ill.load(Relaxed) { manner } else { Manner::Well } {
                    Manner::Well => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                    Manner::Unavailable => b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n",
                    Manner::Resets => return,
                    Manner::Hangs => std::future::pending().await,
                };
                let _ = socket.write_all(answer).await;
            }
        }
    })
    .await;
    (address, ill, requests, running)
}

fn ejecting() -> Policy {
    // In turn: what each gets does not depend on how fast this machine is.
    let algorithm = Algorithm::RoundRobin;
    Policy { algorithm, outliers: Some(OutlierDetection::default()), ..Policy::default() }
}

async fn sidecar(cluster: Cluster, change: impl FnOnce(Route) -> Route) -> (Listening, Arc<Cluster>) {
    let cluster = Arc::new(cluster);
    (outbound(worker(knows(change(route(&cluster))), "web"), Version::Http1).await, cluster)
}

/// How many of so many requests, one after the other, were not answered well.
async fn lost(sidecar: &Listening, requests: usize) -> usize {
    let mut lost = 0;
    for _ in 0..requests {
        lost += usize::from(!exchange_raw(sidecar.address, GET).await.starts_with("HTTP/1.1 200"));
    }
    lost
}

#[tokio::test]
async fn a_replica_that_fails_is_left_out_after_five_failures() {
    // (One whose connections break is spared at once, before it is ejected.)
    for manner in [Manner::Unavailable, Manner::Hangs] {
        let (sick, _, requests, _running) = replica(manner).await;
        let (well, _, _, _also) = replica(Manner::Well).await;
        let limit = Some(Duration::from_millis(100));
        let (sidecar, cluster) =
            sidecar(with_policy(&[sick, well], ejecting()), |route| Route { timeout: limit, ..route }).await;
        let lost_at_first = lost(&sidecar, 40).await;
        assert!((1..=5).contains(&lost_at_first), "{lost_at_first} lost to one that {manner:?}");
        assert_eq!(cluster.feedback.watch.ejections(Cause::GatewayFailures), 1, "{manner:?}");
        let before = requests.load(Relaxed);
        assert_eq!(lost(&sidecar, 20).await, 0, "{manner:?}");
        assert_eq!(requests.load(Relaxed), before, "it gets nothing while it is ejected: {manner:?}");
    }
}

#[tokio::test]
async fn a_replica_that_resets_is_spared() {
    let (sick, _, _, _running) = replica(Manner::Resets).await;
    let (well, _, _, _also) = replica(Manner::Well).await;
    let (sidecar, _) = sidecar(with_policy(&[sick, well], ejecting()), |route| route).await;
    let lost = lost(&sidecar, 40).await;
    assert!((1..=5).contains(&lost), "{lost} of 40 lost");
}

#[tokio::test]
async fn a_replica_that_disappears_costs_no_request() {
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("bound")
    };
    let (well, _, _, _running) = replica(Manner::Well).await;
    let (sidecar, _) = sidecar(with_policy(&[gone, well], ejecting()), |route| route).await;
    assert_eq!(lost(&sidecar, 40).await, 0);
}

#[tokio::test]
async fn when_all_replicas_fail_all_are_asked_and_recovery_is_at_once() {
    let (one, ill_one, requests_one, _running) = replica(Manner::Unavailable).await;
    let (other, ill_other, requests_other, _also) = replica(Manner::Unavailable).await;
    let (sidecar, _) = sidecar(with_policy(&[one, other], ejecting()), |route| route).await;
    assert_eq!(lost(&sidecar, 60).await, 60);
    // Half may be ejected; the rest carries everything, as nobody is left to go to.
    assert!(requests_one.load(Relaxed) >= 5 && requests_other.load(Relaxed) >= 5);
    ill_one.store(false, Relaxed);
    ill_other.store(false, Relaxed);
    assert_eq!(lost(&sidecar, 20).await, 0, "no request pays for what has been");
}

#[tokio::test]
async fn retries_of_a_service_that_fails_every_request_add_at_most_a_fifth() {
    const OFFERED: usize = 400;
    let (sick, _, requests, _running) = replica(Manner::Unavailable).await;
    let retry = Retry {
        attempts: 3,
        on: RetryOn { statuses: vec![500..=599], ..RetryOn::default() },
        base_interval: Duration::ZERO,
        max_interval: Duration::ZERO,
        hedge: None,
    };
    let policy = Policy { outliers: Some(OutlierDetection::default()), ..Policy::default() };
    let (sidecar, cluster) = sidecar(with_policy(&[sick], policy), |route| Route { retry, ..route }).await;
    // The floor of three per second is for quiet services; this one is not.
    cluster.retry_budget.set(20, 0, u32::MAX);
    let mut callers = JoinSet::new();
    for _ in 0..40 {
        let address = sidecar.address;
        callers.spawn(async move {
            for _ in 0..OFFERED / 40 {
                let answer = exchange_raw(address, GET).await;
                assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            }
        });
    }
    callers.join_all().await;
    let sent = requests.load(Relaxed) as f64 / OFFERED as f64;
    assert!((1.0..=1.2).contains(&sent), "{sent} times what was offered");
}

#[tokio::test]
async fn full_endpoints_and_overload_are_refused_at_once() {
    let (slow, _, requests, _running) = replica(Manner::Hangs).await;
    let limits = Limits { endpoint_requests: 1, ..Limits::default() };
    let overload = Overload { minimum: 1, maximum: 1, interval: Duration::from_millis(100), priority_header: None };
    for (limits, policy, word) in [
        (limits, Policy::default(), "circuit_open"),
        (Limits::default(), Policy { overload: Some(overload), ..Policy::default() }, "overloaded"),
    ] {
        let cluster = Cluster { limits, ..with_policy(&[slow], policy) };
        let cluster = super::super::testing::limited(cluster);
        let (sidecar, cluster) = sidecar(cluster, |route| route).await;
        let before = requests.load(Relaxed);
        let _held = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(exchange_raw(sidecar.address, GET)));
        super::super::testing::eventually("one is under way", || requests.load(Relaxed) > before).await;
        let begun = std::time::Instant::now();
        let second = exchange_raw(sidecar.address, GET).await;
        assert!(second.contains(&format!("malla-reason: {word}")), "{second}");
        assert!(begun.elapsed() < Duration::from_millis(900), "at once");
        drop(cluster);
    }
}

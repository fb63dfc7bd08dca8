//! `TrafficPolicy.healthCheck` by gRPC and by TCP, from YAML through the control server, xDS and the sidecar to what an application is
//! asked, and to who gets the traffic.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::callee::{Callee, call};
use crate::documents::{policy, service};
use crate::local::{CLIENT, Local, PATIENCE};

/// Only the checks decide.
fn checked(check: &str) -> String {
    format!(
        "loadBalancer: {{algorithm: roundRobin, panicThresholdPercent: 0}}, outlierDetection: {{disabled: true}}, \
         healthCheck: {{interval: 100ms, timeout: 5s, unhealthyThreshold: 2, healthyThreshold: 2, {check}}}"
    )
}

fn standing(service: &str, standing: &str, endpoints: usize) -> String {
    format!("malla_endpoints{{cluster=\"{service}.shop:80\",standing=\"{standing}\"}} {endpoints}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_serving_by_grpc_gets_no_calls_until_it_is() {
    let (a, b) = (Callee::start("a").await, Callee::start("b").await);
    let mesh = [
        CLIENT.to_owned(),
        service("calls", "grpc", &[a.address, b.address]),
        policy("calls", &checked("grpc: {service: shop.Cart}")),
    ];
    let local = Local::start(&mesh.concat(), &["calls.shop:80"]);
    let both = async |expected: [bool; 2]| {
        let mut seen = [false; 2];
        for _ in 0..12 {
            let answer = call(local.listening[0], "calls.shop", "/shop.Cart/Get", "").await;
            seen[usize::from(answer.contains("served-by: b\n"))] = true;
            assert!(answer.contains("\ngrpc-status: 0\n"), "{answer}");
        }
        assert_eq!(seen, expected);
    };
    both([true, true]).await;
    b.is_well(false);
    local.wait_metric(&standing("calls", "failing_checks", 1)).await;
    both([true, false]).await;
    b.is_well(true);
    local.wait_metric(&standing("calls", "available", 2)).await;
    both([true, true]).await;
    // `HealthCheckRequest{service: "shop.Cart"}`, framed.
    assert!(b.asked().iter().all(|question| question[..] == *b"\0\0\0\0\x0b\x0a\x09shop.Cart"), "{:?}", b.asked());
    local.stop().await;
}

/// Starts an application that says its name on each connection after the first byte, and closes those made while it is `closed`
/// at once.
async fn application(name: &'static str) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let closed = Arc::new(AtomicBool::new(false));
    let now = closed.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            if !now.load(Relaxed) {
                tokio::spawn(async move {
                    if let Ok(1..) = socket.read(&mut [0; 16]).await {
                        let _ = socket.write_all(name.as_bytes()).await;
                    }
                });
            }
        }
    });
    (address, closed)
}

async fn who(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let _ = socket.write_all(b"?").await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_connections_at_once_gets_none_until_it_does_not() {
    let ((a, _open), (b, closed)) = (application("a").await, application("b").await);
    let mesh = [CLIENT.to_owned(), service("streams", "tcp", &[a, b]), policy("streams", &checked("tcp: {}"))];
    let local = Local::start(&mesh.concat(), &["streams.shop:80"]);
    let several = async || {
        let mut answers = Vec::new();
        for _ in 0..8 {
            answers.push(who(local.listening[0]).await);
        }
        answers.sort();
        answers.concat()
    };
    assert_eq!(several().await, "aaaabbbb");
    closed.store(true, Relaxed);
    local.wait_metric(&standing("streams", "failing_checks", 1)).await;
    assert_eq!(several().await, "aaaaaaaa");
    closed.store(false, Relaxed);
    local.wait_metric(&standing("streams", "available", 2)).await;
    let again = async { while several().await == "aaaaaaaa" {} };
    timeout(PATIENCE, again).await.expect("it is asked again");
    local.stop().await;
}

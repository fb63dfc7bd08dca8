//! Peers that stand still or are gone, though TCP says nothing of it, in simulated time: other sidecars that owe answers, and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::testing::{SERVICE, cluster, counted, endpoint, knows, route, worker};
use super::super::{Side, Version, serve};
use super::http1::nowhere;
use crate::names::SpiffeId;
use crate::pool::{PATIENCE, SILENCE};
use crate::shared::Worker;
use crate::simulation::{self, Network, ask};
use crate::snapshot::{Endpoint, Retry, RetryOn, Route};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The next frame: kind, flags, stream, payload; nothing at the end.
async fn read_frame(socket: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    socket.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, u32::from_be_bytes(stream), payload))
}

/// How another sidecar behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Answers requests after this time, and PINGs at once.
    Answers(Duration),
    /// It stands still.
    StandsStill,
}

/// Another sidecar: HTTP/2, frame by frame.
struct Peer {
    address: SocketAddr,
    manner: watch::Sender<Manner>,
    /// When it was asked for a sign of life.
    pings: Arc<Mutex<Vec<Instant>>>,
}

impl Peer {
    fn new(network: &Network, last: u8) -> Peer {
        let address = SocketAddr::from(([10, 0, 0, last], 80));
        let (manner, pings) = (watch::Sender::new(Manner::Answers(Duration::from_millis(5))), Arc::default());
        tokio::spawn(listen(network.take(address), manner.subscribe(), Arc::clone(&pings)));
        Peer { address, manner, pings }
    }

    fn endpoint(&self) -> Endpoint {
        let identity = SpiffeId::parse("spiffe://test/ns/shop/sa/cart").expect("valid");
        Endpoint { identity: Some(identity), ..endpoint(self.address) }
    }
}

/// Takes connections until it stands still; from then on they are refused.
async fn listen(
    mut connections: mpsc::UnboundedReceiver<DuplexStream>,
    mut manner: watch::Receiver<Manner>,
    pings: Arc<Mutex<Vec<Instant>>>,
) {
    let accept = async {
        while let Some(socket) = connections.recv().await {
            tokio::spawn(converse(socket, manner.clone(), pings.clone()));
        }
    };
    let mut stands_still = manner.clone();
    tokio::select! {
        () = accept => {}
        _ = stands_still.wait_for(|manner| *manner == Manner::StandsStill) => {}
    }
    manner.mark_unchanged();
}

async fn converse(socket: DuplexStream, manner: watch::Receiver<Manner>, pings: Arc<Mutex<Vec<Instant>>>) {
    let (mut read, mut write) = tokio::io::split(socket);
    let (says, mut said) = mpsc::unbounded_channel::<Vec<u8>>();
    let writing = tokio::spawn(async move {
        while let Some(frame) = said.recv().await {
            let _ = write.write_all(&frame).await;
        }
    });
    let mut preface = [0; PREFACE.len()];
    let _ = read.read_exact(&mut preface).await;
    let _ = says.send(frame(SETTINGS, 0, 0, b""));
    while let Some((kind, flags, stream, payload)) = read_frame(&mut read).await {
        let Manner::Answers(after) = *manner.borrow() else { return std::future::pending().await };
        let _ = match kind {
            SETTINGS if flags & ACK == 0 => says.send(frame(SETTINGS, ACK, 0, b"")),
            PING if flags & ACK == 0 => {
                pings.lock().push(Instant::now());
                says.send(frame(PING, ACK, 0, &payload))
            }
            HEADERS => {
                let says = says.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    // `:status: 200`, and the end of the headers and of the stream.
                    let _ = says.send(frame(HEADERS, 5, stream, &[0x88]));
                });
                Ok(())
            }
            _ => Ok(()),
        };
    }
    drop(says);
    let _ = writing.await;
}

/// A sidecar that calls these.
fn caller(network: Network, peers: &[&Peer], retry: Retry) -> Arc<Worker> {
    let cluster = Arc::new(cluster(SERVICE, peers.iter().map(|peer| peer.endpoint()).collect()));
    simulation::worker(network, Route { retry, ..route(&cluster) })
}

/// A request: its status, and how long it took.
async fn timed(worker: &Arc<Worker>) -> (u16, Duration) {
    let begun = Instant::now();
    (ask(worker.clone()).await, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn another_sidecar_that_stands_still_is_given_up_and_others_are_asked() {
    let again = RetryOn { resets: true, idempotent_only: true, ..RetryOn::default() };
    for (on, lost) in [(again, 200), (RetryOn::default(), 502)] {
        let network = Network::default();
        let [one, other] = [1, 2].map(|last| Peer::new(&network, last));
        let worker = caller(network, &[&one, &other], Retry { on, ..Retry::default() });
        for _ in 0..20 {
            assert_eq!(timed(&worker).await.0, 200, "both have a connection by now");
        }
        one.manner.send_replace(Manner::StandsStill);
        let mut slow = Vec::new();
        for _ in 0..20 {
            let (status, took) = timed(&worker).await;
            if took > Duration::from_secs(1) {
                slow.push((status, took));
            } else {
                assert_eq!(status, 200);
            }
        }
        let [(status, took)] = slow[..] else { panic!("one request notices it: {slow:?}") };
        assert_eq!(status, lost, "lost, it is tried again where that was asked for");
        // Silence is noticed after it has lasted once or twice as long.
        assert!(took <= SILENCE * 2 + PATIENCE, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_sidecar_that_takes_its_time_is_left_alone_and_not_asked_too_often() {
    let network = Network::default();
    let peer = Peer::new(&network, 1);
    let hour = Duration::from_secs(3600);
    peer.manner.send_replace(Manner::Answers(hour));
    let worker = caller(network, &[&peer], Retry::default());
    let (status, took) = timed(&worker).await;
    assert_eq!(status, 200);
    assert!(took >= hour, "{took:?}");
    let pings = peer.pings.lock().clone();
    assert!(pings.len() > 5, "it is asked now and then: {pings:?}");
    let strikes = pings.windows(2).filter(|two| two[1] - two[0] < Duration::from_secs(300)).count();
    assert!(strikes <= 2, "servers of gRPC end the connection at the third: {pings:?}");
    // While nothing is owed, nobody is asked.
    tokio::time::sleep(hour).await;
    assert_eq!(peer.pings.lock().len(), pings.len());
}

#[tokio::test(start_paused = true)]
async fn clients_that_give_no_sign_of_life_are_given_up() {
    for answers in [false, true] {
        let worker = worker(knows(route(&Arc::new(cluster(SERVICE, Vec::new())))), "cart");
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(serve(worker.clone(), server, Version::Http2, Side::Inbound(nowhere())));
        client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.expect("sent");
        let begun = Instant::now();
        while let Some((kind, flags, _, payload)) = read_frame(&mut client).await {
            if kind == PING && flags & ACK == 0 && answers {
                // It may have closed since.
                let _ = client.write_all(&frame(PING, ACK, 0, &payload)).await;
            }
        }
        serving.await.expect("no panic");
        let (lasted, given_up) =
            (begun.elapsed().as_secs(), counted(&worker, "malla_connections_refused_total", &["idle_timeout"]));
        // Who answers stays until it has not used its connection for an hour.
        let expected = if answers { (3600..=7200, 0) } else { (110..=130, 1) };
        assert!(expected.0.contains(&lasted) && given_up == expected.1, "{lasted} s, {given_up}, {answers}");
    }
}

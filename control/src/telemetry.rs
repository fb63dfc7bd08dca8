//! What sidecars tell about traffic, for people who look: the last counts of each, and taps.
//!
//! Sidecars are asked to tell often while somebody looks, and to tell seldom otherwise. Only what is told is kept, only while the sidecar is
//! connected, and bounded for each; nothing here flows back into configuration.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use malla_xds::telemetry::{EDGES, Edge, Report, Seen, TAPPED_PER_SECOND, TAPS, Tap, Watch};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

/// Between reports while somebody looks.
const OFTEN: Duration = Duration::from_secs(1);
/// So long after somebody looked, he is expected to look again.
const LOOKED: Duration = Duration::from_secs(5);
/// Longest wait of the first who looks, for what sidecars have counted until now.
const FIRST: Duration = Duration::from_secs(1);
/// Longest name that is kept, in bytes.
const LONGEST: usize = 512;
/// Lines that may wait for the one who taps.
const LINES: usize = 1024;
/// A sidecar that has not said its name after so long is not heard.
const HELLO: Duration = Duration::from_secs(10);

/// The traffic of the mesh, as sidecars have counted it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Sidecars that tell.
    pub sidecars: usize,
    /// Their edges.
    pub edges: Vec<EdgeCount>,
}

/// One edge, as the sidecar at one of its ends has counted it since that sidecar's start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeCount {
    /// `outbound`: counted by the client's sidecar; `inbound`: by the server's.
    pub direction: String,
    /// Workload (outbound) or identity (inbound; empty in plaintext) where it comes from.
    pub source: String,
    /// Service: `cart.shop:80`.
    pub destination: String,
    /// Workload that answered; empty if none did.
    pub workload: String,
    /// `http/1.1`, `http/2`, `grpc`, `tcp`.
    pub protocol: String,
    /// Identity of the peer; empty in plaintext.
    pub identity: String,
    /// Requests or connections.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Upper bounds of durations, and requests between each and the one before; the last bound is `u64::MAX`.
    pub latency_microseconds: Vec<(u64, u64)>,
    /// Requests by the word for what failed.
    pub reasons: Vec<(String, u64)>,
    /// Bytes towards the destination (TCP).
    pub sent_bytes: u64,
    /// Bytes back (TCP).
    pub received_bytes: u64,
}

/// Which sidecars a tap is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    /// A workload; its beginning, where it ends with `*`; or nothing, for all of the namespace.
    pub(crate) workload: String,
}

/// What was told, and what is asked.
#[derive(Debug)]
pub(crate) struct Telemetry {
    told: Mutex<HashMap<u64, Told>>,
    /// Rises with each report.
    reports: watch::Sender<u64>,
    demand: watch::Sender<Demand>,
    looked: Mutex<Option<Instant>>,
    next: AtomicU64,
    tasks: TaskTracker,
}

/// What a sidecar has told last.
#[derive(Debug)]
struct Told {
    node: Arc<str>,
    at: Instant,
    edges: Vec<EdgeCount>,
}

/// What sidecars are asked for.
#[derive(Debug, Clone, Default)]
struct Demand {
    often: bool,
    taps: Vec<Tapping>,
}

/// Somebody who taps.
#[derive(Debug, Clone)]
struct Tapping {
    tap: Tap,
    target: Target,
    lines: mpsc::Sender<String>,
}

/// Why nobody can be tapped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TapError {
    /// So many tap already.
    #[error("{TAPS} taps are open on this control server: end one of them")]
    TooMany,
    /// No such sidecar.
    #[error("no sidecar of {0} is connected here")]
    Nobody(String),
}

/// A tap; ends when dropped.
#[derive(Debug)]
pub(crate) struct Tapped {
    telemetry: Arc<Telemetry>,
    id: u64,
    lines: mpsc::Receiver<String>,
}

impl Target {
    fn is(&self, node: &str) -> bool {
        let Some((workload, namespace)) = node.split_once('.') else { return false };
        namespace == self.namespace
            && match self.workload.strip_suffix('*') {
                Some(beginning) => workload.starts_with(beginning),
                None => self.workload.is_empty() || workload == self.workload,
            }
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    /// `shop/cart-1`, `shop/cart-*`, `shop`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, workload) = text.split_once('/').unwrap_or((text, ""));
        if namespace.is_empty() {
            return Err(format!(
                "{text:?} names no workload: write shop/cart-1, shop/cart-*, or shop for all of a namespace"
            ));
        }
        Ok(Target { namespace: namespace.to_owned(), workload: workload.to_owned() })
    }
}

impl Telemetry {
    /// Nothing is told and nothing asked. What ends later is a task of `tasks`.
    pub(crate) fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Telemetry {
            told: Mutex::default(),
            reports: watch::Sender::default(),
            demand: watch::Sender::default(),
            looked: Mutex::default(),
            next: AtomicU64::new(1),
            tasks,
        })
    }

    /// Somebody looks. If nobody did for a while, sidecars are asked and given a moment to answer.
    pub(crate) async fn look(self: &Arc<Self>) -> Traffic {
        let now = Instant::now();
        self.looked.lock().replace(now);
        let begins = self.demand.send_if_modified(|demand| !std::mem::replace(&mut demand.often, true));
        if begins {
            let telemetry = self.clone();
            self.tasks.spawn(async move { telemetry.until_nobody_looks().await });
            let mut reports = self.reports.subscribe();
            let all = async {
                while self.told.lock().values().any(|told| told.at < now) {
                    // The sender is our own.
                    let _ = reports.changed().await;
                }
            };
            // Whoever is late, is late.
            let _ = timeout(FIRST, all).await;
        }
        let told = self.told.lock();
        Traffic { sidecars: told.len(), edges: told.values().flat_map(|told| told.edges.iter().cloned()).collect() }
    }

    async fn until_nobody_looks(&self) {
        loop {
            let until = self.looked.lock().map_or_else(Instant::now, |looked| looked + LOOKED);
            if until <= Instant::now() {
                break;
            }
            sleep_until(until).await;
        }
        self.demand.send_modify(|demand| demand.often = false);
    }

    /// Somebody taps.
    ///
    /// # Errors
    /// Too many do, or there is nobody to be tapped.
    pub(crate) fn tap(self: &Arc<Self>, target: Target, tap: Tap) -> Result<Tapped, TapError> {
        if !self.told.lock().values().any(|told| target.is(&told.node)) {
            return Err(TapError::Nobody(format!("{}/{}", target.namespace, target.workload)));
        }
        let id = self.next.fetch_add(1, Relaxed);
        let (sender, lines) = mpsc::channel(LINES);
        let per_second = if tap.per_second == 0 { TAPPED_PER_SECOND } else { tap.per_second.min(TAPPED_PER_SECOND) };
        let tapping = Tapping { tap: Tap { id, per_second, ..tap }, target, lines: sender };
        let added = self.demand.send_if_modified(|demand| {
            let room = demand.taps.len() < TAPS;
            if room {
                demand.taps.push(tapping);
            }
            room
        });
        if added { Ok(Tapped { telemetry: self.clone(), id, lines }) } else { Err(TapError::TooMany) }
    }

    /// The life of one sidecar's stream. `may` tells whether it may speak for a workload.
    pub(crate) async fn follow(
        &self,
        mut reports: Streaming<Report>,
        watches: mpsc::Sender<Result<Watch, Status>>,
        closing: CancellationToken,
        may: impl FnOnce(&str) -> Result<(), Status>,
    ) {
        let node: Arc<str> = match timeout(HELLO, reports.message()).await {
            Ok(Ok(Some(Report { node, .. }))) => node.into(),
            _ => return,
        };
        if let Err(refusal) = may(&node) {
            // Whoever has gone already need not be told.
            let _ = watches.try_send(Err(refusal));
            return;
        }
        let stream = self.next.fetch_add(1, Relaxed);
        self.told.lock().insert(stream, Told { node: node.clone(), at: Instant::now(), edges: Vec::new() });
        let mut demand = self.demand.subscribe();
        demand.mark_changed();
        let mut said = Watch::default();
        loop {
            tokio::select! {
                report = reports.message() => match report {
                    Ok(Some(report)) => self.take(stream, &node, report),
                    Ok(None) | Err(_) => break,
                },
                changed = demand.changed() => {
                    let wanted = demand.borrow_and_update().of(&node);
                    if changed.is_err() || (wanted != said && watches.send(Ok(wanted.clone())).await.is_err()) {
                        break;
                    }
                    said = wanted;
                }
                () = closing.cancelled() => break,
            }
        }
        self.told.lock().remove(&stream);
    }

    /// A report has come.
    fn take(&self, stream: u64, node: &Arc<str>, report: Report) {
        let Report { node: _, edges, requests, dropped: _ } = report;
        if !requests.is_empty() {
            let demand = self.demand.borrow();
            requests.iter().for_each(|seen| demand.pass_on(node, seen));
            return;
        }
        let edges = edges.into_iter().take(EDGES).map(|edge| counted(edge, node)).collect();
        if let Some(told) = self.told.lock().get_mut(&stream) {
            *told = Told { node: node.clone(), at: Instant::now(), edges };
        }
        self.reports.send_modify(|reports| *reports += 1);
    }
}

impl Demand {
    /// What the sidecar of a workload is asked.
    fn of(&self, node: &str) -> Watch {
        let taps = self.taps.iter().filter(|tapping| tapping.target.is(node)).map(|tapping| tapping.tap.clone());
        let interval = if self.often { u32::try_from(OFTEN.as_millis()).unwrap_or_default() } else { 0 };
        Watch { interval, taps: taps.collect() }
    }

    /// Gives a request to whoever taps it. The sidecar is not trusted to say whose tap it was, nor that it is JSON.
    fn pass_on(&self, node: &str, seen: &Seen) {
        let Some(tapping) = self.taps.iter().find(|one| one.tap.id == seen.tap && one.target.is(node)) else { return };
        let Ok(serde_json::Value::Object(mut line)) = serde_json::from_str(&seen.line) else { return };
        line.insert("sidecar".to_owned(), node.into());
        // Who does not read misses lines.
        let _ = tapping.lines.try_send(serde_json::Value::Object(line).to_string() + "\n");
    }
}

impl From<Edge> for EdgeCount {
    fn from(edge: Edge) -> Self {
        EdgeCount {
            direction: if edge.outbound { "outbound" } else { "inbound" }.to_owned(),
            source: edge.source,
            destination: edge.destination,
            workload: edge.workload,
            protocol: edge.protocol,
            identity: edge.identity,
            requests: edge.requests,
            failures: edge.failures,
            latency_microseconds: edge.bounds.into_iter().zip(edge.counts).collect(),
            reasons: edge.reasons.into_iter().map(|reason| (reason.word, reason.count)).collect(),
            sent_bytes: edge.sent,
            received_bytes: edge.received,
        }
    }
}

/// What a sidecar says about others is its word; about itself, ours.
fn counted(edge: Edge, node: &str) -> EdgeCount {
    let outbound = edge.outbound;
    let mut count = EdgeCount::from(edge);
    count.latency_microseconds.truncate(64);
    count.reasons.truncate(64);
    count.reasons.iter_mut().for_each(|(word, _)| shorten(word));
    let EdgeCount { source, destination, workload, protocol, identity, .. } = &mut count;
    [&mut *source, destination, &mut *workload, protocol, identity].into_iter().for_each(shorten);
    *(if outbound { source } else { workload }) = node.to_owned();
    count
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
}

/// Requests, each as a line of JSON.
impl Stream for Tapped {
    type Item = Result<String, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lines.poll_recv(cx).map(|line| line.map(Ok))
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        let id = self.id;
        self.telemetry.demand.send_modify(|demand| demand.taps.retain(|tapping| tapping.tap.id != id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        text.parse().expect("a target")
    }

    #[test]
    fn a_target_is_a_workload_a_beginning_or_a_namespace() {
        assert!(target("shop/cart-1").is("cart-1.shop") && !target("shop/cart").is("cart-1.shop"));
        assert!(target("shop/cart-*").is("cart-1.shop") && !target("shop/cart-*").is("web-1.shop"));
        assert!(target("shop").is("cart-1.shop") && !target("sho").is("cart-1.shop"));
        assert!("/x".parse::<Target>().is_err());
    }

    #[test]
    fn a_sidecar_speaks_for_its_own_end_of_an_edge_alone() {
        let edge =
            Edge { outbound: true, source: "bank.vault".into(), workload: "x".repeat(2000), ..Default::default() };
        let counted = counted(edge, "cart-1.shop");
        assert_eq!((&*counted.source, counted.workload.len()), ("cart-1.shop", LONGEST));
    }

    #[tokio::test]
    async fn taps_are_few_and_reach_only_whom_they_are_for() {
        let telemetry = Telemetry::new(TaskTracker::new());
        assert_eq!(telemetry.tap(target("shop"), Tap::default()).err(), Some(TapError::Nobody("shop/".to_owned())));
        for (stream, node) in [(1, "cart-1.shop"), (2, "web-1.web")] {
            let told = Told { node: node.into(), at: Instant::now(), edges: Vec::new() };
            telemetry.told.lock().insert(stream, told);
        }
        let mut taps: Vec<Tapped> =
            (0..TAPS).map(|_| telemetry.tap(target("shop"), Tap::default()).expect("a tap")).collect();
        assert_eq!(telemetry.tap(target("shop"), Tap::default()).err(), Some(TapError::TooMany));
        let (shop, web) = (telemetry.demand.borrow().of("cart-1.shop"), telemetry.demand.borrow().of("web-1.web"));
        assert_eq!((shop.taps.len(), web.taps.len()), (TAPS, 0));
        let seen = |line: &str| Seen { tap: taps[0].id, line: line.to_owned() };
        let (good, bad) = (seen(r#"{"status":200}"#), seen("no JSON"));
        telemetry.demand.borrow().pass_on("web-1.web", &good);
        telemetry.demand.borrow().pass_on("cart-1.shop", &bad);
        telemetry.demand.borrow().pass_on("cart-1.shop", &good);
        assert_eq!(taps[0].lines.recv().await.as_deref(), Some("{\"sidecar\":\"cart-1.shop\",\"status\":200}\n"));
        drop(taps);
        assert!(telemetry.demand.borrow().taps.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sidecars_are_asked_to_tell_often_while_somebody_looks() {
        let telemetry = Telemetry::new(TaskTracker::new());
        let mut demand = telemetry.demand.subscribe();
        telemetry.look().await;
        assert!(demand.borrow_and_update().often);
        let begun = Instant::now();
        demand.changed().await.expect("the sender is there");
        assert!(!demand.borrow().often && begun.elapsed() >= LOOKED - Duration::from_secs(1));
    }
}

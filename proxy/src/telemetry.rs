//! Tells the control server about traffic, for people who look: edges, seldom or each second while somebody watches, and the requests
//! that somebody taps.
//!
//! Never in the way of a request: what has no room is dropped and counted, and a control server that takes no reports is left alone.

mod tap;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use malla_xds::telemetry::{EDGES, Edge, ReasonCount, Report, Watch};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::tap::SeenQueue;
pub(crate) use self::tap::Taps;
use crate::control::Client;
use crate::metrics::{Direction, EdgeRow};
use crate::shared::Shared;

/// Between reports while nobody watches.
const SELDOM: Duration = Duration::from_secs(60);
/// However often somebody wants to look.
const OFTEN: Duration = Duration::from_millis(200);
/// Reports that may wait to be sent.
const QUEUE: usize = 4;

/// Reports over each connection to the control server, for the life of the sidecar.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut seen = shared.taps.queue();
    let mut connections = shared.directory.control();
    loop {
        let client = connections.borrow_and_update().clone();
        if let Some(client) = client {
            let ended = tokio::select! {
                problem = report(&shared, client, &mut seen) => Some(problem),
                changed = connections.changed() => changed.err().map(|gone| gone.to_string()),
            };
            shared.taps.replace(&[]);
            let Some(problem) = ended else { continue };
            tracing::debug!(problem, "the control server takes no reports of traffic");
        }
        if connections.changed().await.is_err() {
            // The directory has ended, and with it the sidecar.
            return std::future::pending().await;
        }
    }
}

/// Reports until the stream ends. Returns why.
async fn report(shared: &Shared, mut client: Client, seen: &mut SeenQueue) -> String {
    let (reports, queue) = mpsc::channel(QUEUE);
    // Said before the stream is open: some servers send no headers before they have heard something.
    let hello = Report { node: shared.settings.node_id(), ..Default::default() };
    if reports.try_send(hello).is_err() {
        return "there is no room for the first report".to_owned();
    }
    let queue = stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|next| (next, queue)) });
    let mut watches = match client.report(queue).await {
        Ok(watches) => watches,
        Err(status) => return status.message().to_owned(),
    };
    let mut interval = SELDOM;
    // All sidecars of a mesh that starts would report at once.
    let mut next = pin!(sleep_until(Instant::now() + SELDOM.mul_f64(fastrand::f64())));
    loop {
        tokio::select! {
            watch = watches.message() => match watch {
                Ok(Some(Watch { interval: wanted, taps })) => {
                    shared.taps.replace(&taps);
                    interval = if wanted == 0 { SELDOM } else { Duration::from_millis(wanted.into()).clamp(OFTEN, SELDOM) };
                    if wanted > 0 {
                        next.as_mut().reset(Instant::now());
                    }
                }
                Ok(None) => return "it ended the stream".to_owned(),
                Err(status) => return status.message().to_owned(),
            },
            () = next.as_mut() => {
                let rows = shared.metrics.edges();
                let report = Report { edges: most(rows.iter().map(edge).collect()), ..Default::default() };
                // A server that does not keep up gets the next one.
                if let Err(mpsc::error::TrySendError::Closed(_)) = reports.try_send(report) {
                    return "it closed the stream".to_owned();
                }
                next.as_mut().reset(Instant::now() + interval);
            }
            requests = seen.next() => {
                let number = requests.len();
                let report = Report { requests, dropped: shared.taps.dropped(), ..Default::default() };
                match reports.try_send(report) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => shared.taps.lost(number),
                    Err(mpsc::error::TrySendError::Closed(_)) => return "it closed the stream".to_owned(),
                }
            }
        }
    }
}

/// Those with the most traffic, if there are too many.
fn most(mut edges: Vec<Edge>) -> Vec<Edge> {
    if edges.len() > EDGES {
        edges.sort_unstable_by_key(|edge| std::cmp::Reverse(edge.requests));
        edges.truncate(EDGES);
    }
    edges
}

/// A row of the live table as it is told.
pub fn edge(row: &EdgeRow) -> Edge {
    let mut edge = Edge {
        outbound: row.direction == Direction::Outbound,
        source: row.source.to_string(),
        destination: row.destination.to_string(),
        workload: row.workload.to_string(),
        protocol: row.protocol.to_owned(),
        identity: row.identity.to_string(),
        requests: row.requests,
        failures: row.failures,
        sent: row.bytes.0,
        received: row.bytes.1,
        reasons: row
            .reasons
            .iter()
            .map(|(reason, count)| ReasonCount { word: reason.word().to_owned(), count: *count })
            .collect(),
        ..Default::default()
    };
    edge.set_latency(row.latency.iter().copied());
    edge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_edges_those_with_traffic_are_told() {
        let edges = (0..EDGES as u64 + 10).map(|requests| Edge { requests, ..Default::default() }).collect();
        let told = most(edges);
        assert_eq!(told.len(), EDGES);
        assert!(told.iter().all(|edge| edge.requests >= 10));
    }
}

//! Taps: which of the requests and connections that end are told, how many in a second, and the queue in which they wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use malla_xds::telemetry::{Seen, TAPPED_PER_SECOND, TAPS, Tap};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::access_log::{Format, line};
use crate::metrics::Direction;
use crate::outcome::Record;

/// Requests that may wait to be told.
const QUEUE: usize = 1024;
/// Requests in one report.
const TOGETHER: usize = 64;

/// The taps of a sidecar. Without any, a request costs one look at a flag.
#[derive(Debug)]
pub(crate) struct Taps {
    any: AtomicBool,
    taps: ArcSwap<Vec<Active>>,
    seen: mpsc::Sender<Seen>,
    dropped: AtomicU64,
    /// Taken by the one who reports.
    waiting: Mutex<Option<mpsc::Receiver<Seen>>>,
}

/// What waits to be told.
#[derive(Debug)]
pub(super) struct SeenQueue(Option<mpsc::Receiver<Seen>>);

#[derive(Debug)]
struct Active {
    wanted: Tap,
    second: Mutex<Second>,
}

/// Requests told in the second that began at this moment.
#[derive(Debug)]
struct Second {
    began: Instant,
    told: u32,
}

impl Default for Taps {
    fn default() -> Self {
        let (seen, waiting) = mpsc::channel(QUEUE);
        Taps {
            any: AtomicBool::new(false),
            taps: ArcSwap::default(),
            seen,
            dropped: AtomicU64::new(0),
            waiting: Mutex::new(Some(waiting)),
        }
    }
}

impl SeenQueue {
    /// Some, as soon as there are any.
    pub(super) async fn next(&mut self) -> Vec<Seen> {
        let Some(waiting) = &mut self.0 else { return std::future::pending().await };
        let mut requests = Vec::new();
        if waiting.recv_many(&mut requests, TOGETHER).await == 0 {
            return std::future::pending().await;
        }
        requests
    }
}

impl Taps {
    /// The requests to be told; nothing for whoever comes second.
    pub(super) fn queue(&self) -> SeenQueue {
        SeenQueue(self.waiting.lock().take())
    }

    /// These from now on.
    pub(super) fn replace(&self, wanted: &[Tap]) {
        let before = self.taps.load();
        let kept = |tap: &Tap| before.iter().any(|active| active.wanted == *tap);
        if wanted.len() == before.len() && wanted.iter().all(kept) {
            return;
        }
        let began = Instant::now();
        let active = wanted.iter().take(TAPS).map(|tap| Active {
            wanted: Tap { per_second: tap.per_second.clamp(1, TAPPED_PER_SECOND), ..tap.clone() },
            second: Mutex::new(Second { began, told: 0 }),
        });
        let active: Vec<Active> = active.collect();
        self.any.store(!active.is_empty(), Relaxed);
        self.taps.store(Arc::new(active));
    }

    /// Whether any request is wanted.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// A request is over.
    pub(crate) fn record(&self, record: &Record<'_>) {
        let taps = self.taps.load();
        for tap in taps.iter().filter(|tap| admits(&tap.wanted, record)) {
            let seen = || Seen { tap: tap.wanted.id, line: line(&Format::Json, record) };
            if !tap.permits(record.ended) || self.seen.try_send(seen()).is_err() {
                self.lost(1);
            }
        }
    }

    /// So many could not be told.
    pub(super) fn lost(&self, number: usize) {
        self.dropped.fetch_add(number as u64, Relaxed);
    }

    /// Those that could not be told, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl Active {
    fn permits(&self, now: Instant) -> bool {
        let mut second = self.second.lock();
        if now.saturating_duration_since(second.began).as_secs() >= 1 {
            *second = Second { began: now, told: 0 };
        }
        second.told += 1;
        second.told <= self.wanted.per_second
    }
}

/// Whether somebody wants to see it.
fn admits(wanted: &Tap, record: &Record<'_>) -> bool {
    let Tap { id: _, method, path, status, identity, reason, per_second: _ } = wanted;
    let peer = match record.direction {
        Direction::Inbound => record.client,
        Direction::Outbound => record.endpoint.and_then(|endpoint| endpoint.identity.as_ref()),
    };
    let is_peer = |whole: &str| {
        whole == identity || whole.strip_suffix(identity.as_str()).is_some_and(|rest| rest.ends_with('/'))
    };
    let exchange = record.exchange();
    (method.is_empty() || exchange.is_some_and(|seen| seen.method.as_str() == method))
        && (path.is_empty()
            || exchange.and_then(|seen| seen.path).is_some_and(|seen| seen.path().starts_with(path.as_str())))
        && (status.is_empty() || exchange.is_some_and(|seen| is_status(status, seen.status)))
        && (identity.is_empty() || peer.is_some_and(|peer| is_peer(peer.as_str())))
        && (reason.is_empty() || record.reason.is_some_and(|seen| seen.word() == reason))
}

/// `503`, or `5xx`.
fn is_status(wanted: &str, status: u16) -> bool {
    match wanted.strip_suffix("xx") {
        Some(class) => class.parse() == Ok(status / 100),
        None => wanted.parse() == Ok(status),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use http::uri::PathAndQuery;

    use super::*;
    use crate::metrics::Protocol;
    use crate::names::SpiffeId;
    use crate::outcome::{Exchange, Of, Times};
    use crate::reason::Reason;

    struct Fixture {
        method: Method,
        path: PathAndQuery,
        client: SpiffeId,
        ended: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Fixture {
                method: Method::GET,
                path: PathAndQuery::from_static("/cart/7?secret=1"),
                client: SpiffeId::new("cluster.local", "web", "front").expect("valid"),
                ended: Instant::now(),
            }
        }

        fn record(&self) -> Record<'_> {
            Record {
                started: self.ended,
                times: Times::default(),
                ended: self.ended,
                direction: Direction::Inbound,
                service: "cart.shop:80",
                route: "default",
                client: Some(&self.client),
                endpoint: None,
                reason: Some(Reason::NoEndpoints),
                what: None,
                tries: 0,
                trace: None,
                of: Of::Request(Exchange {
                    protocol: Protocol::Http1,
                    method: &self.method,
                    path: Some(&self.path),
                    status: 503,
                    grpc_status: None,
                    hedge: None,
                }),
            }
        }
    }

    #[test]
    fn each_condition_admits_and_refuses() {
        let fixture = Fixture::new();
        let admitted = |change: fn(&mut Tap)| {
            let mut tap = Tap::default();
            change(&mut tap);
            admits(&tap, &fixture.record())
        };
        assert!(admitted(|_| {}));
        assert!(admitted(|tap| tap.method = "GET".into()) && !admitted(|tap| tap.method = "PUT".into()));
        assert!(admitted(|tap| tap.path = "/cart".into()) && !admitted(|tap| tap.path = "/x".into()));
        assert!(admitted(|tap| tap.status = "5xx".into()) && !admitted(|tap| tap.status = "4xx".into()));
        assert!(admitted(|tap| tap.status = "503".into()) && !admitted(|tap| tap.status = "50".into()));
        assert!(admitted(|tap| tap.identity = "web/sa/front".into()) && !admitted(|tap| tap.identity = "ont".into()));
        assert!(admitted(|tap| tap.reason = "no_endpoints".into()) && !admitted(|tap| tap.reason = "denied".into()));
        let connection = Record { of: Of::Connection { sent: 1, received: 2 }, ..fixture.record() };
        assert!(admits(&Tap::default(), &connection), "connections are told too");
        assert!(!admits(&Tap { status: "5xx".into(), ..Tap::default() }, &connection), "they have no status");
    }

    #[test]
    fn a_tap_tells_so_many_in_a_second_and_counts_the_rest() {
        let (taps, mut fixture) = (Taps::default(), Fixture::new());
        assert!(!taps.any());
        taps.replace(&[Tap { id: 7, per_second: 5, ..Default::default() }]);
        assert!(taps.any());
        (0..20).for_each(|_| taps.record(&fixture.record()));
        assert_eq!(taps.dropped(), 15);
        fixture.ended += Duration::from_secs(2);
        taps.record(&fixture.record());
        assert_eq!(taps.dropped(), 15, "another second has begun");
        let mut waiting = taps.waiting.lock().take().expect("nobody has taken it");
        let seen = waiting.try_recv().expect("told");
        assert_eq!(seen.tap, 7);
        assert!(seen.line.contains(r#""path":"/cart/7""#) && !seen.line.contains("secret"), "{}", seen.line);
        taps.replace(&[]);
        assert!(!taps.any());
    }
}

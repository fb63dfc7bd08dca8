//! Metrics: one struct per sidecar, documented by [`TABLE`], labelled only by configuration.
//!
//! What happens for each request goes to the [`Shard`] of a worker, whose counters no other thread writes; what happens for
//! each connection goes to the families here. Refused: labels from a request's host, path or headers.

mod connections;
mod fading;
mod histogram;
mod idle;
mod requests;
mod series;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use malla_xds::exposition::NativeHistogram;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::registry::Registry;

use self::connections::Connections;
use self::requests::Requests;
use crate::clock;
use crate::names::Name;
use crate::reason::Reason;

pub use self::connections::{Moved, TcpConnection};
pub use self::requests::{Protocol, Request, Shard};
pub use self::table::{Documented, TABLE};

/// All metrics of a sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Arc<Requests>,
    connections: Arc<Connections>,
    workload: Name,
}

/// Direction of traffic, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// What the first bytes of a connection were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detected {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// A ClientHello.
    Tls,
    /// Something else.
    Tcp,
    /// Nothing within the limit: carried as TCP.
    Silent,
}

/// How two sidecars came to their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Handshake {
    /// By certificates.
    Full,
    /// By a session that they had before.
    Resumed,
}

/// What came of a second try beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hedged {
    /// Its answer came first.
    Won,
    /// That of the first try came first.
    Lost,
    /// Both tries failed.
    Failed,
    /// It was not sent: the retry budget or the limits of the service had no room.
    Withheld,
}

/// One row of the live table: a source, a destination, and what passed between them.
#[derive(Debug, Clone)]
pub struct EdgeRow {
    /// Direction as seen by this sidecar.
    pub direction: Direction,
    /// Workload (outbound: this one) or identity (inbound: of the client; empty in plaintext) where it comes from.
    pub source: Name,
    /// Destination service (`cart.shop:80`).
    pub destination: Name,
    /// Workload that answered (`cart-1.shop`); empty if none did. Inbound: empty, or this one.
    pub workload: Name,
    /// `http/1.1`, `http/2`, `grpc`, `tcp`.
    pub protocol: &'static str,
    /// Identity of the peer, empty where the connection is in plaintext.
    pub identity: Name,
    /// Requests or connections since the start.
    pub requests: u64,
    /// Those of them that failed through the server or the way to it: status 500 and above, a gRPC status that is the server's fault, or a
    /// reason that has such a status. Of TCP, those that ended for a reason.
    pub failures: u64,
    /// Requests by duration: upper bound and number, not cumulated; the last bound is `Duration::MAX`.
    pub latency: Vec<(Duration, u64)>,
    /// Those that failed for a reason that has a word, by reason.
    pub reasons: Vec<(Reason, u64)>,
    /// Bytes towards the destination and back (TCP).
    pub bytes: (u64, u64),
}

/// Adds to the number of one reason.
fn add(reasons: &mut Vec<(Reason, u64)>, reason: Reason, count: u64) {
    match reasons.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, total)) => *total += count,
        None => reasons.push((reason, count)),
    }
}

impl Metrics {
    /// Everything at zero; `workload` (`cart-1.shop`) is the name of the workload beside the sidecar.
    pub fn new(workload: &str) -> Arc<Self> {
        let workload: Name = workload.into();
        let requests = Arc::new(Requests::new(workload.clone()));
        let connections = Arc::new(Connections::default());
        let mut registry = Registry::with_prefix("malla");
        registry.register_collector(Box::new(requests.clone()));
        connections.register(&mut registry);
        Arc::new(Metrics { registry: Mutex::new(registry), requests, connections, workload })
    }

    /// A shard for a worker.
    pub fn shard(&self) -> Arc<Shard> {
        self.requests.shard()
    }

    /// Adds what another part of the sidecar counts; its metrics get the prefix `malla_`.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// The text exposition (OpenMetrics 1.0, with exemplars).
    pub fn exposition(&self) -> String {
        self.expose(None)
    }

    /// The same, and the durations with exponential buckets, of the same moment.
    pub fn exposition_with_native(&self) -> (String, Vec<NativeHistogram>) {
        let mut native = Vec::new();
        (self.expose(Some(&mut native)), native)
    }

    fn expose(&self, native: Option<&mut Vec<NativeHistogram>>) -> String {
        self.forget_idle(clock::now());
        let mut text = String::new();
        let histograms = self.requests.histograms(&mut text, native);
        match histograms.and_then(|()| prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())) {
            Ok(()) => text,
            // Writing to a string fails only where a collector says so, and none of ours does.
            Err(std::fmt::Error) => String::new(),
        }
    }

    /// Takes out what has stood still for an hour: asked for by whoever reads.
    fn forget_idle(&self, now: Instant) {
        self.requests.forget_idle(now);
        self.connections.forget_idle(now);
    }

    /// Every edge on which something has moved within the last hour.
    pub fn edges(&self) -> Vec<EdgeRow> {
        self.forget_idle(clock::now());
        let mut rows = self.requests.edges();
        rows.extend(self.connections.edges(&self.workload));
        rows
    }

    /// A connection was refused or could not be made.
    pub fn connection_refused(&self, direction: Direction, reason: Reason) {
        self.connections.refused(direction, reason);
    }

    /// A connection was accepted.
    pub fn connection_accepted(&self, direction: Direction) {
        self.connections.accepted(direction);
    }

    /// A connection's protocol was detected.
    pub fn detected(&self, direction: Direction, result: Detected) {
        self.connections.detected(direction, result);
    }

    /// A TLS handshake of the mesh succeeded: with a session that was known, or from the beginning.
    pub fn tls_completed(&self, direction: Direction, handshake: Handshake) {
        self.connections.tls_completed(direction, handshake);
    }

    /// A TLS handshake failed (`Inbound`: with a client, `Outbound`: with an endpoint).
    pub fn tls_failed(&self, direction: Direction, reason: Reason) {
        self.connections.tls_failed(direction, reason);
    }

    /// A plaintext connection of another workload was accepted because the mode is permissive.
    pub fn plaintext_accepted(&self, service: &Name) {
        self.connections.plaintext_accepted(service);
    }

    /// A connection to an upstream was made by the pool, of this cluster.
    pub fn upstream_connected(&self, cluster: &Name) {
        let [opened, _] = self.connections.upstream(cluster);
        opened.inc();
    }

    /// A policy refused a request or a stream; the name of a policy comes from the configuration.
    pub fn denied(&self, service: &Name, policy: &str) {
        self.connections.denied(service, policy);
    }

    /// A policy that is only audited would have refused it.
    pub fn audited(&self, service: &Name, policy: &str) {
        self.connections.audited(service, policy);
    }

    /// A connection of the pool ended.
    pub fn upstream_closed(&self, cluster: &Name) {
        let [_, closed] = self.connections.upstream(cluster);
        closed.inc();
    }

    /// A connection to an upstream could not be made.
    pub fn upstream_connect_failed(&self, cluster: &Name, reason: Reason) {
        self.connections.upstream_failed(cluster, reason);
    }

    /// A request was tried once more, because of this.
    pub fn retried(&self, cluster: &Name, reason: Reason) {
        self.connections.retried(cluster, reason);
    }

    /// A request waited long enough for a second try beside the first.
    pub fn hedged(&self, cluster: &Name, result: Hedged) {
        self.connections.hedged(cluster, result);
    }

    /// A TCP connection begins; `peer` is the other side's identity (empty in plaintext), `workload` that of the endpoint.
    pub fn tcp(&self, direction: Direction, service: &Name, peer: &str, workload: &str) -> TcpConnection {
        self.connections.tcp(direction, service, peer, workload)
    }
}

impl Direction {
    /// As label.
    pub const fn word(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

impl Detected {
    /// As label.
    pub const fn word(self) -> &'static str {
        match self {
            Detected::Http1 => "http1",
            Detected::Http2 => "http2",
            Detected::Tls => "tls",
            Detected::Tcp => "tcp",
            Detected::Silent => "silent",
        }
    }
}

impl Handshake {
    /// As label.
    pub const fn word(self) -> &'static str {
        match self {
            Handshake::Full => "full",
            Handshake::Resumed => "resumed",
        }
    }
}

impl From<Option<rustls::HandshakeKind>> for Handshake {
    fn from(kind: Option<rustls::HandshakeKind>) -> Self {
        match kind {
            Some(rustls::HandshakeKind::Resumed) => Handshake::Resumed,
            _ => Handshake::Full,
        }
    }
}

impl Hedged {
    /// As label.
    pub const fn word(self) -> &'static str {
        match self {
            Hedged::Won => "won",
            Hedged::Lost => "lost",
            Hedged::Failed => "failed",
            Hedged::Withheld => "withheld",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::names::SpiffeId;

    fn one_of_each() -> Arc<Metrics> {
        let metrics = Metrics::new("cart-1.shop");
        let service: Name = "cart.shop:80".into();
        let identity = SpiffeId::parse("spiffe://td/ns/shop/sa/cart").ok();
        let shard = metrics.shard();
        shard.allowed("cart.shop:80", None);
        shard.record(&Request {
            direction: Direction::Outbound,
            service: &service,
            route: "default",
            protocol: Protocol::Http1,
            identity: identity.as_ref(),
            workload: "cart-2.shop",
            status: 200,
            grpc_status: None,
            reason: None,
            duration: Duration::from_millis(3),
            first_byte: Some(Duration::from_millis(2)),
            request_bytes: 0,
            response_bytes: 300,
            trace: Some(7),
        });
        metrics.connection_accepted(Direction::Inbound);
        metrics.connection_refused(Direction::Inbound, Reason::PlaintextRefused);
        metrics.detected(Direction::Outbound, Detected::Http1);
        metrics.tls_completed(Direction::Inbound, Handshake::Resumed);
        metrics.tls_failed(Direction::Inbound, Reason::TlsUntrusted);
        metrics.plaintext_accepted(&service);
        metrics.denied(&service, "shop/cart/0");
        metrics.audited(&service, "none");
        metrics.upstream_connected(&service);
        metrics.upstream_closed(&service);
        metrics.upstream_connect_failed(&service, Reason::ConnectRefused);
        metrics.retried(&service, Reason::ConnectRefused);
        metrics.hedged(&service, Hedged::Won);
        let mut tcp = metrics.tcp(Direction::Outbound, &service, "spiffe://td/ns/shop/sa/cart", "cart-2.shop");
        tcp.sent(10);
        tcp.received(20);
        tcp.failed(Reason::UpstreamReset);
        metrics
    }

    /// Names, types and labels of the exposition, as the table has them.
    fn exposed(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type line");
                found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            } else if !line.starts_with('#') {
                let line = line.split(" # {").next().unwrap_or_default();
                let (series, _) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let name = ["_total", "_sum", "_count", "_bucket"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .unwrap_or(name);
                let (_, set) = found.get_mut(name).unwrap_or_else(|| panic!("{name} has no type line"));
                let keys = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(key, _)| key);
                set.extend(keys.filter(|key| *key != "le").map(str::to_owned));
            }
        }
        found
    }

    #[test]
    fn the_table_documents_exactly_what_is_exposed() {
        let found = exposed(&one_of_each().exposition());
        let documented: BTreeMap<String, (String, BTreeSet<String>)> = TABLE
            .iter()
            .map(|row| {
                let labels = row.labels.iter().map(|label| (*label).to_owned()).collect();
                (row.name.to_owned(), (row.kind.to_owned(), labels))
            })
            .collect();
        assert_eq!(found, documented);
    }

    /// A request of `workload` in `service`.
    fn request<'a>(service: &'a str, workload: &'a str) -> Request<'a> {
        Request {
            direction: Direction::Outbound,
            service,
            route: "default",
            protocol: Protocol::Http1,
            identity: None,
            workload,
            status: 200,
            grpc_status: None,
            reason: None,
            duration: Duration::from_millis(3),
            first_byte: None,
            request_bytes: 0,
            response_bytes: 300,
            trace: None,
        }
    }

    #[test]
    fn what_stands_still_for_an_hour_goes_away_and_histograms_never_fall() {
        let metrics = Metrics::new("cart-1.shop");
        let shards = [metrics.shard(), metrics.shard()];
        for (service, workload) in
            [("stock.shop:80", "stock-1.shop"), ("stock.shop:80", "stock-2.shop"), ("old.shop:80", "old.shop")]
        {
            shards.iter().for_each(|shard| shard.record(&request(service, workload)));
        }
        metrics.tcp(Direction::Outbound, &"db.shop:3306".into(), "", "db-1.shop").failed(Reason::UpstreamReset);
        let open = metrics.tcp(Direction::Outbound, &"db.shop:3306".into(), "", "db-2.shop");
        let minute = Duration::from_secs(60);
        let start = Instant::now();
        metrics.forget_idle(start);
        metrics.forget_idle(start + 59 * minute);
        // One worker alone has more to do with the second replica.
        shards[0].record(&request("stock.shop:80", "stock-2.shop"));
        let whole = metrics.exposition();
        assert!(whole.contains("old.shop") && whole.contains("stock-1.shop") && whole.contains("db-1.shop"), "{whole}");
        metrics.forget_idle(start + 61 * minute);
        let rest = metrics.exposition();
        assert!(!rest.contains("old.shop") && !rest.contains("stock-1.shop") && !rest.contains("db-1.shop"), "{rest}");
        let line =
            |name: &str| rest.lines().find(|line| line.starts_with(name)).and_then(|line| line.rsplit(' ').next());
        assert_eq!(line("malla_requests_total"), Some("3"), "{rest}");
        assert_eq!(line("malla_request_duration_seconds_count"), Some("5"), "{rest}");
        assert_eq!(line("malla_response_size_bytes_sum"), Some("1500.0"), "{rest}");
        assert!(rest.contains("db-2.shop"), "a connection is open: {rest}");
        assert_eq!(metrics.edges().len(), 2, "{:?}", metrics.edges());
        // It comes back, and is counted anew.
        shards[1].record(&request("stock.shop:80", "stock-1.shop"));
        assert!(metrics.exposition().contains("stock-1.shop"));
        drop(open);
        metrics.forget_idle(start + 200 * minute);
        metrics.forget_idle(start + 300 * minute);
        assert!(metrics.edges().is_empty(), "{:?}", metrics.edges());
    }

    #[test]
    fn what_is_counted_of_clusters_services_and_policies_goes_away_too() {
        let metrics = Metrics::new("cart-1.shop");
        let (old, open): (Name, Name) = ("old.shop:80".into(), "open.shop:80".into());
        for cluster in [&old, &open] {
            metrics.upstream_connected(cluster);
            metrics.upstream_connected(cluster);
            metrics.upstream_closed(cluster);
        }
        metrics.upstream_closed(&old);
        metrics.upstream_connect_failed(&old, Reason::ConnectRefused);
        metrics.retried(&old, Reason::ConnectRefused);
        metrics.hedged(&old, Hedged::Won);
        metrics.plaintext_accepted(&old);
        metrics.denied(&old, "nobody");
        metrics.audited(&old, "nobody");
        metrics.shard().allowed(&old, Some("x/callers/0"));
        let lines = |cluster: &str| metrics.exposition().lines().filter(|line| line.contains(cluster)).count();
        let minute = Duration::from_secs(60);
        let start = Instant::now();
        metrics.forget_idle(start);
        metrics.forget_idle(start + 59 * minute);
        assert_eq!((lines("old.shop:80"), lines("open.shop:80")), (9, 2));
        metrics.forget_idle(start + 61 * minute);
        assert_eq!((lines("old.shop:80"), lines("open.shop:80")), (0, 2), "a connection to the second is open");
        metrics.upstream_closed(&open);
        metrics.forget_idle(start + 63 * minute);
        assert_eq!(lines("open.shop:80"), 2);
        metrics.forget_idle(start + 124 * minute);
        assert_eq!(lines("open.shop:80"), 0);
        metrics.retried(&old, Reason::ConnectRefused);
        assert_eq!(lines("old.shop:80"), 1, "it comes back, and is counted anew");
    }

    #[test]
    fn edges_tell_who_talks_to_whom() {
        let rows = one_of_each().edges();
        let http = rows.iter().find(|row| row.protocol == "http/1.1").expect("the request");
        assert_eq!((&*http.source, &*http.destination), ("cart-1.shop", "cart.shop:80"));
        assert_eq!((http.requests, http.failures), (1, 0));
        assert_eq!(&*http.identity, "spiffe://td/ns/shop/sa/cart");
        let (bound, count) = http.latency.iter().find(|(_, count)| *count > 0).expect("a duration");
        assert_eq!((*bound, *count), (Duration::from_millis(3), 1));
        let tcp = rows.iter().find(|row| row.protocol == "tcp").expect("the connection");
        assert_eq!((tcp.requests, tcp.failures, tcp.bytes), (1, 1, (10, 20)));
    }
}

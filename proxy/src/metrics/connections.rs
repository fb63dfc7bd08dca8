//! What is counted for each connection: families of prometheus-client, whose locks a connection can afford.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::fading::Fading;
use super::idle::Idle;
use super::table::help;
use super::{Detected, Direction, EdgeRow, Handshake, Hedged, add};
use crate::names::Name;
use crate::reason::Reason;

type Labels<const N: usize> = [(&'static str, &'static str); N];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabel {
    service: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabel {
    cluster: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterReason {
    cluster: Name,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterResult {
    cluster: Name,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TcpLabels {
    direction: &'static str,
    service: Name,
    identity: Name,
    destination: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TcpReason {
    direction: &'static str,
    service: Name,
    identity: Name,
    destination: Name,
    reason: &'static str,
}

impl TcpLabels {
    fn failed(&self, reason: Reason) -> TcpReason {
        let TcpLabels { direction, service, identity, destination } = self.clone();
        TcpReason { direction, service, identity, destination, reason: reason.word() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServicePolicy {
    service: Name,
    policy: Name,
}

/// The families, and the TCP edges for the live table.
#[derive(Debug, Default)]
pub(super) struct Connections {
    accepted: Family<Labels<1>, Counter>,
    refused: Family<Labels<2>, Counter>,
    detected: Family<Labels<2>, Counter>,
    tls_completed: Family<Labels<2>, Counter>,
    tls_failed: Family<Labels<2>, Counter>,
    plaintext: Fading<ServiceLabel>,
    denied: Fading<ServicePolicy>,
    audited: Fading<ServicePolicy>,
    /// Opened and closed.
    upstream: Fading<ClusterLabel, 2>,
    not_made: Fading<ClusterReason>,
    retries: Fading<ClusterReason>,
    hedges: Fading<ClusterResult>,
    tcp: Family<TcpLabels, Counter>,
    tcp_failed: Family<TcpReason, Counter>,
    tcp_sent: Family<TcpLabels, Counter>,
    tcp_received: Family<TcpLabels, Counter>,
    tcp_edges: Mutex<HashMap<TcpLabels, Arc<TcpEdge>>>,
    idle: Mutex<Idle<TcpLabels>>,
}

/// The counters of connections with the same labels.
#[derive(Debug)]
struct TcpEdge {
    labels: TcpLabels,
    direction: Direction,
    begun: Counter,
    failures: Mutex<Vec<(Reason, u64)>>,
    sent: Counter,
    received: Counter,
    failed: Family<TcpReason, Counter>,
}

/// A TCP connection that is being carried.
#[derive(Debug)]
pub struct TcpConnection {
    edge: Arc<TcpEdge>,
    failed: bool,
    moved: Arc<Moved>,
}

/// What one connection has carried.
#[derive(Debug, Default)]
pub struct Moved {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Moved {
    /// Bytes towards the destination, and back.
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }
}

impl Connections {
    pub(super) fn register(&self, registry: &mut Registry) {
        macro_rules! register {
            ($($name:literal: $family:expr),+ $(,)?) => {
                $(registry.register($name, help($name), $family);)+
            };
        }
        let [plaintext] = self.plaintext.families();
        let ([denied], [audited]) = (self.denied.families(), self.audited.families());
        let [opened, closed] = self.upstream.families();
        let [not_made] = self.not_made.families();
        let ([retries], [hedges]) = (self.retries.families(), self.hedges.families());
        register! {
            "connections_accepted": self.accepted.clone(),
            "connections_refused": self.refused.clone(),
            "protocol_detected": self.detected.clone(),
            "tls_handshakes": self.tls_completed.clone(),
            "tls_handshakes_failed": self.tls_failed.clone(),
            "plaintext_accepted": plaintext,
            "authorization_denied": denied,
            "authorization_audited": audited,
            "upstream_connections_opened": opened,
            "upstream_connections_closed": closed,
            "upstream_connections_failed": not_made,
            "retries": retries,
            "hedges": hedges,
            "tcp_connections": self.tcp.clone(),
            "tcp_connections_failed": self.tcp_failed.clone(),
            "tcp_sent_bytes": self.tcp_sent.clone(),
            "tcp_received_bytes": self.tcp_received.clone(),
        }
    }

    pub(super) fn accepted(&self, direction: Direction) {
        self.accepted.get_or_create(&[("direction", direction.word())]).inc();
    }

    pub(super) fn refused(&self, direction: Direction, reason: Reason) {
        self.refused.get_or_create(&[("direction", direction.word()), ("reason", reason.word())]).inc();
    }

    pub(super) fn detected(&self, direction: Direction, result: Detected) {
        self.detected.get_or_create(&[("direction", direction.word()), ("protocol", result.word())]).inc();
    }

    pub(super) fn tls_completed(&self, direction: Direction, handshake: Handshake) {
        self.tls_completed.get_or_create(&[("direction", direction.word()), ("handshake", handshake.word())]).inc();
    }

    pub(super) fn tls_failed(&self, direction: Direction, reason: Reason) {
        self.tls_failed.get_or_create(&[("direction", direction.word()), ("reason", reason.word())]).inc();
    }

    pub(super) fn plaintext_accepted(&self, service: &Name) {
        let [accepted] = self.plaintext.of(ServiceLabel { service: service.clone() });
        accepted.inc();
    }

    pub(super) fn denied(&self, service: &Name, policy: &str) {
        let [denied] = self.denied.of(ServicePolicy { service: service.clone(), policy: policy.into() });
        denied.inc();
    }

    pub(super) fn audited(&self, service: &Name, policy: &str) {
        let [audited] = self.audited.of(ServicePolicy { service: service.clone(), policy: policy.into() });
        audited.inc();
    }

    /// Connections opened and closed.
    pub(super) fn upstream(&self, cluster: &Name) -> [Counter; 2] {
        self.upstream.of(ClusterLabel { cluster: cluster.clone() })
    }

    pub(super) fn upstream_failed(&self, cluster: &Name, reason: Reason) {
        let [failed] = self.not_made.of(ClusterReason { cluster: cluster.clone(), reason: reason.word() });
        failed.inc();
    }

    pub(super) fn retried(&self, cluster: &Name, reason: Reason) {
        let [retried] = self.retries.of(ClusterReason { cluster: cluster.clone(), reason: reason.word() });
        retried.inc();
    }

    pub(super) fn hedged(&self, cluster: &Name, result: Hedged) {
        let [hedged] = self.hedges.of(ClusterResult { cluster: cluster.clone(), result: result.word() });
        hedged.inc();
    }

    pub(super) fn tcp(&self, direction: Direction, service: &Name, peer: &str, workload: &str) -> TcpConnection {
        let labels = TcpLabels {
            direction: direction.word(),
            service: service.clone(),
            identity: peer.into(),
            destination: workload.into(),
        };
        let mut edges = self.tcp_edges.lock();
        let edge = edges.entry(labels).or_insert_with_key(|labels| {
            Arc::new(TcpEdge {
                labels: labels.clone(),
                direction,
                begun: self.tcp.get_or_create_owned(labels),
                failures: Mutex::default(),
                sent: self.tcp_sent.get_or_create_owned(labels),
                received: self.tcp_received.get_or_create_owned(labels),
                failed: self.tcp_failed.clone(),
            })
        });
        edge.begun.inc();
        TcpConnection { edge: edge.clone(), failed: false, moved: Arc::default() }
    }

    /// Takes out the series that have stood still for long, and that no connection counts in.
    pub(super) fn forget_idle(&self, now: Instant) {
        self.upstream.forget_idle(now, |[opened, closed]| opened.get() == closed.get());
        self.plaintext.forget_idle(now, |_| true);
        self.denied.forget_idle(now, |_| true);
        self.audited.forget_idle(now, |_| true);
        self.not_made.forget_idle(now, |_| true);
        self.retries.forget_idle(now, |_| true);
        self.hedges.forget_idle(now, |_| true);
        self.forget_idle_tcp(now);
    }

    fn forget_idle_tcp(&self, now: Instant) {
        let mut idle = self.idle.lock();
        if !idle.is_due(now) {
            return;
        }
        let mut edges = self.tcp_edges.lock();
        let moved = |edge: &TcpEdge| edge.begun.get().wrapping_add(edge.sent.get()).wrapping_add(edge.received.get());
        let quiet = idle.look(now, edges.iter().map(|(labels, edge)| (labels.clone(), moved(edge))));
        edges.retain(|labels, edge| {
            if !quiet.contains(labels) || Arc::strong_count(edge) > 1 {
                return true;
            }
            for family in [&self.tcp, &self.tcp_sent, &self.tcp_received] {
                family.remove(labels);
            }
            for (reason, _) in edge.failures.lock().iter() {
                self.tcp_failed.remove(&labels.failed(*reason));
            }
            false
        });
    }

    pub(super) fn edges(&self, workload: &Name) -> Vec<EdgeRow> {
        let edges: Vec<Arc<TcpEdge>> = self.tcp_edges.lock().values().cloned().collect();
        let mut rows: HashMap<(Direction, Name, Name, Name), EdgeRow> = HashMap::new();
        for edge in edges {
            let TcpLabels { service, identity, destination, .. } = &edge.labels;
            let source = if edge.direction == Direction::Outbound { workload } else { identity };
            let key = (edge.direction, service.clone(), destination.clone(), identity.clone());
            let row = rows.entry(key).or_insert_with(|| EdgeRow {
                direction: edge.direction,
                source: source.clone(),
                destination: service.clone(),
                workload: destination.clone(),
                protocol: "tcp",
                identity: identity.clone(),
                requests: 0,
                failures: 0,
                latency: Vec::new(),
                reasons: Vec::new(),
                bytes: (0, 0),
            });
            row.requests += edge.begun.get();
            for (reason, count) in edge.failures.lock().iter() {
                row.failures += count;
                add(&mut row.reasons, *reason, *count);
            }
            row.bytes.0 += edge.sent.get();
            row.bytes.1 += edge.received.get();
        }
        rows.into_values().collect()
    }
}

impl TcpConnection {
    /// Bytes carried towards the destination.
    pub fn sent(&self, bytes: u64) {
        self.edge.sent.inc_by(bytes);
        self.moved.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes carried back.
    pub fn received(&self, bytes: u64) {
        self.edge.received.inc_by(bytes);
        self.moved.received.fetch_add(bytes, Relaxed);
    }

    /// What it carries, for whoever tells of it when it is over.
    pub fn moved(&self) -> Arc<Moved> {
        self.moved.clone()
    }

    /// The connection ended for this reason; without it, in order. Only the first counts.
    pub fn failed(&mut self, reason: Reason) {
        if !std::mem::replace(&mut self.failed, true) {
            self.edge.failed.get_or_create(&self.edge.labels.failed(reason)).inc();
            add(&mut self.edge.failures.lock(), reason, 1);
        }
    }
}

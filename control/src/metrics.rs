//! Metrics of the control server, registered once. Labels come from fixed sets, never from what a client sent.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use malla_xds::ResourceType;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::inject::SkipReason;
use crate::resources::{LastReload, ReloadOutcome, Resources};

/// A label `type`: `clusters`, `endpoints`, `listeners`, `routes`, `secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Type {
    /// The word of the resource type.
    pub(crate) r#type: &'static str,
}

/// A label `flavour`: `delta` or `sotw`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Flavour {
    /// The word.
    pub(crate) flavour: &'static str,
}

/// A label `reason`, one word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    /// The word.
    pub(crate) reason: &'static str,
}

/// A label `outcome`: `applied` or `refused` of a configuration, and what became of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    /// The word.
    pub(crate) outcome: &'static str,
}

const CONNECTION_REASONS: &[&str] =
    &["accept_failed", "handshake_timeout", "no_identity", "tls_handshake", "too_many_connections"];
const STREAM_REASONS: &[&str] = &[
    "connection_closing",
    "invalid_name",
    "never_answers",
    "slow_reader",
    "stopping",
    "too_many_subscriptions",
    "wrong_node",
];
const CERTIFICATE_REASONS: &[&str] = &[
    "expired",
    "forged",
    "internal",
    "invalid_identity",
    "invalid_request",
    "malformed",
    "no_credentials",
    "not_a_pod",
    "rate_limited",
    "review_unavailable",
    "revoked",
    "trust_domain",
    "used",
    "wrong_audience",
    "wrong_pod",
];

const LOOK_REASONS: &[&str] = &[
    "expired",
    "for_one_use",
    "forged",
    "internal",
    "invalid_identity",
    "malformed",
    "no_credentials",
    "not_a_pod",
    "not_an_observer",
    "review_unavailable",
    "revoked",
    "used",
    "wrong_audience",
    "wrong_pod",
];

const REVIEW_REASONS: &[&str] = &["bad_review", "slow_body", "too_large", "wrong_request"];
/// Seconds of a review: an API server waits for each.
const REVIEW_SECONDS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

/// Seconds of a signature, and of writing it down.
const SIGNING_SECONDS: [f64; 8] = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0];
/// Seconds until a change is acknowledged.
const PROPAGATION_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Family<Reason, Counter>,
    pub(crate) streams: Family<Flavour, Gauge>,
    pub(crate) streams_ended: Family<Reason, Counter>,
    pub(crate) responses: Family<Type, Counter>,
    pub(crate) rejections: Family<Type, Counter>,
    pub(crate) denials: Family<Type, Counter>,
    pub(crate) propagation_seconds: Family<Type, Histogram, fn() -> Histogram>,
    pub(crate) certificates: Counter,
    pub(crate) signing_seconds: Histogram,
    pub(crate) certificates_refused: Family<Reason, Counter>,
    pub(crate) looks_refused: Family<Reason, Counter>,
    pub(crate) authority_expiry: Gauge,
    pub(crate) reviews: Family<Outcome, Counter>,
    pub(crate) reviews_refused: Family<Reason, Counter>,
    pub(crate) review_seconds: Histogram,
    pub(crate) authority_refused: Gauge,
    pub(crate) cluster_kinds_failing: Gauge,
    pub(crate) cluster_objects_refused: Gauge,
    reloads: Family<Outcome, Counter>,
    reload_refused: Gauge,
    reload_time: Gauge,
}

impl Metrics {
    /// A registry of its own, with everything in it.
    pub(crate) fn new() -> Self {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("malla"),
            connections: Gauge::default(),
            connections_refused: Family::default(),
            streams: Family::default(),
            streams_ended: Family::default(),
            responses: Family::default(),
            rejections: Family::default(),
            denials: Family::default(),
            propagation_seconds: Family::new_with_constructor(|| Histogram::new(PROPAGATION_SECONDS)),
            certificates: Counter::default(),
            signing_seconds: Histogram::new(SIGNING_SECONDS),
            certificates_refused: Family::default(),
            looks_refused: Family::default(),
            authority_expiry: Gauge::default(),
            reviews: Family::default(),
            reviews_refused: Family::default(),
            review_seconds: Histogram::new(REVIEW_SECONDS),
            authority_refused: Gauge::default(),
            cluster_kinds_failing: Gauge::default(),
            cluster_objects_refused: Gauge::default(),
            reloads: Family::default(),
            reload_refused: Gauge::default(),
            reload_time: Gauge::default(),
        };
        let registry = metrics.registry.sub_registry_with_prefix("control");
        registry.register("connections", "Open connections of sidecars", metrics.connections.clone());
        registry.register(
            "connections_refused",
            "Connections that ended before they could be used",
            metrics.connections_refused.clone(),
        );
        registry.register("streams", "Open xDS streams", metrics.streams.clone());
        registry.register("streams_ended", "xDS streams that the server ended", metrics.streams_ended.clone());
        registry.register("responses", "xDS responses sent", metrics.responses.clone());
        registry.register("rejections", "xDS responses that a client rejected", metrics.rejections.clone());
        registry.register("denials", "Resources that a client asked for and may not have", metrics.denials.clone());
        registry.register(
            "propagation_seconds",
            "From a change of the configuration to a client's acknowledgement of what was sent of it",
            metrics.propagation_seconds.clone(),
        );
        registry.register("certificates", "Certificates issued", metrics.certificates.clone());
        registry.register(
            "signing_seconds",
            "Time to sign a certificate and to write that down",
            metrics.signing_seconds.clone(),
        );
        registry.register(
            "certificates_refused",
            "Requests for a certificate that were refused",
            metrics.certificates_refused.clone(),
        );
        registry.register(
            "looks_refused",
            "Requests from elsewhere to see traffic that were refused",
            metrics.looks_refused.clone(),
        );
        registry.register(
            "authority_expiry_timestamp_seconds",
            "When the certificate of the authority ends",
            metrics.authority_expiry.clone(),
        );
        registry.register(
            "authority_refused",
            "1 while the authority's files have changed and cannot be used, and the authority before goes on",
            metrics.authority_refused.clone(),
        );
        registry.register("reloads", "Attempts to load the configuration", metrics.reloads.clone());
        registry.register(
            "reload_refused",
            "1 while the configuration files are invalid and an earlier configuration serves",
            metrics.reload_refused.clone(),
        );
        registry.register(
            "reload_timestamp_seconds",
            "When the configuration was last loaded or refused",
            metrics.reload_time.clone(),
        );
        registry.register("admission_reviews", "Pods that the webhook was asked about", metrics.reviews.clone());
        registry.register(
            "admission_reviews_refused",
            "Requests to the webhook that were no questions",
            metrics.reviews_refused.clone(),
        );
        registry.register(
            "admission_review_seconds",
            "Time from a question to its answer",
            metrics.review_seconds.clone(),
        );
        registry.register(
            "cluster_kinds_failing",
            "Kinds of the cluster whose changes the API server does not tell",
            metrics.cluster_kinds_failing.clone(),
        );
        registry.register(
            "cluster_objects_refused",
            "Objects of the cluster that are not followed as they stand",
            metrics.cluster_objects_refused.clone(),
        );
        metrics.start_at_zero();
        metrics
    }

    /// A counter that appears with its first event hides that event from rates: all begin at zero.
    fn start_at_zero(&self) {
        for kind in ResourceType::ALL {
            for family in [&self.responses, &self.rejections, &self.denials] {
                drop(family.get_or_create(&Type { r#type: kind.word() }));
            }
            drop(self.propagation_seconds.get_or_create(&Type { r#type: kind.word() }));
        }
        for flavour in ["delta", "sotw"] {
            drop(self.streams.get_or_create(&Flavour { flavour }));
        }
        for outcome in ["applied", "refused"] {
            drop(self.reloads.get_or_create(&Outcome { outcome }));
        }
        let decided = ["injected", "denied", "not_a_pod"].into_iter().chain(SkipReason::ALL.map(SkipReason::word));
        decided.for_each(|outcome| drop(self.reviews.get_or_create(&Outcome { outcome })));
        for (family, reasons) in [
            (&self.reviews_refused, REVIEW_REASONS),
            (&self.connections_refused, CONNECTION_REASONS),
            (&self.streams_ended, STREAM_REASONS),
            (&self.certificates_refused, CERTIFICATE_REASONS),
            (&self.looks_refused, LOOK_REASONS),
        ] {
            reasons.iter().for_each(|reason| drop(family.get_or_create(&Reason { reason })));
        }
    }

    /// Tells of the workloads of the configuration that serves.
    pub(crate) fn with_workloads(mut self, resources: watch::Receiver<Arc<Resources>>) -> Self {
        self.registry.register_collector(Box::new(Workloads(resources)));
        self
    }

    /// Counts an attempt to load the configuration.
    pub(crate) fn reloaded(&self, last: &LastReload) {
        let (outcome, refused) = match last.outcome {
            ReloadOutcome::Applied { .. } => ("applied", 0),
            ReloadOutcome::Refused { .. } => ("refused", 1),
        };
        self.reloads.get_or_create(&Outcome { outcome }).inc();
        self.reload_refused.set(refused);
        self.reload_time.set(unix_seconds(last.at));
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// What is known of each workload, to be joined onto the metrics that name it.
#[derive(Debug)]
struct Workloads(watch::Receiver<Arc<Resources>>);

impl Collector for Workloads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 for each workload of the configuration, with what is known of it";
        let mut info = encoder.encode_descriptor("workload_info", help, None, MetricType::Gauge)?;
        let resources = self.0.borrow().clone();
        for (workload, identity, version) in resources.workloads() {
            let labels = [
                ("workload", &**workload),
                ("namespace", identity.namespace()),
                ("identity", identity.as_str()),
                ("version", version.map_or("", |version| version)),
            ];
            ConstGauge::new(1).encode(info.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Seconds since 1970, for metrics and JSON.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of metrics in the documentation is made of these.
    #[test]
    fn exposes_these_metrics_and_no_others() {
        let identity = malla_xds::SpiffeId::new("cluster.local", "shop", "cart").expect("valid");
        let workloads = [("cart-1.shop".into(), identity.clone()), ("cart-2.shop".into(), identity)];
        let resources = Resources::new("cluster.local", Default::default(), [], [], workloads.into())
            .with_versions([("cart-1.shop".into(), "v\"1".into())].into());
        let (_sender, receiver) = watch::channel(Arc::new(resources));
        let text = Metrics::new().with_workloads(receiver).text();
        for (workload, version) in [("cart-1", r#"v\"1"#), ("cart-2", "")] {
            let line = format!(
                "malla_workload_info{{workload=\"{workload}.shop\",namespace=\"shop\",\
                 identity=\"spiffe://cluster.local/ns/shop/sa/cart\",version=\"{version}\"}} 1"
            );
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(
            names,
            [
                "malla_workload_info gauge",
                "malla_control_connections gauge",
                "malla_control_connections_refused counter",
                "malla_control_streams gauge",
                "malla_control_streams_ended counter",
                "malla_control_responses counter",
                "malla_control_rejections counter",
                "malla_control_denials counter",
                "malla_control_propagation_seconds histogram",
                "malla_control_certificates counter",
                "malla_control_signing_seconds histogram",
                "malla_control_certificates_refused counter",
                "malla_control_looks_refused counter",
                "malla_control_authority_expiry_timestamp_seconds gauge",
                "malla_control_authority_refused gauge",
                "malla_control_reloads counter",
                "malla_control_reload_refused gauge",
                "malla_control_reload_timestamp_seconds gauge",
                "malla_control_admission_reviews counter",
                "malla_control_admission_reviews_refused counter",
                "malla_control_admission_review_seconds histogram",
                "malla_control_cluster_kinds_failing gauge",
                "malla_control_cluster_objects_refused gauge",
            ]
        );
    }
}

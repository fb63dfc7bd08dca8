//! Metrics of clusters: health of endpoints, checks, limits in force. Read from the snapshot when they are asked for.

use std::fmt;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::balance::{self, Cause, Limit, Standing};
use crate::metrics::Documented;
use crate::snapshot::{Cluster, Endpoints};
use crate::subscribe::Directory;

/// Where the numbers are.
#[derive(Debug)]
pub(crate) struct ClusterMetrics {
    pub(crate) directory: Directory,
}

/// Their documentation, in the order of the exposition.
pub const CLUSTER_TABLE: &[Documented] = &[
    row("malla_endpoints", "gauge", &["cluster", "standing"], "Endpoints, by what they may get"),
    row("malla_outlier_ejections", "counter", &["cluster", "cause"], "Endpoints that were left out for their answers"),
    row("malla_health_checks", "counter", &["cluster", "result"], "Active health checks that were made"),
    row(
        "malla_cluster_in_use",
        "gauge",
        &["cluster", "resource"],
        "What the limits of a cluster count; of it `pending` are the requests that wait for a connection",
    ),
    row("malla_circuit_open", "gauge", &["cluster", "limit"], "Whether a limit of a cluster leaves no room"),
    row("malla_circuit_refused", "counter", &["cluster", "limit"], "How often a limit of a cluster had no room"),
    row("malla_concurrency_limit", "gauge", &["cluster"], "Requests in flight that the adaptive limit permits"),
];

const fn row(
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Documented {
    Documented { name, kind, labels, help }
}

type Series = (Vec<(&'static str, String)>, u64);

impl ClusterMetrics {
    fn series(&self, name: &str, cluster: &Cluster) -> Vec<Series> {
        let labelled = |key: &'static str, value: &str, number: u64| {
            (vec![("cluster", cluster.name.to_string()), (key, value.to_owned())], number)
        };
        let watch = &cluster.feedback.watch;
        match name {
            "malla_endpoints" => {
                let Endpoints::Set(set) = &cluster.endpoints else { return Vec::new() };
                let now = Instant::now();
                let standings = [Standing::Available, Standing::Probation, Standing::FailingChecks, Standing::Ejected];
                let count = |standing| set.iter().filter(|endpoint| endpoint.load.standing(now) == standing).count();
                standings.map(|standing| labelled("standing", standing.word(), count(standing) as u64)).into()
            }
            "malla_outlier_ejections" if cluster.feedback.outliers.is_some() => {
                Cause::ALL.map(|cause| labelled("cause", cause.word(), watch.ejections(cause))).into()
            }
            "malla_health_checks" if cluster.policy.health_check.is_some() => {
                let (passed, failed) = watch.checks();
                vec![labelled("result", "passed", passed), labelled("result", "failed", failed)]
            }
            "malla_cluster_in_use" => vec![
                labelled("resource", "connections", cluster.usage.connections().into()),
                labelled("resource", "pending", cluster.usage.pending().into()),
                labelled("resource", "requests", cluster.usage.requests().into()),
                labelled("resource", "retries", cluster.retry_budget.retrying().into()),
            ],
            "malla_circuit_open" => {
                let reached = |limit| Some((limit, balance::is_reached(cluster, limit)?));
                let reached = Limit::ALL.into_iter().filter_map(reached);
                reached.map(|(limit, reached)| labelled("limit", limit.word(), reached.into())).collect()
            }
            "malla_circuit_refused" => {
                let limits = Limit::ALL.into_iter().filter(|limit| balance::is_reached(cluster, *limit).is_some());
                limits.map(|limit| labelled("limit", limit.word(), cluster.usage.refused(limit))).collect()
            }
            "malla_concurrency_limit" => {
                let limit = cluster.feedback.limiter.as_ref().map(|limiter| limiter.limit() as u64);
                limit.map(|limit| (vec![("cluster", cluster.name.to_string())], limit)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Collector for ClusterMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let clusters = self.directory.snapshot().clusters();
        for row in CLUSTER_TABLE {
            let kind = if row.kind == "counter" { MetricType::Counter } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(row.name.trim_start_matches("malla_"), row.help, None, kind)?;
            for (labels, number) in clusters.values().flat_map(|cluster| self.series(row.name, cluster)) {
                let family = metric.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(number).encode(family)?,
                    _ => ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX)).encode(family)?,
                }
            }
        }
        Ok(())
    }
}

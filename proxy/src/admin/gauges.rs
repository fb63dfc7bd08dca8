//! Metrics of the sidecar itself: control server, certificate, configuration, shutdown. Read when they are asked for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::access_log::AccessLog;
use crate::drain::Drain;
use crate::identity::IdentityStore;
use crate::memory::Memory;
use crate::metrics::Documented;
use crate::shared::Shared;
use crate::subscribe::status::{Connection, Status};
use crate::trace::{Counts, Tracer};

/// Where the numbers are.
#[derive(Debug)]
pub(crate) struct SidecarMetrics {
    status: Arc<Status>,
    identity: IdentityStore,
    memory: Memory,
    drain: Drain,
    tracer: Option<Arc<Tracer>>,
    access_log: Option<Arc<AccessLog>>,
}

const fn row(
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Documented {
    Documented { name, kind, labels, help }
}

/// Their documentation, in the order of the exposition.
pub const SIDECAR_TABLE: &[Documented] = &[
    row("malla_control_connected", "gauge", &[], "Whether a stream to the control server is open"),
    row("malla_control_streams", "counter", &[], "Streams to the control server that were opened"),
    row("malla_control_responses", "counter", &[], "Responses of the control server"),
    row("malla_control_rejections", "counter", &[], "Responses of the control server that were rejected"),
    row("malla_config_problems", "gauge", &[], "Resources of which the newest cannot be used"),
    row("malla_config_subscriptions", "gauge", &["type"], "Resources subscribed to"),
    row("malla_identity_expiry_timestamp_seconds", "gauge", &[], "End of the certificate, 0 if there is none"),
    row("malla_identity_valid", "gauge", &[], "Whether there is a certificate that has not expired"),
    row("malla_identity_renewal_failing", "gauge", &[], "Whether the last attempt to obtain a certificate failed"),
    row("malla_connections_in_flight", "gauge", &[], "Connections that are being served"),
    row("malla_memory_limit_bytes", "gauge", &[], "Memory that the sidecar may use, 0 if there is no limit"),
    row("malla_memory_used_bytes", "gauge", &[], "Memory in use of that limit, 0 if there is no limit"),
    row("malla_memory_shedding", "gauge", &[], "Whether requests are shed because memory runs out"),
    row("malla_draining", "gauge", &[], "Whether the sidecar is shutting down"),
    row("malla_access_log_lines_dropped", "counter", &[], "Lines of the access log for which there was no room"),
    row("malla_trace_spans_exported", "counter", &[], "Spans that the trace collector took"),
    row("malla_trace_spans_dropped", "counter", &[], "Spans for which there was no room"),
    row("malla_trace_spans_failed", "counter", &[], "Spans that the trace collector did not take"),
];

impl SidecarMetrics {
    pub(crate) fn new(shared: &Shared) -> Self {
        SidecarMetrics {
            status: shared.directory.status().clone(),
            identity: shared.identity.clone(),
            memory: shared.memory.clone(),
            drain: shared.drain.clone(),
            tracer: shared.tracer.clone(),
            access_log: shared.access_log.clone(),
        }
    }

    /// The value of a row without labels.
    fn value(&self, name: &str) -> u64 {
        let state = self.status.state();
        match name {
            "malla_control_connected" => u64::from(matches!(state.connection, Connection::Connected(_))),
            "malla_control_streams" => state.streams,
            "malla_control_responses" => state.responses,
            "malla_control_rejections" => state.rejections,
            "malla_config_problems" => count(state.problems.len()),
            "malla_identity_expiry_timestamp_seconds" => {
                self.expiry().map_or(0, |expiry| expiry.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
            }
            "malla_identity_valid" => u64::from(self.expiry().is_some_and(|expiry| expiry > SystemTime::now())),
            "malla_identity_renewal_failing" => u64::from(self.identity.failure().is_some()),
            "malla_connections_in_flight" => count(self.drain.in_flight()),
            "malla_memory_limit_bytes" => self.memory.limit().unwrap_or(0),
            "malla_memory_used_bytes" => self.memory.used(),
            "malla_memory_shedding" => u64::from(self.memory.requests()),
            "malla_draining" => u64::from(self.drain.is_draining()),
            "malla_access_log_lines_dropped" => self.access_log.as_ref().map_or(0, |log| log.dropped()),
            "malla_trace_spans_exported" => self.spans(|counts| &counts.exported),
            "malla_trace_spans_dropped" => self.spans(|counts| &counts.dropped),
            "malla_trace_spans_failed" => self.spans(|counts| &counts.failed),
            _ => 0,
        }
    }

    fn spans(&self, which: fn(&Counts) -> &AtomicU64) -> u64 {
        self.tracer.as_ref().map_or(0, |tracer| which(&tracer.counts).load(Relaxed))
    }

    fn expiry(&self) -> Option<SystemTime> {
        self.identity.last().map(|identity| identity.not_after)
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Collector for SidecarMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for row in SIDECAR_TABLE {
            let name = row.name.trim_start_matches("malla_");
            let kind = if row.kind == "counter" { MetricType::Counter } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(name, row.help, None, kind)?;
            if row.labels.is_empty() {
                let value = self.value(row.name);
                match kind {
                    MetricType::Counter => ConstCounter::new(value).encode(metric)?,
                    _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?,
                }
                continue;
            }
            for (kind, number) in &self.status.state().subscriptions {
                let labels = [("type", kind.word())];
                let family = metric.encode_family(&labels)?;
                ConstGauge::new(i64::try_from(*number).unwrap_or(i64::MAX)).encode(family)?;
            }
        }
        Ok(())
    }
}

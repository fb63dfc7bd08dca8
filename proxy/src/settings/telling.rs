//! What is told of requests, and whom: the flags of the access log and of tracing.

use std::num::NonZeroU32;
use std::time::Duration;

use malla_xds::telling::{Collector, Format, Which, share};

use super::parse_duration;
use crate::access_log::AccessLogSettings;
use crate::trace::Tracing;

/// What is told of requests, and whom.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TellingArgs {
    /// Write a line for each request to standard output: errors, all, or those and a share of the others (1%)
    #[arg(long, env = "MALLA_ACCESS_LOG", value_name = "WHICH")]
    access_log: Option<Which>,

    /// What such a line says: json, or a text with fields in braces, for example '{time} {method} {path} {status} {reason}'
    #[arg(long, env = "MALLA_ACCESS_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    access_log_format: Format,

    /// Trace collector that takes OTLP: http://HOST:4317 over gRPC; with port 4318 or a path (/v1/traces) over HTTP
    #[arg(long, env = "MALLA_OTLP", value_name = "URL")]
    otlp: Option<Collector>,

    /// Share of the traces that begin here to be followed: 1% or 0.01. Who comes with a trace has decided already
    #[arg(long, env = "MALLA_TRACE_SAMPLING", value_name = "SHARE", default_value = "1%", value_parser = share)]
    trace_sampling: f64,

    /// Traces that may begin here in a second
    #[arg(long, env = "MALLA_TRACE_LIMIT", value_name = "N", default_value = "100")]
    trace_limit: NonZeroU32,

    /// Tell also of requests that fail although their trace is not followed: of this sidecar's part alone
    #[arg(long, env = "MALLA_TRACE_FAILURES")]
    trace_failures: bool,

    /// Tell also of requests that take longer, for example 500ms
    #[arg(long, env = "MALLA_TRACE_SLOW", value_name = "DURATION", value_parser = parse_duration)]
    trace_slow: Option<Duration>,
}

impl TellingArgs {
    /// The lines of requests, and the traces; each nothing unless it was asked for.
    pub(super) fn ready(self) -> (Option<AccessLogSettings>, Option<Tracing>) {
        let format = self.access_log_format;
        let access_log = self.access_log.map(|which| AccessLogSettings { which, format });
        let tracing = self.otlp.map(|collector| Tracing {
            collector,
            share: self.trace_sampling,
            per_second: self.trace_limit.get(),
            failures: self.trace_failures,
            slow: self.trace_slow,
        });
        (access_log, tracing)
    }
}

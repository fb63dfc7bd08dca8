//! What is told of requests, and whom: the flags of the access log and of tracing.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;

use super::parse_duration;
use crate::access_log::{AccessLogSettings, Format, Which};
use crate::trace::{Collector, Tracing};

/// What is told of requests, and whom.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TellingArgs {
    /// Write a line for each request to standard output: errors, all, or those and a share of the others (1%)
    #[arg(long, env = "MALLA_ACCESS_LOG", value_name = "WHICH", value_parser = parse_which)]
    access_log: Option<Which>,

    /// What such a line says: json, or a text with fields in braces, for example '{time} {method} {path} {status} {reason}'
    #[arg(long, env = "MALLA_ACCESS_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    access_log_format: Format,

    /// Trace collector that takes OTLP: http://HOST:4317 over gRPC; with port 4318 or a path (/v1/traces) over HTTP
    #[arg(long, env = "MALLA_OTLP", value_name = "URL")]
    otlp: Option<Collector>,

    /// Share of the traces that begin here to be followed: 1% or 0.01. Who comes with a trace has decided already
    #[arg(long, env = "MALLA_TRACE_SAMPLING", value_name = "SHARE", default_value = "1%", value_parser = parse_share)]
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

/// `errors`, `all`, or a share.
fn parse_which(text: &str) -> Result<Which, String> {
    match text {
        "errors" => Ok(Which::Errors),
        "all" => Ok(Which::Share(1.0)),
        share => {
            parse_share(share).map(Which::Share).map_err(|_| "write errors, all, or a share such as 1%".to_owned())
        }
    }
}

/// `1%` or `0.01`.
fn parse_share(text: &str) -> Result<f64, String> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let share = number.trim().parse::<f64>().ok().map(|number| number / whole);
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "write a share from 0% to 100%, for example 1%".to_owned())
}

impl FromStr for Collector {
    type Err = String;

    /// The port of OTLP over HTTP, or a path, is HTTP; everything else gRPC.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let example = "write http://HOST:4317 (gRPC) or http://HOST:4318/v1/traces (HTTP)";
        let url: Uri = text.parse().map_err(|_| format!("{text:?} is not a URL; {example}"))?;
        match url.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(format!("TLS towards the collector is not supported yet; {example}")),
            _ => return Err(format!("{text:?} does not begin with http://; {example}")),
        }
        match (url.path(), url.port_u16()) {
            ("/" | "", Some(4318)) => {
                let whole = format!("{}/v1/traces", text.trim_end_matches('/'));
                whole.parse().map(Collector::Http).map_err(|_| example.to_owned())
            }
            ("/" | "", _) => Ok(Collector::Grpc(url)),
            _ => Ok(Collector::Http(url)),
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Collector::Grpc(url) | Collector::Http(url) => url.fmt(f),
        }
    }
}

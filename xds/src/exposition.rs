//! Pages of metrics, in the form that the reader asks for: OpenMetrics, the text format that Prometheus had before, or protobuf.
//!
//! Not said between control server and sidecar, but alike by both.

mod protobuf;

use std::collections::HashSet;

/// Content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the older text format.
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of the messages of Prometheus' client model, each after its length.
pub const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// In which form somebody wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The older text format.
    Text,
    /// OpenMetrics.
    OpenMetrics,
    /// Protobuf: it alone has native histograms.
    Protobuf,
}

/// A histogram with exponential buckets, for those who take it: what it adds to the same histogram in text.
#[derive(Debug, Clone, PartialEq)]
pub struct NativeHistogram {
    /// Name of the family, `malla_request_duration_seconds`.
    pub name: String,
    /// The labels, in the order of the text.
    pub labels: Vec<(String, String)>,
    /// Each bucket is 2 to the power of 2 to the power of −`schema` times as wide as the one below.
    pub schema: i32,
    /// Up to where nothing is told apart, and how many there are.
    pub zero: (f64, u64),
    /// Buckets that are not empty, ascending, by index: the one of index 0 ends at 1.
    pub buckets: Vec<(i32, u64)>,
}

impl Form {
    /// What this `Accept` prefers: the highest quality, of several the first. Without one of ours it is text.
    pub fn asked(accept: Option<&str>) -> Form {
        let (mut form, mut highest) = (Form::Text, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let has = |name, value| parameters.contains(&(name, value));
            let offered = match kind {
                "application/vnd.google.protobuf"
                    if has("proto", "io.prometheus.client.MetricFamily") && has("encoding", "delimited") =>
                {
                    Form::Protobuf
                }
                "application/openmetrics-text" => Form::OpenMetrics,
                "text/plain" => Form::Text,
                _ => continue,
            };
            let quality = parameters.iter().find(|(name, _)| *name == "q");
            let quality = quality.map_or(1.0, |(_, quality)| quality.parse().unwrap_or(0.0));
            if quality > highest {
                (form, highest) = (offered, quality);
            }
        }
        form
    }

    /// Content type and bytes of a page in this form.
    pub fn page(self, open_metrics: String, native: Vec<NativeHistogram>) -> (&'static str, Vec<u8>) {
        match self {
            Form::Text => (PROMETHEUS_TEXT, prometheus_text(&open_metrics).into_bytes()),
            Form::OpenMetrics => (OPEN_METRICS, open_metrics.into_bytes()),
            Form::Protobuf => (PROTOBUF, protobuf::encode(&open_metrics, native)),
        }
    }
}

/// The same without what OpenMetrics adds: there are no exemplars and no end mark, and a counter is described by the name of its samples.
pub fn prometheus_text(open_metrics: &str) -> String {
    let described = |line: &'_ str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: HashSet<String> = open_metrics.lines().filter_map(described).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(keyword), Some(name), Some(rest)) if counters.contains(name) => {
                text.extend(["# ", keyword, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line.rsplit_once(" # {trace_id=").map_or(line, |(sample, _)| sample)),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP malla_requests HTTP requests that ended\n# TYPE malla_requests counter\n\
                        malla_requests_total{reason=\"\"} 3\n# HELP malla_up Whether\n# TYPE malla_up gauge\nmalla_up 1\n# EOF\n";

    #[test]
    fn exemplars_are_for_open_metrics_alone() {
        let sample = "malla_seconds_bucket{le=\"1.0\"} 3";
        let with = format!("{sample} # {{trace_id=\"0a\"}} 0.5 30.000\n");
        assert_eq!(Form::OpenMetrics.page(with.clone(), Vec::new()).1, with.as_bytes());
        assert_eq!(prometheus_text(&with), format!("{sample}\n"));
    }

    #[test]
    fn each_reader_gets_the_form_that_it_asks_for() {
        const TEXT: &str = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        const MESSAGES: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, form) in [
            (None, Form::Text),
            (Some("*/*"), Form::Text),
            (Some(TEXT), Form::OpenMetrics),
            (Some(OPEN_METRICS), Form::OpenMetrics),
            (Some(PROTOBUF), Form::Protobuf),
            (Some(&*format!("{MESSAGES},{TEXT}")), Form::Protobuf),
            (Some(&*format!("{MESSAGES};q=0.5,{TEXT}")), Form::OpenMetrics),
            (Some(&*format!("{MESSAGES};q=0,text/plain;q=0.1")), Form::Text),
            (Some("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text"), Form::Text),
        ] {
            assert_eq!(Form::asked(accept), form, "{accept:?}");
        }
    }

    #[test]
    fn the_older_text_describes_counters_by_their_samples() {
        let older = "# HELP malla_requests_total HTTP requests that ended\n# TYPE malla_requests_total counter\n\
                     malla_requests_total{reason=\"\"} 3\n# HELP malla_up Whether\n# TYPE malla_up gauge\nmalla_up 1\n";
        assert_eq!(prometheus_text(PAGE), older);
    }
}

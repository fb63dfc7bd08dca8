//! Pages of metrics, in the form that the reader asks for: OpenMetrics, or the text format that Prometheus had before.
//!
//! Not said between control server and sidecar, but alike by both.

use std::collections::HashSet;

/// Content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the older text format.
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content type and text for a reader who sent this `Accept`: OpenMetrics only if it names it, as Prometheus does.
pub fn page(accept: Option<&str>, open_metrics: String) -> (&'static str, String) {
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        (OPEN_METRICS, open_metrics)
    } else {
        (PROMETHEUS_TEXT, prometheus_text(&open_metrics))
    }
}

/// The same without what OpenMetrics adds: there are no exemplars and no end mark, and a counter is described by the name of its samples.
fn prometheus_text(open_metrics: &str) -> String {
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
        assert_eq!(page(Some(OPEN_METRICS), with.clone()).1, with);
        assert_eq!(page(None, with).1, format!("{sample}\n"));
    }

    #[test]
    fn each_reader_gets_the_form_that_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(page(Some(prometheus), PAGE.to_owned()), (OPEN_METRICS, PAGE.to_owned()));
        let older = "# HELP malla_requests_total HTTP requests that ended\n# TYPE malla_requests_total counter\n\
                     malla_requests_total{reason=\"\"} 3\n# HELP malla_up Whether\n# TYPE malla_up gauge\nmalla_up 1\n";
        assert_eq!(page(None, PAGE.to_owned()), (PROMETHEUS_TEXT, older.to_owned()));
        assert_eq!(page(Some("*/*"), PAGE.to_owned()).0, PROMETHEUS_TEXT);
    }
}

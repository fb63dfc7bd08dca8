//! Annotations by which Prometheus finds what to scrape. It has no certificate of the mesh either: it is led to the sidecar, which answers
//! with the application's metrics and its own.

use serde_json::Value;

use super::originals::Originals;
use super::pod::Pod;

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";

/// Leads Prometheus to the sidecar. Gives where the application's metrics are, as `malla-proxy --scrape` takes it: `PORT/PATH`.
pub(super) fn redirect(
    pod: &mut Value,
    parsed: &Pod,
    originals: &mut Originals,
    warnings: &mut Vec<String>,
) -> Option<String> {
    match parsed.annotation(SCRAPE).map(String::as_str) {
        None => {
            for (key, value) in [(SCRAPE, "true"), (PORT, "15020"), (PATH, "/metrics")] {
                originals.annotate(pod, key, value);
            }
            None
        }
        Some("true") => {
            let stays =
                "Prometheus is not led to the sidecar, and cannot scrape the application where that takes no plaintext";
            if parsed.annotation(SCHEME).is_some_and(|scheme| scheme != "http") {
                warnings.push(format!("{SCHEME} is not http: {stays}"));
                return None;
            }
            let port = parsed.annotation(PORT).and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
            let Some(port) = port else {
                warnings.push(format!("{PORT} names no port: {stays}"));
                return None;
            };
            let path = parsed.annotation(PATH).map_or("/metrics", String::as_str);
            originals.annotate(pod, PORT, "15020");
            originals.annotate(pod, PATH, "/metrics/merged");
            Some(format!("{port}/{}", path.trim_start_matches('/')))
        }
        Some(_) => None,
    }
}

//! Numbers of an edge as people read them.

use std::time::Duration;

use comfy_table::Cell;

use super::Edge;
use crate::output::{self, Tone};

/// Requests in a second.
pub(crate) fn rate(edge: &Edge, length: Duration) -> String {
    match length.is_zero() {
        true => "-".to_owned(),
        false => format!("{:.1}/s", edge.requests as f64 / length.as_secs_f64()),
    }
}

/// Share of requests that succeeded.
pub(crate) fn success(edge: &Edge) -> Cell {
    match edge.success() {
        None => Cell::new("-"),
        Some(_) if edge.failures == 0 => output::cell("100 %", Tone::Good),
        // Rounded down: 99.96 % is not 100 %.
        Some(share) => output::cell(format!("{:.1} %", (share * 1000.0).floor() / 10.0), Tone::Bad),
    }
}

/// `1.42 ms`, `0.31 ms`, `1203 ms`.
pub(crate) fn milliseconds(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    match milliseconds {
        small if small < 10.0 => format!("{small:.2} ms"),
        middle if middle < 100.0 => format!("{middle:.1} ms"),
        large => format!("{large:.0} ms"),
    }
}

/// Who the destination has proved to be.
pub(crate) fn identity(edge: &Edge) -> Cell {
    match short_identity(&edge.identity) {
        _ if edge.plaintext > 0 => output::cell("none: PLAINTEXT", Tone::Bad),
        "" => Cell::new("-"),
        short => Cell::new(short.replacen("/sa/", "/", 1)),
    }
}

/// `spiffe://cluster.local/ns/travel-agency/sa/cars` → `travel-agency/sa/cars`.
fn short_identity(identity: &str) -> &str {
    identity.split_once("/ns/").map_or(identity, |(_trust_domain, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_three_digits() {
        let shown = [0.000_314, 0.001_42, 0.0123, 1.203].map(|seconds| milliseconds(Duration::from_secs_f64(seconds)));
        assert_eq!(shown, ["0.31 ms", "1.42 ms", "12.3 ms", "1203 ms"]);
    }
}

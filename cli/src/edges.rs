//! Edges of the mesh, as its sidecars count them: samples of their counters made into rates and quantiles. Pure.

pub(crate) mod cells;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use malla_control::telemetry::EdgeCount;
use malla_proxy::metrics::EdgeRow;

/// Source and destination: `flights-v1.travel-agency`, `discounts-v1.travel-agency:8000`. The destination is the workload that
/// answered and the port of the service; the service itself (`discounts.travel-agency:8000`) where none answered.
pub(crate) type EdgeName = (String, String);

/// What passed along one edge.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edge {
    /// `http/1.1`, `http/2`, `grpc`, `tcp`.
    pub(crate) protocol: String,
    /// Identity that the destination proved; empty while no connection has been made.
    pub(crate) identity: String,
    /// Requests or connections.
    pub(crate) requests: u64,
    /// Those of them that failed.
    pub(crate) failures: u64,
    /// Those of them that succeeded without mTLS.
    pub(crate) plaintext: u64,
    /// Number by duration: upper bound → number, not cumulated.
    pub(crate) latency: BTreeMap<Duration, u64>,
    /// Number by the word for what failed.
    pub(crate) reasons: BTreeMap<String, u64>,
}

impl Edge {
    /// Share of requests that succeeded, 0 to 1; none where nothing passed.
    pub(crate) fn success(&self) -> Option<f64> {
        (self.requests > 0).then(|| (self.requests - self.failures.min(self.requests)) as f64 / self.requests as f64)
    }

    /// The duration that the share `quantile` of requests stayed under, interpolated within its bucket.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<Duration> {
        let total: u64 = self.latency.values().sum();
        if total == 0 {
            return None;
        }
        let wanted = quantile * total as f64;
        let (mut below, mut lower) = (0.0, Duration::ZERO);
        for (&upper, &count) in &self.latency {
            let within = count as f64;
            if below + within >= wanted && count > 0 {
                let open_ended = upper == Duration::MAX;
                return Some(if open_ended {
                    lower
                } else {
                    lower + (upper - lower).mul_f64((wanted - below) / within)
                });
            }
            below += within;
            lower = upper;
        }
        None
    }

    fn since(&self, earlier: &Edge) -> Edge {
        let latency = self
            .latency
            .iter()
            .map(|(bound, count)| (*bound, count.saturating_sub(earlier.latency.get(bound).copied().unwrap_or(0))))
            .collect();
        let reasons = self.reasons.iter().filter_map(|(word, count)| {
            let more = count.saturating_sub(earlier.reasons.get(word).copied().unwrap_or(0));
            (more > 0).then(|| (word.clone(), more))
        });
        Edge {
            reasons: reasons.collect(),
            protocol: self.protocol.clone(),
            identity: self.identity.clone(),
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
            plaintext: self.plaintext.saturating_sub(earlier.plaintext),
            latency,
        }
    }
}

/// All edges at one moment, counted from the start.
pub(crate) type Sample = BTreeMap<EdgeName, Edge>;

/// Where callers without a sidecar come from.
const OUTSIDE: &str = "(no identity)";

/// What a sidecar in this process has counted, as others are told it.
pub(crate) fn count(row: &EdgeRow) -> EdgeCount {
    malla_proxy::telemetry::edge(row).into()
}

/// Joins what every sidecar says about traffic that leaves it, and about what comes to it from callers without one.
pub(crate) fn sample(rows: impl IntoIterator<Item = EdgeCount>) -> Sample {
    let mut sample = Sample::new();
    for mut row in rows.into_iter().filter(|row| row.requests > 0) {
        if row.direction != "outbound" {
            if !row.identity.is_empty() {
                continue;
            }
            row.source = OUTSIDE.to_owned();
        }
        let port = row.destination.rsplit_once(':').map_or("", |(_, port)| port);
        let destination = match &*row.workload {
            "" => row.destination.clone(),
            workload => format!("{workload}:{port}"),
        };
        let edge = sample.entry((row.source, destination)).or_default();
        edge.requests += row.requests;
        edge.failures += row.failures;
        edge.protocol = row.protocol;
        if row.identity.is_empty() {
            // A call that ended before there was a peer, whosever fault that was, has no identity either, and gave nothing away.
            let ended_for_reasons: u64 = row.reasons.iter().map(|(_, count)| *count).sum();
            edge.plaintext += row.requests.saturating_sub(row.failures.max(ended_for_reasons));
        } else {
            edge.identity = row.identity;
        }
        for (word, count) in row.reasons {
            *edge.reasons.entry(word).or_default() += count;
        }
        for (bound, count) in row.latency_microseconds {
            let bound = if bound == u64::MAX { Duration::MAX } else { Duration::from_micros(bound) };
            *edge.latency.entry(bound).or_default() += count;
        }
    }
    sample
}

/// What passed between two samples; edges on which nothing passed are still named.
pub(crate) fn between(first: &Sample, last: &Sample) -> Sample {
    let nothing = Edge::default();
    last.iter().map(|(name, edge)| (name.clone(), edge.since(first.get(name).unwrap_or(&nothing)))).collect()
}

/// The last few samples, for rates.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    samples: VecDeque<(Instant, Sample)>,
}

/// How far back rates look.
const WINDOW: Duration = Duration::from_secs(5);

impl Recent {
    /// Adds a sample; forgets those that the window has left behind.
    pub(crate) fn add(&mut self, at: Instant, sample: Sample) {
        self.samples.push_back((at, sample));
        while self.samples.get(1).is_some_and(|(second, _)| at.duration_since(*second) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// What passed within the window, and how long it is; edges on which nothing passed are still named.
    pub(crate) fn window(&self) -> (Duration, Sample) {
        let (Some((from, first)), Some((to, last))) = (self.samples.front(), self.samples.back()) else {
            return (Duration::ZERO, Sample::new());
        };
        (to.duration_since(*from), between(first, last))
    }
}

#[cfg(test)]
mod tests {
    use malla_proxy::metrics::Direction;
    use malla_proxy::reason::Reason;

    use super::*;

    /// From `a.n` to the service `b.n:80`, answered by `b-1.n`.
    fn row(identity: &str, requests: u64, failures: u64, latency: &[(u64, u64)]) -> EdgeRow {
        EdgeRow {
            direction: Direction::Outbound,
            source: "a.n".into(),
            destination: "b.n:80".into(),
            workload: "b-1.n".into(),
            protocol: "http/1.1",
            identity: identity.into(),
            requests,
            failures,
            latency: latency.iter().map(|(ms, count)| (Duration::from_millis(*ms), *count)).collect(),
            reasons: if failures > 0 { vec![(Reason::ConnectRefused, failures)] } else { Vec::new() },
            bytes: (0, 0),
        }
    }

    fn name() -> EdgeName {
        ("a.n".to_owned(), "b-1.n:80".to_owned())
    }

    #[test]
    fn a_failure_without_a_peer_is_not_plaintext_but_a_success_is() {
        let edge = &sample([row("spiffe://td/ns/n/sa/b", 10, 0, &[]), row("", 2, 2, &[])].iter().map(count))[&name()];
        assert_eq!((edge.requests, edge.failures, edge.plaintext), (12, 2, 0));
        assert_eq!(edge.reasons["connect_refused"], 2);
        assert_eq!(sample([row("", 3, 1, &[])].iter().map(count))[&name()].plaintext, 2);
    }

    #[test]
    fn what_both_sides_count_is_told_once_and_callers_without_a_sidecar_by_the_server() {
        let inbound = |identity: &str| EdgeRow { direction: Direction::Inbound, ..row(identity, 5, 0, &[]) };
        let sample = sample(
            [row("spiffe://td/ns/n/sa/b", 10, 0, &[]), inbound("spiffe://td/ns/n/sa/a"), inbound("")].iter().map(count),
        );
        let counts: Vec<_> = sample.iter().map(|((source, _), edge)| (&**source, edge.requests)).collect();
        assert_eq!(counts, [("(no identity)", 5), ("a.n", 10)]);
    }

    #[test]
    fn quantiles_interpolate_within_a_bucket() {
        let edge = &sample([row("x", 100, 0, &[(1, 0), (2, 50), (4, 50)])].iter().map(count))[&name()];
        assert_eq!(edge.quantile(0.5), Some(Duration::from_millis(2)));
        assert_eq!(edge.quantile(0.75), Some(Duration::from_millis(3)));
        assert_eq!(Edge::default().quantile(0.5), None);
    }

    #[test]
    fn the_window_shows_what_changed_within_it() {
        let mut recent = Recent::default();
        let start = Instant::now();
        for second in 0..20u64 {
            recent.add(
                start + Duration::from_secs(second),
                sample([row("x", 10 * (second + 1), 0, &[])].iter().map(count)),
            );
        }
        let (length, window) = recent.window();
        assert_eq!(length, WINDOW);
        assert_eq!(window[&name()].requests, 50);
    }
}

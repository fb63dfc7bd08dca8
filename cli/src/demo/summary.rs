//! The judgement at the end: did everything succeed, and if not, what was lost, in words. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::ledger::Line;
use super::topology::INSTANCES;
use crate::edges::{EdgeName, Sample};

/// What the demo found.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Whether nothing at all was lost.
    pub(crate) succeeded: bool,
    /// How long there was traffic.
    pub(crate) seconds: f64,
    /// Calls that programs made, and those that failed, as the programs counted them.
    pub(crate) calls: u64,
    /// Those of them that failed.
    pub(crate) failed_calls: u64,
    /// Every edge, as the sidecars counted it.
    pub(crate) edges: Vec<EdgeSummary>,
    /// What was lost, in sentences.
    pub(crate) losses: Vec<String>,
}

/// One edge of a [`Summary`].
#[derive(Debug, Serialize)]
pub(crate) struct EdgeSummary {
    source: String,
    destination: String,
    protocol: String,
    identity: String,
    requests: u64,
    failures: u64,
    p50_milliseconds: Option<f64>,
    p99_milliseconds: Option<f64>,
}

/// What is judged.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    /// How long there was traffic.
    pub(crate) duration: Duration,
    /// What the sidecars counted.
    pub(crate) edges: &'a Sample,
    /// What the programs counted.
    pub(crate) calls: &'a BTreeMap<(String, String), Line>,
    /// Configuration that a sidecar or the control server rejected, in sentences.
    pub(crate) rejections: &'a [String],
}

/// Judges: every call answered, every edge seen, mTLS on each, nothing rejected.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Summary {
    let mut losses = Vec::new();
    for ((caller, service), line) in evidence.calls.iter().filter(|(_, line)| line.failed > 0) {
        let total = line.succeeded + line.failed;
        let mut why: Vec<_> = line.why.iter().collect();
        why.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let why: Vec<String> = why.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        losses.push(format!("{} of {total} calls from {caller} to {service} failed: {}", line.failed, why.join("; ")));
    }
    losses.extend(unused(evidence.edges));
    for ((source, destination), edge) in evidence.edges {
        if edge.plaintext > 0 {
            losses.push(format!(
                "{} of {} requests from {source} to {destination} went without mTLS",
                edge.plaintext, edge.requests
            ));
        }
        let counted_by_programs = evidence.calls.values().any(|line| line.failed > 0);
        if edge.failures > 0 && !counted_by_programs {
            losses.push(format!(
                "the sidecar of {source} counted {} failures of {} requests to {destination}, which the programs did not see",
                edge.failures, edge.requests
            ));
        }
    }
    losses.extend(evidence.rejections.iter().cloned());

    let (good, bad) =
        evidence.calls.values().fold((0, 0), |(good, bad), line| (good + line.succeeded, bad + line.failed));
    if good + bad == 0 {
        losses.push("no program made a call; run longer, for example --for 20s".to_owned());
    }
    Summary {
        succeeded: losses.is_empty(),
        seconds: evidence.duration.as_secs_f64(),
        calls: good + bad,
        failed_calls: bad,
        edges: evidence.edges.iter().map(edge_summary).collect(),
        losses,
    }
}

/// Edges along which nothing went, in one sentence for each source.
fn unused(edges: &Sample) -> Vec<String> {
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (source, destination) in expected() {
        let used = edges.get(&(source.clone(), destination.clone())).is_some_and(|edge| edge.requests > edge.failures);
        if !used {
            missing.entry(source).or_default().push(destination);
        }
    }
    let sentence = |(source, destinations): (String, Vec<String>)| {
        format!("no call succeeded from {source} to {} (a weight of 0 in a route?)", destinations.join(", "))
    };
    missing.into_iter().map(sentence).collect()
}

/// Edges that must appear: each program to each service that its calls arrive at.
pub(crate) fn expected() -> Vec<EdgeName> {
    let edges = |one: &'static super::topology::Instance| {
        one.destinations().into_iter().map(|destination| (one.full_name(), destination))
    };
    INSTANCES.iter().flat_map(edges).collect()
}

fn edge_summary(((source, destination), edge): (&EdgeName, &crate::edges::Edge)) -> EdgeSummary {
    let milliseconds = |quantile| edge.quantile(quantile).map(|duration| duration.as_secs_f64() * 1000.0);
    EdgeSummary {
        source: source.clone(),
        destination: destination.clone(),
        protocol: edge.protocol.clone(),
        identity: edge.identity.clone(),
        requests: edge.requests,
        failures: edge.failures,
        p50_milliseconds: milliseconds(0.5),
        p99_milliseconds: milliseconds(0.99),
    }
}

impl Summary {
    /// The judgement as sentences.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mtls = self.edges.iter().filter(|edge| !edge.identity.is_empty()).count();
        let mut lines = vec![format!(
            "{} calls in {:.0} s over {} edges, {mtls} of them with mTLS; {} failed.",
            self.calls,
            self.seconds,
            self.edges.len(),
            self.failed_calls
        )];
        if self.succeeded {
            lines.push("Everything succeeded: every call, every edge, no configuration rejected.".to_owned());
        } else {
            lines.push("Not everything succeeded:".to_owned());
            lines.extend(self.losses.iter().map(|loss| format!("  - {loss}")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edges::Edge;

    fn whole() -> (Sample, BTreeMap<(String, String), Line>) {
        let edge = Edge { identity: "spiffe://td/ns/n/sa/s".to_owned(), requests: 5, ..Edge::default() };
        let calls = BTreeMap::from([(("a".to_owned(), "b".to_owned()), Line { succeeded: 5, ..Line::default() })]);
        (expected().into_iter().map(|name| (name, edge.clone())).collect(), calls)
    }

    fn losses(edges: &Sample, calls: &BTreeMap<(String, String), Line>, rejections: &[String]) -> Vec<String> {
        judge(&Evidence { duration: Duration::from_secs(1), edges, calls, rejections }).losses
    }

    #[test]
    fn succeeds_only_without_any_loss() {
        let (edges, calls) = whole();
        assert!(
            judge(&Evidence { duration: Duration::from_secs(1), edges: &edges, calls: &calls, rejections: &[] })
                .succeeded
        );
        assert_eq!(losses(&edges, &calls, &["refused".to_owned()]), ["refused"]);
    }

    #[test]
    fn explains_a_failed_call() {
        let (edges, mut calls) = whole();
        let line = Line { succeeded: 8, failed: 2, why: BTreeMap::from([("no answer".to_owned(), 2)]) };
        calls.insert(("a".to_owned(), "b".to_owned()), line);
        assert_eq!(losses(&edges, &calls, &[]), ["2 of 10 calls from a to b failed: 2 × no answer"]);
    }

    #[test]
    fn misses_an_edge_that_was_never_used_and_one_without_mtls() {
        let (mut edges, calls) = whole();
        let name = expected().remove(0);
        edges.remove(&name);
        assert_eq!(losses(&edges, &calls, &[]).len(), 1);
        edges.insert(name, Edge { requests: 3, plaintext: 3, ..Edge::default() });
        assert!(losses(&edges, &calls, &[])[0].contains("without mTLS"));
    }
}

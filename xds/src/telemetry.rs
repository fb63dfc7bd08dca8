//! What sidecars tell the control server about traffic, for people who look: edges, and requests that somebody taps.
//!
//! Counters count from the start of the sidecar, so that a report that is lost is made good by the next one. Nothing here is needed for
//! traffic to flow.

use std::time::Duration;

/// Edges in one report at most: those with the most traffic.
pub const EDGES: usize = 1000;
/// Taps at once for one sidecar.
pub const TAPS: usize = 4;
/// Requests in a second for one tap, at most.
pub const TAPPED_PER_SECOND: u32 = 100;

/// From a sidecar.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// Its workload, `cart-1.shop`; needed in the first report of a stream alone.
    #[prost(string, tag = "1")]
    pub node: String,
    /// All edges that it has seen, or none if this report is about requests.
    #[prost(message, repeated, tag = "2")]
    pub edges: Vec<Edge>,
    /// Requests that are tapped.
    #[prost(message, repeated, tag = "3")]
    pub requests: Vec<Seen>,
    /// Tapped requests since the start for which there was no room.
    #[prost(uint64, tag = "4")]
    pub dropped: u64,
}

/// One edge, counted since the start of the sidecar.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Edge {
    /// Whether the sidecar is the client's.
    #[prost(bool, tag = "1")]
    pub outbound: bool,
    /// Workload (outbound) or identity (inbound; empty in plaintext) where it comes from.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Service: `cart.shop:80`.
    #[prost(string, tag = "3")]
    pub destination: String,
    /// Workload that answered, if one did.
    #[prost(string, tag = "4")]
    pub workload: String,
    /// `http/1.1`, `http/2`, `grpc`, `tcp`.
    #[prost(string, tag = "5")]
    pub protocol: String,
    /// Identity of the peer; empty in plaintext.
    #[prost(string, tag = "6")]
    pub identity: String,
    /// Requests or connections.
    #[prost(uint64, tag = "7")]
    pub requests: u64,
    /// Those of them that failed.
    #[prost(uint64, tag = "8")]
    pub failures: u64,
    /// Upper bounds of durations in microseconds; `u64::MAX` is no bound.
    #[prost(uint64, repeated, tag = "9")]
    pub bounds: Vec<u64>,
    /// Requests under each bound and above the one before.
    #[prost(uint64, repeated, tag = "10")]
    pub counts: Vec<u64>,
    /// Bytes towards the destination (TCP).
    #[prost(uint64, tag = "11")]
    pub sent: u64,
    /// Bytes back (TCP).
    #[prost(uint64, tag = "12")]
    pub received: u64,
    /// Requests by the word for what failed.
    #[prost(message, repeated, tag = "13")]
    pub reasons: Vec<ReasonCount>,
}

/// How often something failed for one reason.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReasonCount {
    /// The word.
    #[prost(string, tag = "1")]
    pub word: String,
    /// How often.
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

impl Edge {
    /// Writes numbers by duration, leaving out where there are none.
    pub fn set_latency(&mut self, latency: impl IntoIterator<Item = (Duration, u64)>) {
        let present = latency.into_iter().filter(|(_, count)| *count > 0);
        let microseconds = |bound: Duration| u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        (self.bounds, self.counts) = present.map(|(bound, count)| (microseconds(bound), count)).unzip();
    }

    /// Numbers by duration: upper bound and number, not cumulated; `Duration::MAX` is no bound.
    pub fn latency(&self) -> impl Iterator<Item = (Duration, u64)> {
        let duration = |bound: u64| if bound == u64::MAX { Duration::MAX } else { Duration::from_micros(bound) };
        self.bounds.iter().zip(&self.counts).map(move |(bound, count)| (duration(*bound), *count))
    }
}

/// A request that somebody taps.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Seen {
    /// By which tap.
    #[prost(uint64, tag = "1")]
    pub tap: u64,
    /// Its line of the access log, as JSON.
    #[prost(string, tag = "2")]
    pub line: String,
}

/// To a sidecar: what is wanted from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Watch {
    /// Milliseconds between reports of edges; 0 leaves it to the sidecar, which then tells seldom.
    #[prost(uint32, tag = "1")]
    pub interval: u32,
    /// The requests that somebody wants to see.
    #[prost(message, repeated, tag = "2")]
    pub taps: Vec<Tap>,
}

/// Which requests somebody wants to see. What is empty, admits all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tap {
    /// Number of the tap.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Method, exactly.
    #[prost(string, tag = "2")]
    pub method: String,
    /// Beginning of the path.
    #[prost(string, tag = "3")]
    pub path: String,
    /// `503`, or `5xx`.
    #[prost(string, tag = "4")]
    pub status: String,
    /// Identity of the peer, whole or its end from a slash: `web/sa/front`.
    #[prost(string, tag = "5")]
    pub identity: String,
    /// Word for what failed.
    #[prost(string, tag = "6")]
    pub reason: String,
    /// Requests in a second, at most.
    #[prost(uint32, tag = "7")]
    pub per_second: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_travels_without_its_empty_buckets() {
        let mut edge = Edge::default();
        let whole = [(Duration::from_micros(100), 3), (Duration::from_millis(1), 0), (Duration::MAX, 1)];
        edge.set_latency(whole);
        assert_eq!(edge.counts, [3, 1]);
        assert_eq!(edge.latency().collect::<Vec<_>>(), [(Duration::from_micros(100), 3), (Duration::MAX, 1)]);
    }
}

//! What is counted for each request: one shard per worker, whose mutexes only a scrape ever contends.
//!
//! A shard finds the counters of an edge by a hash of its labels, without allocation; labels become text at a scrape.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use rapidhash::fast::RapidHasher;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::durations::{self, Exemplar, Series};
use super::table::{EDGE_LABELS, help};
use super::{Direction, EdgeRow, add};
use crate::names::{Name, SpiffeId};
use crate::outcome::LogLimit;
use crate::reason::Reason;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC, over HTTP/2.
    Grpc,
}

/// A request that has ended.
#[derive(Debug)]
pub struct Request<'a> {
    /// Direction.
    pub direction: Direction,
    /// Destination service.
    pub service: &'a str,
    /// Route, `default` where there is no configuration of routes.
    pub route: &'a str,
    /// What the client speaks.
    pub protocol: Protocol,
    /// Identity of the peer: outbound that of the endpoint, inbound that of the client.
    pub identity: Option<&'a SpiffeId>,
    /// Workload that answered; empty if none did.
    pub workload: &'a str,
    /// HTTP status that the client saw, or would have seen.
    pub status: u16,
    /// gRPC status, where it was seen.
    pub grpc_status: Option<u8>,
    /// Why it failed, if it did.
    pub reason: Option<Reason>,
    /// From the complete head of the request to the end of the response.
    pub duration: Duration,
    /// Its trace, if that is followed.
    pub trace: Option<u128>,
}

/// What one worker counts for each request.
#[derive(Debug, Default)]
pub struct Shard {
    edges: Mutex<HashMap<u64, Arc<Edge>, BuildHasherDefault<Hashed>>>,
    /// Bounds the lines that the worker's failures write.
    pub(crate) log: LogLimit,
}

/// All shards of a sidecar.
#[derive(Debug)]
pub(super) struct Requests {
    workload: Name,
    shards: Mutex<Vec<Arc<Shard>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct EdgeKey {
    direction: Direction,
    service: Name,
    route: Name,
    protocol: Protocol,
    identity: Option<SpiffeId>,
    /// Last, so that edges which differ in it alone are neighbours in order: the histogram sums them up.
    workload: Name,
}

#[derive(Debug)]
struct Edge {
    key: EdgeKey,
    buckets: [AtomicU64; BUCKETS],
    microseconds: AtomicU64,
    answers: Mutex<Vec<(Answer, u64)>>,
    /// Of followed requests alone, one for each bucket that is exposed.
    exemplars: Mutex<Vec<Exemplar>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Answer {
    status: u16,
    grpc_status: Option<u8>,
    reason: Option<Reason>,
}

const BUCKETS: usize = 47;

/// Upper bounds of the buckets in microseconds, nine per decade from 0.1 ms to 10 s; above is the last bucket.
#[allow(clippy::indexing_slicing, reason = "done by the compiler")]
const BOUNDS: [u64; BUCKETS - 1] = {
    let steps = [10, 15, 20, 25, 30, 40, 50, 60, 80];
    let mut bounds = [0; BUCKETS - 1];
    let (mut index, mut decade) = (0, 10);
    while index < BUCKETS - 1 {
        bounds[index] = steps[index % steps.len()] * decade;
        index += 1;
        if index % steps.len() == 0 {
            decade *= 10;
        }
    }
    bounds
};

/// Of them, those that are exposed: 1, 2.5 and 5 per decade.
fn exposed(bound: u64) -> bool {
    let mut digits = bound;
    while digits >= 100 && digits.is_multiple_of(10) {
        digits /= 10;
    }
    matches!(digits, 10 | 25 | 50)
}

impl Shard {
    /// Counts a request that has ended.
    pub fn record(&self, request: &Request<'_>) {
        let hash = request.hash();
        let mut edges = self.edges.lock();
        let edge = edges.entry(hash).or_insert_with(|| Arc::new(Edge::new(request)));
        edge.record(request);
    }
}

impl Request<'_> {
    /// Identifies the edge. 64 bits over labels that are configured: two edges meet by chance once in 10¹⁹ pairs.
    fn hash(&self) -> u64 {
        let mut hasher = RapidHasher::default();
        self.service.hash(&mut hasher);
        self.route.hash(&mut hasher);
        hasher.write_u16((self.direction as u16) << 8 | self.protocol as u16);
        self.identity.map_or("", SpiffeId::as_str).hash(&mut hasher);
        self.workload.hash(&mut hasher);
        hasher.finish()
    }
}

/// Whether the server, or the way to it, failed. gRPC: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS are the server's fault.
fn failed(status: u16, grpc_status: Option<u8>, reason: Option<Reason>) -> bool {
    status >= 500 || reason.is_some() || matches!(grpc_status, Some(2 | 4 | 13 | 14 | 15))
}

impl EdgeKey {
    fn differs_in_workload_only(&self, other: &EdgeKey) -> bool {
        let EdgeKey { direction, service, route, protocol, identity, workload: _ } = self;
        (direction, service, route, protocol, identity)
            == (&other.direction, &other.service, &other.route, &other.protocol, &other.identity)
    }
}

impl Edge {
    fn new(request: &Request<'_>) -> Self {
        let key = EdgeKey {
            direction: request.direction,
            service: request.service.into(),
            route: request.route.into(),
            protocol: request.protocol,
            identity: request.identity.cloned(),
            workload: request.workload.into(),
        };
        Edge {
            key,
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            microseconds: AtomicU64::new(0),
            answers: Mutex::default(),
            exemplars: Mutex::default(),
        }
    }

    fn record(&self, request: &Request<'_>) {
        let microseconds = u64::try_from(request.duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < microseconds);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.microseconds.fetch_add(microseconds, Relaxed);
        if let Some(trace) = request.trace {
            let bucket = BOUNDS.iter().filter(|bound| **bound < microseconds && exposed(**bound)).count();
            let exemplar = Exemplar { bucket, trace, microseconds, at: SystemTime::now() };
            durations::keep(&mut self.exemplars.lock(), exemplar);
        }
        let mut answers = self.answers.lock();
        let same = |(answer, _): &&mut (Answer, u64)| {
            answer.status == request.status
                && answer.grpc_status == request.grpc_status
                && answer.reason == request.reason
        };
        match answers.iter_mut().find(same) {
            Some((_, count)) => *count += 1,
            None => answers
                .push((Answer { status: request.status, grpc_status: request.grpc_status, reason: request.reason }, 1)),
        }
    }
}

/// An edge, summed over the shards.
#[derive(Debug, Default)]
struct Sum {
    buckets: Vec<u64>,
    microseconds: u64,
    answers: HashMap<Answer, u64>,
    exemplars: Vec<Exemplar>,
}

impl Requests {
    pub(super) fn new(workload: Name) -> Self {
        Requests { workload, shards: Mutex::default() }
    }

    pub(super) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::<Shard>::default();
        self.shards.lock().push(shard.clone());
        shard
    }

    pub(super) fn edges(&self) -> Vec<EdgeRow> {
        let mut rows: HashMap<(Direction, Name, Name, Protocol, Option<SpiffeId>), EdgeRow> = HashMap::new();
        for (key, sum) in self.sums() {
            let identity: Name = key.identity.as_ref().map_or("", SpiffeId::as_str).into();
            let source = match key.direction {
                Direction::Outbound => self.workload.clone(),
                Direction::Inbound => identity.clone(),
            };
            let same = (key.direction, key.service.clone(), key.workload.clone(), key.protocol, key.identity);
            let row = rows.entry(same).or_insert_with(|| EdgeRow {
                direction: key.direction,
                source,
                destination: key.service,
                workload: key.workload,
                protocol: key.protocol.word(),
                identity,
                requests: 0,
                failures: 0,
                latency: bounds().map(|bound| (bound, 0)).collect(),
                reasons: Vec::new(),
                bytes: (0, 0),
            });
            row.requests += sum.answers.values().sum::<u64>();
            row.failures += sum
                .answers
                .iter()
                .filter(|(answer, _)| failed(answer.status, answer.grpc_status, answer.reason))
                .map(|(_, count)| count)
                .sum::<u64>();
            for (reason, count) in sum.answers.iter().filter_map(|(answer, count)| Some((answer.reason?, *count))) {
                add(&mut row.reasons, reason, count);
            }
            for ((_, total), count) in row.latency.iter_mut().zip(&sum.buckets) {
                *total += count;
            }
        }
        rows.into_values().collect()
    }

    fn sums(&self) -> Vec<(EdgeKey, Sum)> {
        // The list is taken under the lock, the counters are read outside of it: a worker waits for microseconds at most.
        let shards = self.shards.lock().clone();
        let edges: Vec<Arc<Edge>> =
            shards.iter().flat_map(|shard| shard.edges.lock().values().cloned().collect::<Vec<_>>()).collect();
        let mut sums: HashMap<EdgeKey, Sum> = HashMap::new();
        for edge in edges {
            let sum = sums.entry(edge.key.clone()).or_default();
            sum.buckets.resize(BUCKETS, 0);
            for (total, count) in sum.buckets.iter_mut().zip(&edge.buckets) {
                *total += count.load(Relaxed);
            }
            sum.microseconds += edge.microseconds.load(Relaxed);
            for (answer, count) in edge.answers.lock().iter() {
                *sum.answers.entry(answer.clone()).or_default() += count;
            }
            edge.exemplars.lock().iter().for_each(|exemplar| durations::keep(&mut sum.exemplars, *exemplar));
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(left, _), (right, _)| left.cmp(right));
        sums
    }

    /// The histogram of durations, as text: OpenMetrics with exemplars.
    pub(super) fn durations(&self, text: &mut String) -> fmt::Result {
        durations::describe(text)?;
        for of_service in self.sums().chunk_by(|(one, _), (next, _)| one.differs_in_workload_only(next)) {
            let Some((key, _)) = of_service.first() else { continue };
            let (mut buckets, mut exemplars) = (vec![0; BUCKETS], Vec::new());
            for (_, sum) in of_service {
                buckets.iter_mut().zip(&sum.buckets).for_each(|(total, count)| *total += count);
                sum.exemplars.iter().for_each(|exemplar| durations::keep(&mut exemplars, *exemplar));
            }
            let seconds = of_service.iter().map(|(_, sum)| sum.microseconds).sum::<u64>() as f64 / 1e6;
            let (labels, buckets) = (self.labels(key), exposed_buckets(&buckets));
            Series { labels: &labels, seconds, buckets: &buckets, exemplars: &exemplars }.write(text)?;
        }
        Ok(())
    }

    fn labels<'a>(&'a self, key: &'a EdgeKey) -> [(&'static str, &'a str); EDGE_LABELS.len()] {
        let identity = key.identity.as_ref().map_or("", SpiffeId::as_str);
        let source = if key.direction == Direction::Outbound { &self.workload } else { identity };
        let mtls = if key.identity.is_some() { "true" } else { "false" };
        let values = [key.direction.word(), &key.service, &key.route, key.protocol.word(), source, mtls];
        let mut pairs = EDGE_LABELS.into_iter().zip(values);
        std::array::from_fn(|_| pairs.next().unwrap_or_default())
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sums = self.sums();
        let mut family = encoder.encode_descriptor("requests", help("requests"), None, MetricType::Counter)?;
        for (key, sum) in &sums {
            let edge = self.labels(key);
            let mut answers: Vec<_> = sum.answers.iter().collect();
            answers.sort();
            for (answer, count) in answers {
                let status = answer.status.to_string();
                let grpc_status = answer.grpc_status.map(|status| status.to_string()).unwrap_or_default();
                let labels = [
                    ("destination", &*key.workload),
                    ("status", &status),
                    ("grpc_status", &grpc_status),
                    ("reason", answer.reason.map_or("", Reason::word)),
                ];
                ConstCounter::new(*count).encode(family.encode_family(&(edge, labels))?)?;
            }
        }
        Ok(())
    }
}

/// The fine buckets, gathered into those that are exposed.
fn exposed_buckets(fine: &[u64]) -> Vec<(f64, u64)> {
    let mut buckets = Vec::new();
    let mut gathered = 0;
    for (index, count) in fine.iter().enumerate() {
        gathered += count;
        match BOUNDS.get(index) {
            Some(bound) if exposed(*bound) => {
                buckets.push((*bound as f64 / 1e6, std::mem::take(&mut gathered)));
            }
            Some(_) => {}
            None => buckets.push((f64::INFINITY, std::mem::take(&mut gathered))),
        }
    }
    buckets
}

fn bounds() -> impl Iterator<Item = Duration> {
    BOUNDS.iter().copied().map(Duration::from_micros).chain([Duration::MAX])
}

impl Protocol {
    /// As label.
    pub const fn word(self) -> &'static str {
        match self {
            Protocol::Http10 => "http/1.0",
            Protocol::Http1 => "http/1.1",
            Protocol::Http2 => "http/2",
            Protocol::Grpc => "grpc",
        }
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_by_nine_steps_per_decade() {
        assert!(BOUNDS.is_sorted());
        assert_eq!((BOUNDS[0], BOUNDS[9], BOUNDS[45]), (100, 1000, 10_000_000));
        let exposed: Vec<u64> = BOUNDS.into_iter().filter(|bound| exposed(*bound)).collect();
        assert_eq!(exposed.len(), 16);
        assert_eq!(&exposed[..4], [100, 250, 500, 1000]);
    }

    #[test]
    fn instances_have_rows_of_their_own_and_share_a_histogram() {
        let requests = Arc::new(Requests::new("a-1.x".into()));
        for workload in ["b-1.x", "b-2.x", "b-2.x"] {
            requests.shard().record(&Request {
                direction: Direction::Outbound,
                service: "b.x:80",
                route: "default",
                protocol: Protocol::Http1,
                identity: None,
                workload,
                status: 200,
                grpc_status: None,
                reason: None,
                duration: Duration::from_millis(2),
                trace: Some(7),
            });
        }
        let mut rows = requests.edges();
        rows.sort_by(|one, other| one.workload.cmp(&other.workload));
        let counts: Vec<(&str, u64)> = rows.iter().map(|row| (&*row.workload, row.requests)).collect();
        assert_eq!(counts, [("b-1.x", 1), ("b-2.x", 2)]);
        let mut text = String::new();
        requests.durations(&mut text).expect("encodes");
        let counts: Vec<&str> =
            text.lines().filter(|line| line.starts_with("malla_request_duration_seconds_count")).collect();
        assert!(matches!(counts[..], [one] if one.ends_with(" 3")), "{counts:?}");
        let exemplars: Vec<&str> = text.lines().filter(|line| line.contains(" # {trace_id=")).collect();
        assert!(matches!(exemplars[..], [one] if one.contains("{le=\"0.0025\",")), "{exemplars:?}");
    }

    #[test]
    fn shards_add_up_and_buckets_are_cumulative() {
        let requests = Arc::new(Requests::new("a-1.x".into()));
        let service: Name = "b.x:80".into();
        for (shard, milliseconds) in [(requests.shard(), 2), (requests.shard(), 20_000)] {
            shard.record(&Request {
                direction: Direction::Outbound,
                service: &service,
                route: "default",
                protocol: Protocol::Grpc,
                identity: None,
                workload: "b-1.x",
                status: 200,
                grpc_status: Some(14),
                reason: None,
                duration: Duration::from_millis(milliseconds),
                trace: None,
            });
        }
        let rows = requests.edges();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].requests, rows[0].failures), (2, 2), "UNAVAILABLE is a failure");
        let sums = requests.sums();
        let buckets = exposed_buckets(&sums[0].1.buckets);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 2);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
        assert!(sums[0].1.exemplars.is_empty(), "nobody has followed them");
    }
}

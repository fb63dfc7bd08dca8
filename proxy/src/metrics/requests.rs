//! What is counted for each request: one shard per worker, whose mutexes only a scrape ever contends.
//!
//! A shard finds the counters of an edge by a hash of its labels, without allocation; labels become text at a scrape.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use malla_xds::exposition::NativeHistogram;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use rapidhash::fast::RapidHasher;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::histogram::{Durations, EXPOSED, SCHEMA, SIZES, STEPS, Sizes};
use super::idle::Idle;
use super::series::{self, Exemplar, Series};
use super::table::{EDGE_LABELS, SIZE_LABELS, help};
use super::{Direction, EdgeRow, add};
use crate::names::{Name, SpiffeId};
use crate::outcome::{LogLimit, failed};
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
    /// From the complete head of the request to the beginning of the response, if there was one.
    pub first_byte: Option<Duration>,
    /// Bytes of its body, as far as they were read.
    pub request_bytes: u64,
    /// Bytes of the response's body, as far as they were taken.
    pub response_bytes: u64,
    /// Its trace, if that is followed.
    pub trace: Option<u128>,
}

/// What one worker counts for each request.
#[derive(Debug, Default)]
pub struct Shard {
    edges: Mutex<HashMap<u64, Arc<Edge>, BuildHasherDefault<Hashed>>>,
    allowed: Mutex<HashMap<u64, Allowed, BuildHasherDefault<Hashed>>>,
    /// Bounds the lines that the worker's failures write.
    pub(crate) log: LogLimit,
}

/// All shards of a sidecar.
#[derive(Debug)]
pub(super) struct Requests {
    workload: Name,
    shards: Mutex<Vec<Arc<Shard>>>,
    idle: Mutex<Idle<EdgeKey>>,
    idle_allowed: Mutex<Idle<(Name, Name)>>,
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
    counts: Mutex<Counts>,
}

/// What is counted of an edge.
#[derive(Debug, Clone, Default)]
struct Counts {
    durations: Durations,
    first_bytes: Durations,
    requests: Sizes,
    responses: Sizes,
    answers: Vec<(Answer, u64)>,
    /// Of followed requests alone, one for each bucket that is exposed.
    exemplars: Vec<Exemplar>,
}

/// What a policy let through.
#[derive(Debug)]
struct Allowed {
    service: Name,
    policy: Name,
    number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Answer {
    status: u16,
    grpc_status: Option<u8>,
    reason: Option<Reason>,
}

impl Shard {
    /// Counts a request that has ended.
    pub fn record(&self, request: &Request<'_>) {
        let hash = request.hash();
        let mut edges = self.edges.lock();
        let edge = edges.entry(hash).or_insert_with(|| Arc::new(Edge::new(request)));
        edge.record(request);
    }

    /// Counts what a policy lets through; nothing where none had to allow it.
    pub fn allowed(&self, service: &str, policy: Option<&str>) {
        let policy = policy.unwrap_or(NO_POLICY_NEEDED);
        let mut hasher = RapidHasher::default();
        service.hash(&mut hasher);
        policy.hash(&mut hasher);
        let new = || Allowed { service: service.into(), policy: policy.into(), number: 0 };
        self.allowed.lock().entry(hasher.finish()).or_insert_with(new).number += 1;
    }
}

/// Names of policies have slashes.
const NO_POLICY_NEEDED: &str = "default";

impl Request<'_> {
    fn hash(&self) -> u64 {
        let Request { direction, service, route, protocol, identity, workload, .. } = *self;
        hash((direction, service, route, protocol, identity, workload))
    }
}

/// Identifies an edge. 64 bits over labels that are configured: two edges meet by chance once in 10¹⁹ pairs.
fn hash(
    (direction, service, route, protocol, identity, workload): (
        Direction,
        &str,
        &str,
        Protocol,
        Option<&SpiffeId>,
        &str,
    ),
) -> u64 {
    let mut hasher = RapidHasher::default();
    service.hash(&mut hasher);
    route.hash(&mut hasher);
    hasher.write_u16((direction as u16) << 8 | protocol as u16);
    identity.map_or("", SpiffeId::as_str).hash(&mut hasher);
    workload.hash(&mut hasher);
    hasher.finish()
}

impl EdgeKey {
    fn hash(&self) -> u64 {
        let EdgeKey { direction, service, route, protocol, identity, workload } = self;
        hash((*direction, service, route, *protocol, identity.as_ref(), workload))
    }

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
        Edge { key, counts: Mutex::default() }
    }

    fn record(&self, request: &Request<'_>) {
        let mut counts = self.counts.lock();
        counts.durations.record(request.duration);
        if let Some(first_byte) = request.first_byte {
            counts.first_bytes.record(first_byte);
        }
        counts.requests.record(request.request_bytes);
        counts.responses.record(request.response_bytes);
        counts.answer(Answer { status: request.status, grpc_status: request.grpc_status, reason: request.reason }, 1);
        if let Some(trace) = request.trace {
            let microseconds = u64::try_from(request.duration.as_micros()).unwrap_or(u64::MAX);
            let bucket = EXPOSED.partition_point(|bound| *bound < microseconds);
            series::keep(&mut counts.exemplars, Exemplar { bucket, trace, microseconds, at: SystemTime::now() });
        }
    }
}

impl Counts {
    fn answer(&mut self, answer: Answer, number: u64) {
        match self.answers.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, count)) => *count += number,
            None => self.answers.push((answer, number)),
        }
    }

    fn add(&mut self, other: &Counts) {
        self.durations.add(&other.durations);
        self.first_bytes.add(&other.first_bytes);
        self.requests.add(&other.requests);
        self.responses.add(&other.responses);
        other.answers.iter().for_each(|(answer, number)| self.answer(answer.clone(), *number));
        other.exemplars.iter().for_each(|exemplar| series::keep(&mut self.exemplars, *exemplar));
    }
}

impl Requests {
    pub(super) fn new(workload: Name) -> Self {
        Requests { workload, shards: Mutex::default(), idle: Mutex::default(), idle_allowed: Mutex::default() }
    }

    /// Takes out the series that have stood still for long. Where a service goes on with other workloads, what its histograms have
    /// counted of one that is gone stays in them: they never fall.
    pub(super) fn forget_idle(&self, now: Instant) {
        self.forget_idle_allowed(now);
        let mut idle = self.idle.lock();
        if !idle.is_due(now) {
            return;
        }
        let sums = self.sums();
        let answered = |counts: &Counts| counts.answers.iter().map(|(_, number)| number).sum();
        let quiet = idle.look(now, sums.iter().map(|(key, counts)| (key.clone(), answered(counts))));
        drop(idle);
        if quiet.is_empty() {
            return;
        }
        let busy = sums.iter().map(|(key, _)| key).filter(|key| !quiet.contains(*key));
        let busy: HashSet<_> = busy.map(|key| (key.direction, &key.service, self.source(key))).collect();
        for shard in self.shards.lock().iter() {
            let mut edges = shard.edges.lock();
            let mut gone = Vec::new();
            edges.retain(|_, edge| {
                let key = &edge.key;
                let service_goes_on = busy.contains(&(key.direction, &key.service, self.source(key)));
                let stays = !quiet.contains(key) || (service_goes_on && key.workload.is_empty());
                if !stays && service_goes_on {
                    gone.push(edge.clone());
                }
                stays
            });
            for edge in gone {
                let key = EdgeKey { workload: "".into(), ..edge.key.clone() };
                let rest = Counts { answers: Vec::new(), exemplars: Vec::new(), ..edge.counts.lock().clone() };
                let of_service =
                    edges.entry(key.hash()).or_insert_with(|| Arc::new(Edge { key, counts: Mutex::default() }));
                of_service.counts.lock().add(&rest);
            }
        }
    }

    fn forget_idle_allowed(&self, now: Instant) {
        let mut idle = self.idle_allowed.lock();
        if !idle.is_due(now) {
            return;
        }
        let quiet = idle.look(now, self.allowed().into_iter());
        for shard in self.shards.lock().iter() {
            let stays = |one: &Allowed| !quiet.contains(&(one.service.clone(), one.policy.clone()));
            shard.allowed.lock().retain(|_, one| stays(one));
        }
    }

    pub(super) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::<Shard>::default();
        self.shards.lock().push(shard.clone());
        shard
    }

    pub(super) fn edges(&self) -> Vec<EdgeRow> {
        let mut rows: HashMap<(Direction, Name, Name, Protocol, Option<SpiffeId>), EdgeRow> = HashMap::new();
        for (key, sum) in self.sums() {
            // What is left of workloads that are gone.
            if sum.answers.is_empty() {
                continue;
            }
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
            row.requests += sum.answers.iter().map(|(_, count)| count).sum::<u64>();
            row.failures += sum
                .answers
                .iter()
                .filter(|(answer, _)| failed(answer.status, answer.grpc_status, answer.reason))
                .map(|(_, count)| count)
                .sum::<u64>();
            for (reason, count) in sum.answers.iter().filter_map(|(answer, count)| Some((answer.reason?, *count))) {
                add(&mut row.reasons, reason, count);
            }
            for ((_, total), count) in row.latency.iter_mut().zip(sum.durations.gathered(&STEPS)) {
                *total += count;
            }
        }
        rows.into_values().collect()
    }

    fn sums(&self) -> Vec<(EdgeKey, Counts)> {
        // The list is taken under the lock, the counters outside of it: a worker waits for microseconds at most.
        let shards = self.shards.lock().clone();
        let edges: Vec<Arc<Edge>> =
            shards.iter().flat_map(|shard| shard.edges.lock().values().cloned().collect::<Vec<_>>()).collect();
        let mut sums: HashMap<EdgeKey, Counts> = HashMap::new();
        for edge in edges {
            let counts = edge.counts.lock().clone();
            sums.entry(edge.key.clone()).or_default().add(&counts);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(left, _), (right, _)| left.cmp(right));
        sums
    }

    /// The histograms, as text: OpenMetrics, those of durations with exemplars. If they are wanted, also those with exponential buckets, of
    /// the same moment.
    pub(super) fn histograms(&self, text: &mut String, mut native: Option<&mut Vec<NativeHistogram>>) -> fmt::Result {
        let sums = self.sums();
        let mut of_services: Vec<(&EdgeKey, Counts)> = Vec::new();
        for of_service in sums.chunk_by(|(one, _), (next, _)| one.differs_in_workload_only(next)) {
            let Some((key, _)) = of_service.first() else { continue };
            let mut counts = Counts::default();
            of_service.iter().for_each(|(_, sum)| counts.add(sum));
            of_services.push((key, counts));
        }
        let whole = of_services.iter().map(|(key, counts)| (*key, &counts.durations, &*counts.exemplars));
        self.durations(text, native.as_deref_mut(), "request_duration_seconds", whole)?;
        let first_bytes = of_services.iter().map(|(key, counts)| (*key, &counts.first_bytes, &[][..]));
        self.durations(text, native, "request_first_byte_seconds", first_bytes)?;
        // How large bodies are, services and callers decide: these have few labels.
        let mut sizes: BTreeMap<[&str; SIZE_LABELS.len()], (Sizes, Sizes)> = BTreeMap::new();
        for (key, counts) in &of_services {
            let (requests, responses) =
                sizes.entry([key.direction.word(), &key.service, self.source(key)]).or_default();
            requests.add(&counts.requests);
            responses.add(&counts.responses);
        }
        write_sizes(text, "request_size_bytes", sizes.iter().map(|(values, (requests, _))| (values, requests)))?;
        write_sizes(text, "response_size_bytes", sizes.iter().map(|(values, (_, responses))| (values, responses)))
    }

    fn durations<'a>(
        &'a self,
        text: &mut String,
        mut native: Option<&mut Vec<NativeHistogram>>,
        name: &'static str,
        family: impl Iterator<Item = (&'a EdgeKey, &'a Durations, &'a [Exemplar])>,
    ) -> fmt::Result {
        series::describe(text, name)?;
        let bounds = EXPOSED.map(|bound| bound as f64 / 1e6);
        for (key, durations, exemplars) in family {
            let (labels, sum, counts) = (self.labels(key), durations.seconds(), durations.gathered(&EXPOSED));
            Series { name, labels: &labels, sum, bounds: &bounds, counts: &counts, exemplars }.write(text)?;
            if let Some(native) = &mut native {
                let (zero, buckets) = durations.native();
                let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
                native.push(NativeHistogram { name: format!("malla_{name}"), labels, schema: SCHEMA, zero, buckets });
            }
        }
        Ok(())
    }

    /// What policies let through, by service and policy.
    fn allowed(&self) -> BTreeMap<(Name, Name), u64> {
        let mut sums = BTreeMap::new();
        for shard in self.shards.lock().iter() {
            for Allowed { service, policy, number } in shard.allowed.lock().values() {
                *sums.entry((service.clone(), policy.clone())).or_default() += number;
            }
        }
        sums
    }

    /// Where the requests of an edge come from.
    fn source<'a>(&'a self, key: &'a EdgeKey) -> &'a str {
        match key.direction {
            Direction::Outbound => &self.workload,
            Direction::Inbound => key.identity.as_ref().map_or("", SpiffeId::as_str),
        }
    }

    fn labels<'a>(&'a self, key: &'a EdgeKey) -> [(&'static str, &'a str); EDGE_LABELS.len()] {
        let mtls = if key.identity.is_some() { "true" } else { "false" };
        let values = [key.direction.word(), &key.service, &key.route, key.protocol.word(), self.source(key), mtls];
        labelled(EDGE_LABELS, values)
    }
}

fn write_sizes<'a>(
    text: &mut String,
    name: &'static str,
    family: impl Iterator<Item = (&'a [&'a str; SIZE_LABELS.len()], &'a Sizes)>,
) -> fmt::Result {
    series::describe(text, name)?;
    let bounds = SIZES.map(|bound| bound as f64);
    for (values, sizes) in family {
        let (labels, sum, counts) = (labelled(SIZE_LABELS, *values), sizes.bytes(), sizes.counts());
        Series { name, labels: &labels, sum, bounds: &bounds, counts, exemplars: &[] }.write(text)?;
    }
    Ok(())
}

fn labelled<'a, const N: usize>(names: [&'static str; N], values: [&'a str; N]) -> [(&'static str, &'a str); N] {
    let mut pairs = names.into_iter().zip(values);
    std::array::from_fn(|_| pairs.next().unwrap_or_default())
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
        let name = "authorization_allowed";
        let mut family = encoder.encode_descriptor(name, help(name), None, MetricType::Counter)?;
        for ((service, policy), number) in self.allowed() {
            let labels = [("service", &*service), ("policy", &*policy)];
            ConstCounter::new(number).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Those of the live table.
fn bounds() -> impl Iterator<Item = Duration> {
    STEPS.into_iter().map(Duration::from_micros).chain([Duration::MAX])
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
                first_byte: None,
                request_bytes: 0,
                response_bytes: 0,
                trace: Some(7),
            });
        }
        let mut rows = requests.edges();
        rows.sort_by(|one, other| one.workload.cmp(&other.workload));
        let counts: Vec<(&str, u64)> = rows.iter().map(|row| (&*row.workload, row.requests)).collect();
        assert_eq!(counts, [("b-1.x", 1), ("b-2.x", 2)]);
        let mut text = String::new();
        requests.histograms(&mut text, None).expect("encodes");
        let counts: Vec<&str> =
            text.lines().filter(|line| line.starts_with("malla_request_duration_seconds_count")).collect();
        assert!(matches!(counts[..], [one] if one.ends_with(" 3")), "{counts:?}");
        let exemplars: Vec<&str> = text.lines().filter(|line| line.contains(" # {trace_id=")).collect();
        assert!(matches!(exemplars[..], [one] if one.contains("{le=\"0.0025\",")), "{exemplars:?}");
    }

    #[test]
    fn what_policies_let_through_is_counted_in_all_shards() {
        let requests = Requests::new("a-1.x".into());
        let (one, other) = (requests.shard(), requests.shard());
        one.allowed("b.x:80", Some("x/callers/0"));
        other.allowed("b.x:80", Some("x/callers/0"));
        other.allowed("b.x:80", None);
        let allowed: Vec<_> = requests.allowed().into_iter().collect();
        let key = |policy: &str| (Name::from("b.x:80"), Name::from(policy));
        assert_eq!(allowed, [(key("default"), 1), (key("x/callers/0"), 2)]);
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
                // One of them was not answered.
                first_byte: (milliseconds < 10).then_some(Duration::from_millis(1)),
                request_bytes: 300,
                response_bytes: 1000,
                trace: None,
            });
        }
        let rows = requests.edges();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].requests, rows[0].failures), (2, 2), "UNAVAILABLE is a failure");
        let (_, sum) = &requests.sums()[0];
        let buckets = sum.durations.gathered(&EXPOSED);
        assert_eq!((buckets.iter().sum::<u64>(), buckets.last()), (2, Some(&1)));
        assert!(sum.exemplars.is_empty(), "nobody has followed them");
        let mut text = String::new();
        requests.histograms(&mut text, None).expect("encodes");
        let lines = [
            "malla_request_first_byte_seconds_count{direction=\"outbound\",service=\"b.x:80\",route=\"default\",protocol=\"grpc\",source=\"a-1.x\",mtls=\"false\"} 1",
            "malla_request_size_bytes_sum{direction=\"outbound\",service=\"b.x:80\",source=\"a-1.x\"} 600.0",
            "malla_request_size_bytes_bucket{le=\"1024.0\",direction=\"outbound\",service=\"b.x:80\",source=\"a-1.x\"} 2",
            "malla_response_size_bytes_bucket{le=\"256.0\",direction=\"outbound\",service=\"b.x:80\",source=\"a-1.x\"} 0",
        ];
        lines.iter().for_each(|line| assert!(text.lines().any(|found| found == *line), "{line}\n{text}"));
    }
}

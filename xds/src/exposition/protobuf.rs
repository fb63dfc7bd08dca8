//! A page of OpenMetrics as messages of Prometheus' client model, with what text has no form for: native histograms.
//!
//! The messages are those of `io.prometheus.client` (metrics.proto of prometheus/client_model), as far as they are used here. Made from the
//! text, so that all forms say the same: only text of our own is read, and a line that is not understood is left out.

use std::collections::HashMap;

use prost::Message;

use super::NativeHistogram;

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// `Gauge` and `Counter`.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    buckets: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_deltas: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    /// From the end of the span before, or from index 0.
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

const COUNTER: i32 = 0;
const GAUGE: i32 = 1;
const HISTOGRAM: i32 = 4;

/// The messages of a page, each after its length.
pub(super) fn encode(open_metrics: &str, native: Vec<NativeHistogram>) -> Vec<u8> {
    families(open_metrics, native).iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

fn families(open_metrics: &str, native: Vec<NativeHistogram>) -> Vec<MetricFamily> {
    let mut families: Vec<MetricFamily> = Vec::new();
    for line in open_metrics.lines() {
        match line.strip_prefix("# ") {
            Some(described) => describe(&mut families, described),
            None => {
                if let (Some(family), Some(sample)) = (families.last_mut(), sample(line)) {
                    add(family, sample);
                }
            }
        }
    }
    let mut native: HashMap<_, _> = native
        .into_iter()
        .map(|native| {
            let labels: Vec<LabelPair> = native.labels.iter().map(|(name, value)| pair(name, value.clone())).collect();
            ((native.name.clone(), labels), native)
        })
        .collect();
    for family in &mut families {
        let Some(name) = family.name.clone().filter(|_| family.kind == Some(HISTOGRAM)) else { continue };
        for metric in &mut family.metrics {
            let found = native.remove(&(name.clone(), metric.labels.clone()));
            if let (Some(histogram), Some(found)) = (&mut metric.histogram, found) {
                histogram.add(&found);
            }
        }
    }
    families.iter_mut().filter(|family| family.kind == Some(COUNTER)).for_each(|family| {
        // Here a family has the name of its samples.
        family.name = family.name.take().map(|name| name + "_total");
    });
    families
}

/// `HELP name text` or `TYPE name kind`; both begin a family, if it is another one.
fn describe(families: &mut Vec<MetricFamily>, described: &str) {
    let mut words = described.splitn(3, ' ');
    let (Some(keyword @ ("HELP" | "TYPE")), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    if families.last().is_none_or(|family| family.name.as_deref() != Some(name)) {
        families.push(MetricFamily { name: Some(name.to_owned()), ..Default::default() });
    }
    let Some(family) = families.last_mut() else { return };
    match (keyword, rest) {
        ("HELP", help) => family.help = Some(help.to_owned()),
        (_, "counter") => family.kind = Some(COUNTER),
        (_, "histogram") => family.kind = Some(HISTOGRAM),
        (_, _) => family.kind = Some(GAUGE),
    }
}

/// A line that counts.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<LabelPair>,
    value: f64,
    exemplar: Option<Exemplar>,
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(end)?;
    let (labels, rest) = labels(rest)?;
    let (value, exemplar) = rest.split_once(" # ").unwrap_or((rest, ""));
    Some(Sample { name, labels, value: value.trim().parse().ok()?, exemplar: self::exemplar(exemplar) })
}

fn exemplar(text: &str) -> Option<Exemplar> {
    let (labels, rest) = labels(text)?;
    let (value, at) = rest.trim().split_once(' ')?;
    let (seconds, fraction) = at.split_once('.')?;
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    let timestamp = Timestamp { seconds: seconds.parse().ok()?, nanos };
    Some(Exemplar { labels, value: Some(value.parse().ok()?), timestamp: Some(timestamp) })
}

/// The labels in braces, if there are any, and what follows them.
fn labels(text: &str) -> Option<(Vec<LabelPair>, &str)> {
    let mut found = Vec::new();
    let Some(mut text) = text.strip_prefix('{') else { return Some((found, text)) };
    loop {
        text = text.strip_prefix(',').unwrap_or(text);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((found, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (mut value, mut characters) = (String::new(), rest.chars());
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => value.push(match characters.next()? {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        found.push(pair(name, value));
        text = characters.as_str();
    }
}

fn pair(name: &str, value: String) -> LabelPair {
    LabelPair { name: Some(name.to_owned()), value: Some(value) }
}

fn add(family: &mut MetricFamily, sample: Sample<'_>) {
    let Sample { name, mut labels, value, exemplar } = sample;
    let number = Some(Number { value: Some(value) });
    match family.kind {
        Some(COUNTER) => family.metrics.push(Metric { labels, counter: number, ..Default::default() }),
        Some(HISTOGRAM) => {
            let bound = labels.extract_if(.., |label| label.name.as_deref() == Some("le")).next();
            if family.metrics.last().is_none_or(|metric| metric.labels != labels) {
                let histogram = Some(Histogram::default());
                family.metrics.push(Metric { labels, histogram, ..Default::default() });
            }
            let of_family = family.name.as_deref().unwrap_or_default();
            let histogram = family.metrics.last_mut().and_then(|metric| metric.histogram.as_mut());
            let (Some(histogram), Some(part)) = (histogram, name.strip_prefix(of_family)) else { return };
            // Numbers of requests are whole.
            let whole = Some(value as u64);
            match part {
                "_sum" => histogram.sample_sum = Some(value),
                "_count" => histogram.sample_count = whole,
                _ => {
                    let upper_bound = bound.and_then(|label| label.value?.parse().ok());
                    histogram.buckets.push(Bucket { cumulative_count: whole, upper_bound, exemplar });
                }
            }
        }
        _ => family.metrics.push(Metric { labels, gauge: number, ..Default::default() }),
    }
}

impl Histogram {
    fn add(&mut self, native: &NativeHistogram) {
        let (threshold, zero_count) = native.zero;
        self.schema = Some(native.schema);
        (self.zero_threshold, self.zero_count) = (Some(threshold), Some(zero_count));
        let (mut next, mut before) = (0_i32, 0_i64);
        for (index, count) in &native.buckets {
            match self.positive_spans.last_mut() {
                Some(last) if *index == next => last.length = last.length.map(|length| length.saturating_add(1)),
                _ => {
                    let offset = Some(index.saturating_sub(next));
                    self.positive_spans.push(BucketSpan { offset, length: Some(1) });
                }
            }
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.positive_deltas.push(count.saturating_sub(before));
            (next, before) = (index.saturating_add(1), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP malla_requests HTTP requests that ended\n# TYPE malla_requests counter\n\
        malla_requests_total{service=\"a\",path=\"x\\\"}\\\\\"} 3\n# HELP malla_up Whether\n# TYPE malla_up gauge\nmalla_up 1\n\
        # HELP malla_x_seconds How long\n# TYPE malla_x_seconds histogram\n\
        malla_x_seconds_sum{service=\"a\"} 4.5\nmalla_x_seconds_count{service=\"a\"} 6\n\
        malla_x_seconds_bucket{le=\"1.0\",service=\"a\"} 4 # {trace_id=\"0a\"} 0.5 30.250\n\
        malla_x_seconds_bucket{le=\"+Inf\",service=\"a\"} 6\n\
        malla_x_seconds_sum{service=\"b\"} 0.0\nmalla_x_seconds_count{service=\"b\"} 0\n\
        malla_x_seconds_bucket{le=\"+Inf\",service=\"b\"} 0\n# EOF\n";

    fn native(service: &str, buckets: &[(i32, u64)]) -> NativeHistogram {
        NativeHistogram {
            name: "malla_x_seconds".into(),
            labels: vec![("service".into(), service.into())],
            schema: 2,
            zero: (0.25, 1),
            buckets: buckets.into(),
        }
    }

    #[test]
    fn a_page_becomes_messages() {
        let families = families(PAGE, Vec::new());
        let names: Vec<_> = families.iter().map(|family| (family.name.as_deref(), family.kind)).collect();
        let expected = [("malla_requests_total", COUNTER), ("malla_up", GAUGE), ("malla_x_seconds", HISTOGRAM)];
        assert_eq!(names, expected.map(|(name, kind)| (Some(name), Some(kind))));
        assert_eq!(families[0].help.as_deref(), Some("HTTP requests that ended"));
        assert_eq!(families[0].metrics[0].labels, [pair("service", "a".into()), pair("path", "x\"}\\".into())]);
        assert_eq!(families[0].metrics[0].counter, Some(Number { value: Some(3.0) }));
        assert_eq!(families[1].metrics[0].gauge, Some(Number { value: Some(1.0) }));
        let [a, b] = &families[2].metrics[..] else { panic!("two histograms: {families:?}") };
        let histogram = a.histogram.as_ref().expect("a histogram");
        assert_eq!((a.labels.len(), histogram.sample_count, histogram.sample_sum), (1, Some(6), Some(4.5)));
        let bounds: Vec<_> = histogram.buckets.iter().map(|bucket| bucket.upper_bound).collect();
        assert_eq!(bounds, [Some(1.0), Some(f64::INFINITY)]);
        let exemplar = histogram.buckets[0].exemplar.as_ref().expect("an exemplar");
        assert_eq!((exemplar.value, exemplar.labels.len()), (Some(0.5), 1));
        assert_eq!(exemplar.timestamp, Some(Timestamp { seconds: 30, nanos: 250_000_000 }));
        assert_eq!((histogram.schema, b.histogram.as_ref().map(|b| b.buckets.len())), (None, Some(1)));
    }

    #[test]
    fn native_buckets_are_spans_and_differences() {
        let native = [native("b", &[]), native("a", &[(-3, 2), (-2, 5), (0, 1), (7, 1)]), native("c", &[(1, 1)])];
        let families = families(PAGE, native.into());
        let of = |index: usize| families[2].metrics[index].histogram.as_ref().expect("a histogram");
        let spans: Vec<_> = of(0).positive_spans.iter().map(|span| (span.offset, span.length)).collect();
        assert_eq!(spans, [(Some(-3), Some(2)), (Some(1), Some(1)), (Some(6), Some(1))]);
        assert_eq!(of(0).positive_deltas, [2, 3, -4, 0]);
        assert_eq!((of(0).schema, of(0).zero_threshold, of(0).zero_count), (Some(2), Some(0.25), Some(1)));
        assert_eq!(of(0).buckets.len(), 2, "the others stay");
        assert_eq!((of(1).schema, of(1).positive_spans.len()), (Some(2), 0));
    }

    #[test]
    fn each_message_goes_after_its_length() {
        let bytes = encode(PAGE, Vec::new());
        let mut rest = bytes.as_slice();
        let mut names = Vec::new();
        while !rest.is_empty() {
            names.extend(MetricFamily::decode_length_delimited(&mut rest).expect("a message").name);
        }
        assert_eq!(names, ["malla_requests_total", "malla_up", "malla_x_seconds"]);
    }
}

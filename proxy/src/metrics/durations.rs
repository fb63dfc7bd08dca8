//! The histogram of durations as text, with an exemplar for each bucket: the newest request in it of which there is a trace.
//!
//! Written by hand, because `prometheus-client` makes exemplars only within histograms of its own, which every request would have to lock.
//! A request that is not followed pays nothing for this.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::table::help;

/// A request that stands for those of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exemplar {
    /// Of the buckets that are exposed.
    pub(super) bucket: usize,
    pub(super) trace: u128,
    pub(super) microseconds: u64,
    pub(super) at: SystemTime,
}

/// One histogram of the family.
#[derive(Debug)]
pub(super) struct Series<'a> {
    pub(super) labels: &'a [(&'static str, &'a str)],
    /// The sum of all durations.
    pub(super) seconds: f64,
    /// Upper bounds in seconds, and requests between each and the one before.
    pub(super) buckets: &'a [(f64, u64)],
    pub(super) exemplars: &'a [Exemplar],
}

/// Keeps the newest of each bucket.
pub(super) fn keep(exemplars: &mut Vec<Exemplar>, new: Exemplar) {
    match exemplars.iter_mut().find(|kept| kept.bucket == new.bucket) {
        Some(kept) if kept.at > new.at => {}
        Some(kept) => *kept = new,
        None => exemplars.push(new),
    }
}

/// What describes the family.
pub(super) fn describe(text: &mut String) -> fmt::Result {
    writeln!(text, "# HELP {NAME} {}\n# TYPE {NAME} histogram", help("request_duration_seconds"))
}

const NAME: &str = "malla_request_duration_seconds";

impl Series<'_> {
    /// Adds the samples of one histogram.
    pub(super) fn write(&self, text: &mut String) -> fmt::Result {
        let mut labels = String::new();
        for (name, value) in self.labels {
            let separator = if labels.is_empty() { "" } else { "," };
            write!(labels, "{separator}{name}=\"{}\"", Escaped(value))?;
        }
        let count: u64 = self.buckets.iter().map(|(_, count)| count).sum();
        writeln!(text, "{NAME}_sum{{{labels}}} {:?}\n{NAME}_count{{{labels}}} {count}", self.seconds)?;
        let mut below = 0;
        for (index, (bound, count)) in self.buckets.iter().enumerate() {
            below += count;
            write!(text, "{NAME}_bucket{{le=\"")?;
            if bound.is_finite() {
                write!(text, "{bound:?}")?
            } else {
                text.write_str("+Inf")?
            }
            write!(text, "\",{labels}}} {below}")?;
            if let Some(exemplar) = self.exemplars.iter().find(|exemplar| exemplar.bucket == index) {
                let Exemplar { bucket: _, trace, microseconds, at } = exemplar;
                let (seconds, at) = (*microseconds as f64 / 1e6, at.duration_since(UNIX_EPOCH).unwrap_or_default());
                write!(text, " # {{trace_id=\"{trace:032x}\"}} {seconds:?} {:.3}", at.as_secs_f64())?;
            }
            text.write_char('\n')?;
        }
        Ok(())
    }
}

/// The value of a label, as OpenMetrics has it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '\\' => formatter.write_str("\\\\"),
            '"' => formatter.write_str("\\\""),
            '\n' => formatter.write_str("\\n"),
            other => formatter.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_exemplar_of_each_bucket_stands_beside_it() {
        let exemplar = |trace, second| Exemplar {
            bucket: 1,
            trace,
            microseconds: 1500,
            at: UNIX_EPOCH + Duration::from_secs(second),
        };
        let mut exemplars = Vec::new();
        for (trace, second) in [(7, 20), (8, 30), (9, 10)] {
            keep(&mut exemplars, exemplar(trace, second));
        }
        let mut text = String::new();
        let buckets = [(0.001, 2), (0.0025, 3), (f64::INFINITY, 0)];
        let series =
            Series { labels: &[("a", "b\"\\\n"), ("c", "")], seconds: 0.01, buckets: &buckets, exemplars: &exemplars };
        series.write(&mut text).expect("a string takes it");
        let labels = r#"a="b\"\\\n",c="""#;
        let expected = format!(
            "{NAME}_sum{{{labels}}} 0.01\n{NAME}_count{{{labels}}} 5\n{NAME}_bucket{{le=\"0.001\",{labels}}} 2\n\
             {NAME}_bucket{{le=\"0.0025\",{labels}}} 5 # {{trace_id=\"00000000000000000000000000000008\"}} 0.0015 30.000\n\
             {NAME}_bucket{{le=\"+Inf\",{labels}}} 5\n"
        );
        assert_eq!(text, expected);
    }
}

//! A histogram as text, with an exemplar for each bucket: the newest request in it of which there is a trace.
//!
//! Written by hand, because `prometheus-client` makes exemplars only within histograms of its own, which every request would have to lock.
//! A request that is not followed pays nothing for exemplars.

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

/// One histogram of a family.
#[derive(Debug)]
pub(super) struct Series<'a> {
    /// Of the family, without the prefix.
    pub(super) name: &'static str,
    pub(super) labels: &'a [(&'static str, &'a str)],
    /// The sum of all that was measured, in the unit of the name.
    pub(super) sum: f64,
    /// Upper bounds in that unit.
    pub(super) bounds: &'a [f64],
    /// Requests between each and the one before, and those above.
    pub(super) counts: &'a [u64],
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

/// What describes a family.
pub(super) fn describe(text: &mut String, name: &str) -> fmt::Result {
    writeln!(text, "# HELP malla_{name} {}\n# TYPE malla_{name} histogram", help(name))
}

impl Series<'_> {
    /// Adds the samples of one histogram.
    pub(super) fn write(&self, text: &mut String) -> fmt::Result {
        let (name, mut labels) = (self.name, String::new());
        for (label, value) in self.labels {
            let separator = if labels.is_empty() { "" } else { "," };
            write!(labels, "{separator}{label}=\"{}\"", Escaped(value))?;
        }
        let count: u64 = self.counts.iter().sum();
        writeln!(text, "malla_{name}_sum{{{labels}}} {:?}\nmalla_{name}_count{{{labels}}} {count}", self.sum)?;
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            below += count;
            write!(text, "malla_{name}_bucket{{le=\"")?;
            match self.bounds.get(index) {
                Some(bound) => write!(text, "{bound:?}")?,
                None => text.write_str("+Inf")?,
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
        let series = Series {
            name: "x_seconds",
            labels: &[("a", "b\"\\\n"), ("c", "")],
            sum: 0.01,
            bounds: &[0.001, 0.0025],
            counts: &[2, 3, 0],
            exemplars: &exemplars,
        };
        series.write(&mut text).expect("a string takes it");
        let labels = r#"a="b\"\\\n",c="""#;
        let expected = format!(
            "malla_x_seconds_sum{{{labels}}} 0.01\nmalla_x_seconds_count{{{labels}}} 5\nmalla_x_seconds_bucket{{le=\"0.001\",{labels}}} 2\n\
             malla_x_seconds_bucket{{le=\"0.0025\",{labels}}} 5 # {{trace_id=\"00000000000000000000000000000008\"}} 0.0015 30.000\n\
             malla_x_seconds_bucket{{le=\"+Inf\",{labels}}} 5\n"
        );
        assert_eq!(text, expected);
    }
}

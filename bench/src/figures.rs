//! What was measured: for each work, contender and metric the values of all rounds.

use serde::{Serialize, Serializer};

use crate::contender::Contender;

/// What a value is, in which unit, and which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metric {
    /// Head of its column.
    pub(crate) name: &'static str,
    /// Unit.
    pub(crate) unit: &'static str,
    /// Whether less is better.
    pub(crate) less_is_better: bool,
}

const fn less(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, less_is_better: true }
}

const fn more(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, less_is_better: false }
}

impl Metric {
    pub(crate) const PROCESSOR: Metric = less("CPU per request", "µs");
    pub(crate) const RATE: Metric = more("per second", "1/s");
    pub(crate) const P50: Metric = less("p50", "µs");
    pub(crate) const P99: Metric = less("p99", "µs");
    pub(crate) const P999: Metric = less("p99.9", "µs");
    pub(crate) const ADDED50: Metric = less("added p50", "µs");
    pub(crate) const ADDED99: Metric = less("added p99", "µs");
    pub(crate) const ADDED999: Metric = less("added p99.9", "µs");
    pub(crate) const MEMORY: Metric = less("memory", "MB");
    pub(crate) const IDLE: Metric = less("idle", "MB");
    pub(crate) const LOADED: Metric = less("under load", "MB");
    pub(crate) const SHARED: Metric = less("shared pages once", "MB");
    pub(crate) const RESTED: Metric = less("10 s after", "MB");
    pub(crate) const EACH: Metric = less("memory each", "KB");
    pub(crate) const THROUGHPUT: Metric = more("throughput", "GB/s");
    pub(crate) const PER_GIGABYTE: Metric = less("CPU per GB", "s");
    pub(crate) const READY: Metric = less("until ready", "ms");
    pub(crate) const JOINING: Metric = less("CPU to join, each", "µs");
    pub(crate) const CHANGE: Metric = less("CPU of a change, each", "µs");
    pub(crate) const APPLIED50: Metric = less("reached, p50", "ms");
    pub(crate) const APPLIED99: Metric = less("reached, p99", "ms");
    pub(crate) const APPLIED_ALL: Metric = less("reached, all", "ms");
    pub(crate) const FEW_TRACES: Metric = less("with 1 % of traces", "×");
    pub(crate) const ALL_TRACES: Metric = less("with all traces", "×");
    pub(crate) const SPEEDUP: Metric = more("speed-up", "×");
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}, {}", self.name, self.unit))
    }
}

/// The values of one metric.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Name of the work.
    pub(crate) work: &'static str,
    /// Who.
    pub(crate) contender: Contender,
    /// What.
    pub(crate) metric: Metric,
    /// One per round.
    pub(crate) values: Vec<f64>,
    /// Median of the values.
    pub(crate) median: f64,
    /// Greatest less smallest value, as a share of the median.
    pub(crate) spread: f64,
    /// Ours as a share of this contender's, in this run; none for ours and where it is not known.
    pub(crate) malla_to_this: Option<f64>,
}

/// All figures of a run, in the order of the work.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    figures: Vec<Figure>,
    titles: Vec<(&'static str, String)>,
    notes: Vec<(&'static str, String)>,
}

impl Figures {
    /// Begins a piece of work.
    pub(crate) fn begin(&mut self, work: &'static str, title: impl Into<String>) {
        self.titles.push((work, title.into()));
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, work: &'static str, contender: Contender, metric: Metric, value: f64) {
        if !value.is_finite() {
            return;
        }
        match self.figures.iter_mut().find(|f| f.work == work && f.contender == contender && f.metric == metric) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                work,
                contender,
                metric,
                values: vec![value],
                median: 0.0,
                spread: 0.0,
                malla_to_this: None,
            }),
        }
        self.settle();
    }

    /// Says something that belongs under a table.
    pub(crate) fn note(&mut self, work: &'static str, note: String) {
        eprintln!("  {work}: {note}");
        if !self.notes.contains(&(work, note.clone())) {
            self.notes.push((work, note));
        }
    }

    /// Work with its title, in order; without what gave no figures.
    pub(crate) fn work(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let has = |work: &str| self.figures.iter().any(|figure| figure.work == work);
        self.titles.iter().filter(move |(work, _)| has(work)).map(|(work, title)| (*work, title.as_str()))
    }

    /// The figures of a piece of work.
    pub(crate) fn of(&self, work: &str) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(move |figure| figure.work == work)
    }

    /// What was said about a piece of work.
    pub(crate) fn notes(&self, work: &str) -> impl Iterator<Item = &str> {
        self.notes.iter().filter(move |(of, _)| *of == work).map(|(_, note)| note.as_str())
    }

    /// The median of one metric.
    pub(crate) fn median(&self, work: &str, contender: Contender, metric: Metric) -> Option<f64> {
        self.of(work)
            .find(|figure| figure.contender == contender && figure.metric == metric)
            .map(|figure| figure.median)
    }

    /// All figures.
    pub(crate) fn all(&self) -> &[Figure] {
        &self.figures
    }

    fn settle(&mut self) {
        for figure in &mut self.figures {
            (figure.median, figure.spread) = median_and_spread(&figure.values);
        }
        let ours: Vec<_> = self
            .figures
            .iter()
            .filter(|f| f.contender == Contender::Malla)
            .map(|f| (f.work, f.metric, f.median))
            .collect();
        for figure in self.figures.iter_mut().filter(|figure| figure.contender != Contender::Malla) {
            let ours = ours.iter().find(|(work, metric, _)| *work == figure.work && *metric == figure.metric);
            figure.malla_to_this = ours.map(|(_, _, median)| median / figure.median).filter(|ratio| ratio.is_finite());
        }
    }
}

fn median_and_spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return (0.0, 0.0) };
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    (median, if median == 0.0 { 0.0 } else { (last - first) / median.abs() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_spread_of_the_rounds() {
        assert_eq!(median_and_spread(&[3.0, 1.0, 2.0]), (2.0, 1.0));
        assert_eq!(median_and_spread(&[4.0, 2.0]), (3.0, 2.0 / 3.0));
        assert_eq!(median_and_spread(&[]), (0.0, 0.0));
    }

    #[test]
    fn the_ratio_is_ours_to_the_peers() {
        let mut figures = Figures::default();
        figures.add("pair", Contender::Envoy, Metric::PROCESSOR, 50.0);
        figures.add("pair", Contender::Malla, Metric::PROCESSOR, 25.0);
        let envoy = figures.of("pair").find(|figure| figure.contender == Contender::Envoy);
        assert_eq!(envoy.and_then(|figure| figure.malla_to_this), Some(0.5));
    }
}

//! Latency at half load: requests become due at a constant rate, half of what Envoy carries at most (half of what the slowest
//! carries, without Envoy), the same for all.

use anyhow::Result;

use super::{Bench, Column, PAIR, progress, record};
use crate::contender::Contender;
use crate::figures::{Figures, Metric};

const COLUMNS: &[Column] = &[
    (Metric::P50, |sample| sample.latency.p50),
    (Metric::P99, |sample| sample.latency.p99),
    (Metric::P999, |sample| sample.latency.p999),
    (Metric::PROCESSOR, bench::sample::Sample::processor_each),
];

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    let running = bench.start(PAIR)?;
    let mut slowest = f64::INFINITY;
    for running in running.iter().filter(|running| running.contender != Contender::Direct) {
        progress(&format!("{work}: how much {} carries", running.contender.title()));
        let arguments = ["http1", "--connections", "64"].map(str::to_owned).to_vec();
        let rate = bench.measure(running, arguments)?.rate();
        if running.contender == Contender::Envoy {
            slowest = rate;
            break;
        }
        slowest = slowest.min(rate);
    }
    let rate = (slowest / 2.0).round();
    figures.note(work, format!("{rate} requests per second"));
    // The last thousandth of a short run would be a handful of requests.
    let seconds = (10_000.0 / rate).max(bench.arguments.window().as_secs_f64() * 2.0);
    for round in 1..=bench.arguments.rounds() {
        for running in &running {
            progress(&format!("{work}: round {round}, {}", running.contender.title()));
            let arguments =
                ["http1", "--connections", "64", "--rate", &rate.to_string(), "--seconds", &seconds.to_string()];
            let sample = bench.measure(running, arguments.map(str::to_owned).to_vec())?;
            if (sample.rate() - rate).abs() > rate * 0.02 {
                figures
                    .note(work, format!("{} answered {:.0} per second only", running.contender.title(), sample.rate()));
            }
            record(work, running.contender, &sample, COLUMNS, figures);
        }
    }
    progress("");
    added(work, &running.iter().map(|running| running.contender).collect::<Vec<_>>(), figures);
    Ok(())
}

/// What each adds to no proxy at all.
fn added(work: &'static str, contenders: &[Contender], figures: &mut Figures) {
    for (metric, added) in
        [(Metric::P50, Metric::ADDED50), (Metric::P99, Metric::ADDED99), (Metric::P999, Metric::ADDED999)]
    {
        let Some(direct) = figures.median(work, Contender::Direct, metric) else { return };
        for contender in contenders.iter().copied().filter(|contender| *contender != Contender::Direct) {
            if let Some(with) = figures.median(work, contender, metric) {
                figures.add(work, contender, added, with - direct);
            }
        }
    }
}

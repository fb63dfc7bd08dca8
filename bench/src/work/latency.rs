//! Latency at half load: requests become due at a constant rate, half of what Envoy carries at most (half of what the slowest
//! carries, without Envoy), the same for all.

use anyhow::{Result, ensure};

use super::{Bench, Column, PAIR, guarded, progress, record};
use crate::contender::Contender;
use crate::figures::{Figures, Metric};

const COLUMNS: &[Column] = &[
    (Metric::P50, |sample| sample.latency.p50),
    (Metric::P99, |sample| sample.latency.p99),
    (Metric::P999, |sample| sample.latency.p999),
    (Metric::PROCESSOR, bench::sample::Sample::processor_each),
];

/// Seconds of a measurement at most, however slow the slowest is.
const LONGEST: f64 = 5.0;

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    let mut running = bench.start(work, PAIR, figures);
    let mut slowest = f64::INFINITY;
    for running in running.iter().filter(|running| running.contender != Contender::Direct) {
        progress(&format!("{work}: how much {} carries", running.contender.title()));
        let arguments = ["http1", "--connections", "64"].map(str::to_owned).to_vec();
        // One that fails now does so below, and is said there.
        let Ok(sample) = guarded(|| bench.measure(running, arguments)) else { continue };
        if running.contender == Contender::Envoy {
            slowest = sample.rate();
            break;
        }
        slowest = slowest.min(sample.rate());
    }
    ensure!(slowest.is_finite() && slowest > 0.0, "nobody carries anything");
    let rate = (slowest / 2.0).round();
    figures.note(work, format!("{rate} requests per second"));
    // The last thousandth of a short run would be a handful of requests.
    let seconds = (10_000.0 / rate).clamp(bench.arguments.window().as_secs_f64() * 2.0, LONGEST);
    for round in 1..=bench.arguments.rounds() {
        running.retain(|running| {
            progress(&format!("{work}: round {round}, {}", running.contender.title()));
            let arguments =
                ["http1", "--connections", "64", "--rate", &rate.to_string(), "--seconds", &seconds.to_string()];
            let Some(sample) = bench.sample(work, running, arguments.map(str::to_owned).to_vec(), figures) else {
                return false;
            };
            if (sample.rate() - rate).abs() > rate * 0.02 {
                figures
                    .note(work, format!("{} answered {:.0} per second only", running.contender.title(), sample.rate()));
            }
            record(work, running.contender, &sample, COLUMNS, figures);
            true
        });
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

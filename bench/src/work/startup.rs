//! From the start of a proxy's process until a first request through it is answered, one hop.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::accounting::{now, started};
use malla_tests::pod::inside;

use super::{Bench, HOP, guarded, progress};
use crate::contender::Contender;
use crate::figures::{Figures, Metric};

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    let contenders =
        bench.contenders.iter().copied().filter(|contender| *contender != Contender::Direct && contender.takes(HOP));
    let contenders: Vec<Contender> = contenders.collect();
    for round in 1..=bench.arguments.rounds() {
        for contender in &contenders {
            progress(&format!("{work}: round {round}, {}", contender.title()));
            match guarded(|| until_ready(bench, *contender)) {
                Ok(seconds) => figures.add(work, *contender, Metric::READY, seconds * 1000.0),
                Err(error) => figures.note(work, format!("{} did not start: {error:#}", contender.title())),
            }
        }
    }
    progress("");
    Ok(())
}

fn until_ready(bench: &Bench<'_>, contender: Contender) -> Result<f64> {
    let target = bench.stage.target(contender, HOP).to_string();
    let client = &bench.stage.pods(contender)?.client;
    // Waiting already when the proxy starts: it tries again every millisecond.
    let waiting = client.spawn(&[&inside("bench-peer"), "load", "ready", "--to", &target]);
    let running = contender.start(bench.stage, HOP)?;
    let answered: f64 = waiting.end(Duration::from_secs(60)).success().text().trim().parse().context("a time")?;
    let process = running.ids().first().copied().and_then(started).context("a proxy that runs")?;
    ensure!(answered <= now(), "the clocks disagree");
    Ok(answered - process)
}

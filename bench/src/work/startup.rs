//! From the start of a proxy's process until a first request through it is answered, one hop.

use std::time::Duration;

use anyhow::{Context, Result};
use bench::accounting::{now, started};
use malla_tests::pod::inside;

use super::{Bench, HOP, progress};
use crate::contender::Contender;
use crate::figures::{Figures, Metric};

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    let contenders =
        bench.contenders.iter().copied().filter(|contender| *contender != Contender::Direct && contender.takes(HOP));
    let contenders: Vec<Contender> = contenders.collect();
    for round in 1..=bench.arguments.rounds() {
        for contender in &contenders {
            progress(&format!("{work}: round {round}, {}", contender.title()));
            let target = bench.stage.target(*contender, HOP).to_string();
            let client = &bench.stage.pods(*contender)?.client;
            // Waiting already when the proxy starts: it tries again every millisecond.
            let waiting = client.spawn(&[&inside("bench-peer"), "load", "ready", "--to", &target]);
            let running = contender.start(bench.stage, HOP)?;
            let answered: f64 =
                waiting.end(Duration::from_secs(60)).success().text().trim().parse().context("a time")?;
            let process = running.ids().first().copied().and_then(started).context("a proxy that runs")?;
            anyhow::ensure!(answered <= now(), "the clocks disagree");
            figures.add(work, *contender, Metric::READY, (answered - process) * 1000.0);
        }
    }
    progress("");
    Ok(())
}

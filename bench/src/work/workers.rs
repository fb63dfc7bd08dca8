//! Two workers beside one. With four processors or more: how much more two carry on two processors. With fewer there is no
//! second processor to give: then what a request costs with two workers on two processors that the load uses as well, beside what
//! it costs with one, and what follows for two processors of their own.

use anyhow::Result;

use super::{Bench, PAIR, progress};
use crate::contender::{Contender, Running, malla};
use crate::figures::{Figures, Metric};

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    if !bench.contenders.contains(&Contender::Malla) {
        return Ok(());
    }
    let processors = std::thread::available_parallelism()?.get();
    let apart = processors >= 4;
    let processors = if apart { "2,3" } else { "0,1" };
    let start = |workers: &str| -> Result<Running> {
        let processes = malla::start_on(bench.stage, PAIR, processors, &["--workers", workers])?;
        Ok(Running { contender: Contender::Malla, target: bench.stage.target(Contender::Malla, PAIR), processes })
    };
    for round in 1..=bench.arguments.rounds() {
        progress(&format!("{work}: round {round}"));
        let mut measured = Vec::new();
        for workers in ["1", "2"] {
            let running = start(workers)?;
            measured.push(bench.measure(&running, ["http1", "--connections", "64"].map(str::to_owned).to_vec())?);
        }
        let [one, two] = &measured[..] else { continue };
        let speed_up = if apart { two.rate() / one.rate() } else { 2.0 * one.processor_each() / two.processor_each() };
        figures.add(work, Contender::Malla, Metric::SPEEDUP, speed_up);
    }
    progress("");
    if !apart {
        figures.note(
            work,
            "of processor time per request, not of throughput: this machine has no processors to spare".to_owned(),
        );
    }
    Ok(())
}

//! What traces cost: processor time of a request with the usual share of them, and with all, beside none.

use anyhow::Result;

use super::{Bench, PAIR, progress};
use crate::contender::{Contender, Running, malla};
use crate::figures::{Figures, Metric};

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    if !bench.contenders.contains(&Contender::Malla) {
        return Ok(());
    }
    let collector = bench.stage.collector();
    let measure = |share: Option<&str>| {
        let mut options = vec!["--workers", "1"];
        if let Some(share) = share {
            options.extend(["--otlp", &collector, "--trace-sampling", share, "--trace-limit", "1000000"]);
        }
        let processes = malla::start_on(bench.stage, PAIR, &bench.stage.proxies_on, &options)?;
        let running =
            Running { contender: Contender::Malla, target: bench.stage.target(Contender::Malla, PAIR), processes };
        let load = ["http1", "--connections", "64"].map(str::to_owned).to_vec();
        anyhow::Ok(bench.measure(&running, load)?.processor_each())
    };
    for round in 1..=bench.arguments.rounds() {
        progress(&format!("{work}: round {round}"));
        let (few, none, all) = (measure(Some("1%"))?, measure(None)?, measure(Some("100%"))?);
        for (metric, value) in
            [(Metric::PROCESSOR, none), (Metric::FEW_TRACES, few / none), (Metric::ALL_TRACES, all / none)]
        {
            figures.add(work, Contender::Malla, metric, value);
        }
    }
    progress("");
    Ok(())
}

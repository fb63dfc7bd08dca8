//! Memory of the pair, each time with proxies that were just started.

use std::time::Duration;

use anyhow::Result;
use bench::accounting::{proportional, resident};

use super::{Bench, PAIR, progress, record};
use crate::contender::{Contender, Running};
use crate::figures::{Figures, Metric};

/// Connections that stay idle.
const CONNECTIONS: usize = 10_000;

/// Seconds after the load.
const REST: &str = "10";

/// Idle, under the load of 64 connections (also with what the two sides share, the program itself above all, counted once), and
/// ten seconds after it.
pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    for contender in
        bench.contenders.iter().filter(|contender| **contender != Contender::Direct && contender.takes(PAIR))
    {
        progress(&format!("{work}: {}", contender.title()));
        let Some(running) = bench.start_one(work, *contender, PAIR, figures) else { continue };
        // What starting has left over is given back within the first second.
        std::thread::sleep(Duration::from_secs(1));
        figures.add(work, *contender, Metric::IDLE, megabytes(&running, resident));
        let load = ["http1", "--connections", "64"].map(str::to_owned);
        let Some(sample) = bench.sample(work, &running, load.to_vec(), figures) else { continue };
        record(work, *contender, &sample, &[(Metric::LOADED, |sample| sample.memory() as f64 / 1e6)], figures);
        figures.add(work, *contender, Metric::SHARED, megabytes(&running, proportional));
        if bench.arguments.quick {
            continue;
        }
        let rested = [&load[..], &["--rest".to_owned(), REST.to_owned()]].concat();
        let Some(sample) = bench.sample(work, &running, rested, figures) else { continue };
        record(work, *contender, &sample, &[(Metric::RESTED, |sample| sample.memory() as f64 / 1e6)], figures);
    }
    progress("");
    Ok(())
}

/// Many connections, each after one request.
pub(super) fn idle(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    // A relay has two files open for each connection, and some more.
    let connections = CONNECTIONS.min(bench.stage.files as usize / 2 - 256);
    if connections < CONNECTIONS {
        figures.note(work, format!("{connections} connections: the limit of open files permits no more"));
    }
    for contender in
        bench.contenders.iter().filter(|contender| **contender != Contender::Direct && contender.takes(PAIR))
    {
        progress(&format!("{work}: {}", contender.title()));
        let Some(running) = bench.start_one(work, *contender, PAIR, figures) else { continue };
        let one = |connections: usize| ["idle", "--connections", &connections.to_string()].map(str::to_owned).to_vec();
        // The first connection also makes what all connections share.
        if bench.sample(work, &running, one(1), figures).is_none() {
            continue;
        }
        let before: u64 = running.ids().into_iter().map(resident).sum();
        let Some(sample) = bench.sample(work, &running, one(connections), figures) else { continue };
        let each = sample.memory().saturating_sub(before) as f64 / 1e3 / connections as f64;
        figures.add(work, *contender, Metric::EACH, each);
    }
    progress("");
    Ok(())
}

fn megabytes(running: &Running, of: fn(u32) -> u64) -> f64 {
    running.ids().into_iter().map(of).sum::<u64>() as f64 / 1e6
}

//! The control server: how long a change of one route takes to reach a thousand sidecars, and what each of them costs it.

use std::time::Duration;

use anyhow::{Context, Result};
use bench::accounting::{now, processor_time, resident};
use malla_tests::pod::inside;
use malla_tests::wait;

use super::handshakes::mesh_certificates;
use super::{Bench, progress};
use crate::contender::Contender;
use crate::figures::{Figures, Metric};
use crate::sidecars::MARK;

const SIDECARS: usize = 1000;

/// Changes in one round.
const CHANGES: u32 = 5;

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    if !bench.contenders.contains(&Contender::Malla) {
        return Ok(());
    }
    let stage = bench.stage;
    let certificates = mesh_certificates(stage)?;
    let control = stage.mesh.control().id();
    // The control server alone on the proxies' processor, what simulates on the other.
    let pinned = std::process::Command::new("taskset")
        .args(["-a", "-p", "-c", &stage.proxies_on, &control.to_string()])
        .stdout(std::process::Stdio::null())
        .status()?;
    anyhow::ensure!(pinned.success(), "the control server was not moved to its processor");
    let (memory, used) = (resident(control), processor_time(control));
    progress(&format!("{work}: {SIDECARS} sidecars connect"));
    let (program, count, address) = (inside("bench"), SIDECARS.to_string(), stage.mesh.control_address());
    let certificates = certificates.to_string_lossy().into_owned();
    let command = ["taskset", "-c", &stage.load_on, &program, "sidecars", &address, &certificates, &count];
    let sidecars = stage.outside.spawn(&command);
    let lines = || sidecars.stdout().lines().count();
    wait::until("all sidecars to be served", Duration::from_secs(120), || (lines() >= 1).then_some(()));
    let each = |value: f64| value / SIDECARS as f64;
    figures.add(work, Contender::Malla, Metric::EACH, each(resident(control).saturating_sub(memory) as f64 / 1e3));
    let connected = (processor_time(control) - used).as_secs_f64() * 1e6;
    figures.add(work, Contender::Malla, Metric::JOINING, each(connected));
    for number in 1..=bench.arguments.rounds() as u32 * CHANGES {
        progress(&format!("{work}: change {number}"));
        let used = processor_time(control);
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {MARK}{number}, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
        );
        let written = now();
        stage.mesh.write("routes/change.yaml", &route);
        let wanted = number as usize + 1;
        wait::until("the change to arrive everywhere", Duration::from_secs(30), || (lines() >= wanted).then_some(()));
        let told = sidecars.stdout();
        let line = told.lines().nth(number as usize).context("a line for each change")?;
        let mut times: Vec<f64> = serde_json::from_str(line).context("times of arrival")?;
        times.sort_by(f64::total_cmp);
        let quantile =
            |share: f64| times.get(((times.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
        for (metric, share) in [(Metric::APPLIED50, 0.5), (Metric::APPLIED99, 0.99), (Metric::APPLIED_ALL, 1.0)] {
            let arrived = quantile(share).context("a time for each sidecar")?;
            figures.add(work, Contender::Malla, metric, (arrived - written) * 1000.0);
        }
        let spent = (processor_time(control) - used).as_secs_f64() * 1e6;
        figures.add(work, Contender::Malla, Metric::CHANGE, each(spent));
    }
    stage.mesh.remove("routes/change.yaml");
    progress("");
    Ok(())
}

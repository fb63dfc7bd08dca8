//! The configuration with which a Prometheus watches the demo: every sidecar, the control server, and the project's rules.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::addresses::Addresses;
use super::topology::INSTANCES;

/// What Prometheus is started with.
pub(crate) const FILE: &str = "prometheus.yaml";

const RULES: &str = include_str!("../../../deploy/prometheus/rules.yaml");

/// Writes the configuration and the rules into a directory, which is made if it is not there.
///
/// # Errors
/// The directory or a file cannot be written.
pub(crate) fn write(directory: &Path, addresses: &Addresses) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, text) in [(FILE, configuration(addresses)), ("rules.yaml", RULES.to_owned())] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The instance of a sidecar is its workload: that is who an alert is about.
fn configuration(addresses: &Addresses) -> String {
    let mut text =
        "global: {scrape_interval: 2s, evaluation_interval: 5s}\nrule_files: [rules.yaml]\nscrape_configs:\n"
            .to_owned();
    let control = vec![(addresses.control_admin, "malla-control".to_owned())];
    let sidecars = INSTANCES.iter().map(|instance| (addresses.place(instance).admin, instance.full_name())).collect();
    for (job, targets) in [("malla-control", control), ("malla-sidecar", sidecars)] {
        let _ = writeln!(text, "  - job_name: {job}\n    static_configs:");
        for (address, instance) in targets {
            let _ = writeln!(text, "      - {{targets: [\"{address}\"], labels: {{instance: {instance}}}}}");
        }
    }
    text
}

//! On what was measured: the machine, and the version of everything that took part.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::contender::Contender;

/// The machine and the versions.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Model of the processor.
    pub(crate) processor: String,
    /// Processors.
    pub(crate) processors: usize,
    /// Memory, GiB.
    pub(crate) memory: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Commit that was measured, with `+` if the tree had changes.
    pub(crate) commit: String,
    /// Seconds since 1970 at which the run began.
    pub(crate) began: u64,
    /// Versions by contender.
    pub(crate) versions: Vec<(&'static str, String)>,
    /// Processor of load and backend.
    pub(crate) load_on: usize,
    /// Processor of the proxies.
    pub(crate) proxies_on: usize,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    ///
    /// With a single processor nothing can be told apart.
    pub(crate) fn look(contenders: &[Contender]) -> Result<Machine> {
        let processors = std::thread::available_parallelism()?.get();
        ensure!(
            processors >= 2,
            "one processor is for the proxies and another for the load: this machine has {processors}"
        );
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
        let changed = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(Machine {
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            processors,
            memory: memory.unwrap_or(0u64) / 1024 / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            commit: format!("{}{}", git(&["rev-parse", "--short=12", "HEAD"]), if changed { "+" } else { "" }),
            began: began.unwrap_or_default().as_secs(),
            versions: contenders.iter().map(|contender| (contender.name(), contender.version())).collect(),
            load_on: 0,
            proxies_on: 1,
        })
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} × {}, {} GiB, Linux {}, commit {}; proxies on processor {}, load and backend on processor {}",
            self.processors, self.processor, self.memory, self.kernel, self.commit, self.proxies_on, self.load_on
        )
    }
}

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).current_dir(malla_tests::tools::repository()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

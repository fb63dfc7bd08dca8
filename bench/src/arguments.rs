//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::contender::Contender;
use crate::sidecars;
use crate::steps::Step;

/// Measures the sidecar beside its peers
///
/// Needs root (or subordinate ids, see tests/setup) for network namespaces, and two processors that do nothing else. The peers
/// are installed by bench/setup; what is missing is left out.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  cargo run --release -p bench\n  cargo run --release -p bench -- --quick\n  \
                        cargo run --release -p bench -- --only pair-64 --contender malla --contender envoy")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// The most important work alone, in about a minute of measuring
    #[arg(long)]
    pub(crate) quick: bool,

    /// This work alone, or all whose name begins like `pair-*` (repeatable); see --list
    #[arg(long, value_name = "WORK")]
    pub(crate) only: Vec<String>,

    /// This contender alone (repeatable)
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) contender: Vec<Contender>,

    /// Times that each contender is measured [default: 5, quick: 2]
    #[arg(long, value_name = "NUMBER")]
    rounds: Option<usize>,

    /// Seconds of each measurement [default: 1.5, quick: 0.7]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,

    /// Where the results are written
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    pub(crate) results: PathBuf,

    /// Measure the binaries that are there, without building them first
    #[arg(long)]
    pub(crate) no_build: bool,

    /// List the work and end
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Count instructions (with valgrind) and compare them with the stored figures; fails where one has grown by more than 5 %
    ///
    /// Instructions are the same on every run and nearly so on every machine, so that a change shows.
    #[command(after_help = "Examples:\n  cargo run --release -p bench -- instructions\n  \
                            cargo run --release -p bench -- instructions --store")]
    Instructions {
        /// Count a request through a pair of sidecars as well; needs network namespaces, and takes minutes
        #[arg(long)]
        proxied: bool,
        /// Store the figures of this run instead of comparing them
        #[arg(long)]
        store: bool,
    },
    /// Simulate sidecars, for the control server
    #[command(hide = true)]
    Sidecars(sidecars::Arguments),
    /// Run one step, for valgrind
    #[command(hide = true)]
    Step {
        #[arg(value_enum)]
        step: Step,
    },
}

impl Arguments {
    /// Whether a piece of work is to be done.
    pub(crate) fn wants(&self, name: &str, quick: bool) -> bool {
        if self.only.is_empty() {
            return quick || !self.quick;
        }
        self.only.iter().any(|only| only.strip_suffix('*').map_or(only == name, |start| name.starts_with(start)))
    }

    /// Times that each contender is measured.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 }).max(1)
    }

    /// Length of a measurement.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 0.7 } else { 1.5 }).max(0.1))
    }

    /// Load before measuring.
    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { 300 })
    }
}

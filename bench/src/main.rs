//! `bench`: the sidecar beside its peers, on the same work, in one run.
//!
//! Every contender has its own pair of pods (network namespaces), redirected by our own `malla-proxy init`. All proxies run on one
//! processor and everything else on another; contenders take turns, round after round, so that whatever happens to the machine
//! happens to all of them.

mod arguments;
mod contender;
mod figures;
mod instructions;
mod machine;
mod report;
mod sidecars;
mod stage;
mod steps;
mod work;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::contender::Contender;
use crate::figures::Figures;
use crate::machine::Machine;
use crate::stage::Stage;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<()> {
    match arguments.command.take() {
        Some(Command::Step { step }) => return steps::run(step),
        Some(Command::Sidecars(sidecars)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(sidecars::run(sidecars));
        }
        command => arguments.command = command,
    }
    let arguments = &arguments;
    if arguments.list {
        work::all().iter().for_each(|work| println!("{:<22} {}", work.name, work.title));
        return Ok(());
    }
    // The steps are in this very program.
    let steps_alone = matches!(arguments.command, Some(Command::Instructions { proxied: false, .. }));
    if !arguments.no_build && !steps_alone {
        build()?;
    }
    if let Some(Command::Instructions { proxied, store }) = arguments.command {
        return instructions::run(proxied, store);
    }
    let contenders = contenders(arguments);
    let machine = Machine::look(&contenders)?;
    let (stage, mut figures) = (Stage::set(&contenders, &machine)?, Figures::default());
    work::run(arguments, &stage, &contenders, &mut figures);
    report::print(&figures, &machine);
    report::write(&arguments.results, &figures, &machine, arguments.quick)
}

/// Those that were asked for and are installed. What is not installed is said, with the way to install it.
fn contenders(arguments: &Arguments) -> Vec<Contender> {
    let asked = |contender: &Contender| arguments.contender.is_empty() || arguments.contender.contains(contender);
    let mut present = Vec::new();
    for contender in Contender::ALL.into_iter().filter(asked) {
        match contender.missing() {
            None => present.push(contender),
            Some(advice) => eprintln!("bench: without {}: not installed; {advice}", contender.name()),
        }
    }
    present
}

/// Builds what is run, as users get it. Cargo tells its progress itself.
fn build() -> Result<()> {
    ensure!(!cfg!(debug_assertions), "a debug build measures nothing: cargo run --release -p bench");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["build", "--release", "--bins", "-p", "malla", "-p", "malla-proxy", "-p", "bench"])
        .current_dir(malla_tests::tools::repository())
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

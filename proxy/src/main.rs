//! The binary `malla-proxy`: reads the command line, nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use malla_proxy::init;

/// The sidecar of Malla, a service mesh
#[derive(Debug, Parser)]
#[command(name = "malla-proxy", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Init(args) => init::run(&args).map_err(anyhow::Error::from),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("malla-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

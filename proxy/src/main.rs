//! The binary `malla-proxy`: reads the command line, starts the sidecar, waits for the signal to stop.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use malla_proxy::certificates::CertificatesArgs;
use malla_proxy::init::InitArgs;
use malla_proxy::log::LogFilter;
use malla_proxy::ready::WaitArgs;
use malla_proxy::run::Proxy;
use malla_proxy::settings::Args;
use malla_proxy::{certificates, init, ready};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The sidecar of Malla, a service mesh
///
/// Without a command it runs the sidecar. Example:
///
///   malla-proxy --control control.example.org:15012 --trust root.pem --token token --workload cart-1
#[derive(Debug, Parser)]
#[command(name = "malla-proxy", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: Args,

    /// Least level of log lines that are written: error, warn, info, debug, off; or per module info,malla_proxy=debug
    #[arg(long, env = "MALLA_LOG", value_name = "LEVEL", default_value = "info", global = true)]
    log: LogFilter,

    /// Form of log lines
    #[arg(long, env = "MALLA_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(InitArgs),
    Certificates(CertificatesArgs),
    Wait(WaitArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("malla-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    start_log(cli.log.clone(), cli.log_format);
    match &cli.command {
        Some(Command::Init(args)) => return Ok(init::run(args)?),
        Some(Command::Wait(args)) => return Ok(ready::wait(args)?),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Some(Command::Certificates(args)) => tokio::select! {
                ended = certificates::run(args) => Ok(ended?),
                stopped = stop_signal() => stopped,
            },
            _ => sidecar(cli.run).await,
        }
    })
}

async fn sidecar(args: Args) -> anyhow::Result<()> {
    let settings = args.ready()?;
    let (workload, control, drain) = (settings.node_id(), settings.control.clone(), settings.drain);
    let mut proxy = Proxy::start(settings)?;
    let addresses = proxy.addresses();
    tracing::info!(
        workload,
        %control,
        outbound = %addresses.outbound,
        inbound = %addresses.inbound,
        admin = %addresses.admin,
        health = %addresses.health,
        "started"
    );
    tokio::select! {
        stopped = stop_signal() => stopped?,
        _ = proxy.ended() => anyhow::bail!("the sidecar has ended by a defect of its own; the log tells more"),
    }
    tracing::info!(limit = ?drain, "draining");
    let drained = tokio::select! {
        drained = proxy.drain_and_stop() => drained,
        again = stop_signal() => return again.context("stopped by a second signal before the drain was complete"),
    };
    tracing::info!(cut = drained.cut, "stopped");
    Ok(())
}

/// Waits for the signal to stop.
async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn start_log(LogFilter(filter): LogFilter, format: LogFormat) {
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let log = match format {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    tracing_subscriber::registry().with(log).with(filter).init();
}

//! The command `malla`: joins the crates to a program. It owns arguments, output and exit codes; everything else is a
//! library's.

mod arguments;
mod commands;
mod demo;
mod duration;
mod edges;
mod explain;
mod http;
mod inject;
mod output;
mod remote;
mod screen;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use malla_proxy::log::LogFilter;

use crate::arguments::{Arguments, Command};
use crate::output::Paint;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let refused = arguments.no_color();
    match run(arguments, Paint::on(&std::io::stdout(), refused)) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(Paint::on(&std::io::stderr(), refused), &error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, paint: Paint) -> anyhow::Result<ExitCode> {
    start_logging(&arguments);
    match arguments.command {
        Command::Authz(authz) => commands::authz::run(&authz, paint),
        Command::Ca(ca) => block_on(commands::ca::run(ca, paint)),
        Command::Install(install) | Command::Upgrade(install) => block_on(commands::install::install(&install, paint)),
        Command::Uninstall(uninstall) => block_on(commands::install::uninstall(&uninstall, paint)),
        Command::Check(check) => block_on(commands::check::run(&check, paint)),
        Command::Explain(explain) => commands::explain::run(&explain, paint),
        Command::Identity(identity) => block_on(commands::identity::run(identity, paint)),
        Command::Schema(schema) => commands::schema::run(&schema),
        Command::Token(token) => commands::token::run(token),
        Command::Inject(inject) => commands::inject::inject(&inject),
        Command::Uninject(uninject) => commands::inject::uninject(&uninject),
        Command::Control(control) => block_on(commands::control::run(control)),
        Command::Stat(stat) => block_on(commands::traffic::stat(stat, paint)),
        Command::Tap(tap) => block_on(commands::tap::run(tap)),
        Command::Top(top) => block_on(commands::traffic::top(top, paint)),
        Command::Status(status) => block_on(commands::status::run(status, paint)),
        Command::Demo(demo) => block_on(demo::run(demo, paint)),
    }
}

fn block_on(future: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| anyhow::Error::new(cause).context("cannot start the runtime"))?;
    runtime.block_on(future)
}

/// Logs go to standard error, so that standard output stays what the command prints.
fn start_logging(arguments: &Arguments) {
    use std::io::IsTerminal;

    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter = match &arguments.log {
        Some(LogFilter(filter)) => filter.clone(),
        None if matches!(arguments.command, Command::Control(_)) => Targets::new().with_default(LevelFilter::INFO),
        None => Targets::new(),
    };
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !arguments.no_color());
    tracing_subscriber::registry().with(log).with(filter).init();
}

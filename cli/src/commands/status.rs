//! `malla status`: what a control server knows of itself and of those who are connected.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use malla_control::status::Status;

use crate::arguments::{OutputFormat, StatusArguments};
use crate::http;
use crate::output::{self, Paint};

/// Prints the status; exit code 0 also if it tells of rejections, which are no failure of this command.
///
/// # Errors
/// No control server answers there.
pub(crate) async fn run(arguments: StatusArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let body = http::get(&arguments.server.server()?, "/status.json")
        .await
        .context("no control server answers; is it running, and is --admin (or --control) its address?")?;
    let status: Status = serde_json::from_slice(&body).context("the answer is not a control server's status")?;
    match arguments.output.format {
        OutputFormat::Json => output::print_json(&status)?,
        OutputFormat::Table => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            output::print(coloured(paint, &status.table(now)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Marks lines that need attention.
fn coloured(paint: Paint, table: &str) -> String {
    let line = |line: &str| match line {
        bad if bad.contains("REFUSED")
            || bad.contains(" rejected ")
            || bad.contains(" may not have ")
            || bad.starts_with("WARNING") =>
        {
            paint.bad(bad)
        }
        heading if heading.starts_with("NODE ") => paint.strong(heading),
        other => other.to_owned(),
    };
    table.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}

//! `malla check`: everything that is wrong with configuration files, before a control server reads them.

use std::process::ExitCode;

use malla_config::Mesh;
use serde_json::json;

use crate::arguments::{CheckArguments, OutputFormat};
use crate::output::{self, Paint};

/// Prints every diagnostic, or what the files hold. Exit code 1 if there is any.
///
/// # Errors
/// The files cannot be read, or standard output is gone.
pub(crate) fn run(arguments: &CheckArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let files = malla_control::source::read(&arguments.path)?;
    let (result, code) = match malla_config::load(&files) {
        Ok(mesh) => (Ok(mesh), ExitCode::SUCCESS),
        Err(report) => (Err(report), ExitCode::FAILURE),
    };
    match (arguments.output.format, result) {
        (OutputFormat::Json, Ok(mesh)) => {
            output::print_json(&json!({"errors": 0, "diagnostics": [], "notices": mesh.notices()}))?;
        }
        (OutputFormat::Json, Err(report)) => output::print_json(&report)?,
        (OutputFormat::Table, Ok(mesh)) => {
            output::print(format!("{} {}", paint.good("No errors:"), contents(files.len(), &mesh)))?;
            for notice in mesh.notices() {
                output::print(format!("{} {notice}", paint.bad("Warning:")))?;
            }
        }
        (OutputFormat::Table, Err(report)) => output::print(report.render(paint.report_style()).trim_end())?,
    }
    Ok(code)
}

/// `3 files with 12 services, 10 workloads, 2 routes`.
fn contents(files: usize, mesh: &Mesh) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let routes = mesh.http_routes.len() + mesh.tcp_routes.len() + mesh.tls_routes.len();
    format!(
        "{} with {}, {}, {}",
        count(files, "file"),
        count(mesh.services.len(), "service"),
        count(mesh.workloads.len(), "workload"),
        count(routes, "route")
    )
}

//! `malla check`: everything that is wrong with configuration files, before a control server reads them.

use std::process::ExitCode;

use malla_config::Mesh;
use serde_json::json;

use crate::arguments::{CheckArguments, OutputFormat};
use crate::output::{self, Paint};

/// Prints every error and warning, and what the files hold if there is no error. Exit code 1 if there is.
///
/// # Errors
/// The files cannot be read, or standard output is gone.
pub(crate) fn run(arguments: &CheckArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let files = malla_control::source::read(&arguments.path)?;
    let (mesh, report) = malla_config::inspect(&files);
    let notices = mesh.as_ref().map(Mesh::notices).unwrap_or_default();
    match arguments.output.format {
        OutputFormat::Json => {
            let mut value = serde_json::to_value(&report)?;
            value["notices"] = json!(notices);
            output::print_json(&value)?;
        }
        OutputFormat::Table => {
            if !report.diagnostics().is_empty() {
                output::print(report.render(paint.report_style()).trim_end())?;
            }
            if let Some(mesh) = &mesh {
                output::print(format!("{} {}", paint.good("No errors:"), contents(files.len(), mesh)))?;
            }
            for notice in notices {
                output::print(format!("{} {notice}", paint.bad("Warning:")))?;
            }
        }
    }
    Ok(if mesh.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

//! `malla check`: everything that is wrong with configuration files, before a control server reads them.

use std::process::ExitCode;

use malla_config::Mesh;
use malla_control::kubernetes::checkup::{self, Fault, Finding, Outcome, Stage};
use serde_json::json;

use super::route_tests;
use crate::arguments::{CheckArguments, OutputFormat};
use crate::output::{self, Paint};

/// Prints every error and warning, and what the files hold if there is no error; then runs the route tests. Exit code 1 if there
/// is an error, or a broken promise.
///
/// # Errors
/// The files cannot be read, or standard output is gone.
pub(crate) async fn run(arguments: &CheckArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let Some(path) = &arguments.path else { return cluster(arguments, paint).await };
    let files = malla_control::source::read(path)?;
    let (mesh, report) = malla_config::inspect(&files);
    let notices = mesh.as_ref().map(Mesh::notices).unwrap_or_default();
    let broken = mesh.as_ref().map_or(Ok(Vec::new()), route_tests::broken)?;
    match arguments.output.format {
        OutputFormat::Json => {
            let mut value = serde_json::to_value(&report)?;
            value["notices"] = json!(notices);
            value["brokenRouteTests"] = json!(broken);
            output::print_json(&value)?;
        }
        OutputFormat::Table => {
            if !report.diagnostics().is_empty() {
                output::print(report.render(paint.report_style()).trim_end())?;
            }
            if let Some(mesh) = &mesh {
                output::print(format!("{} {}", paint.good("No errors:"), contents(files.len(), mesh)))?;
                promises(mesh.route_tests.len(), &broken, paint)?;
            }
            for notice in notices {
                output::print(format!("{} {notice}", paint.bad("Warning:")))?;
            }
        }
    }
    Ok(if mesh.is_some() && broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at a cluster. Exit code 1 if something is wrong there.
async fn cluster(arguments: &CheckArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let client = malla_control::kubernetes::connect(&arguments.cluster.address()).await?;
    let stage = if arguments.before { Stage::Before } else { Stage::After };
    let findings = checkup::check(&client, &arguments.system_namespace, stage).await;
    match arguments.output.format {
        OutputFormat::Json => output::print_json(&findings)?,
        OutputFormat::Table => findings.iter().try_for_each(|finding| tell(finding, paint))?,
    }
    let wrong = findings.iter().any(|finding| matches!(finding.outcome, Outcome::Wrong(_)));
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line for each look, and two more for what is not as it should be.
pub(crate) fn tell(finding: &Finding, paint: Paint) -> anyhow::Result<()> {
    let (mark, fault) = match &finding.outcome {
        Outcome::Good => (paint.good("ok     "), None),
        Outcome::Doubtful(fault) => (paint.strong("warning"), Some(fault)),
        Outcome::Wrong(fault) => (paint.bad("failed "), Some(fault)),
    };
    output::print(format!("{mark} {}", finding.what))?;
    fault.into_iter().try_for_each(|Fault { found, advice }| {
        output::print(format!("        {found}\n        {} {advice}", paint.strong("→")))
    })
}

/// Tells which promises of route tests are broken, or that all are kept.
fn promises(tests: usize, broken: &[String], paint: Paint) -> anyhow::Result<()> {
    match broken.len() {
        0 if tests == 0 => Ok(()),
        0 => output::print(format!("{} {}", paint.good("All promises kept:"), count(tests, "route test"))),
        faults => {
            broken.iter().try_for_each(output::print)?;
            let summary = format!("{} in {}", count(faults, "broken promise"), count(tests, "route test"));
            output::print(paint.bad(summary))
        }
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `3 files with 12 services, 10 workloads, 2 routes`.
fn contents(files: usize, mesh: &Mesh) -> String {
    let routes = mesh.http_routes.len() + mesh.tcp_routes.len() + mesh.tls_routes.len();
    format!(
        "{} with {}, {}, {}",
        count(files, "file"),
        count(mesh.services.len(), "service"),
        count(mesh.workloads.len(), "workload"),
        count(routes, "route")
    )
}

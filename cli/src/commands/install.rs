//! `malla install`, `malla upgrade`, `malla uninstall`: Helm, with a look at the cluster before and after. Helm renders and applies; what it
//! does not do (bring kinds up to date) and does not know (who would be cut off) is done and looked at here.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use malla_control::kubernetes::checkup::{self, Finding, Outcome, Stage};
use malla_control::kubernetes::{connect, kinds};

use super::check::tell;
use crate::arguments::{HelmArguments, InstallArguments, UninstallArguments};
use crate::output::{self, Paint};

/// Installs the chart, or brings it up to date: both are the same to Helm.
///
/// # Errors
/// The cluster cannot be asked, or Helm fails.
pub(crate) async fn install(arguments: &InstallArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let HelmArguments { system_namespace: namespace, cluster, .. } = &arguments.helm;
    if !arguments.chart.join("Chart.yaml").is_file() {
        bail!("there is no chart in {}: give its directory with --chart", arguments.chart.display());
    }
    let client = connect(&cluster.address()).await?;
    output::print(paint.strong("Before"))?;
    if !told(&checkup::check(&client, namespace, Stage::Before).await, paint)? {
        return Ok(ExitCode::FAILURE);
    }
    output::print(paint.strong("Kinds"))?;
    for kind in kinds::install(&client).await.context("Malla's own kinds cannot be installed")? {
        output::print(format!("{} {kind}", paint.good("ok     ")))?;
    }
    output::print(paint.strong("Chart"))?;
    let mut helm = helm(&arguments.helm, &["upgrade", "--install", "malla"]);
    helm.arg(&arguments.chart).args(["--create-namespace", "--skip-crds", "--wait", "--timeout", "5m"]);
    for values in &arguments.values {
        helm.arg("--values").arg(values);
    }
    run(helm)?;
    output::print(paint.strong("After"))?;
    let good = told(&checkup::check(&client, namespace, Stage::After).await, paint)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Takes the chart away. Pods keep their sidecars, which would wait for a control server for ever: so not while there are some.
///
/// # Errors
/// The cluster cannot be asked, or Helm fails.
pub(crate) async fn uninstall(arguments: &UninstallArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let client = connect(&arguments.helm.cluster.address()).await?;
    let pods = checkup::pods_with_sidecars(&client)
        .await
        .map_err(|fault| anyhow::anyhow!("{}: {}", fault.found, fault.advice))?;
    if !pods.is_empty() && !arguments.force {
        let some = pods.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
        bail!(
            "{} pods have a sidecar ({some}…): take the label malla.dev/inject from their namespaces and make them anew, or say --force",
            pods.len()
        );
    }
    run(helm(&arguments.helm, &["uninstall", "malla", "--wait"]))?;
    output::print(format!(
        "{} What stays: Malla's kinds with all objects of them, and the root in the Secret malla-ca of {}.",
        paint.good("Gone."),
        arguments.helm.system_namespace
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints findings; whether none of them is wrong.
fn told(findings: &[Finding], paint: Paint) -> anyhow::Result<bool> {
    findings.iter().try_for_each(|finding| tell(finding, paint))?;
    Ok(!findings.iter().any(|finding| matches!(finding.outcome, Outcome::Wrong(_))))
}

fn helm(arguments: &HelmArguments, command: &[&str]) -> Command {
    let mut helm = Command::new(&arguments.program);
    helm.args(command).args(["--namespace", &arguments.system_namespace]);
    if let Some(kubeconfig) = &arguments.cluster.kubeconfig {
        helm.arg("--kubeconfig").arg(kubeconfig);
    }
    if let Some(context) = &arguments.cluster.context {
        helm.args(["--kube-context", context]);
    }
    helm
}

fn run(mut helm: Command) -> anyhow::Result<()> {
    let program = Path::new(helm.get_program()).display().to_string();
    let status =
        helm.status().with_context(|| format!("cannot run {program}: install Helm 3, or name it with --helm"))?;
    if !status.success() {
        bail!("{program} has failed ({status}): what it said is above");
    }
    Ok(())
}

//! `malla install`, `malla upgrade`, `malla uninstall`: Helm, with a look at the cluster before and after. Helm renders and applies; what it
//! does not do (bring kinds up to date) and does not know (who would be cut off) is done and looked at here.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use malla_control::kubernetes::checkup::{self, Finding, Outcome, Stage};
use malla_control::kubernetes::{connect, kinds};
use serde_json::{Value, json};

use super::check::tell;
use crate::arguments::{HelmArguments, InstallArguments, OutputFormat, UninstallArguments};
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
    let mut report = Report::new(arguments.helm.output.format, paint);
    if !report.findings("Before", checkup::check(&client, namespace, Stage::Before).await)? {
        return report.end(false);
    }
    report.kinds(&kinds::install(&client).await.context("Malla's own kinds cannot be installed")?)?;
    report.heading("Chart")?;
    let mut helm = helm(&arguments.helm, &["upgrade", "--install", "malla"]);
    helm.arg(&arguments.chart).args(["--create-namespace", "--skip-crds", "--wait", "--timeout", "5m"]);
    for values in &arguments.values {
        helm.arg("--values").arg(values);
    }
    run(helm)?;
    let good = report.findings("After", checkup::check(&client, namespace, Stage::After).await)?;
    report.end(good)
}

/// What is done and found: told at once to people, and as one document, at the end, to programs.
struct Report {
    format: OutputFormat,
    paint: Paint,
    document: Value,
}

impl Report {
    fn new(format: OutputFormat, paint: Paint) -> Report {
        Report { format, paint, document: json!({}) }
    }

    fn heading(&self, text: &str) -> anyhow::Result<()> {
        match self.format {
            OutputFormat::Table => output::print(self.paint.strong(text)),
            OutputFormat::Json => Ok(()),
        }
    }

    /// Whether none of them is wrong.
    fn findings(&mut self, when: &str, findings: Vec<Finding>) -> anyhow::Result<bool> {
        self.heading(when)?;
        match self.format {
            OutputFormat::Table => findings.iter().try_for_each(|finding| tell(finding, self.paint))?,
            OutputFormat::Json => self.document[when.to_lowercase()] = serde_json::to_value(&findings)?,
        }
        Ok(!findings.iter().any(|finding| matches!(finding.outcome, Outcome::Wrong(_))))
    }

    fn kinds(&mut self, kinds: &[&str]) -> anyhow::Result<()> {
        self.heading("Kinds")?;
        match self.format {
            OutputFormat::Table => {
                kinds.iter().try_for_each(|kind| output::print(format!("{} {kind}", self.paint.good("ok     "))))
            }
            OutputFormat::Json => {
                self.document["kinds"] = json!(kinds);
                Ok(())
            }
        }
    }

    fn end(mut self, good: bool) -> anyhow::Result<ExitCode> {
        if self.format == OutputFormat::Json {
            self.document["good"] = json!(good);
            output::print_json(&self.document)?;
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
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
    let root = format!("the root in the Secret malla-ca of {}", arguments.helm.system_namespace);
    let stays = ["Malla's kinds with all objects of them", &root];
    match arguments.helm.output.format {
        OutputFormat::Table => {
            output::print(format!("{} What stays: {}.", paint.good("Gone."), stays.join(", and ")))?;
        }
        OutputFormat::Json => output::print_json(&json!({ "uninstalled": true, "cutOff": pods, "stays": stays }))?,
    }
    Ok(ExitCode::SUCCESS)
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

/// What Helm says goes to standard error: standard output belongs to this command.
fn run(mut helm: Command) -> anyhow::Result<()> {
    helm.stdout(std::io::stderr());
    let program = Path::new(helm.get_program()).display().to_string();
    let status =
        helm.status().with_context(|| format!("cannot run {program}: install Helm 3, or name it with --helm"))?;
    if !status.success() {
        bail!("{program} has failed ({status}): what it said is above");
    }
    Ok(())
}

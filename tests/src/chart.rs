//! The chart as it is rendered.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::tools;

/// Where the chart is.
pub fn chart() -> PathBuf {
    tools::repository().join("deploy/helm/malla")
}

/// Builds what renders as Helm does.
pub fn renderer(directory: &Path) -> PathBuf {
    let program = directory.join("helm_template");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(tools::program("helm_template.go"))
        // Debian's packages of Go libraries are there.
        .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode"), ("GOFLAGS", "")])
        .env("GOCACHE", directory.join("cache"))
        .output()
        .expect("Go is installed: run tests/setup");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

/// Runs the program that reads what the chart and its schemas say.
///
/// # Errors
/// What it complains of.
pub fn python(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(tools::python()).arg(tools::program("chart.py")).args(arguments).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// What the chart renders, document by document, each valid for Kubernetes.
pub struct Rendered(pub Vec<Value>);

impl Rendered {
    /// For a version of Kubernetes and a namespace, with these files of values.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn with(renderer: &Path, version: &str, namespace: &str, values: &[&Path]) -> Result<Rendered, String> {
        let chart = chart();
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let mut arguments = vec![text(&chart), text(renderer), version.to_owned(), namespace.to_owned()];
        arguments.extend(values.iter().map(|path| text(path)));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let lines = python(&arguments)?;
        Ok(Rendered(lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()))
    }

    /// Their kinds, in order.
    pub fn kinds(&self) -> Vec<&str> {
        self.0.iter().filter_map(|document| document["kind"].as_str()).collect()
    }

    /// The first of a kind.
    pub fn get(&self, kind: &str) -> &Value {
        self.0.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("there is a {kind}"))
    }
}

/// The documents of a file of YAML.
pub fn documents(path: &Path) -> Vec<Value> {
    let program =
        "import json, sys, yaml\nprint(json.dumps([one for one in yaml.safe_load_all(open(sys.argv[1])) if one]))";
    let output = Command::new(tools::python()).args(["-c", program]).arg(path).output().expect("runs");
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

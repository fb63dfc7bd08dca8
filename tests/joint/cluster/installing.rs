//! `malla install` and `malla uninstall`: Helm is called when the cluster is ready for it, and only then.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use malla_tests::tools;
use serde_json::{Value, json};

use super::{FakeCluster, pod};

/// A program in Helm's place that writes down what it was told.
fn helm(directory: &Path) -> PathBuf {
    let path = directory.join("helm");
    std::fs::write(
        &path,
        format!("#!/bin/sh\necho \"$@\" >> {}/calls\necho Helm says something\n", directory.display()),
    )
    .expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    path
}

async fn malla(cluster: &FakeCluster, directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(tools::binary("malla"));
    command.args(arguments).arg("--helm").arg(helm(directory)).arg("--kubeconfig").arg(cluster.kubeconfig());
    if arguments[0] != "uninstall" {
        command.arg("--chart").arg(tools::repository().join("deploy/helm/malla"));
    }
    tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_is_called_when_the_cluster_is_ready_and_nobody_is_cut_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let calls = || std::fs::read_to_string(directory.path().join("calls")).unwrap_or_default();
    let cluster = FakeCluster::start().await;
    cluster.uninstall("httproutes");
    let refused = malla(&cluster, directory.path(), &["install"]).await;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains("the cluster has no HTTPRoute"), "{said}");
    assert_eq!(calls(), "");

    let cluster = FakeCluster::start().await;
    let installed = malla(&cluster, directory.path(), &["install"]).await;
    let said = String::from_utf8_lossy(&installed.stdout).into_owned();
    assert!(calls().starts_with("upgrade --install malla --namespace malla-system --kubeconfig "), "{said}{}", calls());
    let kind = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "meshes.malla.dev" } });
    assert!(cluster.get(&kind).is_some(), "kinds are brought up to date: {said}");
    // The program in Helm's place has installed nothing, and that is found.
    assert!(!installed.status.success() && said.contains("failed  the control server runs"), "{said}");

    // Programs get one document, whatever Helm says.
    let installed = malla(&cluster, directory.path(), &["install", "-o", "json"]).await;
    let report: Value = serde_json::from_slice(&installed.stdout).expect("JSON alone");
    assert_eq!((installed.status.success(), &report["good"]), (false, &json!(false)));
    let findings = |when: &str| report[when].as_array().map_or(0, Vec::len);
    assert!(findings("before") == 2 && findings("kinds") == 9 && findings("after") > 3, "{report}");
    let after = report["after"].as_array().into_iter().flatten();
    let wrong = after.filter(|finding| finding["outcome"].get("wrong").is_some());
    assert!(wrong.count() > 0, "{report}");

    cluster.apply(&pod("cart-1", "cart", "10.0.0.1"));
    let before = calls();
    let refused = malla(&cluster, directory.path(), &["uninstall"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("1 pods have a sidecar (shop/cart-1"), "{said}");
    assert_eq!(calls(), before);
    let gone = malla(&cluster, directory.path(), &["uninstall", "--force", "-o", "json"]).await;
    let report: Value = serde_json::from_slice(&gone.stdout).expect("JSON alone");
    assert_eq!(report["cutOff"], json!(["shop/cart-1"]));
    assert!(
        gone.status.success() && calls().contains("uninstall malla --wait --namespace malla-system"),
        "{}",
        calls()
    );
}

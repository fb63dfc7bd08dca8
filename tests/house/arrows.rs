//! The arrows between the crates, compared with what cargo knows.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Every arrow there may be. `bench`, `fuzz` and `tests` may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("malla-config", &[]),
    ("malla-xds", &[]),
    ("malla-control", &["malla-config", "malla-xds"]),
    ("malla-proxy", &["malla-xds"]),
    ("malla", &["malla-config", "malla-control", "malla-proxy", "malla-xds"]),
];

/// What must never be in the sidecar: parsers and clients that only the control server needs.
const NOT_IN_THE_SIDECAR: &[&str] =
    &["malla-config", "malla-control", "serde-saphyr", "kube", "k8s-openapi", "gateway-api", "schemars", "miette"];

fn metadata() -> cargo_metadata::Metadata {
    let manifest = malla_tests::tools::repository().join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).exec().expect("cargo metadata")
}

#[test]
fn crates_use_each_other_only_along_the_arrows() {
    let metadata = metadata();
    let members: BTreeSet<String> = metadata.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for package in metadata.workspace_packages() {
        let Some(allowed) = arrows.get(package.name.as_str()) else {
            assert!(
                matches!(package.name.as_str(), "malla-tests" | "malla-fuzz" | "bench"),
                "{} is a new crate: say in this test which crates it may use",
                package.name
            );
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| members.contains(&dependency.name)) {
            assert!(
                allowed.contains(&dependency.name.as_str()),
                "{} uses {}, and may use only {allowed:?}",
                package.name,
                dependency.name
            );
        }
    }
}

#[test]
fn the_sidecar_holds_no_yaml_parser_and_no_kubernetes_client() {
    let metadata = metadata();
    let graph = metadata.resolve.as_ref().expect("cargo metadata resolves");
    let name = |id: &cargo_metadata::PackageId| metadata[id].name.to_string();
    let mut seen = BTreeSet::new();
    let mut open: Vec<_> = graph.nodes.iter().filter(|node| name(&node.id) == "malla-proxy").collect();
    assert_eq!(open.len(), 1);
    while let Some(node) = open.pop() {
        for dependency in &node.deps {
            let built_in = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if built_in && seen.insert(dependency.pkg.clone()) {
                open.extend(graph.nodes.iter().filter(|node| node.id == dependency.pkg));
            }
        }
    }
    let found: Vec<String> = seen.iter().map(name).filter(|name| NOT_IN_THE_SIDECAR.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "malla-proxy is built with {found:?}");
    assert!(seen.len() > 20, "the walk over the dependencies found too little");
}

#[test]
fn one_version_of_each_foundation() {
    let metadata = metadata();
    for foundation in ["hyper", "http", "h2", "tonic", "prost", "rustls", "tower", "kube"] {
        let versions: BTreeSet<String> = metadata
            .packages
            .iter()
            .filter(|package| package.name.as_str() == foundation)
            .map(|package| package.version.to_string())
            .collect();
        assert!(versions.len() <= 1, "{foundation} is there in several versions: {versions:?}");
    }
}

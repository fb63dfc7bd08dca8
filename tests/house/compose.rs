//! `deploy/compose.yaml`: what it starts is what there is, and what it mounts is where the others look.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use malla_tests::chart::documents;
use malla_tests::tools::{binary, repository};
use serde_json::Value;

fn deploy() -> PathBuf {
    repository().join("deploy")
}

fn compose() -> Value {
    documents(&deploy().join("compose.yaml")).remove(0)
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

/// Runs `malla`; its exit code is 2 if its arguments are wrong.
fn malla(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary("malla")).args(arguments).output().expect("runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn its_commands_are_those_of_malla() {
    let compose = compose();
    let demo = &compose["services"]["demo"];
    let directory = tempfile::tempdir().expect("a directory");
    let broken = directory.path().join("mesh");
    fs::create_dir(&broken).expect("made");
    fs::write(broken.join("broken.yaml"), "kind: Srvice\n").expect("written");
    let (shared, broken) = (directory.path().join("shared"), broken.to_string_lossy().into_owned());
    let shared = shared.to_string_lossy();
    let entry: Vec<&str> =
        texts(&demo["entrypoint"]).into_iter().map(|word| if word == "/shared" { &*shared } else { word }).collect();
    assert_eq!(entry[0], "malla");
    // It goes as far as to read the mesh, which ends it.
    let (code, said) = malla(&[&entry[1..], &["--config", &broken]].concat());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is refused"), "{said}");

    let test = texts(&demo["healthcheck"]["test"]);
    assert_eq!(&test[..2], ["CMD", "malla"]);
    let (code, said) = malla(&test[2..]);
    assert_eq!(code, Some(1), "the control server of the demo is not there: {said}");
    assert!(said.contains("no control server answers"), "{said}");

    // Where the demo writes, Prometheus reads.
    assert_eq!(texts(&demo["volumes"]), ["shared:/shared"]);
    let prometheus = &compose["services"]["prometheus"];
    assert_eq!(texts(&prometheus["volumes"]), ["shared:/shared:ro"]);
    assert!(texts(&prometheus["command"]).contains(&"--config.file=/shared/prometheus.yaml"));
    assert!(compose["volumes"].get("shared").is_some());
    assert!(fs::read_to_string(directory.path().join("shared/prometheus.yaml")).is_ok(), "the demo writes it");
}

#[test]
fn grafana_finds_what_is_mounted_and_who_is_asked() {
    let compose = compose();
    let grafana = &compose["services"]["grafana"];
    let mut mounted = BTreeSet::new();
    for volume in texts(&grafana["volumes"]) {
        let [from, to, "ro"] = volume.split(':').collect::<Vec<_>>()[..] else { panic!("{volume}") };
        assert!(deploy().join(from).is_dir(), "{from} is not there");
        mounted.insert(to);
    }
    let provisioning = deploy().join("grafana/provisioning");
    let dashboards = documents(&provisioning.join("dashboards/malla.yaml")).remove(0);
    let path = dashboards["providers"][0]["options"]["path"].as_str().expect("a path");
    assert!(mounted.contains(path), "{path} is not mounted: {mounted:?}");
    assert!(mounted.contains("/etc/grafana/provisioning"));

    // Every data source has its address, at a port of a service that shares the demo's network.
    let sources = documents(&provisioning.join("datasources/malla.yaml")).remove(0);
    let sources = sources["datasources"].as_array().expect("a list").clone();
    let ports = texts(&compose["services"]["demo"]["ports"]);
    for source in &sources {
        let variable = source["url"].as_str().and_then(|url| url.strip_prefix('$')).expect("a variable");
        let url = grafana["environment"][variable].as_str().unwrap_or_else(|| panic!("{variable} is not set"));
        let port = url.rsplit_once(':').expect("a port").1;
        assert!(ports.iter().any(|published| published.ends_with(&format!(":{port}"))), "{url} is of nobody");
    }
    for service in ["jaeger", "prometheus", "grafana"] {
        assert_eq!(compose["services"][service]["network_mode"], "service:demo");
        let image = compose["services"][service]["image"].as_str().expect("an image");
        let (_, tag) = image.rsplit_once(':').expect("a version");
        assert!(tag.bytes().any(|byte| byte.is_ascii_digit()), "{image} may be another tomorrow");
    }

    // What dashboards name is there: data sources, and each other.
    let uids: BTreeSet<&str> = sources.iter().filter_map(|source| source["uid"].as_str()).collect();
    let mut found = BTreeSet::new();
    let mut linked = BTreeSet::new();
    for file in fs::read_dir(deploy().join("grafana/dashboards")).expect("the dashboards") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        found.insert(dashboard["uid"].as_str().expect("a uid").to_owned());
        let tags = texts(&dashboard["tags"]);
        for link in dashboard["links"].as_array().expect("links") {
            assert!(texts(&link["tags"]).iter().all(|tag| tags.contains(tag)), "{link}");
        }
        linked.extend(text.match_indices("\"/d/").filter_map(|(at, start)| {
            let uid = text[at + start.len()..].split(['?', '/', '"']).next()?;
            Some(uid.to_owned())
        }));
        let chosen: BTreeSet<&str> = dashboard["templating"]["list"]
            .as_array()
            .expect("variables")
            .iter()
            .filter(|variable| variable["type"] == "datasource")
            .filter_map(|variable| variable["name"].as_str())
            .collect();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let Some(uid) = panel["datasource"]["uid"].as_str() else { continue };
            let variable = uid.trim_start_matches("${").trim_start_matches('$').trim_end_matches('}');
            assert!(uids.contains(uid) || chosen.contains(variable), "{}: {uid}", panel["title"]);
        }
    }
    assert!(!linked.is_empty() && linked.is_subset(&found), "{linked:?} of {found:?}");
    for source in &sources {
        let told = source["jsonData"]["exemplarTraceIdDestinations"].as_array().into_iter().flatten();
        let back = source["jsonData"]["tracesToMetrics"]["datasourceUid"].as_str();
        for uid in told.filter_map(|destination| destination["datasourceUid"].as_str()).chain(back) {
            assert!(uids.contains(uid), "{uid} is no data source");
        }
    }
}

//! What the documentation says, compared with the code.

use std::path::{Path, PathBuf};

use malla_proxy::reason::Reason;

fn document(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_reason_is_documented_with_its_status_and_sentence() {
    let text = document("docs/reasons.md");
    let rows: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').take(4).map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    let expected: Vec<String> = Reason::ALL
        .iter()
        .map(|reason| format!("|`{}`|{}|{}", reason.word(), reason.status(), reason.sentence()))
        .collect();
    assert_eq!(rows, expected);
    let without_advice =
        text.lines().filter(|line| line.starts_with("| `") && line.trim_end().ends_with("| |")).count();
    assert_eq!(without_advice, 0, "each reason says what to look at");
}

#[test]
fn every_metric_of_the_sidecar_is_documented_with_its_labels() {
    let text = document("docs/metrics.md");
    // The control server's are compared with what is exposed, where one runs.
    let of_sidecars = text.split("## Control server").next().unwrap_or_default();
    let rows: Vec<&str> = of_sidecars.lines().filter(|line| line.starts_with("| `malla_")).collect();
    let tables = [malla_proxy::metrics::TABLE, malla_proxy::admin::SIDECAR_TABLE, malla_proxy::admin::CLUSTER_TABLE];
    let expected = tables.into_iter().flatten().map(|row| {
        let suffix = if row.kind == "counter" { "_total" } else { "" };
        let labels = row.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        format!("| `{}{suffix}` | {} | {labels} | {} |", row.name, row.kind, row.help)
    });
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

#[test]
fn every_field_of_the_access_log_is_documented() {
    let text = document("docs/observability.md");
    let (_, of_log) = text.split_once("## Access log").expect("a chapter");
    let (of_log, _) = of_log.split_once("## Logs").expect("the next chapter");
    let rows: Vec<&str> = of_log.lines().filter(|line| line.starts_with("| `")).collect();
    let expected = malla_proxy::access_log::FIELDS.iter().map(|(name, help)| format!("| `{name}` | {help} |"));
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

#[test]
fn every_alert_has_a_page() {
    let (rules, pages) = (document("deploy/prometheus/rules.yaml"), document("docs/alerts.md"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let headings: Vec<&str> = pages.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(alerts, headings);
}

#[test]
fn the_reference_is_that_of_the_schemas() {
    let written = document("docs/reference.md");
    let expected = malla_config::reference();
    let differs = written.lines().zip(expected.lines()).find(|(written, expected)| written != expected);
    assert!(
        written == expected,
        "docs/reference.md is out of date: run `malla schema --format markdown > docs/reference.md`; {differs:?}"
    );
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for path in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/getting-started.md",
        "docs/kubernetes.md",
        "docs/reasons.md",
        "docs/traffic-policy.md",
        "docs/observability.md",
        "docs/metrics.md",
        "docs/alerts.md",
        "docs/routes.md",
        "docs/reference.md",
    ] {
        let directory = Path::new(path).parent().unwrap_or(Path::new(""));
        for target in document(path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap_or(target);
            let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(directory).join(file);
            assert!(found.exists(), "{path} links to {target}, which is not there");
        }
    }
}

/// The same as tables, logs and traces mean by a failure: what rules and dashboards take for good answers.
#[test]
fn rules_and_dashboards_mean_by_a_failure_what_the_sidecar_does() {
    let of_clients: Vec<&str> =
        Reason::ALL.iter().filter(|reason| reason.status() < 500).map(|reason| reason.word()).collect();
    let good = format!(r#"status!~"5..", grpc_status!~"2|4|12|13|14|15", reason=~"|{}""#, of_clients.join("|"));
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let dashboards = std::fs::read_dir(deploy.join("grafana/dashboards")).expect("the dashboards");
    let files = dashboards.map(|entry| entry.expect("a file").path()).chain([deploy.join("prometheus/rules.yaml")]);
    let mut number = 0;
    for file in files {
        // In a dashboard, expressions are text of JSON.
        let text = std::fs::read_to_string(&file).expect("is read").replace("\\\"", "\"");
        for (at, _) in text.match_indices("status!~\"5") {
            let matchers = &text[at..];
            assert!(matchers.starts_with(&good), "{}: {:.200}", file.display(), matchers);
            number += 1;
        }
    }
    assert!(number >= 12, "{number}");
}

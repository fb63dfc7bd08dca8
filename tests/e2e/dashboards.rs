//! The dashboards and what their queries said of the demo: `docs/dashboards.md`, for who has no Grafana at hand.
//!
//! `MALLA_UPDATE_GOLDEN=1` with the test that runs every query writes it anew; otherwise its panels are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use malla_tests::tools::repository;
use serde_json::Value;

/// A query of a panel.
pub(crate) struct Query {
    /// The dashboard's title and description.
    pub(crate) dashboard: (String, String),
    pub(crate) panel: String,
    unit: String,
    /// How its series are named.
    legend: String,
    /// As it stands in the dashboard: with variables.
    pub(crate) expression: String,
    /// Whether its graph shows exemplars.
    pub(crate) exemplars: bool,
}

/// Every query of the dashboards, in the order of the dashboards' files.
pub(crate) fn queries() -> Vec<Query> {
    let directory = repository().join("deploy/grafana/dashboards");
    let files = fs::read_dir(directory).expect("the dashboards").map(|entry| entry.expect("a file").path());
    let files: BTreeSet<_> = files.collect();
    files.iter().flat_map(|file| of_file(file)).collect()
}

/// Every variable that people choose, with the metric and the label that its values are of.
pub(crate) fn variables() -> Vec<(String, String, String)> {
    let directory = repository().join("deploy/grafana/dashboards");
    let mut variables = Vec::new();
    for file in fs::read_dir(directory).expect("the dashboards") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("a dashboard is JSON");
        for variable in dashboard["templating"]["list"].as_array().expect("variables") {
            if variable["type"] != "query" {
                continue;
            }
            let query = variable["query"]["query"].as_str().expect("a query");
            let inner = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
            let (metric, label) = inner.and_then(|inner| inner.rsplit_once(',')).expect("label_values(METRIC, LABEL)");
            let name = format!("{} of {}", variable["name"], dashboard["title"]);
            variables.push((name, metric.trim().to_owned(), label.trim().to_owned()));
        }
    }
    assert!(variables.len() >= 5, "{variables:?}");
    variables
}

/// What Grafana asks to show the graph of a span.
pub(crate) fn of_spans() -> String {
    let path = repository().join("deploy/grafana/provisioning/datasources/malla.yaml");
    let text = fs::read_to_string(path).expect("the data sources");
    text.lines().find_map(|line| line.trim().strip_prefix("query: ")).expect("a query").to_owned()
}

fn of_file(file: &Path) -> Vec<Query> {
    let text = fs::read_to_string(file).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("a dashboard is JSON");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let title = (word(&dashboard["title"]), word(&dashboard["description"]));
    let panels = dashboard["panels"].as_array().expect("panels");
    let of_panel = |panel: &Value| {
        let (title, panel) = (title.clone(), panel.clone());
        let targets = panel["targets"].as_array().expect("queries").clone();
        targets.into_iter().map(move |target| Query {
            dashboard: title.clone(),
            panel: panel["title"].as_str().expect("a title").to_owned(),
            unit: word(&panel["fieldConfig"]["defaults"]["unit"]),
            legend: word(&target["legendFormat"]),
            expression: target["expr"].as_str().expect("an expression").to_owned(),
            exemplars: target["exemplar"] == true,
        })
    };
    panels.iter().flat_map(of_panel).collect()
}

/// Compares the page with the dashboards, or writes it: each query with what Prometheus answered.
#[track_caller]
pub(crate) fn compare_with_page(answers: &[(Query, Value)]) {
    let path = repository().join("docs/dashboards.md");
    if std::env::var_os("MALLA_UPDATE_GOLDEN").is_some() {
        fs::write(&path, page(answers)).expect("writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let panels = |page: &str| -> BTreeSet<String> {
        let name = |line: &str| Some(line.strip_prefix("| ")?.split(" | ").next()?.to_owned());
        page.lines().filter(|line| !line.starts_with("| panel |")).filter_map(name).collect()
    };
    assert_eq!(panels(&written), panels(&page(answers)), "MALLA_UPDATE_GOLDEN=1 writes docs/dashboards.md anew");
}

fn page(answers: &[(Query, Value)]) -> String {
    let mut page = "# Dashboards\n\n\
        What the panels of [deploy/grafana](../deploy/grafana) show, and what their queries said of `malla demo` after half a minute on a small\n\
        machine, for the edge from `travels-v1` to `flights` where a panel is about one. Of several series the two largest are named. A panel that says\n\
        nothing has nothing to say while all is well. Written by the test that runs every query against a real Prometheus.\n"
        .to_owned();
    let mut dashboard = None;
    let mut panels: Vec<(&str, Vec<String>)> = Vec::new();
    let end = |panels: &mut Vec<(&str, Vec<String>)>, page: &mut String| {
        for (panel, said) in panels.drain(..) {
            let said = if said.is_empty() { "nothing".to_owned() } else { said.join("; ") };
            let _ = writeln!(page, "| {panel} | {said} |");
        }
    };
    for (query, answer) in answers {
        if dashboard != Some(&query.dashboard) {
            end(&mut panels, &mut page);
            dashboard = Some(&query.dashboard);
            let (title, description) = &query.dashboard;
            let _ = write!(page, "\n## {title}\n\n{description}\n\n| panel | in the demo |\n|---|---|\n");
        }
        let said = said(query, answer);
        match panels.last_mut() {
            Some((panel, all)) if *panel == query.panel => all.extend(said),
            _ => panels.push((&query.panel, said.into_iter().collect())),
        }
    }
    end(&mut panels, &mut page);
    page
}

/// The answer in words; `None` if it is empty.
fn said(query: &Query, answer: &Value) -> Option<String> {
    let mut series: Vec<(f64, String)> =
        answer["data"]["result"].as_array()?.iter().map(|series| named(query, series)).collect();
    // A quantile of nothing is not a number.
    series.retain(|(value, _)| value.is_finite());
    series.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let shown: Vec<String> = series
        .iter()
        .take(2)
        .map(|(value, name)| {
            format!(
                "{}{}",
                if name.is_empty() { String::new() } else { format!("{name} ") },
                amount(*value, &query.unit)
            )
        })
        .collect();
    let more = if series.len() > 2 { format!(" and {} more", series.len() - 2) } else { String::new() };
    (!shown.is_empty()).then(|| format!("{}{more}", shown.join(", ")))
}

/// A series' value and name.
fn named(query: &Query, series: &Value) -> (f64, String) {
    let labels: BTreeMap<&str, &str> = series["metric"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((&**name, value.as_str()?)))
        .collect();
    let value = series["value"][1].as_str().and_then(|value| value.parse().ok()).unwrap_or(f64::NAN);
    let name = match query.legend.as_str() {
        "" | "__auto" => labels
            .iter()
            .filter(|(name, _)| **name != "__name__")
            .map(|(_, value)| *value)
            .collect::<Vec<_>>()
            .join(" "),
        legend => labels
            .iter()
            .fold(legend.to_owned(), |name, (label, value)| name.replace(&format!("{{{{{label}}}}}"), value)),
    };
    // A label that a series does not have.
    let name = name.split(' ').filter(|word| !word.is_empty() && !word.starts_with("{{")).collect::<Vec<_>>().join(" ");
    (value, if name.is_empty() { String::new() } else { format!("`{name}`") })
}

/// A value with its unit as Grafana has it.
fn amount(value: f64, unit: &str) -> String {
    match unit {
        "reqps" => format!("{value:.1} requests/s"),
        "ops" => format!("{value:.1}/s"),
        "percentunit" => format!("{:.1} %", value * 100.0),
        "s" if value.abs() < 1.0 => format!("{:.1} ms", value * 1000.0),
        "s" if value.abs() > 259_200.0 => format!("{:.0} d", value / 86_400.0),
        "s" if value.abs() > 7200.0 => format!("{:.1} h", value / 3600.0),
        "s" => format!("{value:.1} s"),
        "bytes" => format!("{:.1} MB", value / 1e6),
        "Bps" => format!("{value:.0} B/s"),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

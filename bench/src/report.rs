//! What a run is told as: a table on the terminal, and JSON, Markdown and an SVG plot in files.

mod markdown;
mod plot;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::json;

use crate::contender::Contender;
use crate::figures::{Figure, Figures, Metric};
use crate::machine::Machine;

/// Prints a table for each piece of work.
pub(crate) fn print(figures: &Figures, machine: &Machine) {
    println!("{}\n", machine.line());
    for (work, title) in figures.work() {
        println!("{work}: {title}");
        let (heads, rows) = rows(figures, work);
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(&heads);
        table.add_rows(&rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        figures.notes(work).for_each(|note| println!("  {note}"));
        println!();
    }
}

/// Writes `latest.json`, `latest.md` and `latest.svg`; `quick.…` for quick runs.
pub(crate) fn write(directory: &Path, figures: &Figures, machine: &Machine, quick: bool) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let name = if quick { "quick" } else { "latest" };
    let work: Vec<_> = figures
        .work()
        .map(|(name, title)| json!({"name": name, "title": title, "notes": figures.notes(name).collect::<Vec<_>>()}))
        .collect();
    let all = json!({"machine": machine, "work": work, "figures": figures.all()});
    for (ending, text) in [
        ("json", serde_json::to_string_pretty(&all)? + "\n"),
        ("md", markdown::document(figures, machine)),
        ("svg", plot::plot(figures, machine)),
    ] {
        let path = directory.join(format!("{name}.{ending}"));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// Heads and rows of a table: a row for each contender, a column for each metric with the spread of its rounds, and ours as a
/// share of the contender's in the first metric.
fn rows(figures: &Figures, work: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut metrics: Vec<Metric> = Vec::new();
    for figure in figures.of(work) {
        if !metrics.contains(&figure.metric) {
            metrics.push(figure.metric);
        }
    }
    let heads = ["".to_owned()].into_iter().chain(metrics.iter().flat_map(|metric| {
        let unit = if metric.unit == "1/s" { String::new() } else { format!(", {}", metric.unit) };
        [format!("{}{unit}", metric.name), "ours/its".to_owned()]
    }));
    let contenders =
        Contender::ALL.into_iter().filter(|contender| figures.of(work).any(|figure| figure.contender == *contender));
    let rows = contenders.map(|contender| {
        let cells = metrics.iter().flat_map(|metric| {
            let figure = figures.of(work).find(|figure| figure.contender == contender && figure.metric == *metric);
            let ratio = figure.and_then(|figure| figure.malla_to_this).map(|ratio| format!("{ratio:.2}"));
            [figure.map_or("-".to_owned(), value), ratio.unwrap_or_default()]
        });
        [contender.title().to_owned()].into_iter().chain(cells).collect()
    });
    (heads.collect(), rows.collect())
}

/// Median and spread.
fn value(figure: &Figure) -> String {
    let median = figure.median;
    let digits = match median.abs() {
        0.0..10.0 => 2,
        10.0..1000.0 => 1,
        _ => 0,
    };
    let text = format!("{median:.digits$}");
    if figure.values.len() > 1 { format!("{text} ±{:.0}%", figure.spread * 50.0) } else { text }
}

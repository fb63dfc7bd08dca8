//! The results as a page to read.

use std::fmt::Write;

use super::rows;
use crate::figures::Figures;
use crate::machine::Machine;

/// The whole page.
pub(super) fn document(figures: &Figures, machine: &Machine) -> String {
    let mut page = String::from("# Results of the benchmark\n\n");
    // Writing to a string does not fail.
    let _ = writeln!(page, "{}\n", machine.line());
    page.push_str("Medians over the rounds of one run, with half of the distance between the least and the greatest. \"ours/its\" is our median as a\nshare of that contender's, in this run.\n\n| | version |\n|---|---|\n");
    for (name, version) in &machine.versions {
        let _ = writeln!(page, "| {name} | {version} |");
    }
    for (work, title) in figures.work() {
        let (heads, rows) = rows(figures, work);
        let _ = writeln!(page, "\n## {work}: {title}\n\n| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for row in rows {
            let _ = writeln!(page, "| {} |", row.join(" | "));
        }
        for note in figures.notes(work) {
            let _ = writeln!(page, "\n{note}");
        }
    }
    page
}

//! Instructions, counted by valgrind's callgrind and compared with the figures in `bench/instructions.json`.
//!
//! A figure that has grown fails the run unless the stored one was changed in the same commit, so that nothing grows by
//! oversight. A figure that has shrunk is told, so that it can be stored.
//!
//! Release and development builds have figures of their own: CI counts in the development build, which it has made anyway. Counts
//! do not depend on the processor: valgrind tells every program that it runs on one and the same model (CPUID is answered by
//! valgrind), so that the C library and the cryptography choose the same code everywhere.

mod proxied;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::steps::Step;

/// How much a figure may grow.
const TOLERANCE: f64 = 0.05 + f64::EPSILON;

/// Figures by name, for each build.
type Stored = BTreeMap<String, BTreeMap<String, u64>>;

/// The build that this program is of.
const BUILD: &str = if cfg!(debug_assertions) { "development" } else { "release" };

/// Counts the steps, and a request through the pair if asked to, then compares or stores.
pub(crate) fn run(proxied: bool, store: bool) -> Result<()> {
    let valgrind = Command::new("valgrind").arg("--version").output();
    ensure!(valgrind.is_ok_and(|output| output.status.success()), "valgrind is not installed: run bench/setup");
    let mut counted = steps()?;
    if proxied {
        counted.extend(proxied::instructions()?);
    }
    for (name, instructions) in &counted {
        println!("{name:<28} {instructions:>12}");
    }
    let file = malla_tests::tools::repository().join("bench/instructions.json");
    let mut stored = if file.exists() { stored(&file)? } else { Stored::new() };
    let of_build = stored.entry(BUILD.to_owned()).or_default();
    if !store {
        return compare(&counted, of_build);
    }
    // What was not counted keeps its figure.
    of_build.extend(counted);
    let text = serde_json::to_string_pretty(&stored)? + "\n";
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    println!("stored: {}", file.display());
    Ok(())
}

/// All steps at once: most of the time goes into their preparation, and nothing that counts depends on time.
fn steps() -> Result<BTreeMap<String, u64>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = Step::value_variants()
            .iter()
            .map(|step| {
                scope.spawn(|| {
                    let name = step.to_possible_value().context("a step has a name")?.get_name().to_owned();
                    let instructions = step_instructions(&name)? / step.times();
                    Ok((name, instructions))
                })
            })
            .collect();
        let counted = running.into_iter().map(|step| step.join().unwrap_or_else(|_| bail!("counting panicked")));
        counted.collect()
    })
}

fn stored(file: &Path) -> Result<Stored> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a map of figures", file.display()))
}

fn compare(counted: &BTreeMap<String, u64>, stored: &BTreeMap<String, u64>) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, now) in counted {
        let Some(before) = stored.get(name) else {
            wrong.push(format!("{name} has no stored figure"));
            continue;
        };
        let growth = *now as f64 / *before as f64 - 1.0;
        if growth > TOLERANCE {
            wrong.push(format!("{name} grew by {:.1} %: from {before} instructions to {now}", growth * 100.0));
        } else if growth < -TOLERANCE {
            println!("{name} shrank by {:.1} %: store it with --store", -growth * 100.0);
        }
    }
    wrong.extend(
        stored
            .keys()
            .filter(|name| !counted.contains_key(*name) && !proxied::counts(name))
            .map(|name| format!("{name} is stored and no longer counted")),
    );
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{}\nif this is wanted: {}, and commit the figures",
        wrong.join("\n"),
        match BUILD {
            "release" => "cargo run --release -p bench -- instructions --store",
            _ => "cargo build --workspace --all-targets && target/debug/bench instructions --store",
        }
    )
}

/// Instructions of what a step measures, all its times together.
fn step_instructions(name: &str) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("out");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*steps*measured*", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["step", name])
        .status()
        .context("running valgrind")?;
    ensure!(status.success(), "the step {name} failed");
    total(&out)
}

/// The line `totals:` or `summary:` of callgrind's file, which holds one count: instructions.
fn total(out: &PathBuf) -> Result<u64> {
    let text = std::fs::read_to_string(out).with_context(|| format!("valgrind wrote no {}", out.display()))?;
    let line =
        text.lines().rev().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    let count = line.context("a line of totals")?.trim().parse()?;
    ensure!(count > 0, "nothing was counted: was the measured function inlined?");
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn growth_beyond_the_tolerance_fails_and_names_the_step() {
        let stored = figures(&[("route", 1000), ("balance", 100)]);
        assert!(compare(&figures(&[("route", 1050), ("balance", 20)]), &stored).is_ok());
        let error = compare(&figures(&[("route", 1051), ("balance", 100)]), &stored).expect_err("grew").to_string();
        assert!(error.contains("route grew by 5.1 %: from 1000 instructions to 1051"), "{error}");
    }

    #[test]
    fn a_step_without_a_figure_and_a_figure_without_a_step_fail() {
        let error = compare(&figures(&[("new", 1)]), &figures(&[("old", 1)])).expect_err("differ").to_string();
        assert!(error.contains("new has no stored figure") && error.contains("old is stored"), "{error}");
    }
}

//! `malla-fuzz TARGET SECONDS [SEED]` changes the kept inputs of a target and runs it for so long; `malla-fuzz seeds TARGET DIRECTORY`
//! writes what it begins with, for other fuzzers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use malla_fuzz::mutate::{Random, mutated};
use malla_fuzz::{TARGETS, Target, target};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match &*words {
        ["seeds", name, directory] => target(name).is_some_and(|target| write_seeds(target, directory.into())),
        [name, seconds] => long(name, seconds, "1"),
        [name, seconds, seed] => long(name, seconds, seed),
        _ => false,
    };
    if done {
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    eprintln!("malla-fuzz TARGET SECONDS [SEED] | malla-fuzz seeds TARGET DIRECTORY; targets: {}", names.join(", "));
    ExitCode::FAILURE
}

fn long(name: &str, seconds: &str, seed: &str) -> bool {
    let (Some(target), Ok(seconds), Ok(seed)) = (target(name), seconds.parse(), seed.parse()) else { return false };
    let (inputs, end) = (target.inputs(), Instant::now() + Duration::from_secs(seconds));
    let (mut random, mut runs) = (Random::new(seed), 0_u64);
    while Instant::now() < end {
        let input = mutated(&mut random, target.form, target.words, &inputs);
        if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
            eprintln!("run {runs} with seed {seed}: b\"{}\"", input.escape_ascii());
            return false;
        }
        runs += 1;
    }
    println!("{name}: {runs} runs");
    true
}

fn write_seeds(target: &Target, directory: PathBuf) -> bool {
    let written = std::fs::create_dir_all(&directory).and_then(|()| {
        let mut inputs = target.inputs().into_iter().enumerate();
        inputs.try_for_each(|(number, input)| std::fs::write(directory.join(format!("seed-{number:04}")), input))
    });
    written.is_ok()
}

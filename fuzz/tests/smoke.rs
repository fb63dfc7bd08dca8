//! Every target with its kept inputs, and with some thousand changes of them, the same ones each time.

use std::time::{Duration, Instant};

use malla_fuzz::mutate::{Random, mutated};
use malla_fuzz::{TARGETS, target};

/// Changed inputs for each target, and how long they may take on a slow machine before the rest is left to long runs.
const RUNS: usize = 20_000;
const LIMIT: Duration = Duration::from_secs(4);

#[track_caller]
fn smoke(name: &str) {
    let target = target(name).expect("a target");
    let inputs = target.inputs();
    assert!(!inputs.is_empty(), "{name} has nothing to begin with");
    for input in &inputs {
        run(target.run, input, "kept");
    }
    let (begun, mut random) = (Instant::now(), Random::new(name.len() as u64));
    for number in 0..RUNS {
        if begun.elapsed() > LIMIT {
            println!("{name}: {number} runs in {LIMIT:?}");
            break;
        }
        run(target.run, &mutated(&mut random, target.form, target.words, &inputs), "changed");
    }
}

#[track_caller]
fn run(target: fn(&[u8]), input: &[u8], which: &str) {
    if std::panic::catch_unwind(|| target(input)).is_err() {
        panic!(
            "this {which} input breaks a promise; once it is mended, keep it in the corpus:\nb\"{}\"",
            input.escape_ascii()
        );
    }
}

macro_rules! smoke {
    ($($name:ident)+) => {
        $(#[test] fn $name() { smoke(stringify!($name)); })+

        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($name)),+];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), here);
        }
    };
}

smoke!(detection http1 path names xds yaml csr token);

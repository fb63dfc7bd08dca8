//! What reads bytes of strangers, as functions of these bytes that panic where a promise is broken.
//!
//! Each [`Target`] is driven by the smoke test (`cargo test -p malla-fuzz`: the kept corpus and a bounded, seeded mutation of it), by
//! the binary of this crate for as long as one likes, and by libFuzzer (`fuzz/README.md`).

mod csr;
mod detection;
mod http1;
pub mod mutate;
mod names;
mod path;
mod readers;
mod token;
mod xds;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

use self::mutate::Form;

/// One reader and its promises.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also of its folder in `corpus/`.
    pub name: &'static str,
    /// What its input is made of, for changes that keep the structure.
    pub form: Form,
    /// Pieces that mean something to it.
    pub words: &'static [&'static str],
    /// Reads an input.
    ///
    /// # Panics
    /// A promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that are made anew each time, because they follow from other parts of the project.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    detection::TARGET,
    http1::TARGET,
    path::TARGET,
    names::TARGET,
    xds::TARGET,
    yaml::TARGET,
    csr::TARGET,
    token::TARGET,
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// The folder of its kept inputs.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// Its kept inputs and its seeds, in the same order each time.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.corpus()).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        let kept = files.iter().filter_map(|path| fs::read(path).ok());
        kept.chain((self.seeds)()).collect()
    }
}

/// For targets that need no other seeds than their corpus.
fn no_seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

//! Where the programs under test and the tests' own tools are.

use std::path::{Path, PathBuf};

/// A binary of this workspace, as built beside the running test.
///
/// # Panics
///
/// When it has not been built: `cargo test -p malla-tests` alone does not build the other packages' binaries.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    let beside = test.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    beside.unwrap_or_else(|| {
        panic!("{name} is not built: run tests/run, or `cargo build -p malla -p malla-proxy` before the tests")
    })
}

/// The Python of the tests' environment, which `tests/setup` makes.
///
/// # Panics
///
/// When there is none.
#[track_caller]
pub fn python() -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    let beside = test.ancestors().map(|directory| directory.join("venv/bin/python")).find(|path| path.exists());
    beside.expect("no Python environment in the target directory: run tests/setup")
}

/// A file of `tests/programs`: configuration and small programs for the foreign side.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository exists")
}

//! `malla inject` and `malla uninject`: manifests in, manifests with or without sidecars out.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::arguments::{InjectArguments, UninjectArguments};
use crate::inject::{self, Rewritten};
use crate::output;

/// Largest text that is taken for a manifest.
const LARGEST: u64 = 32 << 20;

/// Prints the manifests with sidecars; what became of each goes to standard error. If one pod cannot have a sidecar, nothing is printed and
/// the exit code is 1.
///
/// # Errors
/// A file cannot be read, or is no YAML, or a setting is wrong.
pub(crate) fn inject(arguments: &InjectArguments) -> anyhow::Result<ExitCode> {
    let trust = std::fs::read_to_string(&arguments.trust)
        .with_context(|| format!("reading {} (--trust)", arguments.trust.display()))?;
    let Some(settings) = arguments.sidecar.settings(&trust) else {
        bail!("give the sidecar's image with --sidecar-image");
    };
    settings.check()?;
    let text = read(&arguments.input.path)?;
    finish(inject::inject(&text, &arguments.namespace, &settings).with_context(|| from(&arguments.input.path))?)
}

/// Prints the manifests without the sidecars of Malla.
///
/// # Errors
/// A file cannot be read, or is no YAML.
pub(crate) fn uninject(arguments: &UninjectArguments) -> anyhow::Result<ExitCode> {
    let text = read(&arguments.input.path)?;
    finish(inject::uninject(&text).with_context(|| from(&arguments.input.path))?)
}

fn finish(rewritten: Rewritten) -> anyhow::Result<ExitCode> {
    rewritten.notes.iter().for_each(|note| eprintln!("{note}"));
    if !rewritten.refusals.is_empty() {
        rewritten.refusals.iter().for_each(|refusal| eprintln!("error: {refusal}"));
        return Ok(ExitCode::FAILURE);
    }
    output::print_as_it_is(&rewritten.text)?;
    Ok(ExitCode::SUCCESS)
}

fn from(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(LARGEST + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text))
    };
    let length = read.with_context(|| format!("reading {}", from(path)))?;
    if length as u64 > LARGEST {
        bail!("{} is larger than {} MiB", from(path), LARGEST >> 20);
    }
    Ok(text)
}

//! Configuration from files: read, compiled and published; watched for changes.
//!
//! A change is applied as a whole or refused as a whole; what was applied last keeps serving. A server that starts on a
//! broken configuration serves certificates and answers no subscription until the configuration is mended: sidecars keep
//! what they have, and are never told something wrong.

pub(crate) mod cluster;
mod files;
mod watcher;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use malla_config::mesh::Mesh;
use malla_config::{Report, Severity, SourceFile};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::compile::compile;
use crate::resources::{LastReload, Published, Publisher, ReloadOutcome, Resources, publish};
use crate::world::{World, WorldError};
use files::{Content, ReadError, Scan, scan};
use watcher::{Wake, Watcher};

/// How many errors of a refused configuration are logged; all are in [`Published::last_reload`].
const LOGGED_ERRORS: usize = 20;
/// Files that change without a pause are read this often before they are taken as they are.
const MAX_DISAGREEMENTS: u32 = 5;

/// A running source; stops when dropped.
#[derive(Debug)]
pub struct Source {
    /// What it publishes.
    pub published: Published,
    _watching: AbortOnDropHandle<()>,
}

/// Why a source did not start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither files nor a cluster.
    #[error("no configuration: give a directory with --config, or read the cluster with --kubernetes")]
    Nothing,
    /// There is nothing at the path: probably a typing error.
    #[error("no configuration at {}: give a directory with *.yaml files, or one file", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

/// Reads the configuration, compiles it, and keeps watching. `trust_bundle` (PEM, all trust anchors), as it changes, becomes the
/// secret `ROOTCA`. Must run inside a tokio runtime.
///
/// # Errors
/// The path does not exist. A configuration that exists and is invalid is no error here: [`Published::last_reload`] tells,
/// and [`Resources::is_loaded`] is false until it is mended.
pub fn start(config: &Path, trust_bundle: watch::Receiver<Arc<str>>) -> Result<Source, SourceError> {
    exists(config)?;
    let first = scan(config);
    let seen = Seen::of(&first.content);
    let bundle = trust_bundle.borrow().clone();
    let (resources, outcome) = match load(first.content, &bundle) {
        Ok(resources) => (resources, None),
        Err(refusal) => (Resources::not_loaded(), Some(refusal.outcome())),
    };
    let outcome = outcome.unwrap_or_else(|| ReloadOutcome::Applied { version: resources.version().clone() });
    let (publisher, published) = publish(resources, outcome);
    let mut watcher = Watcher::new();
    watcher.follow(first.places);
    let watching = tokio::spawn(watch(config.to_owned(), trust_bundle, watcher, seen, publisher));
    Ok(Source { published, _watching: AbortOnDropHandle::new(watching) })
}

/// Whether there is anything at the path of the configuration.
///
/// # Errors
/// There is not.
pub fn exists(config: &Path) -> Result<(), SourceError> {
    config.metadata().map(drop).map_err(|cause| SourceError::Missing { path: config.to_owned(), cause })
}

/// Why configuration files were not read, in a sentence that names the file.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReadFailed(ReadError);

/// Reads the files below `config` once, by the rules of [`start`]: for programs that check a configuration without serving
/// it.
///
/// # Errors
/// What cannot be read, and why.
pub fn read(config: &Path) -> Result<Vec<SourceFile>, ReadFailed> {
    scan(config).content.map(|content| content.files).map_err(ReadFailed)
}

/// Why a valid mesh was not rendered, which is a defect of the control server.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RenderFailed(WorldError);

/// Renders a mesh into resources. `trust_bundle` is PEM, all trust anchors.
///
/// # Errors
/// A defect.
pub fn render(mesh: Mesh, trust_bundle: &str) -> Result<Resources, RenderFailed> {
    let notices = mesh.notices();
    let rendered = World::new(mesh).and_then(|world| compile(&world, trust_bundle));
    rendered.map(|resources| resources.with_notices(notices)).map_err(RenderFailed)
}

/// What the last attempt was made of, to tell a change from a look that found none.
#[derive(PartialEq, Eq)]
enum Seen {
    Content(u64),
    Unreadable(String),
}

impl Seen {
    fn of(content: &Result<Content, ReadError>) -> Seen {
        match content {
            Ok(content) => Seen::Content(content.hash),
            Err(error) => Seen::Unreadable(chain(error)),
        }
    }
}

/// Looks, compares, applies; for ever.
async fn watch(
    config: PathBuf,
    mut trust_bundle: watch::Receiver<Arc<str>>,
    mut watcher: Watcher,
    mut seen: Seen,
    publisher: Publisher,
) {
    // The first look was taken before anything was watched.
    let mut wake = Wake::Changed;
    let mut disagreements = 0;
    loop {
        retrust(&publisher, &trust_bundle.borrow_and_update().clone());
        let Some(found) = look(&config).await else {
            wake = watcher.wake().await;
            continue;
        };
        if watcher.follow(found.places) {
            continue;
        }
        let found_now = Seen::of(&found.content);
        if found_now != seen {
            // Two looks that agree saw no change in its middle. Nobody tells of changes on some file systems, and then
            // nobody tells that one is finished.
            let agrees =
                wake == Wake::Changed && look(&config).await.is_some_and(|again| Seen::of(&again.content) == found_now);
            if !agrees && disagreements < MAX_DISAGREEMENTS {
                wake = Wake::Changed;
                disagreements += 1;
                watcher.settled().await;
                continue;
            }
            seen = found_now;
            let bundle = trust_bundle.borrow().clone();
            match tokio::task::spawn_blocking(move || load(found.content, &bundle)).await {
                Ok(loaded) => apply(loaded, &publisher),
                Err(error) => tracing::error!(%error, "the configuration could not be loaded"),
            }
        }
        disagreements = 0;
        wake = tokio::select! {
            wake = watcher.wake() => wake,
            // Whether the configuration is good or not: who trusts whom does not wait for it. An authority that is gone is gone with
            // its server.
            Ok(()) = trust_bundle.changed() => Wake::Rescan,
        };
    }
}

/// Publishes what serves with other trust anchors, if they are others.
fn retrust(publisher: &Publisher, trust_bundle: &str) {
    publisher.resources.send_if_modified(|current| {
        let changed = current.is_loaded() && !current.trusts(trust_bundle);
        if changed {
            *current = Arc::new(current.with_trust_bundle(trust_bundle));
            tracing::info!(version = %current.version(), "the trust anchors are distributed");
        }
        changed
    });
}

async fn look(config: &Path) -> Option<Scan> {
    let path = config.to_owned();
    let found = tokio::task::spawn_blocking(move || scan(&path)).await;
    found.inspect_err(|error| tracing::error!(%error, "the configuration could not be read")).ok()
}

fn apply(loaded: Result<Resources, Refusal>, publisher: &Publisher) {
    let outcome = match loaded {
        Ok(resources) => {
            let version = resources.version().clone();
            publisher.resources.send_if_modified(|current| {
                let changed =
                    !current.is_loaded() || *current.version() != version || !current.tells_the_same(&resources);
                if changed {
                    *current = Arc::new(resources);
                }
                changed
            });
            ReloadOutcome::Applied { version }
        }
        Err(refusal) => refusal.outcome(),
    };
    publisher.last_reload.send_replace(LastReload { at: SystemTime::now(), outcome });
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Unread(ReadError),
    #[error(transparent)]
    Invalid(Report),
    #[error("internal error, please report it")]
    Uncompiled(#[source] RenderFailed),
    #[error("internal error, please report it: loading this configuration panicked")]
    Panicked,
}

impl Refusal {
    fn outcome(&self) -> ReloadOutcome {
        let count = match self {
            Refusal::Invalid(report) => report.error_count(),
            Refusal::Unread(_) | Refusal::Uncompiled(_) | Refusal::Panicked => 1,
        };
        ReloadOutcome::Refused { errors: chain(self).into(), count }
    }

    fn log(&self) {
        match self {
            Refusal::Invalid(report) => {
                for error in report.diagnostics().iter().take(LOGGED_ERRORS) {
                    tracing::error!(%error, "the configuration is invalid");
                }
            }
            Refusal::Unread(_) | Refusal::Uncompiled(_) | Refusal::Panicked => {
                tracing::error!(error = chain(self), "the configuration cannot be loaded");
            }
        }
        tracing::error!("the configuration is refused as a whole; the last good one keeps serving");
    }
}

/// Files → resources. Says in the log what came of it.
fn load(content: Result<Content, ReadError>, trust_bundle: &str) -> Result<Resources, Refusal> {
    let found = Instant::now();
    let compiled = || {
        let content = content.map_err(Refusal::Unread)?;
        let (mesh, report) = malla_config::inspect(&content.files);
        let doubts = doubts(&report);
        let mesh = mesh.ok_or(Refusal::Invalid(report))?;
        let resources = render(mesh, trust_bundle).map_err(Refusal::Uncompiled)?;
        let notices = resources.notices().iter().cloned().chain(doubts).collect();
        Ok(resources.with_notices(notices).changed_at(found))
    };
    // A defect in reading or compiling must not take down what serves.
    let loaded = catch_unwind(AssertUnwindSafe(compiled)).unwrap_or(Err(Refusal::Panicked));
    match &loaded {
        Ok(resources) => {
            tracing::info!(version = %resources.version(), "the configuration is applied");
            for notice in resources.notices() {
                tracing::warn!("{notice}");
            }
        }
        Err(refusal) => refusal.log(),
    }
    loaded
}

/// What is taken, and hardly means what was wanted: shown as long as it serves.
fn doubts(report: &Report) -> Vec<String> {
    let doubtful = report.diagnostics().iter().filter(|found| found.severity == Severity::Warning);
    doubtful.map(ToString::to_string).collect()
}

/// An error and its causes in one line. Some errors of others tell their causes themselves: those are not told twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "source/reload_tests.rs"]
mod tests;

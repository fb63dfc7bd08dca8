//! Learns of changes in directories: from the system at once, and by looking again every few seconds, which heals what the
//! system did not tell (network file systems, watch limits, directories replaced behind a link).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::files::Places;

/// Writers pause less than this between the steps of one change.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never pause are applied after this.
const LONGEST: Duration = Duration::from_millis(500);
/// How often to look again without having been told.
const RESCAN: Duration = Duration::from_secs(2);
/// The same where the system tells nothing at all.
const RESCAN_UNTOLD: Duration = Duration::from_millis(500);

/// Watches what a scan found.
#[derive(Debug)]
pub(super) struct Watcher {
    system: Option<notify::RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    places: Arc<Mutex<Places>>,
    changed: Arc<Notify>,
    complete: bool,
}

/// Why to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Something changed, and then it was quiet.
    Changed,
    /// It is time.
    Rescan,
}

impl Watcher {
    pub(super) fn new() -> Self {
        let places: Arc<Mutex<Places>> = Arc::default();
        let changed: Arc<Notify> = Arc::default();
        let (shared_places, shared_changed) = (places.clone(), changed.clone());
        let system = notify::recommended_watcher(move |event| {
            if is_relevant(&event, &shared_places.lock()) {
                shared_changed.notify_one();
            }
        });
        if let Err(error) = &system {
            tracing::warn!(%error, "the system does not tell of changed files: they are looked for twice a second");
        }
        Watcher { complete: system.is_ok(), system: system.ok(), watched: BTreeSet::new(), places, changed }
    }

    /// Watches these places from now on. True if some were not watched before: what happened there meanwhile was missed.
    pub(super) fn follow(&mut self, places: Places) -> bool {
        let wanted = places.watched();
        *self.places.lock() = places;
        let Some(system) = &mut self.system else { return false };
        for gone in self.watched.difference(&wanted) {
            // It may have vanished and taken its watch with it.
            drop(system.unwatch(gone));
        }
        let mut failed = None;
        for directory in &wanted {
            // Also those that are watched: a directory that was replaced under its name is a new one to the system.
            if let Err(error) = system.watch(directory, RecursiveMode::NonRecursive) {
                failed = Some(error);
            }
        }
        if let (true, Some(error)) = (self.complete, &failed) {
            tracing::warn!(%error, "not all directories can be watched: changes are looked for twice a second");
        }
        self.complete = failed.is_none();
        let new = !wanted.is_subset(&self.watched);
        self.watched = wanted;
        new
    }

    /// Waits for a reason to look again.
    pub(super) async fn wake(&self) -> Wake {
        let rescan = if self.complete { RESCAN } else { RESCAN_UNTOLD };
        match timeout_at(Instant::now() + rescan, self.changed.notified()).await {
            Ok(()) => {
                self.settled().await;
                Wake::Changed
            }
            Err(_) => Wake::Rescan,
        }
    }

    /// Waits until nothing has changed for a moment, but not for ever.
    pub(super) async fn settled(&self) {
        let latest = Instant::now() + LONGEST;
        while Instant::now() < latest {
            if timeout_at(latest.min(Instant::now() + QUIET), self.changed.notified()).await.is_err() {
                return;
            }
        }
    }
}

fn is_relevant(event: &notify::Result<notify::Event>, places: &Places) -> bool {
    let Ok(event) = event else { return true };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        // Our own reading.
        EventKind::Access(_) => return false,
        _ => {}
    }
    event.need_rescan() || event.paths.iter().any(|path| places.concerns(path))
}

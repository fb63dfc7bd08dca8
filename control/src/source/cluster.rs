//! Configuration from a cluster, with files beside it for what is outside of clusters: compiled like files, and watched.
//!
//! Many people write a cluster's objects, and a mistake of one must not stop the others. An object with an error is left as it last
//! was good (a replica that has not seen it so leaves it out), its status says why, and everything else is applied. Where leaving out
//! would let through what was forbidden (`AuthorizationPolicy`, `Mesh`), the change as a whole waits, as it does for an error
//! in files. While the API server is away, what was known serves.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use malla_config::{Code, Loader, Mesh, Report, Severity, SourceFile};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::files::{Content, ReadError, Scan};
use super::watcher::Watcher;
use super::{Refusal, RenderFailed, Seen, Source, apply, doubts, look, retrust};
use crate::compile::Compiler;
use crate::kubernetes::store::{Key, Objects, Store};
use crate::kubernetes::translate::{Fault, Translation, Translator};
use crate::resources::{LastReload, Publisher, ReloadOutcome, Resources, publish};
use crate::world::World;

/// Controllers pause less than this between the steps of one change.
const QUIET: Duration = Duration::from_millis(30);
/// Changes that never pause are applied after this.
const LONGEST: Duration = Duration::from_millis(250);
/// How often to say what is still waited for at the start.
const WAITING: Duration = Duration::from_secs(2);
/// Leaving an object out may make another wrong, and so on; longer chains are refused as a whole.
const ROUNDS: usize = 8;

/// What came of the objects with something wrong.
pub(crate) type Verdicts = BTreeMap<Key, Verdict>;

/// What came of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Why it is not followed as it stands, if it is not.
    pub(crate) errors: Vec<(Code, String)>,
    /// What it names that is not there, where the rest of it serves.
    pub(crate) faults: Vec<Fault>,
    /// Whether an earlier state of it serves.
    pub(crate) earlier: bool,
}

/// Starts to read; publishes as soon as everything has been listed once. Must run inside a tokio runtime.
pub(crate) fn start(
    files: Option<PathBuf>,
    store: Arc<Store>,
    verdicts: watch::Sender<Option<Arc<Verdicts>>>,
    trust_bundle: watch::Receiver<Arc<str>>,
) -> Source {
    let waiting = ReloadOutcome::Refused { errors: "the cluster has not been read yet".into(), count: 1 };
    let (publisher, published) = publish(Resources::not_loaded(), waiting);
    let watching = tokio::spawn(run(files, store, verdicts, trust_bundle, publisher));
    Source { published, _watching: AbortOnDropHandle::new(watching) }
}

async fn run(
    files: Option<PathBuf>,
    store: Arc<Store>,
    verdicts: watch::Sender<Option<Arc<Verdicts>>>,
    mut trust_bundle: watch::Receiver<Arc<str>>,
    publisher: Publisher,
) {
    let mut changes = store.changes();
    let mut watcher = files.as_ref().map(|_| Watcher::new());
    let mut reader = Reader::default();
    let mut seen = None;
    loop {
        retrust(&publisher, &trust_bundle.borrow_and_update().clone());
        let content = match (&files, &mut watcher) {
            (Some(path), Some(watcher)) => {
                let Some(Scan { places, content }) = look(path).await else {
                    watcher.settled().await;
                    continue;
                };
                if watcher.follow(places) {
                    continue;
                }
                Some(content)
            }
            _ => None,
        };
        let now = (changes.borrow_and_update().to_owned(), content.as_ref().map(Seen::of));
        match store.whole() {
            None => say_what_is_missing(&store, &publisher),
            Some(objects) if seen.as_ref() != Some(&now) => {
                seen = Some(now);
                let bundle = trust_bundle.borrow().clone();
                let begun = Instant::now();
                let mut working = std::mem::take(&mut reader);
                let worked = tokio::task::spawn_blocking(move || {
                    let loaded = working.load(content, &objects, &bundle);
                    (working, loaded, objects)
                });
                match worked.await {
                    Ok((mut working, loaded, objects)) => {
                        let former = publisher.resources.borrow().clone();
                        publish_loaded(loaded, begun, &publisher, &verdicts);
                        // What is thrown away is much: nobody waits for that any more.
                        let tidied = tokio::task::spawn_blocking(move || {
                            drop((objects, former));
                            working.compiler.tidy();
                            working
                        });
                        match tidied.await {
                            Ok(tidied) => reader = tidied,
                            Err(error) => tracing::error!(%error, "what was read before is forgotten"),
                        }
                    }
                    Err(error) => tracing::error!(%error, "the configuration could not be loaded"),
                }
                // Four fifths of one core at most, however much changes.
                sleep((begun.elapsed() / 4).min(LONGEST)).await;
            }
            Some(_) => {}
        }
        tokio::select! {
            Ok(()) = changes.changed() => settled(&mut changes).await,
            () = woken(watcher.as_ref()) => {}
            Ok(()) = trust_bundle.changed() => {}
            () = sleep(WAITING), if !store.is_whole() => {}
        }
    }
}

/// Waits until nothing has changed for a moment, but not for ever.
async fn settled(changes: &mut watch::Receiver<u64>) {
    let latest = tokio::time::Instant::now() + LONGEST;
    while tokio::time::Instant::now() < latest {
        let until = latest.min(tokio::time::Instant::now() + QUIET);
        if tokio::time::timeout_at(until, changes.changed()).await.is_err() {
            return;
        }
    }
}

async fn woken(watcher: Option<&Watcher>) {
    match watcher {
        Some(watcher) => drop(watcher.wake().await),
        None => std::future::pending().await,
    }
}

/// Until the cluster is known, sidecars are told nothing: says why that lasts.
fn say_what_is_missing(store: &Store, publisher: &Publisher) {
    let failing = store.failing();
    let waiting: Vec<String> = store
        .missing()
        .into_iter()
        .map(|kind| match failing.get(&kind) {
            Some(why) => format!("{}: {why}", kind.name()),
            None => kind.name().to_owned(),
        })
        .collect();
    let errors: Arc<str> = format!("the API server has not listed yet: {}", waiting.join(", ")).into();
    publisher.last_reload.send_if_modified(|last| {
        let known = matches!(&last.outcome, ReloadOutcome::Refused { errors: known, .. } if *known == errors);
        if !known {
            let outcome = ReloadOutcome::Refused { errors: errors.clone(), count: waiting.len() };
            *last = LastReload { at: std::time::SystemTime::now(), outcome };
        }
        !known
    });
}

/// What an attempt came to.
struct Loaded {
    resources: Option<Resources>,
    /// Why not all of what is there now serves.
    refusal: Option<Refusal>,
    verdicts: Option<Verdicts>,
}

fn publish_loaded(
    loaded: Loaded,
    changed: Instant,
    publisher: &Publisher,
    verdicts: &watch::Sender<Option<Arc<Verdicts>>>,
) {
    let Loaded { resources, refusal, verdicts: found } = loaded;
    if let Some(found) = found {
        verdicts.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&found);
            if changed {
                *current = Some(Arc::new(found));
            }
            changed
        });
    }
    if let Some(resources) = resources {
        apply(Ok(resources.changed_at(changed)), publisher);
    }
    if let Some(refusal) = refusal {
        apply(Err(refusal), publisher);
    }
}

/// Reads, and remembers what was good. Of thousands of objects one changes: each step has at once what it made of the others before, and
/// makes the same as if it had never seen them.
#[derive(Debug, Default)]
struct Reader {
    translator: Translator,
    loader: Loader,
    compiler: Compiler,
    /// What people wrote into the cluster, as it was when it served.
    good: HashMap<String, Arc<SourceFile>>,
    /// The files, likewise.
    files: Option<Vec<Arc<SourceFile>>>,
}

impl Reader {
    fn load(&mut self, content: Option<Result<Content, ReadError>>, objects: &Objects, bundle: &str) -> Loaded {
        // A defect in reading or compiling must not take down what serves.
        let loaded = catch_unwind(AssertUnwindSafe(|| self.attempt(content, objects, bundle)));
        let loaded = loaded.unwrap_or(Loaded { resources: None, refusal: Some(Refusal::Panicked), verdicts: None });
        if let Some(refusal) = &loaded.refusal {
            refusal.log();
        }
        loaded
    }

    fn attempt(&mut self, content: Option<Result<Content, ReadError>>, objects: &Objects, bundle: &str) -> Loaded {
        let translation = self.translator.translate(objects);
        let files = content.unwrap_or_else(|| Ok(Content { files: Vec::new(), hash: 0 }));
        let first = match files {
            Ok(content) => {
                let files: Vec<_> = content.files.into_iter().map(Arc::new).collect();
                self.read(files.clone(), &translation, bundle).map(|read| (files, read))
            }
            Err(error) => Err(Refusal::Unread(error)),
        };
        let (read, refusal) = match (first, self.files.clone()) {
            (Ok((files, read)), _) => {
                self.files = Some(files);
                (Some(read), None)
            }
            // The cluster goes on while the files are wrong.
            (Err(refusal), Some(files)) => (self.read(files, &translation, bundle).ok(), Some(refusal)),
            (Err(refusal), None) => (None, Some(refusal)),
        };
        let (resources, verdicts) = read.unzip();
        Loaded { resources, refusal, verdicts }
    }

    /// Files and documents → resources.
    fn read(
        &mut self,
        files: Vec<Arc<SourceFile>>,
        translation: &Translation,
        bundle: &str,
    ) -> Result<(Resources, Verdicts), Refusal> {
        let (mesh, doubts, verdicts) = self.choose(files, translation)?;
        let mut notices = mesh.notices();
        let rendered = World::new(mesh).and_then(|world| self.compiler.compile(world, bundle));
        let resources = rendered.map_err(|error| Refusal::Uncompiled(RenderFailed(error)))?;
        notices.extend(doubts);
        notices.extend(translation.notices.iter().cloned());
        for (key, verdict) in &verdicts {
            notices.extend(verdict.errors.first().map(|(_, error)| {
                let instead = if verdict.earlier { "an earlier state of it serves" } else { "it is left out" };
                format!("{key} is not followed ({instead}): {error}")
            }));
            notices.extend(verdict.faults.iter().map(|fault| format!("{key}: {}", fault.sentence())));
        }
        Ok((resources.with_notices(notices), verdicts))
    }

    /// The mesh of all that is good.
    fn choose(
        &mut self,
        files: Vec<Arc<SourceFile>>,
        translation: &Translation,
    ) -> Result<(Mesh, Vec<String>, Verdicts), Refusal> {
        let own = files.len();
        let written: HashMap<&str, Option<&Key>> =
            translation.documents.iter().map(|document| (&*document.file.path, document.written.as_ref())).collect();
        let mut verdicts: Verdicts = translation
            .faults
            .iter()
            .map(|(key, faults)| (key.clone(), Verdict { errors: Vec::new(), faults: faults.clone(), earlier: false }))
            .collect();
        let mut all = files;
        all.extend(translation.documents.iter().map(|document| document.file.clone()));
        for _ in 0..ROUNDS {
            let (mesh, report) = self.loader.inspect(&all, &translation.surroundings);
            let Some(mesh) = mesh else {
                self.leave_out(&report, own, &written, &mut all, &mut verdicts)
                    .map_err(|()| Refusal::Invalid(report))?;
                continue;
            };
            let served = all.into_iter().skip(own).filter(|file| written.get(&*file.path).is_some_and(Option::is_some));
            self.good = served.map(|file| (file.path.clone(), file)).collect();
            return Ok((mesh, doubts(&report), verdicts));
        }
        let (_, report) = self.loader.inspect(&all, &translation.surroundings);
        Err(Refusal::Invalid(report))
    }

    /// Puts the last good state in the place of each document with errors, or nothing.
    ///
    /// # Errors
    /// One of them is a file, or is not to be done without.
    fn leave_out(
        &self,
        report: &Report,
        own: usize,
        written: &HashMap<&str, Option<&Key>>,
        all: &mut Vec<Arc<SourceFile>>,
        verdicts: &mut Verdicts,
    ) -> Result<(), ()> {
        let mut wrong: HashMap<&str, Vec<(Code, String)>> = HashMap::new();
        for found in report.diagnostics().iter().filter(|found| found.severity == Severity::Error) {
            let help = found.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            wrong.entry(&found.file).or_default().push((found.code, format!("{}{help}", found.message)));
        }
        let mut kept = Vec::with_capacity(all.len());
        for (at, file) in all.drain(..).enumerate() {
            let Some(errors) = wrong.remove(&*file.path) else {
                kept.push(file);
                continue;
            };
            let Some(object) = written.get(&*file.path).filter(|_| at >= own) else { return Err(()) };
            let earlier = self.good.get(&file.path).filter(|earlier| earlier.text != file.text).cloned();
            let Some(key) = object else {
                tracing::warn!(object = file.path, error = ?errors.first(), "left out of the mesh");
                continue;
            };
            if earlier.is_none() && key.kind.protects() {
                return Err(());
            }
            let verdict = verdicts.entry((*key).clone()).or_insert_with(|| Verdict {
                errors: Vec::new(),
                faults: Vec::new(),
                earlier: false,
            });
            verdict.earlier = earlier.is_some();
            if verdict.errors.is_empty() {
                verdict.errors = errors;
            }
            kept.extend(earlier);
        }
        *all = kept;
        Ok(())
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "cluster_history_tests.rs"]
mod history_tests;

//! Follows each kind of a cluster: listed in pages, then watched; resumed where a watch broke off, listed anew after 410, with growing
//! pauses while the API server refuses, is slow or is away. What was known stays known all the while.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::kinds::Kind;
use super::store::{Objects, Store, keep};

/// Objects of a page.
const PAGE: u32 = 500;
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(30));
/// So long after a failure, the next one is a first one again.
const RECOVERED: Duration = Duration::from_secs(60);
/// How often to look whether a kind that is not installed has come.
const ABSENT: Duration = Duration::from_secs(30);
/// How often in a row a kind that was there must be gone to be taken for removed.
const LOOKS: u32 = 3;

/// Follows all kinds until dropped.
pub(crate) fn follow(client: &Client, store: &Arc<Store>) -> JoinSet<()> {
    let mut watches = JoinSet::new();
    for kind in Kind::ALL {
        watches.spawn(follow_kind(kind, client.clone(), store.clone()));
    }
    watches
}

async fn follow_kind(kind: Kind, client: Client, store: Arc<Store>) {
    let place = kind.place();
    let mut looks = 0;
    loop {
        for version in place.versions {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &place.resource(version));
            if until_not_served(kind, version, api, &store).await {
                looks = 0;
            }
        }
        // None of its versions is served. API servers say so for a moment while they start: what was there is not given up for that.
        looks += 1;
        if kind.may_be_absent() && (store.version(kind).is_none() || looks >= LOOKS) {
            if store.missing().contains(&kind) {
                tracing::info!(kind = kind.name(), "not installed in the cluster");
            }
            store.replace(kind, Objects::new());
        }
        sleep(ABSENT).await;
    }
}

/// Follows a version of a kind until the API server says that it does not serve it. Whether it did before.
async fn until_not_served(kind: Kind, version: &'static str, api: Api<DynamicObject>, store: &Store) -> bool {
    let config = watcher::Config {
        page_size: Some(PAGE),
        field_selector: kind.field_selector().map(str::to_owned),
        ..Default::default()
    };
    let events = watcher(api, config).backoff(Pauses::default());
    let mut events = pin!(events);
    let (mut listed, mut served) = (Objects::new(), false);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            // Page by page, and of each object only what matters: all of a kind as it comes would be many times that.
            Ok(Event::InitApply(object)) => listed.extend(keep(kind, object)),
            Ok(Event::InitDone) => {
                said_again(kind, store);
                store.serves(kind, version);
                served = true;
                store.replace(kind, std::mem::take(&mut listed));
            }
            Ok(Event::Apply(object)) => {
                said_again(kind, store);
                store.apply(kind, object);
            }
            Ok(Event::Delete(object)) => {
                said_again(kind, store);
                store.remove(kind, object);
            }
            Err(error) if is_not_served(&error) => return served,
            // What the API server has forgotten is listed anew.
            Err(error) if is_gone(&error) => tracing::debug!(kind = kind.name(), %error, "listing anew"),
            Err(error) => {
                let why = said(&error);
                if store.fails(kind, why.clone()) {
                    tracing::warn!(
                        kind = kind.name(),
                        error = why,
                        "the API server does not say what changes; what is known goes on serving"
                    );
                }
            }
        }
    }
    served
}

/// Pauses after failures, each up to twice as long as the one before. That something else worked in between tells nothing: a list
/// begins well each time.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > RECOVERED) {
            self.failures = 0;
        }
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(16)).min(PAUSES.1);
        self.failures += 1;
        self.last = Some(Instant::now());
        Some(pause.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {}
}

fn said_again(kind: Kind, store: &Store) {
    if store.works(kind) {
        tracing::info!(kind = kind.name(), "the API server says again what changes");
    }
}

fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

fn is_not_served(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

fn is_gone(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 410)
}

/// A sentence for people: what it means, and what to do about it.
fn said(error: &watcher::Error) -> String {
    match status(error) {
        Some(status) if status.code == 403 => {
            format!("not allowed (403): {}: apply the roles of the chart", status.message)
        }
        Some(status) if status.code == 401 => format!("not known (401): {}", status.message),
        Some(status) if status.code == 429 => "the API server asks to wait (429)".to_owned(),
        Some(status) => format!("{} ({})", status.message, status.code),
        None => crate::source::chain(error),
    }
}

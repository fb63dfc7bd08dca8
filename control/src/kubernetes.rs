//! A cluster as a source of the mesh: what is watched, what is kept of it, and how it becomes the documents that files would hold.
//!
//! `watch` fills the `store`; `translate` makes documents of it, purely; the source loop
//! compiles them like files; `conditions` says what came of routes, `lease` which replica writes it; `review` checks the tokens
//! of service accounts; `webhook` tells API servers which root to verify the webhook with. Refuses to guess: until every kind has been listed once, nothing is said to be known.

pub mod checkup;
pub(crate) mod client;
pub(crate) mod conditions;
pub mod kinds;
pub(crate) mod lease;
pub(crate) mod review;
pub(crate) mod store;
pub(crate) mod translate;
pub(crate) mod watch;
pub(crate) mod webhook;

use std::sync::Arc;

use crate::source::cluster::Verdicts;

pub use client::{ClientError, ClusterAddress, connect};
pub use kinds::{Permission, permissions};

/// What the control server's other parts know of the cluster.
#[derive(Debug)]
pub(crate) struct ClusterView {
    pub(crate) store: Arc<store::Store>,
    pub(crate) verdicts: tokio::sync::watch::Receiver<Option<Arc<Verdicts>>>,
    pub(crate) reviewer: review::Reviewer,
    /// What API servers verify the webhook with, if there is one.
    pub(crate) told: Option<Arc<webhook::Told>>,
}

impl ClusterView {
    /// What people should know about it, in sentences.
    pub(crate) fn notices(&self) -> Vec<String> {
        let failing = self.store.failing();
        let sentence = |(kind, why): (kinds::Kind, String)| {
            format!("the cluster's {} are as they were, changes are not known: {why}", kind.place().plural)
        };
        failing.into_iter().map(sentence).collect()
    }

    /// Who calls the webhook and would not believe it if it showed a certificate of any root of a trust bundle.
    pub(crate) fn unbelieving(&self, bundle: &str) -> Option<&'static str> {
        self.told
            .as_ref()
            .filter(|told| !told.knows(bundle))
            .map(|_| "the cluster's API servers (the webhook's caBundle)")
    }

    /// Whether API servers verify the webhook with all roots of a trust bundle, or nobody calls it.
    pub(crate) fn is_believed(&self, bundle: &str) -> bool {
        self.told.as_ref().is_none_or(|told| told.holds(bundle))
    }

    /// How many kinds cannot be followed.
    pub(crate) fn failing(&self) -> usize {
        self.store.failing().len()
    }

    /// How many objects are not followed as they stand.
    pub(crate) fn refused(&self) -> usize {
        self.verdicts
            .borrow()
            .iter()
            .flat_map(|verdicts| verdicts.values())
            .filter(|verdict| !verdict.errors.is_empty())
            .count()
    }
}

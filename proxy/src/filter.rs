//! What routes do to requests and answers besides forwarding them: pure functions of what `decode` has compiled.
//!
//! Names and values are ready to be written; a route that does nothing of this has no [`Filters`] at all.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod cors;
mod fault;
mod headers;
mod rate_limit;
mod session;
mod url;

use std::sync::Arc;

pub use self::cors::Cors;
pub use self::fault::{Abort, Fault, Share};
pub use self::headers::{HeaderChange, HeaderChanges, Write, may_change};
pub use self::rate_limit::{Bucket, HeaderLimits, RateLimit, TokenBucket};
pub use self::session::{Carrier, Held, Kept, Session};
pub use self::url::{PathRewrite, Redirect, Rewrite};

/// What a route does to its requests and answers.
#[derive(Debug, Default)]
pub struct Filters {
    /// Changes of headers, for clusters that have none of their own.
    pub headers: HeaderFilters,
    /// Changes of headers for each cluster of the route's action, by its place; empty if none has its own.
    pub clusters: Vec<HeaderFilters>,
    /// Another host or path.
    pub rewrite: Rewrite,
    /// Delays and failures on purpose.
    pub fault: Option<Fault>,
    /// What pages of other origins may do.
    pub cors: Option<Cors>,
    /// How clients keep to their endpoints.
    pub session: Option<Session>,
    /// Of the traces that begin with its requests, those that are followed; absent: as the sidecar is told.
    pub sampling: Option<Share>,
}

/// Changes of headers of requests and answers.
#[derive(Debug, Clone, Default)]
pub struct HeaderFilters {
    /// Of requests.
    pub request: HeaderChanges,
    /// Of upstreams' answers.
    pub response: HeaderChanges,
}

impl Filters {
    /// Ready for routes to share; `None` if nothing is done.
    pub fn shared(self) -> Option<Arc<Filters>> {
        let nothing = self.headers.is_nothing()
            && self.clusters.iter().all(HeaderFilters::is_nothing)
            && self.rewrite.is_nothing()
            && self.fault.is_none()
            && self.cors.is_none()
            && self.session.is_none()
            && self.sampling.is_none();
        (!nothing).then(|| Arc::new(self))
    }

    /// Changes of headers for requests to the cluster at this place.
    pub fn headers(&self, place: usize) -> &HeaderFilters {
        self.clusters.get(place).unwrap_or(&self.headers)
    }
}

impl HeaderFilters {
    /// Whether nothing is changed.
    pub fn is_nothing(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

//! What the connections of a sidecar share, and what those of one worker share.

use std::sync::Arc;

/// One per sidecar.
#[derive(Debug)]
pub struct Shared {}

/// One per worker thread: what never crosses threads on the hot path.
#[derive(Debug)]
pub struct Worker {
    /// The sidecar it belongs to.
    pub shared: Arc<Shared>,
}

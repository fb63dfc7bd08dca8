//! What became of a request or connection: one record, written when the [`Outcome`] is dropped.

use std::time::Instant;

use crate::reason::Reason;

/// The record of a request, filled in on its way and written once, on drop: metrics and log.
#[derive(Debug)]
pub struct Outcome {
    /// When the request's head was complete.
    pub started: Instant,
    /// Why it failed, if it did.
    pub reason: Option<Reason>,
}

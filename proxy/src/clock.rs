//! The time of day for decisions: when a pause is over, how old an estimate is, how long a request took.
//!
//! It is the clock of tokio's timers, so that both agree where tests stop and steer it; outside of tests that is the system's own
//! monotonic clock, without anything between.

use std::time::Instant;

/// This moment.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

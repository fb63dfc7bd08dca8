//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Looks at `condition` until it gives a value, at most for `limit`.
///
/// # Panics
///
/// When the limit passes: with `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    match within(limit, &mut condition) {
        Some(value) => value,
        None => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// As [`until`], but the limit passing is an answer.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Asserts that `condition` holds for the whole of `time`, for things that must *not* happen.
#[track_caller]
pub fn holds(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    if within(time, || (!condition()).then_some(())).is_some() {
        panic!("did not hold for {time:?}: {what}");
    }
}

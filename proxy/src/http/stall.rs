//! How long a receiver may take nothing of what is there for it: a body must not be held for ever for a client that never reads.
//! Silence is no stall: while there is nothing to send, no time counts.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// What Envoy's `stream_idle_timeout` is by default.
pub(super) const LIMIT: Duration = Duration::from_secs(300);

/// The time since a receiver last took something. Costs a timer only while one waits.
#[derive(Debug, Default)]
pub(super) struct Stall {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// There is something that the receiver does not take; ready when that has gone on for [`LIMIT`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep(LIMIT))).as_mut().poll(cx)
    }

    /// The receiver has taken something.
    pub(super) fn end(&mut self) {
        self.timer = None;
    }
}

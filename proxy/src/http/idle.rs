//! Ends a request on whose stream nothing moves: no byte of the request, no byte of the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// When something moved last on the stream of a request.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    begun: Instant,
    /// Nanoseconds after `begun`.
    last: AtomicU64,
}

impl Idle {
    /// Begins to watch: what stands still for so long has ended.
    pub(crate) fn new(limit: Duration) -> Arc<Idle> {
        Arc::new(Idle { limit, begun: Instant::now(), last: AtomicU64::new(0) })
    }

    /// Something moves.
    pub(crate) fn touch(&self) {
        self.last.store(self.begun.elapsed().as_nanos() as u64, Relaxed);
    }

    /// Resolves when nothing has moved for too long.
    pub(crate) async fn over(&self) {
        while let Some(due) = self.due() {
            sleep_until(due).await;
        }
    }

    /// When it will be over if nothing moves; nothing if it is.
    fn due(&self) -> Option<Instant> {
        let due = self.begun + Duration::from_nanos(self.last.load(Relaxed)) + self.limit;
        (due > Instant::now()).then_some(due)
    }
}

/// Watches from within a poll.
#[derive(Debug)]
pub(crate) struct Watch {
    idle: Arc<Idle>,
    sleep: Pin<Box<Sleep>>,
}

impl Watch {
    pub(crate) fn new(idle: Arc<Idle>) -> Self {
        idle.touch();
        Watch { sleep: Box::pin(sleep_until(Instant::now() + idle.limit)), idle }
    }

    pub(crate) fn touch(&self) {
        self.idle.touch();
    }

    /// Ready when nothing has moved for too long.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            match self.idle.due() {
                None => return Poll::Ready(()),
                Some(due) => self.sleep.as_mut().reset(due),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_nothing_has_moved_for_the_limit_and_not_before() {
        let idle = Idle::new(Duration::from_secs(1));
        let begun = Instant::now();
        let toucher = idle.clone();
        let touching = async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(900)).await;
                toucher.touch();
            }
        };
        tokio::join!(touching, idle.over());
        assert_eq!(begun.elapsed().as_millis(), 5 * 900 + 1000);
    }
}

//! The one shutdown story: stop accepting, let what is in flight finish, at the deadline cut and count.
//!
//! It owns no sockets and no tasks: whoever serves a connection watches [`Drain::draining`]; the worker
//! holds an [`InFlight`] for it and ends at [`Drain::cutting`].

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// State of the shutdown of one sidecar; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    draining: CancellationToken,
    cutting: CancellationToken,
    in_flight: TaskTracker,
}

/// Held by each connection for its whole life.
#[derive(Debug)]
pub struct InFlight {
    _token: TaskTrackerToken,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the deadline and were cut.
    pub cut: usize,
}

impl Drain {
    /// Nothing is draining yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a connection as in flight until the guard is dropped.
    pub fn guard(&self) -> InFlight {
        InFlight { _token: self.in_flight.token() }
    }

    /// Connections in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the sidecar is shutting down: answers carry `connection: close`.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Ends when the shutdown begins: stop accepting, send GOAWAY, close idle connections.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Ends when everything in flight has ended or the deadline has passed: whatever is still open must end now. The workers watch
    /// it and end their runtimes; connections need not.
    pub async fn cutting(&self) {
        self.cutting.cancelled().await;
    }

    /// Begins the shutdown; further calls change nothing.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Ends everything now.
    pub fn cut(&self) {
        self.draining.cancel();
        self.cutting.cancel();
    }

    /// Begins the shutdown, waits for what is in flight, and cuts what is left after `limit`.
    pub async fn run(&self, limit: Duration) -> Drained {
        self.begin();
        self.in_flight.close();
        let finished = tokio::time::timeout(limit, self.in_flight.wait()).await.is_ok();
        let cut = if finished { 0 } else { self.in_flight.len() };
        self.cutting.cancel();
        Drained { cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_is_in_flight() {
        let drain = Drain::new();
        let guard = drain.guard();
        let other = drain.clone();
        let connection = async move {
            other.draining().await;
            drop(guard);
        };
        let (drained, ()) = tokio::join!(drain.run(Duration::from_secs(30)), connection);
        assert_eq!(drained, Drained { cut: 0 });
        assert!(drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_and_counts_at_the_deadline() {
        let drain = Drain::new();
        let _first = drain.guard();
        let _second = drain.guard();
        assert_eq!(drain.run(Duration::from_secs(30)).await, Drained { cut: 2 });
        drain.cutting().await;
    }
}

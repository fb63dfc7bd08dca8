//! What a cluster has open at this moment, the limits on it (circuit breaking), and how often they had no room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::snapshot::Limits;

/// What a cluster has open at this moment, in all workers; kept across snapshots.
#[derive(Debug, Default)]
pub struct Usage {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    refused: [AtomicU64; Limit::ALL.len()],
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Connection,
    Pending,
    Request,
}

/// What bounds the use of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests at once.
    Requests,
    /// The same, as the adaptive limit permits.
    Concurrency,
    /// Requests, or TCP connections, at once at each endpoint.
    Endpoint,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 5] =
        [Limit::Connections, Limit::Pending, Limit::Requests, Limit::Concurrency, Limit::Endpoint];

    /// As label.
    pub const fn word(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::Pending => "pending",
            Limit::Requests => "requests",
            Limit::Concurrency => "concurrency",
            Limit::Endpoint => "endpoint",
        }
    }
}

impl Usage {
    /// Connections at this moment.
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// Requests waiting for a connection.
    pub fn pending(&self) -> u32 {
        self.pending.load(Relaxed)
    }

    /// Requests at this moment.
    pub fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    /// How often a limit had no room, since the start.
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused.get(limit as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// A limit had no room.
    pub(super) fn refuse(&self, limit: Limit) {
        if let Some(count) = self.refused.get(limit as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// One more connection; `None` is `circuit_open`.
    pub fn connection(self: &Arc<Self>, limits: &Limits) -> Option<UsageGuard> {
        self.enter(Kind::Connection, limits.connections)
    }

    /// One more request that waits for a connection; `None` is `circuit_open`.
    pub fn wait(self: &Arc<Self>, limits: &Limits) -> Option<UsageGuard> {
        self.enter(Kind::Pending, limits.pending)
    }

    /// One more request; `None` is `circuit_open`.
    pub fn request(self: &Arc<Self>, limits: &Limits) -> Option<UsageGuard> {
        self.enter(Kind::Request, limits.requests)
    }

    fn enter(self: &Arc<Self>, kind: Kind, limit: u32) -> Option<UsageGuard> {
        let counter = self.counter(kind);
        if counter.fetch_add(1, Relaxed) >= limit {
            counter.fetch_sub(1, Relaxed);
            self.refuse(match kind {
                Kind::Connection => Limit::Connections,
                Kind::Pending => Limit::Pending,
                Kind::Request => Limit::Requests,
            });
            return None;
        }
        Some(UsageGuard { usage: self.clone(), kind })
    }

    fn counter(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Request => &self.requests,
        }
    }
}

/// Holds one place within the limits until dropped.
#[derive(Debug)]
pub struct UsageGuard {
    usage: Arc<Usage>,
    kind: Kind,
}

impl Drop for UsageGuard {
    fn drop(&mut self) {
        self.usage.counter(self.kind).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_places_come_back() {
        let usage = Arc::new(Usage::default());
        let limits = Limits { connections: 2, pending: 1, requests: 0, ..Limits::default() };
        let first = usage.connection(&limits);
        let second = usage.connection(&limits);
        assert!(first.is_some() && second.is_some());
        assert!(usage.connection(&limits).is_none());
        drop(first);
        assert!(usage.connection(&limits).is_some());
        assert!(usage.request(&limits).is_none());
        let waiting = usage.wait(&limits);
        assert!(waiting.is_some() && usage.wait(&limits).is_none());
        assert_eq!(Limit::ALL.map(|limit| usage.refused(limit)), [1, 1, 1, 0, 0]);
        drop((second, waiting));
        assert_eq!((usage.connections(), usage.pending(), usage.requests()), (0, 0, 0));
    }
}

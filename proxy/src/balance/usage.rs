//! What a cluster has open at this moment, and the limits on it (circuit breaking).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::snapshot::Limits;

/// What a cluster has open at this moment, in all workers; kept across snapshots.
#[derive(Debug, Default)]
pub struct Usage {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Connection,
    Pending,
    Request,
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
        drop((second, waiting));
        assert_eq!((usage.connections(), usage.pending(), usage.requests()), (0, 0, 0));
    }
}

//! What the connections of a sidecar share, and what those of one worker share.

use std::sync::Arc;

use crate::access_log::AccessLog;
use crate::dial::Dialer;
use crate::dns::Resolver;
use crate::drain::Drain;
use crate::http::Mirrors;
use crate::identity::IdentityStore;
use crate::memory::Memory;
use crate::metrics::{Metrics, Shard};
use crate::peers::Peers;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::subscribe::Directory;
use crate::telemetry::Taps;
use crate::trace::Tracer;

/// One per sidecar.
#[derive(Debug)]
pub struct Shared {
    /// What the operator wrote.
    pub settings: Settings,
    /// Destinations and own ports, as the control server describes them.
    pub directory: Directory,
    /// This workload's certificate.
    pub identity: IdentityStore,
    /// Until when clients have proved who they are.
    pub peers: Peers,
    /// How connections are opened.
    pub dialer: Arc<Dialer>,
    /// Names outside the mesh.
    pub resolver: Arc<Resolver>,
    /// Counters of this sidecar.
    pub metrics: Arc<Metrics>,
    /// Tells of each request, where somebody wants that.
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// Follows requests, where there is a collector to tell of them.
    pub(crate) tracer: Option<Arc<Tracer>>,
    /// Tells of requests that somebody taps.
    pub(crate) taps: Taps,
    /// What is used of the limit of memory.
    pub memory: Memory,
    /// Shutdown.
    pub drain: Drain,
}

/// One per worker thread: what never crosses threads on the hot path.
#[derive(Debug)]
pub struct Worker {
    /// The sidecar it belongs to.
    pub shared: Arc<Shared>,
    /// Its number, from 0.
    pub index: usize,
    /// What this worker counts.
    pub shard: Arc<Shard>,
    /// Warm connections to endpoints.
    pub pool: Pool,
    /// Copies of requests under way.
    pub mirrors: Mirrors,
}

//! Choosing an endpoint: power of two choices on peak EWMA, and what bounds the use of a cluster.
//!
//! Everything here is arithmetic on atomics that all workers share: no locks, no I/O, no tasks. What needs the time or a
//! random number takes it as an argument underneath [`pick`], so that tests decide both.
//!
//! Refused: health checks, outlier ejection and zone awareness (they come as further inputs of [`choose`]).

mod budget;
mod choose;
mod load;
mod usage;

use std::time::Instant;

pub use self::budget::{RetryBudget, RetryGuard};
pub use self::choose::{EndpointSet, choose};
pub use self::load::{Load, LoadGuard};
pub use self::usage::{Usage, UsageGuard};

use std::net::SocketAddr;
use std::sync::Arc;

use crate::snapshot::{Cluster, Endpoint, Endpoints};

/// An endpoint that was chosen, counted as busy until the guard is dropped.
#[derive(Debug)]
pub struct Picked {
    /// Where to go.
    pub endpoint: Arc<Endpoint>,
    /// Tell it how the endpoint did; dropping it ends the count.
    pub guard: LoadGuard,
}

/// Chooses an endpoint of a cluster with known addresses, leaving out those that were tried already.
///
/// `None` if there is no other endpoint, and for clusters whose addresses are not known beforehand
/// ([`Endpoints::Dns`], [`Endpoints::OriginalDst`]).
pub fn pick(cluster: &Cluster, exclude: &[SocketAddr]) -> Option<Picked> {
    let Endpoints::Set(set) = &cluster.endpoints else { return None };
    let now = Instant::now();
    let endpoint = choose(set, exclude, now, |bound| fastrand::u64(..bound))?;
    Some(Picked { endpoint: endpoint.clone(), guard: LoadGuard::new(endpoint.load.clone(), now) })
}

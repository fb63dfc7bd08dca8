//! Choosing an endpoint, and what bounds the use of a cluster.
//!
//! Everything on the way of a request is arithmetic on atomics that all workers share: no locks, no I/O, no tasks. What needs the time
//! or a random number takes it as an argument underneath [`pick`], so that tests decide both.
//!
//! `set` holds the endpoints in the order of preference (`nearness`), each group with what its algorithm needs (`hash`, `stride`);
//! `choose` chooses; `load` measures endpoints, `latencies` the service as a whole; `health` and `outlier` judge, and `plan` draws the consequences; `usage`, `budget` and
//! `concurrency` bound.

mod budget;
mod choose;
mod concurrency;
mod hash;
mod health;
mod key;
mod latencies;
mod load;
mod nearness;
mod outlier;
mod plan;
mod set;
mod stride;
#[cfg(test)]
mod tests;
mod usage;

use std::net::SocketAddr;
use std::sync::Arc;

pub use self::budget::{RetryBudget, RetryGuard};
pub use self::choose::{Wish, choose};
pub use self::concurrency::{Limiter, Priority};
pub(crate) use self::hash::hash;
pub use self::health::{Health, Standing};
pub(crate) use self::key::cookie;
pub use self::key::key;
pub use self::latencies::Latencies;
pub use self::load::{Load, LoadGuard};
pub use self::outlier::{Cause, Feedback, Verdict, Watch};
pub use self::set::EndpointSet;
pub use self::usage::{Limit, Usage, UsageGuard};

use crate::clock;
use crate::reason::Reason;
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
/// `None` if there is no other endpoint, or none that has room ([`why_none`]), and for clusters whose addresses are not known
/// beforehand ([`Endpoints::Dns`], [`Endpoints::OriginalDst`]).
pub fn pick(cluster: &Cluster, exclude: &[SocketAddr]) -> Option<Picked> {
    pick_by(cluster, Wish { exclude, key: None })
}

/// The same, for a request whose key may decide ([`key`]).
pub fn pick_by(cluster: &Cluster, wish: Wish<'_>) -> Option<Picked> {
    let Endpoints::Set(set) = &cluster.endpoints else { return None };
    let now = clock::now();
    let endpoint = choose(set, wish, now, |bound| fastrand::u64(..bound))?;
    Some(Picked { endpoint: endpoint.clone(), guard: LoadGuard::new(endpoint.clone(), now) })
}

/// Another endpoint, for a request that waits at one already: only one that is well.
pub fn pick_beside(cluster: &Cluster, wish: Wish<'_>) -> Option<Picked> {
    let Endpoints::Set(set) = &cluster.endpoints else { return None };
    let now = clock::now();
    let endpoint = choose(set, wish, now, |bound| fastrand::u64(..bound)).filter(|one| set.serves(one, now))?;
    Some(Picked { endpoint: endpoint.clone(), guard: LoadGuard::new(endpoint.clone(), now) })
}

/// The endpoint at an address, for a client that has a session there: unless it is not of this cluster any more, or unwell, or full.
pub fn pick_kept(cluster: &Cluster, address: SocketAddr) -> Option<Picked> {
    let Endpoints::Set(set) = &cluster.endpoints else { return None };
    let now = clock::now();
    let endpoint =
        set.iter().find(|endpoint| endpoint.address == address).filter(|endpoint| set.serves(endpoint, now))?;
    Some(Picked { endpoint: endpoint.clone(), guard: LoadGuard::new(endpoint.clone(), now) })
}

/// A place for one more request, within the cluster's limits.
///
/// # Errors
/// [`Reason::CircuitOpen`] at the limit of requests, [`Reason::Overloaded`] where the limit that follows latency has no room for
/// a request of its priority.
pub fn admit(cluster: &Cluster, headers: &http::HeaderMap) -> Result<UsageGuard, Reason> {
    let place = cluster.usage.request(&cluster.limits).ok_or(Reason::CircuitOpen)?;
    if let Some(limiter) = &cluster.feedback.limiter {
        let header = limiter.settings().priority_header.as_ref();
        let priority = Priority::parse(header.and_then(|name| headers.get(name)));
        if !limiter.admits(cluster.usage.requests(), priority) {
            cluster.usage.refuse(Limit::Concurrency);
            return Err(Reason::Overloaded);
        }
    }
    Ok(place)
}

/// The word for it when nothing could be picked; where a limit is why, that is counted.
pub fn why_none(cluster: &Cluster) -> Reason {
    match &cluster.endpoints {
        Endpoints::Set(set) if set.iter().any(|endpoint| endpoint.load.live() >= set.most_live) => {
            cluster.usage.refuse(Limit::Endpoint);
            Reason::CircuitOpen
        }
        _ => Reason::NoEndpoints,
    }
}

/// Whether a limit leaves no room at this moment; nothing of a limit that the cluster does not have.
pub fn is_reached(cluster: &Cluster, limit: Limit) -> Option<bool> {
    let (usage, limits) = (&cluster.usage, &cluster.limits);
    match limit {
        Limit::Connections => Some(usage.connections() >= limits.connections),
        Limit::Pending => Some(usage.pending() >= limits.pending),
        Limit::Requests => Some(usage.requests() >= limits.requests),
        Limit::Concurrency => {
            let limiter = cluster.feedback.limiter.as_ref()?;
            Some(f64::from(usage.requests()) >= limiter.limit().max(1.0))
        }
        Limit::Endpoint => match &cluster.endpoints {
            Endpoints::Set(set) if set.most_live < u32::MAX => {
                Some(set.iter().len() > 0 && set.iter().all(|endpoint| endpoint.load.live() >= set.most_live))
            }
            _ => None,
        },
    }
}

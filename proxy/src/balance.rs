//! Choosing an endpoint: power of two choices on peak EWMA.

/// Load of an endpoint as this sidecar measures it.
#[derive(Debug, Default)]
pub struct Load {}

/// Retry budget of a cluster.
#[derive(Debug, Default)]
pub struct RetryBudget {}

/// What a cluster has open at this moment.
#[derive(Debug, Default)]
pub struct Usage {}

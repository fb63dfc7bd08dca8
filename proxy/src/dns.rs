//! Names outside the mesh.

use crate::settings::Settings;

/// Resolves names outside the mesh.
#[derive(Debug)]
pub struct Resolver {}

/// Why a name did not resolve.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It does not exist, or has no addresses.
    #[error("no addresses")]
    NoAddresses,
}

impl Resolver {
    /// With the system's configuration.
    pub fn new(_settings: &Settings) -> Self {
        Resolver {}
    }
}

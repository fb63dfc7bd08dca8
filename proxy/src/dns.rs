//! Not written yet.

use crate::settings::Settings;

/// Resolves names outside the mesh.
#[derive(Debug)]
pub struct Resolver {}

impl Resolver {
    /// With the system's configuration.
    pub fn new(_settings: &Settings) -> Self {
        Resolver {}
    }
}

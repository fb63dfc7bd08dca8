//! A configuration compiled without a server: for programs that ask what sidecars would be told.

use malla_config::Mesh;

use crate::compile::compile;
use crate::resources::Resources;
use crate::world::{World, WorldError};

/// Why a valid configuration cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CannotCompile(WorldError);

/// Everything that sidecars would be told of a configuration, but for the trust bundle.
///
/// # Errors
/// Names of the configuration make no identity.
pub fn compiled(mesh: Mesh) -> Result<Resources, CannotCompile> {
    let world = World::new(mesh).map_err(CannotCompile)?;
    compile(&world, "").map_err(CannotCompile)
}

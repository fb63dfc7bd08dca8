//! A mesh in a sandbox: control server, configuration directory, sidecars.

/// stub
#[derive(Debug)]
pub struct Mesh {}

//! What people write: YAML documents → a validated [`Mesh`](mesh::Mesh). No I/O, no async.

pub mod mesh;

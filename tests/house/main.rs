//! What keeps the house in order: the arrows between crates, and that the sidecar takes what the control server renders.

mod arrows;
mod rendering;

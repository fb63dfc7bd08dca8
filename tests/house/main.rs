//! What keeps the house in order: the arrows between crates, that the sidecar takes what the control server renders, and what is deployed.

mod arrows;
mod chart;
mod compose;
mod image;
mod rendering;

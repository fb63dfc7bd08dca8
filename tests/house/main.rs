//! What keeps the house in order: the arrows between crates.

mod arrows;

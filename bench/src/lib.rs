//! What the benchmark and its programs share: how processor time and memory are read, and how a measurement is told.
//!
//! Kept small: everything here is linked into the load, the backend and the floors.

pub mod accounting;
pub mod histogram;
pub mod sample;

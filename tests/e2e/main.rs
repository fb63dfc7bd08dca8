//! End-to-end tests. Each makes its own sandbox, so they run side by side.

mod harness;
mod servers;

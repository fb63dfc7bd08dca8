//! Control server and sidecars in one process: what the one renders, the other takes.

mod application;
mod authorization;
mod callee;
mod calls;
mod checks;
mod cluster;
mod documents;
mod draining;
mod federation;
mod fields;
mod local;
mod places;
mod policies;
mod precedence;
mod rendering;
mod streams;

/// That of the programs: how memory stays, and what a change costs, depend on it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

//! Control server and sidecars in one process: what the one renders, the other takes.

mod application;
mod authorization;
mod cluster;
mod draining;
mod federation;
mod fields;
mod local;
mod policies;
mod precedence;
mod rendering;

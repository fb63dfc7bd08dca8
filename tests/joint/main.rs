//! Control server and sidecars in one process: what the one renders, the other takes.

mod authorization;
mod precedence;
mod rendering;

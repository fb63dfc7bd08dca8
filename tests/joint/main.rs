//! Control server and sidecars in one process: what the one renders, the other takes.

mod precedence;
mod rendering;

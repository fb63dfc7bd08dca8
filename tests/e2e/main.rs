//! End-to-end tests. Each makes its own sandbox, so they run side by side.

mod harness;
mod http1;
mod http2;
mod redirection;
mod servers;
mod tcp;

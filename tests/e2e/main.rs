//! End-to-end tests. Each makes its own sandbox, so they run side by side.

mod attacks;
mod authorization;
mod bad_input;
mod bodies;
mod clocks;
mod command_line;
mod explicit;
mod failures;
mod federation;
mod harness;
mod http1;
mod http2;
mod injected;
mod matching;
mod observability;
mod proxyless;
mod readme;
mod redirection;
mod roots;
mod routes;
mod security;
mod servers;
mod soak;
mod tcp;
mod traffic;
mod under_load;

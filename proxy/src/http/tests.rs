//! The data plane between real clients and real applications: what passes, and what each side sees of it.

mod broken;
mod canonical;
mod failing;
mod filters;
mod grpc;
mod half_open;
mod hedge;
mod http1;
mod limits;
mod retry;
mod retry_on;
mod series;
mod simulated;
mod sizes;
mod trace;
mod tunnels;
mod undrained;

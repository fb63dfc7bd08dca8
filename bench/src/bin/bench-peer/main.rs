//! `bench-peer`: everything that is at work beside the proxies under measurement: the load, the backend, and the floors
//! (a TCP relay and bare hyper proxies, whose only job is to show what our features cost).
//!
//! One thread each. Nothing here is configurable beyond what the benchmark needs.

mod backend;
mod floor;
mod grpc_backend;
mod load;
mod relay;
mod tls;

use anyhow::Result;
use clap::{Parser, Subcommand};

// The allocator of the sidecar, so that floors differ from it by what they do alone.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Load, backend and floors of the benchmark
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Answers: HTTP/1.1 on 8080, gRPC on 9000, echo on 7000, an endless source on 7001
    Backend,
    /// Copies bytes between whoever connects and one address
    Relay(relay::Arguments),
    /// A bare hyper proxy
    Floor(floor::Arguments),
    /// Makes requests and says what became of them
    Load(load::Arguments),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.role {
            Role::Backend => backend::run().await,
            Role::Relay(arguments) => relay::run(arguments).await,
            Role::Floor(arguments) => floor::run(arguments).await,
            Role::Load(arguments) => load::run(arguments).await,
        }
    })
}

//! Programs for the pods that exist in no package: a gRPC pair on tonic, and peers that behave badly.

mod bytes_codec;
mod foreign_control;
mod grpc_client;
mod grpc_server;
mod misbehave;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve `malla.test.Echo`
    GrpcServer {
        /// Where to listen
        listen: SocketAddr,
        /// What to call itself
        name: String,
    },
    /// Try everything that `malla.test.Echo` can do; fail at the first surprise
    GrpcClient {
        /// Host (or address) and port of the server
        authority: String,
    },
    /// Be a control server that tells a sidecar what it must not take
    ForeignControl {
        /// Where to listen
        listen: SocketAddr,
        /// File for the root certificate
        trust: PathBuf,
        /// SPIFFE identity that is given to everyone
        identity: String,
    },
    /// Open connections, send these bytes on each, keep them open until SIGTERM
    Hold {
        /// Where to connect
        address: SocketAddr,
        /// How many connections
        connections: usize,
        /// Hexadecimal bytes to send on each
        #[arg(default_value = "")]
        bytes: String,
    },
    /// Send random bytes on one connection after the other, with several seeds
    Garbage {
        /// Where to connect
        address: SocketAddr,
        /// How many connections
        connections: u64,
    },
    /// Ask for an URL on several connections and never read the answers, until SIGTERM
    NeverRead {
        /// Where to connect
        address: SocketAddr,
        /// The host to ask for
        host: String,
        /// The path to ask for
        path: String,
        /// How many connections
        connections: usize,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::GrpcServer { listen, name } => grpc_server::serve(listen, name).await,
        Role::GrpcClient { authority } => grpc_client::check(&authority).await,
        Role::ForeignControl { listen, trust, identity } => foreign_control::serve(listen, trust, identity).await,
        Role::Hold { address, connections, bytes } => misbehave::hold(address, connections, &bytes).await,
        Role::Garbage { address, connections } => misbehave::garbage(address, connections).await,
        Role::NeverRead { address, host, path, connections } => {
            misbehave::never_read(address, &host, &path, connections).await
        }
    }
}

//! The words that control server and sidecar exchange.
//!
//! Envoy's own types ([`envoy`]), the names on the wire ([`names`]), what a compiled [`resource`] is, and the protocol state
//! machines. No I/O, no async, no clock: events in, messages out. Depends on no other crate of Malla.

// What control servers and sidecars say to each other may be anything.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects
    )
)]

mod canonical;
pub mod delta_client;
pub mod delta_server;
pub mod envoy;
pub mod exposition;
pub mod grpc;
pub mod identity;
pub mod names;
pub mod policy;
pub mod probes;
mod progress;
pub mod resource;
mod server;
pub mod sotw_server;
pub mod telemetry;
pub mod telling;
pub mod wire;

pub use delta_client::{Change, DeltaClient};
pub use delta_server::DeltaServer;
pub use identity::SpiffeId;
pub use names::Name;
pub use progress::{Rejection, TypeProgress};
pub use resource::{Answer, Resource, ResourceType, View};
pub use server::{Limits, Push, Reply, StreamError};
pub use sotw_server::SotwServer;

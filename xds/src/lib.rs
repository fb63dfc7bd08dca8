//! The words that control server and sidecar exchange.
//!
//! Envoy's own types ([`envoy`]), the names on the wire ([`names`]), what a compiled [`resource`] is, and the protocol state
//! machines. No I/O, no async, no clock: events in, messages out. Depends on no other crate of Malla.

mod canonical;
pub mod envoy;
pub mod identity;
pub mod names;
pub mod resource;
pub mod wire;

pub use identity::SpiffeId;
pub use names::Name;
pub use resource::{Answer, Resource, ResourceType, View};

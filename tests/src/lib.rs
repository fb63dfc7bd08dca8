//! The harness of the end-to-end tests.
//!
//! A test owns a [`Sandbox`]: namespaces of its own with a bridge in them. A [`Pod`] is one more network namespace on
//! that bridge, with an IPv4 and an IPv6 address, in which programs run that know nothing of Malla. A [`Mesh`] adds a
//! control server and sidecars, all of them the binaries that people run. Tests share nothing, so they run side by side;
//! when a test ends, panics or is killed, the kernel takes its namespaces and every process in them away.
//!
//! Nothing here sleeps for a fixed time: [`wait`] polls conditions, with a limit.

pub mod apiserver;
pub mod capture;
pub mod chart;
pub mod clock;
pub mod cluster;
pub mod examples;
pub mod load;
pub mod member;
pub mod mesh;
pub mod metrics;
pub mod pod;
pub mod process;
pub mod sandbox;
pub mod tools;
pub mod wait;

pub use capture::Capture;
pub use clock::Clock;
pub use load::Load;
pub use member::{Member, Sidecar};
pub use mesh::Mesh;
pub use pod::Pod;
pub use process::{Output, Process};
pub use sandbox::Sandbox;

//! The control server: reads configuration, compiles it to xDS resources, issues certificates.
//!
//! Data flows one way: `source` (files, and the cluster that `kubernetes` watches) → `world` → `compile` → [`resources`] → `ads`.
//! Status flows back to people ([`status`], [`telemetry`], `admin`) and never upstream.

pub mod ca;
pub mod holders;
pub mod inject;
pub mod kubernetes;
pub mod offline;
pub mod resources;
pub mod rotation;
pub mod run;
pub mod source;
pub mod state;
pub mod status;
pub mod telemetry;
pub mod token;
pub mod token_book;

mod admin;
mod ads;
mod authority;
mod compile;
mod ledger;
mod metrics;
mod observe;
mod serve;
mod signing_rate;
mod tls;
mod webhook;
mod world;

#[cfg(test)]
mod server_tests;

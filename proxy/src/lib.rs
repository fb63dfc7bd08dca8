//! The sidecar: takes the traffic of an unmodified program and carries it over mTLS to the sidecars of other programs.
//!
//! The way of a request, module by module: [`listen`] → [`tls`] → [`detect`] → [`http`] or [`tcp`] → [`route`] →
//! [`balance`] → [`pool`] → [`http`] → [`outcome`]. [`inbound`] and [`outbound`] are its tables of contents.
//! What is applied lives in a [`snapshot`], which [`subscribe`] and [`decode`] make from xDS.

// Nothing from outside ends the sidecar. Arithmetic is linted where bytes of strangers are read.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

pub mod access_log;
pub mod admin;
pub mod authorize;
pub mod balance;
pub mod certificates;
mod clock;
pub mod control;
pub mod decode;
pub mod detect;
pub mod dial;
pub mod dns;
pub mod drain;
pub mod explain;
#[cfg(test)]
mod fake_control;
pub mod filter;
mod health_check;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod init;
pub mod listen;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod original_dst;
pub mod outbound;
pub mod outcome;
pub mod peers;
pub mod policy;
pub mod pool;
mod probe;
pub mod ready;
pub mod reason;
pub mod route;
pub mod run;
pub mod settings;
pub mod shared;
#[cfg(test)]
mod simulation;
pub mod snapshot;
mod stays;
pub mod stream;
pub mod subscribe;
pub mod tcp;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod token;
pub mod trace;
mod woken;
pub mod worker;

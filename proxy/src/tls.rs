//! Mesh mTLS: own credentials, verification of peers, handshakes on both sides.
//!
//! A peer is who its certificate's single URI SAN says, if the chain leads to a trust anchor; that is checked after *every*
//! handshake, resumed ones too. DNS names in certificates mean nothing here. An identity of our own that has expired ends
//! handshakes before they begin.
//!
//! Refused: TLS below 1.3, peers without a certificate, certificates with no or several URI SANs.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod accept;
mod connect;
mod credentials;
mod error;
mod renewed;
#[cfg(test)]
mod tests;
mod verify;

pub use self::accept::{Accepted, accept};
pub use self::connect::{Connected, connect};
pub use self::credentials::{Credentials, provider};
pub use self::error::{AcceptError, ConnectError};
pub use self::renewed::keep_known;
pub use self::verify::Trust;
pub(crate) use self::verify::spiffe_id;

/// What travels inside a mesh TLS connection (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `h2`: HTTP of any version, as HTTP/2.
    H2,
    /// `malla-tcp`: one raw TCP stream.
    Tcp,
    /// `malla-renewed`: nothing; the client shows a renewed certificate.
    Renewed,
}

impl Alpn {
    /// The protocol ID on the wire.
    pub const fn id(self) -> &'static [u8] {
        match self {
            Alpn::H2 => b"h2",
            Alpn::Tcp => b"malla-tcp",
            Alpn::Renewed => b"malla-renewed",
        }
    }
}

//! What the first bytes of a connection say: HTTP/1, HTTP/2 with prior knowledge, TLS (and for whom), or something else.

use std::sync::Arc;

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.
    Http1,
    /// The preface of HTTP/2 (RFC 9113 §3.4).
    Http2,
    /// A whole ClientHello.
    Tls {
        /// Its server name, lower case, if it has one (RFC 6066 §3).
        sni: Option<Arc<str>>,
    },
    /// Nothing of these.
    Tcp,
    /// Could still become one of these.
    NeedMore,
}

//! What the first bytes of a connection say: HTTP/1, HTTP/2 with prior knowledge, TLS (and for whom), or something else.
//!
//! Pure functions of the bytes so far, called again as more arrive. They never decide on less than they need and never ask
//! for more than they need; how long that may take is the caller's business.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod client_hello;

use std::sync::Arc;
use std::time::Duration;

use crate::http::Version;
use crate::stream::PeekLimits;

use self::client_hello::Parsed;

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected {
    /// The request line of HTTP/1 (RFC 9112 §3).
    Http1,
    /// The preface of HTTP/2 (RFC 9113 §3.4).
    Http2,
    /// A whole ClientHello (RFC 8446 §4.1.2).
    Tls {
        /// Its server name, lower case, if it has one (RFC 6066 §3).
        sni: Option<Arc<str>>,
    },
    /// Nothing of these.
    Tcp,
    /// Could still become one of these.
    NeedMore,
}

/// For ports whose protocol is not declared: a client that is silent for so long is taken to wait for the server.
pub const UNDECLARED: PeekLimits = PeekLimits { first: Duration::from_secs(1), rest: Duration::from_secs(1) };

/// For ports where the client must speak first. A silent client may be a warm connection of its pool.
pub const CLIENT_FIRST: PeekLimits = PeekLimits { first: Duration::from_secs(3600), rest: Duration::from_secs(10) };

/// Longest request line that is awaited; a longer one that began well is HTTP.
const REQUEST_LINE: usize = 8 * 1024;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Ports on which the server speaks first, or on which no HTTP is spoken: peeking there is a stall.
const NEVER_HTTP: [u16; 18] = [
    21, 22, 23, 25, 110, 143, 465, 587, 993, 995, // FTP, SSH, Telnet, mail
    1433, 1521, 3306, 5432, 6379, 9042, 9092, 27017, // databases, Redis, Cassandra, Kafka
];

/// Whether a port that declares no protocol is known not to speak HTTP.
pub fn never_http(port: u16) -> bool {
    NEVER_HTTP.contains(&port)
}

/// Tells protocols apart.
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes {
        [] => Detected::NeedMore,
        [client_hello::HANDSHAKE, ..] => match client_hello::parse(bytes) {
            Parsed::Complete { sni } => Detected::Tls { sni },
            Parsed::NeedMore => Detected::NeedMore,
            Parsed::Invalid => Detected::Tcp,
        },
        _ if bytes.starts_with(HTTP2_PREFACE) => Detected::Http2,
        _ if HTTP2_PREFACE.starts_with(bytes) => Detected::NeedMore,
        _ => request_line(bytes),
    }
}

/// Tells only whether TLS begins here: `None` as long as it could.
pub fn tls(bytes: &[u8]) -> Option<Detected> {
    match detect(bytes) {
        tls @ Detected::Tls { .. } => Some(tls),
        Detected::NeedMore if bytes.first().is_none_or(|first| *first == client_hello::HANDSHAKE) => None,
        _ => Some(Detected::Tcp),
    }
}

/// For ports that are declared HTTP: which version; `None` as long as it could be either.
pub fn http_version(bytes: &[u8]) -> Option<Version> {
    if bytes.starts_with(HTTP2_PREFACE) {
        Some(Version::Http2)
    } else if HTTP2_PREFACE.starts_with(bytes) {
        None
    } else {
        Some(Version::Http1)
    }
}

/// `method SP target SP HTTP/1.x`: a line that begins like one is awaited to its end.
fn request_line(bytes: &[u8]) -> Detected {
    const LONGEST_METHOD: usize = 32;
    if bytes == b"\r" {
        return Detected::NeedMore;
    }
    // RFC 9112 §2.2: a client may send an empty line before its request.
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    match bytes.get(method) {
        None if method <= LONGEST_METHOD => return Detected::NeedMore,
        Some(b' ') if (1..=LONGEST_METHOD).contains(&method) => {}
        _ => return Detected::Tcp,
    }
    // What comes behind changes nothing: a decision stands.
    let bytes = bytes.get(..=REQUEST_LINE).unwrap_or(bytes);
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.iter().any(u8::is_ascii_control) {
                return Detected::Tcp;
            }
            let version = line.len().checked_sub(9).and_then(|start| line.get(start..));
            if matches!(version, Some([b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'])) {
                Detected::Http1
            } else {
                Detected::Tcp
            }
        }
        None if bytes.strip_suffix(b"\r").unwrap_or(bytes).iter().any(u8::is_ascii_control) => Detected::Tcp,
        None if bytes.len() > REQUEST_LINE => Detected::Http1,
        None => Detected::NeedMore,
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A ClientHello for a name.
#[cfg(test)]
pub(crate) fn client_hello_for_tests(name: &str) -> Vec<u8> {
    client_hello::tests::client_hello(Some(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::client_hello::tests::client_hello;
    use super::*;

    #[test]
    fn tells_protocols_apart() {
        let long = [b"GET /".as_slice(), &[b'a'; 9000]].concat();
        let longer = [long.as_slice(), b"\r\n\r\n"].concat();
        for (bytes, expected) in [
            (b"".as_slice(), Detected::NeedMore),
            (b"G", Detected::NeedMore),
            (b"GET ", Detected::NeedMore),
            (b"GET / HTTP/1.1", Detected::NeedMore),
            (b"GET / HTTP/1.1\r", Detected::NeedMore),
            (b"GET / HTTP/1.1\r\n", Detected::Http1),
            (b"GET / HTTP/1.0\n", Detected::Http1),
            (b"\r\nPOST http://cart.shop/x HTTP/1.1\r\nHost: cart", Detected::Http1),
            (b"\r", Detected::NeedMore),
            (b"\r\n", Detected::NeedMore),
            (b"CONNECT cart.shop:443 HTTP/1.1\r\n", Detected::Http1),
            (b"M-SEARCH * HTTP/1.1\r\n", Detected::Http1),
            (&long, Detected::Http1),
            (&longer, Detected::Http1),
            (b"GET /\r\n", Detected::Tcp),
            (b"SET key value\r\n", Detected::Tcp),
            (b"PING\r\n", Detected::Tcp),
            (b"*1\r\n$4\r\nPING\r\n", Detected::Tcp),
            (b"EHLO mail.example\r\n", Detected::Tcp),
            (b"GET / HTTP/2.0\r\n", Detected::Tcp),
            (b"GET \x01\x02", Detected::Tcp),
            (b"GET / HTTP/1.1\rGET / HTTP/1.1\r\n", Detected::Tcp),
            (b"GET / HTTP/1.1\rGET /\r", Detected::Tcp),
            (b" GET / HTTP/1.1\r\n", Detected::Tcp),
            (b"P", Detected::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Detected::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Detected::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Detected::Tcp),
            (b"\0\0\0\x01", Detected::Tcp),
            (b"\x16\x03\x01\x02", Detected::NeedMore),
            (b"\x16\x07\x01\x02\0", Detected::Tcp),
            (&client_hello(Some("80.Cart.shop.mesh")), Detected::Tls { sni: Some("80.cart.shop.mesh".into()) }),
            (&client_hello(None), Detected::Tls { sni: None }),
        ] {
            assert_eq!(detect(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn declared_http_needs_no_whole_line() {
        assert_eq!(http_version(b"P"), None);
        assert_eq!(http_version(b"PO"), Some(Version::Http1));
        assert_eq!(http_version(b"\x16\x03"), Some(Version::Http1));
        assert_eq!(http_version(HTTP2_PREFACE), Some(Version::Http2));
    }

    #[test]
    fn asking_for_tls_does_not_wait_for_a_request_line() {
        assert_eq!(tls(b""), None);
        assert_eq!(tls(b"\x16\x03\x01"), None);
        assert_eq!(tls(b"GET"), Some(Detected::Tcp));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_a_decision_stands(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..600) {
            check(&bytes, cut)?;
        }

        #[test]
        fn damaged_client_hellos_do_not_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut bytes = client_hello(Some("80.cart.shop.mesh"));
            if let Some(target) = bytes.get_mut(at) {
                *target = byte;
            }
            check(&bytes, cut)?;
        }
    }

    /// What was decided on the first bytes is not decided differently on more.
    fn check(bytes: &[u8], cut: usize) -> Result<(), TestCaseError> {
        let early = detect(bytes.get(..cut).unwrap_or(bytes));
        if early != Detected::NeedMore {
            prop_assert_eq!(early, detect(bytes));
        }
        Ok(())
    }
}
